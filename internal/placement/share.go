package placement

import (
	"math"
	"time"
)

const (
	// UnknownShare is the CPU share of a class of which nothing is known: two at once in a process.
	UnknownShare = 0.5
	// ProcessFull is the CPU use of a process above which its jobs wait for each other.
	ProcessFull = 0.85
	// HostFull is the CPU use of the host above which everybody waits for it.
	HostFull = 0.85

	shareWeight = 0.2  // of one more run in the moving averages
	hostStretch = 4    // by how much everybody waits for a full host, and more where many are
	muchStolen  = 0.1  // more may have been taken from just this run
	stolenFull  = 0.5  // ProcessFull where much is stolen: what was taken from just this run may be a multiple of what was taken on average
	stolenStep  = 3    // how many times as long as so far a class may seem to wait by one run, where much is stolen
	surelyLight = 0.05 // a class with less is light even if all its doubts count against it
	firstRuns   = 5    // runs of which the averages are plain means
)

// Around is what went on beside a run. A computing job's wall time says little: Ruby runs one thread of a process at a time, and the host one on
// each processor, so most of what looks like waiting may be waiting for them.
type Around struct {
	Jobs  float64 // in its process, itself included
	Used  float64 // CPU use of its process: 1 is all that Ruby can
	Host  float64 // CPU use of the host: 1 is all of it
	Crowd float64 // jobs of all processes, for each of the host's processors

	// Delayed is for how long the run's thread could have run and had no processor; negative where the system does not count it. Known, it
	// takes the place of what Host and Crowd make likely.
	Delayed time.Duration
	// Stolen is how much of the processor time that was wanted other machines on the same hardware took, 0 to 1: it is in nobody's count.
	Stolen float64
}

// waited is how long a run of that CPU time would wait if it had process and processor to itself. Where there was time to spare that follows
// from what the others used. Where there was none nobody can know: then sure is false, and it is the least that is likely.
func (a Around) waited(wall, cpu float64) (wait float64, sure bool) {
	if wall <= 0 {
		return 0, true
	}
	if a.Delayed >= 0 {
		return a.waitedBeside(wall, cpu, a.Delayed.Seconds())
	}
	sure = a.Host <= HostFull
	var stretch float64
	switch {
	case !sure:
		stretch = math.Max(hostStretch*a.Jobs, 2*a.Crowd)
	case a.Used > ProcessFull:
		stretch = math.Max(1, a.Jobs)
	default:
		stretch = 1 / (1 - math.Max(0, a.Used-cpu/wall))
	}
	wait = math.Max(0, wall-cpu*stretch)
	return wait, sure || wait > cpu/surelyLight
}

// waitedBeside is waited where it is known for how long a processor was missing. Then only the others of its process can have kept it waiting: for as
// long as they computed, and what they waited for a processor while all waited for them, as much longer as this one took. What the process had left
// the run has waited for something else. That is the least there can be: which of the others came first nobody sees.
func (a Around) waitedBeside(wall, cpu, delayed float64) (wait float64, sure bool) {
	lost := math.Min(math.Max(0, a.Stolen), 0.9)
	busy := math.Min(cpu/(1-lost)+delayed, math.Max(wall, cpu))
	others := math.Max(0, a.Used-cpu/wall)
	if cpu > 0 {
		others *= busy / cpu
	}
	full := ProcessFull
	if lost > muchStolen {
		full = stolenFull
	}
	if others+busy/wall <= full {
		return math.Max(0, wall*(1-others)-busy), true
	}
	wait = math.Max(0, wall-delayed-cpu*hostStretch*math.Max(1, a.Jobs)/(1-lost))
	return wait, lost <= muchStolen && wait > cpu/surelyLight
}

// Share is how much of its time a class computes, in moving averages over its runs.
type Share struct {
	Of   float64 // CPU time / wall time of a run that had processor and process to itself, 0 to 1
	CPU  float64 // seconds
	Wait float64 // seconds for which it would wait even then
	Runs uint64
}

// Note takes in one run. What is not sure only makes a class heavier: a mistake the other way would feed itself. Computing jobs that seem to wait
// would get company, and then seem to wait still more.
func (k *Share) Note(wall, cpu time.Duration, a Around) {
	k.Runs++
	w := math.Max(shareWeight, 1/float64(k.Runs))
	if k.Runs > firstRuns {
		w = shareWeight
	}
	busy, took := cpu.Seconds(), wall.Seconds()
	waited, sure := a.waited(took, busy)
	switch {
	case sure && a.Stolen <= muchStolen:
	case k.Runs == 1:
		waited = math.Min(waited, busy) // UnknownShare
	case sure:
		waited = math.Min(waited, stolenStep*math.Max(k.Wait, k.CPU)) // many runs tell what one does not
	default:
		waited = math.Min(waited, k.Wait)
	}
	k.Wait += w * (waited - k.Wait)
	k.CPU += w * (busy - k.CPU)
	k.Of = 1
	if k.CPU+k.Wait > 0 {
		k.Of = k.CPU / (k.CPU + k.Wait)
	}
}
