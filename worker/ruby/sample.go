package ruby

import (
	"math"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/queueville/queueville/internal/placement"
)

const (
	sampleEvery  = 150 * time.Millisecond
	sampleWeight = 0.5  // of one more sample
	processIdle  = 0.05 // CPU use of a process that nothing computes in, even where it would have to wait for a processor
	guessLow     = 0.02 // no class is taken to cost less before one of its jobs has ended
)

// sample measures what the processes and the host use. mu is held.
func (s *Supervisor) sample(now time.Time) {
	if now.Sub(s.sampledAt) < sampleEvery {
		return
	}
	if !s.sampledAt.IsZero() {
		s.ending += sampleWeight * (float64(s.ended)/now.Sub(s.sampledAt).Seconds() - s.ending)
	}
	s.sampledAt, s.ended = now, 0
	if h := s.host.Processors(now); h.Busy >= 0 && h.Cores > 0 {
		s.hostUse += sampleWeight * (h.Busy/h.Cores - s.hostUse)
		if lost := max(0, s.host.Stolen()); lost > 0 || s.stolen > 0 {
			s.stolen += sampleWeight * (lost/(lost+h.Busy) - s.stolen)
		}
	}
	for _, p := range s.procs {
		if p.pid <= 1 {
			continue
		}
		cpu, err := processCPU(p.pid)
		if err != nil {
			p.watched = time.Time{}
			continue
		}
		since, before := p.watched, p.cpu
		p.watched, p.cpu = now, cpu
		if since.IsZero() || cpu < before {
			continue
		}
		used := (cpu - before).Seconds() / now.Sub(since).Seconds()
		p.used += sampleWeight * (math.Min(used, 1) - p.used)
		if p.runsUnknown(s.costs) {
			s.learnFrom(p, since, used, now)
		}
	}
}

// ahead is how many jobs per process may wait for a place to become free. mu is held.
func (s *Supervisor) ahead() int { return placement.Spare(s.ending / float64(max(1, len(s.procs)))) }

// crowd is how many jobs run for each processor of the host. mu is held.
func (s *Supervisor) crowd() float64 {
	n := 0
	for _, p := range s.procs {
		n += len(p.jobs)
	}
	return float64(n) / float64(runtime.GOMAXPROCS(0))
}

// runsUnknown reports whether a job of a class runs of which nothing has ended yet. Such jobs count as half a CPU each, so an import that waits
// for hours would keep everything else of its kind from starting for as long; what the process uses meanwhile says more.
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
	if unknown == 0 || used > processFull || s.hostUse > hostFull && used > processIdle {
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
	if pid <= 1 {
		return 0, unix.ESRCH
	}
	const schedClock = 2
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|schedClock), &t); err != nil { //nolint:gosec // pids fit into 22 bits
		return 0, err //nolint:wrapcheck // only whether it could be read matters
	}
	return time.Duration(t.Nano()), nil
}
