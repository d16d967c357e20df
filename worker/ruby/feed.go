package ruby

import (
	"log/slog"
	"net"
	"slices"
	"time"

	"github.com/queueville/queueville/queues"
)

// writeTimeout is for handing a thread that waits for it a job: it ends only if the process hangs.
const writeTimeout = 10 * time.Second

// effects are what follows from a change of state and must not be done under the lock.
type effects struct {
	sends   []send
	results []result
	grown   bool // Room may be more than it was
}

type send struct {
	conn  net.Conn
	frame []byte
}

type result struct {
	job Job
	res Result
}

func (e *effects) end(job Job, res Result) { e.results = append(e.results, result{job, res}) }

// carryOut does them. The lock is not held.
func (s *Supervisor) carryOut(e *effects) {
	for i := range e.sends {
		// A thread that waits reads at once; a connection that does not take its frame in time is closed, and its job comes back.
		_ = e.sends[i].conn.SetWriteDeadline(time.Now().Add(writeTimeout))
		if _, err := e.sends[i].conn.Write(e.sends[i].frame); err != nil {
			_ = e.sends[i].conn.Close()
		}
	}
	for i := range e.results {
		s.cfg.Done(e.results[i].job, e.results[i].res)
	}
	if e.grown {
		s.cfg.RoomGrew()
	}
}

// place gives waiting jobs to processes as the policy says. mu is held.
func (s *Supervisor) place(e *effects, now time.Time) {
	defer s.level(now)
	left := s.left()
	if len(s.waiting) == 0 || left == 0 || s.hold.why != "" {
		return
	}
	procs := make([]*process, 0, len(s.procs))
	views := s.views(&procs)
	jobs := make([]JobView, len(s.waiting))
	for i, w := range s.waiting {
		jobs[i] = JobView{Class: w.job.Class, Share: s.costs.share(w.job.Class), Alone: w.alone}
	}
	placed := Place(jobs, views)
	if len(placed) == 0 {
		return
	}
	for _, a := range placed[:min(len(placed), left)] {
		w, p := s.waiting[a.Job], procs[a.Proc]
		s.waiting[a.Job] = nil
		l := p.idleLine()
		s.number++
		frame, err := jobFrame(s.number, w.job.Queue, w.job.Payload)
		if err != nil { // no queue that Sidekiq can have
			e.end(w.job, Result{Kind: Dead, Label: LabelPoison, Payload: queues.Burial(w.job.Payload)})
			continue
		}
		r := &running{job: w.job, number: s.number, line: l, share: jobs[a.Job].Share, alone: w.alone}
		p.answered(l)
		l.job = r
		r.before = p.measure(l)
		p.add(r, now)
		e.sends = append(e.sends, send{l.conn, frame})
	}
	kept := s.waiting[:0]
	for _, w := range s.waiting {
		if w != nil {
			kept = append(kept, w)
		}
	}
	clear(s.waiting[len(kept):])
	s.waiting = kept
}

// asked: a thread wants a job.
func (s *Supervisor) asked(l *line) {
	var e effects
	now := time.Now()
	s.mu.Lock()
	p := l.proc
	p.ask(l)
	if p.state == booting {
		s.nowServing(p, now)
	}
	switch {
	case p.state == serving:
		s.place(&e, now)
		e.grown = s.roomGrew()
	case p.isQuiet:
		p.dismiss(&e)
	}
	s.mu.Unlock()
	s.carryOut(&e)
}

// dismiss answers the threads that wait for a job of a process that is quiet: they need not wait to the end to see it.
func (p *process) dismiss(e *effects) {
	for _, l := range slices.Clone(p.asking) {
		p.answered(l)
		e.sends = append(e.sends, send{l.conn, nothing})
	}
}

// nothing is the answer to a thread for which there is no job.
var nothing = appendFrame(nil, 'N')

// acknowledged: Sidekiq has done with a job, and its thread may ask for the next one.
func (s *Supervisor) acknowledged(l *line, d done, asks bool) error {
	var e effects
	now := time.Now()
	s.mu.Lock()
	r := l.job
	if r == nil || r.number != d.number {
		s.mu.Unlock()
		return errFrame
	}
	p := l.proc
	p.remove(r)
	s.ended++
	wall, cpu := time.Duration(d.wall)*time.Microsecond, time.Duration(d.cpu)*time.Microsecond
	s.costs.note(r.job.Class, wall, cpu, s.around(r, now), now)
	s.learnTypical(r.job.Queue, s.costs.share(r.job.Class))
	delete(s.abandoned, r.job.JID)
	res := Result{Kind: Acked, Label: LabelDone, Failed: d.failed, Run: wall, CPU: cpu, DB: time.Duration(d.db) * time.Microsecond, PID: p.pid}
	if d.failed {
		res.Label = LabelFailed
	}
	s.measure(now, r.job.Class, &res)
	e.end(r.job, res)
	if asks {
		p.ask(l)
	}
	if p.state == leaving && len(p.jobs) == 0 {
		s.nudge()
	}
	switch {
	case p.isQuiet:
		p.dismiss(&e)
	case p.state != leaving:
		s.place(&e, now) // it may now take what was too much before, also on another thread
		e.grown = asks && s.roomGrew()
	}
	s.mu.Unlock()
	s.carryOut(&e)
	return nil
}

// refused: a job comes back untouched, for its process had become quiet.
func (s *Supervisor) refused(l *line, number uint64) error {
	var e effects
	s.mu.Lock()
	r := l.job
	if r == nil || r.number != number {
		s.mu.Unlock()
		return errFrame
	}
	l.proc.remove(r)
	e.end(r.job, Result{Kind: Returned, Label: LabelRefused, PID: l.proc.pid})
	s.mu.Unlock()
	s.carryOut(&e)
	s.nudge()
	return nil
}

// lineEnded: a thread has gone, or its process has. Whether a job of it must come back is seen when the process had time to end.
func (s *Supervisor) lineEnded(l *line, now time.Time) {
	s.mu.Lock()
	l.proc.answered(l)
	if l.job == nil {
		delete(l.proc.lines, l)
	} else {
		l.closed = now
	}
	s.mu.Unlock()
	s.nudge()
}

// abandonGrace is how long after a line's end its process may take to end too.
const abandonGrace = 2 * time.Second

// abandonLimit is how often a job's thread may end without acknowledging it, within the life of this supervisor.
const (
	abandonLimit = 4
	maxAbandoned = 10_000
)

// collectAbandoned returns the jobs of threads that ended in a process that lives. mu is held.
func (s *Supervisor) collectAbandoned(e *effects, p *process, now time.Time) {
	for l := range p.lines {
		if l.closed.IsZero() || now.Sub(l.closed) < abandonGrace {
			continue
		}
		delete(p.lines, l)
		if r := l.job; r != nil {
			p.remove(r)
			s.cfg.Log.Warn("thread ended without acknowledging its job", slog.Int("pid", p.pid), slog.String("class", r.job.Class), slog.String("jid", r.job.JID))
			s.giveUp(e, r, LabelAbandoned)
		}
	}
}

// giveUp returns a job that ends its thread or never ends; the fourth time it is buried, for otherwise it would do so for ever. mu is held.
func (s *Supervisor) giveUp(e *effects, r *running, label string) {
	if len(s.abandoned) >= maxAbandoned {
		clear(s.abandoned)
	}
	s.abandoned[r.job.JID]++
	if s.abandoned[r.job.JID] < abandonLimit {
		e.end(r.job, Result{Kind: Returned, Label: label, PID: r.line.proc.pid})
		return
	}
	delete(s.abandoned, r.job.JID)
	e.end(r.job, Result{Kind: Dead, Label: label, Payload: marked(r.job.Payload, abandonLimit, label, time.Now()), PID: r.line.proc.pid})
}

// returnWaiting gives back what no process has. mu is held.
func (s *Supervisor) returnWaiting(e *effects) {
	for _, w := range s.waiting {
		e.end(w.job, Result{Kind: Returned, Label: LabelStopping})
	}
	s.waiting = nil
}
