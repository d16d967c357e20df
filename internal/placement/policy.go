package placement

import "math"

// Bounds of the policy.
const (
	FullLoad   = 1.1  // CPU load up to which a process takes more: one CPU-second per second, and a little for what is measured wrong
	LightShare = 0.3  // a class with less is light: it mostly waits
	LightLoad  = 0.9  // CPU load of light jobs up to which they and heavy ones are taken beside each other, whoever came first
	Ahead      = 2    // jobs per process that may wait for a place to become free, at least
	mostAhead  = 16   // the same at most
	aheadFor   = 0.1  // seconds for which they should last: a fetch takes some milliseconds, and costs as much for one job as for many
	BusyLoad   = 0.75 // CPU load per process for which the number of processes is chosen
)

// JobView is what the policy knows of a waiting job.
type JobView struct {
	Class string
	Share float64 // CPU time / wall time, 0 to 1
	Alone bool    // must be the only job of its process
}

// ProcView is what the policy knows of a process that takes jobs.
type ProcView struct {
	Idle    int     // threads that have asked for a job
	Running int     // jobs
	Load    float64 // sum of their CPU shares
	Light   float64 // same, of the light ones
	Alone   bool    // a job runs in it that must be alone
}

// Assignment gives a waiting job to a process, both by their index.
type Assignment struct{ Job, Proc int }

// fits reports whether a job of that share may start in p. The first job of a process always may.
func (p *ProcView) fits(share float64) bool {
	switch {
	case p.Idle == 0 || p.Alone:
		return false
	case p.Running == 0:
		return true
	}
	return share <= p.spare(share)
}

// spare is how much CPU load jobs of that share may add. Heavy ones do not count light ones up to LightLoad: otherwise a queue of jobs that wait
// would keep those that compute out for as long as it has any, whatever their goals.
func (p *ProcView) spare(share float64) float64 {
	if share < LightShare {
		return max(FullLoad-p.Load, LightLoad-p.Light)
	}
	return FullLoad - p.Load + min(p.Light, LightLoad)
}

func (p *ProcView) take(j *JobView) {
	p.Idle--
	p.Running++
	p.Load += j.Share
	if j.Share < LightShare {
		p.Light += j.Share
	}
	p.Alone = p.Alone || j.Alone
}

// Place says which of the waiting jobs, in the order in which they should start, goes to which process now. A class of which a job cannot
// start is passed over, so that it blocks only itself and keeps its order. A job that must be alone empties a process first: the one with
// the fewest jobs gets none meanwhile. procs is changed to what it will be.
func Place(jobs []JobView, procs []ProcView) []Assignment {
	idle := 0
	for i := range procs {
		idle += procs[i].Idle
	}
	if idle == 0 || len(jobs) == 0 {
		return nil
	}
	var out []Assignment
	var blocked map[string]struct{}
	reserved := -1
	for i := range jobs {
		if idle == 0 {
			break
		}
		j := &jobs[i]
		best := -1
		if j.Alone {
			// Jobs that must be alone wait for each other, whatever their class.
			if reserved >= 0 {
				continue
			}
			for p := range procs {
				if best < 0 || procs[p].Running < procs[best].Running {
					best = p
				}
			}
			if best >= 0 && (procs[best].Running > 0 || procs[best].Idle == 0) {
				reserved, best = best, -1
			}
		} else {
			if _, yes := blocked[j.Class]; yes {
				continue
			}
			for p := range procs {
				if p != reserved && procs[p].fits(j.Share) && (best < 0 || emptier(&procs[p], &procs[best])) {
					best = p
				}
			}
			if best < 0 {
				if blocked == nil {
					blocked = make(map[string]struct{})
				}
				blocked[j.Class] = struct{}{}
			}
		}
		if best < 0 {
			continue
		}
		procs[best].take(j)
		idle--
		out = append(out, Assignment{Job: i, Proc: best})
	}
	return out
}

func emptier(a, b *ProcView) bool {
	if a.Load != b.Load {
		return a.Load < b.Load
	}
	return a.Running < b.Running
}

// Spare is how many jobs per process may wait for a place to become free, where so many end per second in each.
func Spare(ending float64) int { return min(max(int(math.Ceil(ending*aheadFor)), Ahead), mostAhead) }

// Room says how many more jobs are wanted beside those that wait already: as many as could start now if they were like those that ran
// lately (typical is their mean CPU share), and a few so that no process runs dry (ahead, from Spare). While some wait, one or two more are not
// wanted: a fetch costs as much for one job as for many.
func Room(waiting int, procs []ProcView, typical float64, ahead int) int {
	if len(procs) == 0 {
		return 0
	}
	typical = math.Max(typical, 0.01)
	startable := 0
	for i := range procs {
		p := &procs[i]
		if p.Alone || p.Idle == 0 {
			continue
		}
		n := int(math.Max(0, p.spare(typical)) / typical)
		if p.Running == 0 {
			n = max(n, 1)
		}
		startable += min(n, p.Idle)
	}
	room := startable + ahead*len(procs) - waiting
	if waiting > 0 && room <= ahead*len(procs)/2 {
		return 0
	}
	return max(0, room)
}

// SizeView is what the number of processes is decided on.
type SizeView struct {
	Current  int     // processes that take jobs or boot
	Threads  int     // per process
	Load     float64 // CPU shares of what runs and waits
	Jobs     int     // that run and wait
	Min, Max int
	Memory   int // processes that the host's available memory has room for beside the current ones
}

// Size says how many processes are wanted: as many as the jobs need CPUs or threads, within the limits. Memory stops growth, it shrinks
// nothing.
func Size(v SizeView) int {
	want := int(math.Ceil(v.Load / BusyLoad))
	if v.Threads > 0 {
		want = max(want, (v.Jobs+v.Threads-1)/v.Threads)
	}
	want = min(max(want, v.Min), v.Max)
	if want > v.Current {
		want = min(want, max(v.Current+v.Memory, v.Min))
	}
	return want
}
