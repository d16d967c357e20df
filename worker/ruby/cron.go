package ruby

import (
	"context"
	"log/slog"
	"time"
)

const (
	cronPatience = time.Minute     // for a leader's process to serve while booting fails
	cronPenance  = 2 * time.Minute // that a host leaves the leadership to others afterwards
)

// lead keeps the leadership while this host can use it: until done is closed, which is after the last process has ended.
func (s *Supervisor) lead(ctx context.Context, done <-chan struct{}) {
	tick := time.NewTicker(s.cfg.CronEvery)
	defer tick.Stop()
	var since, pause time.Time
	held := false
	release := func() {
		held = false
		ctx, cancel := context.WithTimeout(ctx, s.cfg.CronEvery)
		defer cancel()
		if err := s.cfg.Leader.Release(ctx); err != nil {
			s.cfg.Log.WarnContext(ctx, "cron leadership was not given up: it ends by itself", slog.Any("err", err))
		}
	}
	for {
		now := time.Now()
		switch wants, useless := s.canLead(held, now.Sub(since)); {
		case held && useless:
			s.cfg.Log.WarnContext(ctx, "cron leadership given up: the ruby process for it does not start")
			s.setLead(time.Time{})
			release()
			pause = now.Add(cronPenance)
		case held && !wants:
			s.setLead(time.Time{})
			release()
		case wants && (held || now.After(pause)):
			try, cancel := context.WithTimeout(ctx, s.cfg.CronEvery)
			until, err := s.cfg.Leader.Try(try)
			cancel()
			if err != nil {
				s.cfg.Log.WarnContext(ctx, "cron leadership", slog.Any("err", err))
				break // what was granted stays granted until it ends
			}
			if leads := !until.IsZero(); leads != held {
				held, since = leads, now
				s.cfg.Log.InfoContext(ctx, "cron leadership", slog.Bool("leads", leads))
			}
			s.setLead(until)
		}
		select {
		case <-done:
			if held {
				release()
			}
			return
		case <-tick.C:
		}
	}
}

// canLead reports whether the leadership is of use here: it is kept while a cron process exists, also in a stop; it is useless when no process
// has come up for it.
func (s *Supervisor) canLead(held bool, since time.Duration) (wants, useless bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	serves, cron := false, false
	for _, p := range s.procs {
		serves = serves || p.state == serving
		cron = cron || p.cron
	}
	if s.state != runs || s.quiet {
		return held && cron, false
	}
	return serves || held, held && !serves && s.boots.problem != "" && since > cronPatience
}

func (s *Supervisor) setLead(until time.Time) {
	s.mu.Lock()
	s.leadTill = until
	s.mu.Unlock()
	s.nudge()
}

// cron ends the cron process when the leadership is lost, at once: another host may start one. It reports whether one is wanted. mu is held.
func (s *Supervisor) cron(now time.Time) (wanted bool) {
	leads := now.Before(s.leadTill)
	if !leads {
		s.killCron()
	}
	return leads
}

// killCron: mu is held.
func (s *Supervisor) killCron() {
	for _, p := range s.procs {
		if p.cron && !p.killed {
			s.cfg.Log.Warn("cron leadership lost: its ruby process is ended", slog.Int("pid", p.pid), slog.Int("jobs", len(p.jobs)))
			p.why = EndingCron
			p.kill()
		}
	}
}

// mayStartCron: there is none, not even one that is about to end. mu is held.
func (s *Supervisor) mayStartCron() bool {
	for _, p := range s.procs {
		if p.cron {
			return false
		}
	}
	return true
}
