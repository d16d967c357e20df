package ruby

import (
	"log/slog"
	"time"
)

// hold is what keeps all jobs from starting. Guarded by Supervisor.mu.
type hold struct {
	why   string // "": nothing does
	since time.Time
}

// Hold lets no job start as long as why is not empty: something that all of them need is away, so they would only fail into their retries.
// why is for people. What waits goes back, for another host may be able to run it, Room is 0 and no process is started; what runs goes on.
// Hold("") ends that, and jobs start at once. A change is logged; a call that changes nothing costs nothing.
func (s *Supervisor) Hold(why string) {
	var e effects
	now := time.Now()
	s.mu.Lock()
	was := s.hold
	if was.why == why {
		s.mu.Unlock()
		return
	}
	s.hold.why = why
	switch {
	case was.why == "":
		s.hold.since = now
		jobs := 0
		for _, p := range s.procs {
			jobs += len(p.jobs)
		}
		s.cfg.Log.Warn("ruby jobs are held back", slog.String("why", why), slog.Int("running", jobs), slog.Int("given_back", len(s.waiting)))
		// What comes from here on waits: returned as well, it would be fetched again, and again.
		for _, w := range s.waiting {
			e.end(w.job, Result{Kind: Returned, Label: LabelHeld})
		}
		s.waiting = nil
	case why == "":
		s.cfg.Log.Info("ruby jobs start again", slog.Float64("held_s", now.Sub(was.since).Seconds()))
		if s.state == runs && !s.quiet {
			s.place(&e, now)
		}
		e.grown = s.roomGrew()
	}
	s.mu.Unlock()
	s.carryOut(&e)
	s.nudge()
}
