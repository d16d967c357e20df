package ruby

import (
	"context"
	"log/slog"
	"math"
	"syscall"
	"time"
)

const (
	sigTerm = syscall.SIGTERM
	period  = 200 * time.Millisecond // between two decisions when nothing happens
)

func (z *zygote) kill() {
	z.killed = true
	if z.pid > 1 && z.state != zygoteEnded {
		_ = syscall.Kill(z.pid, syscall.SIGKILL)
	}
}

// loop decides until ctx has ended and everything has stopped.
func (s *Supervisor) loop(ctx context.Context) {
	tick := time.NewTicker(period)
	defer tick.Stop()
	leading := make(chan struct{})
	if s.cfg.Leader != nil {
		s.wg.Go(func() { s.lead(context.WithoutCancel(ctx), leading) })
	}
	defer close(leading)
	end := ctx.Done()
	for {
		if s.decide(time.Now()) { //nolint:contextcheck // deaths are counted to the end, also in a stop
			return
		}
		select {
		case <-end:
			end = nil
			s.stop()
		case <-s.wake:
		case <-tick.C:
		}
	}
}

// stop begins the end.
func (s *Supervisor) stop() {
	var e effects
	s.mu.Lock()
	s.state = stopping
	s.returnWaiting(&e)
	s.mu.Unlock()
	s.carryOut(&e)
}

// decide looks at everything once and reports whether all has ended.
func (s *Supervisor) decide(now time.Time) bool {
	var e effects
	s.mu.Lock()
	gone := s.orphans()
	s.mu.Unlock()
	for _, p := range gone {
		s.processEnded(p, exit{}, nil)
	}
	s.mu.Lock()
	s.attend(&e, now)
	if s.state == runs && !s.quiet {
		wantsCron := s.cron(now)
		s.sample(now)
		s.size(wantsCron, now)
		s.place(&e, now)
		e.grown = s.roomGrew() // what was learned of a class, or connections that came, may have made room although no job has ended
	}
	if now.Sub(s.lookedAt) >= s.cfg.Look && s.state == runs {
		s.lookedAt = now
		s.look(now)
	}
	over := s.state == stopping && len(s.procs) == 0 && s.zygote == nil
	s.mu.Unlock()
	s.carryOut(&e)
	return over
}

// size starts and ends processes as the policy wants. mu is held.
func (s *Supervisor) size(wantsCron bool, now time.Time) {
	v := SizeView{Threads: s.cfg.Threads, Min: s.cfg.MinProcs, Max: s.cfg.MaxProcs, Jobs: len(s.waiting), Memory: math.MaxInt32}
	serves, seats, left := 0, 0, s.left()
	for _, p := range s.procs {
		if p.state > serving {
			continue
		}
		v.Jobs += len(p.jobs)
		v.Load += p.load
		if p.drain {
			continue
		}
		v.Current++
		seats += p.seats
		if p.state == serving {
			serves++
		}
	}
	if v.Current > 0 {
		v.Threads = (seats + v.Current - 1) / v.Current // one more is taken to get as many connections as those that are there
	}
	for i, w := range s.waiting {
		if i == left { // the others may not start anyway
			v.Jobs -= len(s.waiting) - left
			break
		}
		v.Load += s.costs.share(w.job.Class)
	}
	want := Size(v)
	if want > v.Current {
		v.Memory = s.memoryRoom() // only now: it reads a file
		want = Size(v)
	}
	if wantsCron && s.mayStartCron() {
		s.start(true, now)
		v.Current++
	}
	s.drain(serves >= want, now)
	switch {
	case want > v.Current:
		s.spare = time.Time{}
		if s.growSince.IsZero() {
			s.growSince = now
		}
		if v.Current < s.cfg.MinProcs || now.Sub(s.growSince) >= s.cfg.GrowAfter {
			for range want - v.Current {
				s.start(false, now)
			}
		}
	case want < v.Current && serves > want:
		s.growSince = time.Time{}
		if s.spare.IsZero() {
			s.spare = now
		}
		if serves > s.cfg.MaxProcs || now.Sub(s.spare) >= s.cfg.ShrinkAfter {
			s.spare = now // the next one again only after ShrinkAfter
			s.shrink(now)
		}
	default:
		s.growSince, s.spare = time.Time{}, time.Time{}
	}
}

// shrink lets the process with the fewest jobs go. mu is held.
func (s *Supervisor) shrink(now time.Time) {
	var least *process
	for _, p := range s.procs {
		if p.state == serving && !p.cron && !p.drain && (least == nil || len(p.jobs) < len(least.jobs)) {
			least = p
		}
	}
	if least != nil {
		s.cfg.Log.Info("ruby process is no longer needed", slog.Int("pid", least.pid), slog.Int("jobs", len(least.jobs)))
		least.leave(EndingShrunk, now)
	}
}

// drain lets a process go that is to be replaced, once the others suffice. The cron process goes first, since there may not be two.
// mu is held.
func (s *Supervisor) drain(enough bool, now time.Time) {
	for _, p := range s.procs {
		if p.drain && p.state == serving && (enough || p.cron) {
			why := EndingReplaced
			if p.why != "" {
				why = p.why
			}
			p.leave(why, now)
		}
	}
}
