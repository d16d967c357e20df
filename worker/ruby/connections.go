package ruby

import (
	"cmp"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Connections lends database connections to processes. What it lends is the business of whoever gives it; dbpool's Manager does so in
// Queueville.
type Connections interface {
	// Reserve waits until one more process may open connections for most jobs at once, or, if there are not so many, for as many as there
	// are but at least least; or until ctx ends.
	Reserve(ctx context.Context, least, most int) (Reservation, error)
	// Why says why Reserve waits, for people; "" when it is not known.
	Why() string
}

// Reservation is the connections that one process may open. dbpool.Reservation is one.
type Reservation interface {
	// ApplicationName is what every connection of the process must be called.
	ApplicationName() string
	// Seats is for how many jobs at once the connections suffice, and Limit how many connections that are. Neither changes.
	Seats() int
	Limit() int
	// Left is for how long from now on the process may begin to open connections.
	Left() time.Duration
	// Lost is closed when the process must end soon, whatever it does.
	Lost() <-chan struct{}
	// Recalled is closed when the process should finish what it does and end, because others need the connections.
	Recalled() <-chan struct{}
	// Release gives the connections back when the process is gone. After an error it can be called again.
	Release(ctx context.Context) error
}

const (
	seatPatience   = 4 * time.Second        // that Reserve takes before anybody is told, or another process makes room
	seatUnwanted   = 2 * time.Second        // after it was wanted last, a seat is given back
	seatRetry      = 10 * time.Second       // after an error
	lostGrace      = 5 * time.Second        // for jobs to end when their connections are lost: later these are cut
	permitEvery    = 500 * time.Millisecond // how often the end of a process's permission is written down anew
	releaseTimeout = 20 * time.Second       // of one try
	lastRelease    = 5 * time.Second        // of the last one, in a stop
	releaseAgain   = time.Second
	worthwhile     = 5 // a further process has at least a fifth of the threads that it could have
)

// seats are the connections of all processes. Guarded by Supervisor.mu.
type seats struct {
	free   Reservation // for the process that is started next
	of     map[*process]*seat
	parent *seat // of the preloaded parent, while it boots

	wanted, cronWanted time.Time // when a process would have been started last
	cancel             func()    // ends the Reserve that waits; nil: none does
	least              int       // that it would be content with
	since              time.Time // since when it waits
	after              time.Time // the next one
	problem            string    // why it waits; "": it does not, or not for long
}

// seat is the connections of one process.
type seat struct {
	Reservation

	file    string // where the process reads until when it may connect
	written time.Time
	killAt  time.Time // zero: it is not lost
}

// seated makes sure that the next process has its connections, or asks for them. mu is held.
func (s *Supervisor) seated(cron bool, now time.Time) bool {
	q := &s.seats
	if s.cfg.Connections == nil || q.free != nil && !closed(q.free.Lost()) {
		return true
	}
	q.wanted = now
	if cron {
		q.cronWanted = now
	}
	least := s.leastSeats(cron)
	switch {
	case q.cancel != nil && least < q.least:
		q.cancel() // it will be asked for less
	case q.cancel == nil && q.free == nil && now.After(q.after):
		ctx, cancel := context.WithCancel(context.Background()) // ends when nobody wants it any more
		q.cancel, q.since, q.least = cancel, now, least
		s.wg.Go(func() { s.reserve(ctx, least) })
	}
	return false
}

// leastSeats is how few jobs at once one more process is worth its memory for: any number for the only one, and for the one that runs the cron
// scheduler. mu is held.
func (s *Supervisor) leastSeats(cron bool) int {
	if cron {
		return 1
	}
	for _, p := range s.procs {
		if p.state <= serving && !p.drain {
			return max(1, s.cfg.Threads/worthwhile)
		}
	}
	return 1
}

// reserve waits for the connections of one process.
func (s *Supervisor) reserve(ctx context.Context, least int) {
	r, err := s.cfg.Connections.Reserve(ctx, least, s.cfg.Threads)
	now := time.Now()
	s.mu.Lock()
	q := &s.seats
	waited := now.Sub(q.since)
	q.cancel()
	q.cancel = nil
	switch {
	case err == nil:
		if q.problem != "" {
			s.cfg.Log.InfoContext(ctx, "ruby process has its database connections", slog.Float64("wait_s", waited.Seconds()))
		}
		q.free, q.problem, q.wanted = r, "", now
	case ctx.Err() != nil: // not wanted any more
		q.problem = ""
	default:
		q.after = now.Add(seatRetry)
		s.waits(err.Error())
	}
	s.mu.Unlock()
	s.nudge()
}

// waits notes why no process can be started, and says it once. mu is held.
func (s *Supervisor) waits(why string) {
	q := &s.seats
	if q.problem == "" {
		s.cfg.Log.Warn("ruby process waits for database connections", slog.String("why", why))
	}
	q.problem = cmp.Or(why, "it is not known why")
}

// sit gives the free seat to a process that is started, named by its token; nil without Connections. mu is held.
func (s *Supervisor) sit(token string, now time.Time) *seat {
	if s.cfg.Connections == nil {
		return nil
	}
	st := &seat{Reservation: s.seats.free, file: filepath.Join(s.dir, token+".lease")}
	s.seats.free = nil
	s.permit(st, now)
	return st
}

// env is what a process needs to know of its connections.
func (st *seat) env(to map[string]string) {
	if st == nil {
		return
	}
	name := st.ApplicationName()
	to["PGAPPNAME"] = name // of what its jobs start
	to["QUEUEVILLE_DATABASE_NAME"], to["QUEUEVILLE_DATABASE_LEASE"] = name, st.file
}

// permit writes down until when a process may open connections, by both clocks in ms, and how many: it goes on while we are frozen, and must
// not open any when others may have them. mu is held.
func (s *Supervisor) permit(st *seat, now time.Time) {
	if now.Sub(st.written) < permitEvery {
		return
	}
	var mono unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono) != nil {
		return
	}
	wall := time.Now() // both clocks before what is left: the other way round a freeze in between would lengthen it
	text := permission{}
	if left := st.Left(); left > 0 {
		text = permission{steady: mono.Nano()/1e6 + left.Milliseconds(), wall: wall.UnixMilli() + left.Milliseconds(), connections: st.Limit()}
	}
	if err := text.write(st.file); err != nil {
		s.cfg.Log.Warn("ruby process cannot be told of its database connections", slog.Any("err", err))
	}
	st.written = now
}

// attendSeats: mu is held.
func (s *Supervisor) attendSeats(now time.Time) {
	q := &s.seats
	if s.cfg.Connections == nil {
		return
	}
	unwanted := s.state != runs || s.quiet || now.Sub(q.wanted) > seatUnwanted
	if unwanted && q.cancel != nil {
		q.cancel()
	}
	if q.free != nil && (unwanted || closed(q.free.Lost())) {
		s.giveBack(&seat{Reservation: q.free})
		q.free = nil
	}
	if q.cancel == nil && unwanted {
		q.problem = ""
	}
	if q.cancel != nil && now.Sub(q.since) > seatPatience {
		s.waits(s.cfg.Connections.Why())
		s.makeRoom(now)
	}
	for p, st := range q.of {
		s.permit(st, now)
		s.attendSeat(p, st, now)
	}
	if q.parent != nil {
		s.permit(q.parent, now)
		if closed(q.parent.Lost()) && s.zygote != nil {
			s.zygote.kill()
		}
	}
}

// attendSeat ends a process whose connections are lost or wanted by others. mu is held.
func (s *Supervisor) attendSeat(p *process, st *seat, now time.Time) {
	switch {
	case closed(st.Lost()):
		if st.killAt.IsZero() {
			s.cfg.Log.Warn("ruby process is ended: its database connections are lost", slog.Int("pid", p.pid), slog.Int("jobs", len(p.jobs)))
			st.killAt = now.Add(lostGrace)
			p.leave(EndingConnections, now)
		} else if now.After(st.killAt) && !p.killed {
			p.why = cmp.Or(p.why, EndingConnections)
			p.kill()
		}
	case !closed(st.Recalled()):
	case p.state < leaving:
		s.cfg.Log.Info("ruby process ends: others need its database connections", slog.Int("pid", p.pid), slog.Int("jobs", len(p.jobs)))
		p.leave(EndingConnections, now)
	case p.why == EndingConnections && p.termAt.IsZero() && now.Sub(p.leaveAt) > s.cfg.StopTimeout:
		p.termAt = now // what still runs gets Sidekiq's own timeout, then it goes back
		p.signal(sigTerm)
	}
}

// makeRoom lets a process go first that would go later, when another one has waited for its connections. mu is held.
func (s *Supervisor) makeRoom(now time.Time) {
	var least *process
	for _, p := range s.procs {
		switch {
		case p.state == leaving:
			return // there will be room
		case p.state == serving && p.drain:
			p.leave(cmp.Or(p.why, EndingReplaced), now)
			return
		case p.state == serving && !p.cron && (least == nil || len(p.jobs) < len(least.jobs)):
			least = p
		}
	}
	if least != nil && now.Sub(s.seats.cronWanted) < seatPatience {
		s.cfg.Log.Info("ruby process makes room for the one that runs the cron scheduler", slog.Int("pid", least.pid), slog.Int("jobs", len(least.jobs)))
		least.leave(EndingConnections, now)
	}
}

// unseat gives back what a process had. mu is held.
func (s *Supervisor) unseat(p *process) {
	if st := s.seats.of[p]; st != nil {
		delete(s.seats.of, p)
		s.giveBack(st)
	}
}

// unseatParent gives back what the preloaded parent had: it has closed its connections and opens no more, or is gone. mu is held.
func (s *Supervisor) unseatParent() {
	if st := s.seats.parent; st != nil {
		s.seats.parent = nil
		s.giveBack(st)
	}
}

// giveBack releases connections, until it works.
func (s *Supervisor) giveBack(st *seat) {
	s.wg.Go(func() {
		if st.file != "" {
			_ = os.Remove(st.file)
		}
		for {
			s.mu.Lock()
			stops := s.state >= stopping
			s.mu.Unlock()
			limit := releaseTimeout
			if stops {
				limit = lastRelease
			}
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			err := st.Release(ctx)
			cancel()
			if err == nil {
				s.nudge()
				return
			}
			s.cfg.Log.Warn("database connections of a ruby process are not given back yet", slog.Any("err", err))
			if stops {
				return // who confirms for the cluster will see that they are closed
			}
			<-time.After(releaseAgain)
		}
	})
}

func closed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}
