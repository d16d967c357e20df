package ruby

import (
	"math"
	"time"

	"golang.org/x/sys/unix"
)

const (
	guessAfter = 150 * time.Millisecond // how long a job must run, and a process be watched, before anything is concluded from it
	guessLow   = 0.02                   // no class is taken to cost less before one of its jobs has ended
	guessFull  = 0.85                   // CPU use of a process above which nobody can tell whose it is
)

// guess watches what processes use while they run jobs of classes of which no run has ended yet: such jobs count as half a CPU each, so an import
// that waits for hours would keep everything else of its kind from starting for as long. mu is held.
func (s *Supervisor) guess(now time.Time) {
	for _, p := range s.procs {
		if p.pid <= 1 || !p.runsUnknown(s.costs) {
			p.watched = time.Time{}
			continue
		}
		used, err := processCPU(p.pid)
		if err != nil {
			p.watched = time.Time{}
			continue
		}
		since, before := p.watched, p.used
		if !since.IsZero() && now.Sub(since) < guessAfter {
			continue
		}
		p.watched, p.used = now, used
		if since.IsZero() {
			continue
		}
		s.learnFrom(p, since, (used-before).Seconds()/now.Sub(since).Seconds(), now)
	}
}

// runsUnknown reports whether a job of a class runs of which nothing has ended yet.
func (p *process) runsUnknown(c *costs) bool {
	for _, r := range p.jobs {
		if !c.known(r.job.Class) {
			return true
		}
	}
	return false
}

// learnFrom divides what a process has used beyond its known jobs among those that are not. Only those count that ran all the time. mu is held.
func (s *Supervisor) learnFrom(p *process, since time.Time, used float64, now time.Time) {
	known, unknown := 0.0, 0
	for _, r := range p.jobs {
		switch {
		case s.costs.known(r.job.Class):
			known += r.share
		case r.started.After(since):
			return // what it used and what the others did cannot be told apart
		default:
			unknown++
		}
	}
	if unknown == 0 || used > guessFull || used < 0 {
		return
	}
	each := math.Max(guessLow, (used-known)/float64(unknown))
	for _, r := range p.jobs {
		if !s.costs.known(r.job.Class) {
			s.costs.guess(r.job.Class, each, now)
			p.weigh(r, s.costs.share(r.job.Class))
			s.learnTypical(r.job.Queue, r.share)
		}
	}
}

// weigh lets a running job count with another share.
func (p *process) weigh(r *running, share float64) {
	p.load += share - r.share
	if r.share < lightShare {
		p.light -= r.share
	}
	if share < lightShare {
		p.light += share
	}
	r.share = share
}

// processCPU is the time that all threads of a process have spent on a processor: clock_getcpuclockid(3), which counts nanoseconds.
func processCPU(pid int) (time.Duration, error) {
	const schedClock = 2
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|schedClock), &t); err != nil { //nolint:gosec // pids fit into 22 bits
		return 0, err //nolint:wrapcheck // only whether it could be read matters
	}
	return time.Duration(t.Nano()), nil
}
