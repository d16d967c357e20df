package run

import (
	"math"
	"slices"
	"time"

	"github.com/queueville/queueville/loadtest/simulate"
	"github.com/queueville/queueville/loadtest/world"
)

// meter keeps the figures of a run, in the shape that the simulator has them. It is guarded by the conductor's lock.
type meter struct {
	world   *world.World
	goals   simulate.Goals
	queues  [world.Queues]queueMeter
	classes [world.Classes]classMeter
	reached []simulate.Reached
	took    []float64 // seconds from a delivery's push to its acceptance
	bins    []bin     // one a second

	arrived, done, failures, retried, deferred, repeated int
	refused, late, dropped, strange                      int
	latest                                               time.Duration // the greatest delay of the generator
	lastEnd                                              time.Duration // when a job was done last
	base                                                 sample        // what was used before the run began
}

type queueMeter struct {
	started, within int
	waits           []float64 // seconds, of every run that began
}

type classMeter struct {
	pushed, runs, failed int
	wait, ran            float64 // seconds
}

// bin is one second.
type bin struct {
	waits         [world.Queues][]float64
	backlog       [world.Queues]int
	latency       [world.Queues]float64
	arrived, done int
	running       float64 // on average
	sampled       bool
	sample        sample
}

// sample is what is looked at once a second.
type sample struct {
	cpu, database         time.Duration // used since the beginning
	memory                float64       // GiB
	connections           int
	retry, schedule, dead int
	held, down, unhealthy int
}

// inTime is how long after its goal a delivery may be accepted to count as in time, as in the simulator.
const inTime = 10 * time.Second

func newMeter(w *world.World, goals simulate.Goals) *meter {
	return &meter{world: w, goals: goals, reached: make([]simulate.Reached, w.Instances())}
}

// bin is the second that a time lies in.
func (m *meter) bin(at time.Duration) *bin {
	i := max(0, int(at/time.Second))
	for len(m.bins) <= i {
		m.bins = append(m.bins, bin{})
	}
	return &m.bins[i]
}

// pushed: a job is in its queue for the first time.
func (m *meter) pushed(r *record) {
	m.arrived++
	m.bin(r.Enqueued).arrived++
	m.classes[r.Class].pushed++
	if r.Class == world.Delivery && m.world.Temper(r.Dest, r.Enqueued).Healthy() {
		m.reached[r.Dest].Due++
	}
}

// started: a run begins after a wait in the queue.
func (m *meter) started(r *record, now, wait time.Duration) {
	wait = max(0, wait)
	q := &m.queues[r.Queue()]
	q.started++
	q.waits = append(q.waits, wait.Seconds())
	if wait <= m.goals[r.Queue()] {
		q.within++
	}
	b := m.bin(now)
	b.waits[r.Queue()] = append(b.waits[r.Queue()], wait.Seconds())
	m.classes[r.Class].wait += wait.Seconds()
}

// ran: a run has ended.
func (m *meter) ran(r *record, now time.Duration, failed bool) {
	c := &m.classes[r.Class]
	c.runs++
	c.ran += (now - r.began).Seconds()
	if failed {
		c.failed++
	} else {
		m.bin(now).done++
		m.lastEnd = max(m.lastEnd, now)
	}
	for at := r.began; at < now; {
		end := min(now, at.Truncate(time.Second)+time.Second)
		m.bin(at).running += (end - at).Seconds()
		at = end
	}
}

// accepted: a delivery was taken.
func (m *meter) accepted(r *record, at time.Duration) {
	if r.Class != world.Delivery {
		return
	}
	took := at - r.Created
	m.took = append(m.took, took.Seconds())
	if took <= m.goals[world.QueuePush]+inTime {
		m.reached[r.Dest].InTime++
	}
}

// quantile of a sorted list; 0 of none.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

// round keeps four significant digits.
func round(x float64) float64 {
	if x == 0 || math.IsInf(x, 0) || math.IsNaN(x) {
		return 0
	}
	scale := math.Pow(10, 3-math.Floor(math.Log10(math.Abs(x))))
	return math.Round(x*scale) / scale
}

// result closes the books at the time end. The jobs' fates are those of the census.
func (m *meter) result(engine simulate.EngineName, end time.Duration, cores, databaseCores int, marks []simulate.Mark, f fates) *simulate.Result {
	r := &simulate.Result{Engine: engine, Seconds: round(end.Seconds())}
	r.Jobs = simulate.Jobs{
		Pushed: m.arrived, Done: m.done, Failures: m.failures, Retried: m.retried, Dead: f.Dead, Discarded: f.Discarded, Lost: f.Missing, Repeated: m.repeated,
		Deferred: m.deferred, Refused: m.refused, Dropped: m.dropped + m.late, Waiting: f.Waiting, Running: f.Running, InSets: f.Again + f.Scheduled, Again: f.Again,
	}
	m.queueResults(r, f.Left)
	for i := range m.classes {
		c := &m.classes[i]
		if c.pushed+c.runs == 0 {
			continue
		}
		class, n := &world.ClassTable[i], float64(max(1, c.runs))
		r.Classes = append(r.Classes, simulate.ClassResult{
			Name: class.Name, Variant: class.Variant, Queue: world.QueueNames[class.Queue], Pushed: c.pushed, Runs: c.runs, Failed: c.failed, MeanWait: round(c.wait / n),
		})
	}
	m.deliveries(&r.Deliveries)
	m.series(r, cores, databaseCores)
	m.recoveries(r, marks)
	return r
}

func (m *meter) queueResults(r *simulate.Result, left [world.Queues]int) {
	for i := range m.queues {
		q := &m.queues[i]
		slices.Sort(q.waits)
		goal := m.goals[i].Seconds()
		out := simulate.QueueResult{
			Name: world.QueueNames[i], GoalSeconds: goal, Started: q.started, WithinGoal: 1, P50Seconds: round(quantile(q.waits, 0.5)), P95Seconds: round(quantile(q.waits, 0.95)),
			P99Seconds: round(quantile(q.waits, 0.99)), MostSeconds: round(quantile(q.waits, 1)), Left: left[i], Throughput: round(float64(q.started) / max(1, r.Seconds)),
		}
		if q.started > 0 {
			out.WithinGoal = round(float64(q.within) / float64(q.started))
			sum := 0.0
			for _, w := range q.waits {
				sum += w
			}
			out.MeanSeconds = round(sum / float64(q.started))
		}
		breached := 0
		for k := range m.bins {
			b := &m.bins[k]
			slices.Sort(b.waits[i])
			out.PeakBacklog, out.PeakLatency = max(out.PeakBacklog, b.backlog[i]), max(out.PeakLatency, round(b.latency[i]))
			if goal > 0 && b.latency[i] > goal {
				out.BeyondGoal++
			}
			if goal > 0 && (b.latency[i] > goal || quantile(b.waits[i], 0.99) > goal) {
				breached++
			}
		}
		out.BreachedBins = round(float64(breached) / float64(max(1, len(m.bins))))
		out.Goal99 = goal == 0 || float64(q.within) >= 0.99*float64(q.started) && out.Left == 0
		r.Queues = append(r.Queues, out)
	}
}

func (m *meter) deliveries(d *simulate.DeliveryResult) {
	slices.Sort(m.took)
	*d = simulate.DeliveryResult{Accepted: len(m.took), P50Seconds: round(quantile(m.took, 0.5)), P99Seconds: round(quantile(m.took, 0.99))}
	d.Share(m.reached)
}

// series are the curves, one point a second. What could not be sampled is as it was a second before.
func (m *meter) series(r *simulate.Result, cores, databaseCores int) {
	s, u := &r.Series, &r.Use
	s.Queues = make([]simulate.QueueSeries, world.Queues)
	for i := range s.Queues {
		s.Queues[i].Name = world.QueueNames[i]
	}
	last := m.base
	for k := range m.bins {
		b := &m.bins[k]
		now := last
		if b.sampled {
			now = b.sample
		}
		s.Seconds = append(s.Seconds, float64(k+1))
		backlog := 0
		for i := range s.Queues {
			q := &s.Queues[i]
			q.Backlog = append(q.Backlog, b.backlog[i])
			q.Latency = append(q.Latency, round(b.latency[i]))
			q.P50 = append(q.P50, round(quantile(b.waits[i], 0.5)))
			q.P99 = append(q.P99, round(quantile(b.waits[i], 0.99)))
			backlog += b.backlog[i]
		}
		s.Arrived = append(s.Arrived, float64(b.arrived))
		s.Done = append(s.Done, float64(b.done))
		s.Running = append(s.Running, int(math.Round(b.running)))
		s.CPU = append(s.CPU, round((now.cpu-last.cpu).Seconds()/float64(max(1, cores))))
		s.Cores = append(s.Cores, cores)
		s.Database = append(s.Database, round((now.database-last.database).Seconds()/float64(max(1, databaseCores))))
		s.Connections = append(s.Connections, now.connections)
		s.Retrying = append(s.Retrying, now.retry)
		s.Held = append(s.Held, now.held)
		s.Down = append(s.Down, now.down)
		s.Unhealthy = append(s.Unhealthy, now.unhealthy)
		s.Memory = append(s.Memory, round(now.memory))
		u.PeakRunning, u.PeakConnections, u.PeakBacklog = max(u.PeakRunning, int(math.Ceil(b.running))), max(u.PeakConnections, now.connections), max(u.PeakBacklog, backlog)
		u.PeakMemoryGiB = max(u.PeakMemoryGiB, round(now.memory))
		u.MemoryGiBHours += now.memory / 3600
		last = now
	}
	u.MemoryGiBHours = round(u.MemoryGiBHours)
	u.CoreHours = round(float64(cores) * r.Seconds / 3600)
	used := last.cpu - m.base.cpu
	u.CPUHours, u.DatabaseHours = round(used.Hours()), round((last.database - m.base.database).Hours())
	if u.CoreHours > 0 {
		u.CPUShare = round(u.CPUHours / u.CoreHours)
	}
	if r.Jobs.Done > 0 {
		u.CPUPerMillion = round(used.Hours() * 1e6 / float64(r.Jobs.Done))
	}
}

// recoveries are how long it took after something until every queue was within its goal.
func (m *meter) recoveries(r *simulate.Result, marks []simulate.Mark) {
	for _, mark := range marks {
		out := simulate.RecoveryResult{Name: mark.Name, LastsSeconds: round(mark.For.Seconds())}
		over := int((mark.At + mark.For) / time.Second)
		for k := over; k < len(m.bins); k++ {
			b := &m.bins[k]
			within := true
			for i := range b.latency {
				within = within && (m.goals[i] == 0 || b.latency[i] <= m.goals[i].Seconds())
				if k == over {
					out.Backlog += b.backlog[i]
				}
			}
			if within {
				drain := max(0, (time.Duration(k+1)*time.Second - mark.At - mark.For).Seconds())
				if k == over {
					drain = 0
				}
				ratio := round(drain / max(1, mark.For.Seconds()))
				out.DrainSeconds, out.CatchUpRatio = &drain, &ratio
				break
			}
		}
		r.Recoveries = append(r.Recoveries, out)
	}
}
