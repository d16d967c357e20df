package ruby

import (
	"log/slog"
	"slices"
	"time"
)

// processEnded is called once a process is gone, with how it ended; err if it could not even be started. Its jobs come back here and
// nowhere else, so none runs twice.
func (s *Supervisor) processEnded(p *process, status exit, err error) {
	var e effects
	now := time.Now()
	s.mu.Lock()
	if p.state == ended {
		s.mu.Unlock()
		return
	}
	was := p.state
	p.state = ended
	s.procs = slices.DeleteFunc(s.procs, func(q *process) bool { return q == p })
	delete(s.tokens, p.token)
	s.unseat(p)
	jobs := make([]*running, 0, len(p.jobs))
	for _, r := range p.jobs {
		jobs = append(jobs, r)
	}
	slices.SortFunc(jobs, func(a, b *running) int { return int(a.number) - int(b.number) }) //nolint:gosec // far below 2⁶³
	for l := range p.lines {
		_ = l.conn.Close()
	}
	if p.control != nil {
		_ = p.control.Close()
	}
	if p.log != nil {
		_ = p.log.SetReadDeadline(now.Add(outputGrace))
	}
	why := ending(p, status)
	s.cfg.Observer.ProcessEnded(why)
	report := s.cfg.Log.Info
	if why == EndingCrashed || why == EndingUnknown || why == EndingSilent {
		report = s.cfg.Log.Warn
	}
	bootFailed := (was == booting || err != nil) && s.state == runs && !s.quiet
	report("ruby process ended", slog.Int("pid", p.pid), slog.String("why", why), slog.String("status", status.String()), slog.Int("jobs", len(jobs)))
	if bootFailed {
		s.bootFailed("a ruby process", status, err, p.out, p.parent != nil, now)
	}
	var suspects []*running
	for _, r := range jobs {
		switch {
		case why == EndingCrashed:
			suspects = append(suspects, r)
		case why == EndingStuck && r.stuck:
			s.giveUp(&e, r, LabelStuck)
		case why == EndingUnknown:
			e.end(r.job, Result{Kind: Returned, Label: LabelVanished, PID: p.pid})
		default:
			e.end(r.job, Result{Kind: Returned, Label: LabelStopping, PID: p.pid})
		}
	}
	s.mu.Unlock()
	s.carryOut(&e)
	if len(suspects) > 0 {
		s.wg.Go(func() { s.blame(p, suspects) })
	}
	s.nudge()
}

// ending says why a process ended. It is a crash only if neither we nor somebody who asked it in Sidekiq's own way (the Stop button, a
// signal that it handles: its status is then 0) ended it.
func ending(p *process, status exit) string {
	switch {
	case p.killed && p.why != "":
		return p.why
	case p.killed:
		return EndingSilent
	case !status.known:
		return EndingUnknown
	case status.code == 0 && p.why != "":
		return p.why
	case status.code == 0:
		return EndingReplaced
	}
	return EndingCrashed
}

// silentGrace is how long a process may live on after its watcher's connection ended.
const silentGrace = 2 * time.Second

// stopSlack is what Sidekiq may take beyond its timeout: it kills its threads, clears its heartbeat and runs at_exit blocks.
const stopSlack = 8 * time.Second

// attend ends what has to end now. mu is held.
func (s *Supervisor) attend(e *effects, now time.Time) {
	s.attendSeats(now)
	for _, p := range slices.Clone(s.procs) {
		s.collectAbandoned(e, p, now)
		if s.state == stopping && p.termAt.IsZero() {
			if p.why == "" {
				p.why = EndingStopped
			}
			if p.state == booting {
				p.leave(EndingStopped, now)
			} else {
				p.state, p.termAt = leaving, now
				p.signal(sigTerm)
			}
		}
		switch {
		case p.killed:
			p.kill() // again: it may not have been in its group, or not known, at the first time
		case !p.silentAt.IsZero() && now.Sub(p.silentAt) > silentGrace:
			p.kill()
		case p.state == booting && now.Sub(p.boot) > s.cfg.BootTimeout:
			s.cfg.Log.Warn("ruby process did not ask for a job in time: killed", slog.Int("pid", p.pid))
			p.kill()
		case p.state == leaving && p.termAt.IsZero() && len(p.jobs) == 0:
			p.termAt = now
			p.signal(sigTerm)
		case !p.termAt.IsZero() && now.Sub(p.termAt) > s.cfg.StopTimeout+stopSlack:
			s.cfg.Log.Warn("ruby process does not end: killed", slog.Int("pid", p.pid))
			p.kill()
		case p.state == leaving && p.why == EndingStuck && allStuck(p):
			p.kill()
		}
	}
	if z := s.zygote; z != nil {
		switch {
		case z.state == zygoteBooting && (s.state == stopping || now.Sub(z.boot) > s.cfg.BootTimeout),
			z.killed && z.state == zygoteReady && now.Sub(z.boot) > stopSlack:
			z.kill()
		case s.state == stopping && len(s.procs) == 0 && !z.killed:
			z.killed, z.boot = true, now // from here on boot is when it was told to end
			_ = z.conn.Close()           // it ends with that
		}
	}
}

// orphans finds the children of a dead parent that have ended: nobody tells us. mu is held.
func (s *Supervisor) orphans() []*process {
	var gone []*process
	for _, p := range s.procs {
		if p.parent == nil || p.parent.state != zygoteEnded {
			continue
		}
		if p.pid <= 1 || p.startTick == "" || startTick(p.pid) != p.startTick {
			gone = append(gone, p)
		}
	}
	return gone
}

func allStuck(p *process) bool {
	for _, r := range p.jobs {
		if !r.stuck {
			return false
		}
	}
	return true
}
