package scheduler

import "math"

// Unknown stands for a number that no sensor gave. Any negative number, NaN and infinity mean the same.
const Unknown = -1

// Host is what the sensors say of the host, or of the cgroup that bounds us, as means since the last step. Shares are 0 to 1.
type Host struct {
	Cores     float64 // processors that may be used: the host's, without what its hypervisor gave to other machines meanwhile, or the cgroup's quota
	Busy      float64 // of these in use, by everybody
	Ours      float64 // of these by us and our child processes
	Pressure  float64 // share of the time in which somebody waited for a processor (PSI, cpu some)
	Throttled float64 // share of the time for which the cgroup's quota stopped us

	MemoryTotal     float64 // bytes
	MemoryAvailable float64 // bytes that can be had without swapping, within the cgroup's limit
	MemoryPressure  float64 // share of the time in which everybody waited for memory (PSI, memory full)
}

// UnknownHost is what is known where there are no sensors: nothing.
func UnknownHost() Host {
	return Host{
		Cores: Unknown, Busy: Unknown, Ours: Unknown, Pressure: Unknown, Throttled: Unknown, MemoryTotal: Unknown, MemoryAvailable: Unknown, MemoryPressure: Unknown,
	}
}

// Lane is what the executor of a lane says of the time since the last step.
type Lane struct {
	Name    string
	Running float64 // jobs at once, on average
	Full    float64 // share of the time in which more would have been started, had the limit been greater; 0 to 1
	Done    float64 // jobs that ended
	Work    float64 // how many average jobs of the lane these are worth, by what their classes take (see Meter); Unknown or 0: Done
	Wall    float64 // seconds that they took on average; Unknown or 0 if none has ended
	Long    float64 // the same, each by its part of Work: after so long a step shows, which short jobs beside long ones do not tell; Unknown or 0: Wall
	Telling float64 // how many jobs that are all worth the same would say as much: Work² by the sum of squares; Unknown or 0: Done
	CPU     float64 // cores in use by its jobs; Unknown
	Cores   float64 // cores that its jobs can use at most, e.g. one for each Ruby process; Unknown or 0: the host's
	Want    float64 // cores that what runs would use if it got them as soon as it wants them; Unknown or 0: nobody knows

	Arrivals float64 // jobs a second that come in for it; Unknown
	Backlog  float64 // jobs that wait for it, in Redis and here; Unknown
	Goal     Goal    // the tightest one of what waits; zero: DefaultGoal
	Weight   float64 // of its claim to processors when lanes compete for them; Unknown or 0: 1

	Caps []Cap // what else bounds it now
	Held Cap   // what keeps jobs from starting although the limit would let them; zero: nothing. Slots is how much there is of it
}

// Cap is a bound for a lane from outside.
type Cap struct {
	By    Bound
	Slots float64
}

// Bound is what binds a lane.
type Bound string

// The bounds. What an executor gives as a Cap may have others.
const (
	ByDemand    Bound = "demand"           // everything that could start has started
	ByStart     Bound = "starting"         // still finding out
	ByGain      Bound = "no gain"          // more at once brought nothing more done; what limits it is outside (a remote service, a lock, one thread)
	ByCPU       Bound = "cpu"              // processors are in use
	ByOthers    Bound = "cpu of others"    // processors are in use, and others use them too: they come first
	ByLanes     Bound = "cpu of lanes"     // processors are in use, and another lane has not got its share of them
	ByPressure  Bound = "cpu pressure"     // others wait for processors
	ByQuota     Bound = "cpu quota"        // the cgroup is being throttled
	ByMemory    Bound = "memory"           // memory is short
	ByMost      Bound = "configured limit" // LaneConfig.Max
	ByDB        Bound = "db connections"   // the lease of database connections
	ByThreads   Bound = "ruby threads"     // all threads of all Ruby processes have a job
	ByProcesses Bound = "ruby processes"   // each computes on one processor at a time, and there may not be more of them
	ByBoot      Bound = "ruby starts"      // no Ruby process is ready, or another one boots
)

const longestJob = 1e6 // seconds, in reckoning

const clockError = 1.25

const absurd = 1e15 // more than a petabyte

// known makes every number that is no measurement Unknown.
func known(v float64) float64 {
	if math.IsNaN(v) || v < 0 || v > absurd {
		return Unknown
	}
	return v
}

// clean is the view with every number that is no measurement made Unknown, or 0 where 0 means the same.
func (h Host) clean() Host {
	for _, p := range []*float64{&h.Cores, &h.Busy, &h.Ours, &h.Pressure, &h.Throttled, &h.MemoryTotal, &h.MemoryAvailable, &h.MemoryPressure} {
		*p = known(*p)
	}
	if h.Cores <= 0 {
		h.Cores, h.Busy, h.Ours = Unknown, Unknown, Unknown
	}
	if h.Busy >= 0 { // a little more than there is comes from two clocks that do not quite agree, and evens out
		h.Busy = min(h.Busy, clockError*h.Cores)
		h.Ours = min(h.Ours, h.Busy)
	}
	return h
}

func (v Lane) clean() Lane {
	for _, p := range []*float64{&v.Running, &v.Full, &v.Done, &v.Work, &v.Wall, &v.Long, &v.Telling, &v.Cores} {
		*p = max(0, known(*p))
	}
	v.Full = min(v.Full, 1)
	if v.Long = min(v.Long, longestJob); v.Long == 0 {
		v.Long = v.Wall
	}
	if v.Telling == 0 || v.Telling > v.Done {
		v.Telling = v.Done
	}
	if v.Want = known(v.Want); v.Want == 0 {
		v.Want = Unknown
	}
	v.CPU, v.Arrivals, v.Backlog = known(v.CPU), known(v.Arrivals), known(v.Backlog)
	v.Held.Slots = known(v.Held.Slots)
	if v.Weight = known(v.Weight); v.Weight <= 0 {
		v.Weight = 1
	}
	v.Weight = min(max(v.Weight, 0.01), 100)
	if v.Goal <= 0 {
		v.Goal = DefaultGoal
	}
	return v
}
