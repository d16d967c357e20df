package simulate

import "time"

// quantum is after how long Ruby's timer takes the lock from a thread that others wait for, and about what an operating system lets a busy
// thread run while others want the core.
const quantum = int64(100 * time.Millisecond)

// sharedSlice is what a busy thread runs on a host that it shares with servers that want the processor often and for a moment: a tick of the kernel.
const sharedSlice = int64(4 * time.Millisecond)

// machine is a host at work.
type machine struct {
	Host
	idle     int           // cores
	queue    ring[int32]   // tasks that want a core
	urgent   ring[int32]   // of these, those that come first: see Config.Shared
	slice    int64         // after which a task gives its core to others that want it
	busy     int64         // core-ns used by job processes
	others   int64         // and by what else is on a shared host
	runnable int           // tasks on a core or waiting for one
	stopped  bool          // belongs to an earlier stage
	procs    []*proc       // of Ruby
	worker   *workerModel  // of Queueville
	since    time.Duration // when it started, for its cost
}

// proc is one operating system process: Ruby's with its lock, or the worker, which has none.
type proc struct {
	host    *machine
	ruby    bool
	locked  bool        // a thread runs, or waits for a core with the lock in hand
	since   int64       // when it got the lock
	queue   ring[int32] // tasks that want the lock
	threads int
	running int // jobs

	pool     int         // connections that it may open
	used     int         // in use now
	open     int         // have been opened and are kept
	poolWait ring[int32] // tasks that wait for one

	quiet bool // takes nothing new
	gone  bool // killed: what still happens to its tasks is of no effect

	// Of Queueville's Ruby processes.
	load, light    float64
	ready          int64 // has booted
	busy, lastBusy int64 // processor time, ns
	use            float64
}

// wantCPU makes task run for its left CPU time: first Ruby's lock, then a core.
func (s *sim) wantCPU(id int32) {
	t := &s.tasks[id]
	if t.proc.ruby && t.step().kind == stepCPU {
		if t.proc.locked {
			t.proc.queue.push(id)
			return
		}
		t.proc.locked, t.proc.since = true, s.now
	}
	s.wantCore(id)
}

// served tells whether a task's step is not of its process, but of a server on the same host.
func (t *task) served() bool { k := t.step().kind; return k == stepDB || k == stepBeside }

func (s *sim) wantCore(id int32) {
	t := &s.tasks[id]
	m := t.proc.host
	m.runnable++
	if m.idle == 0 {
		if t.served() {
			m.urgent.push(id)
		} else {
			m.queue.push(id)
		}
		return
	}
	m.idle--
	s.runSlice(id)
}

// stolen is how much longer it takes to compute for a while, because somebody else has the processor in between.
func (s *sim) stolen(slice int64) int64 {
	if s.cfg.Stolen == 0 {
		return 0
	}
	return int64(float64(slice) * s.cfg.Stolen / (1 - s.cfg.Stolen))
}

func (s *sim) runSlice(id int32) {
	t := &s.tasks[id]
	t.slice = min(t.left, t.proc.host.slice)
	s.wake(id, s.now+t.slice+s.stolen(t.slice))
}

// sliceEnded gives the core and the lock on, and goes on with the task.
func (s *sim) sliceEnded(id int32) {
	t := &s.tasks[id]
	p, m := t.proc, t.proc.host
	switch t.step().kind {
	case stepDB:
		m.others += t.slice
		s.db.busy += t.slice
	case stepBeside:
		m.others += t.slice
	default:
		m.busy += t.slice
		p.busy += t.slice
	}
	m.others += s.stolen(t.slice) // as the sensors see it
	m.runnable--
	t.left -= t.slice
	if t.step().kind == stepCPU {
		t.spent += t.slice
	}
	// Whoever has nobody waiting behind goes on without giving anything up: that is what a timer does.
	locks := p.ruby && t.step().kind == stepCPU
	yields := locks && t.left > 0 && p.queue.len() > 0 && s.now-p.since >= quantum
	if t.left > 0 && !yields && m.queue.len()+m.urgent.len() == 0 {
		m.runnable++
		s.runSlice(id)
		return
	}
	switch {
	case m.urgent.len() > 0:
		s.runSlice(m.urgent.pop())
	case m.queue.len() > 0:
		s.runSlice(m.queue.pop())
	default:
		m.idle++
	}
	switch {
	case t.left > 0 && !yields:
		s.wantCore(id)
		return
	case yields: // to the end of the line
		p.queue.push(id)
	}
	if locks {
		if p.queue.len() > 0 {
			p.since = s.now
			s.wantCore(p.queue.pop())
		} else {
			p.locked = false
		}
	}
	switch {
	case t.left > 0:
	case t.step().kind == stepDB:
		t.answers = true
		s.wake(id, s.db.answer(s.now, t.step().queries))
	default:
		s.nextStep(id)
	}
}

// database is PostgreSQL: cores that serve queries in order, and time in which nothing ends.
type database struct {
	Database
	free   []int64 // when each core has done what it was given
	busy   int64
	stalls []stall
}

type stall struct{ from, to int64 }

// setCores changes the machine under it.
func (d *database) set(now int64, to Database) {
	d.Database = to
	for len(d.free) > to.Cores {
		d.free = d.free[:len(d.free)-1]
	}
	for len(d.free) < to.Cores {
		d.free = append(d.free, now)
	}
}

// run gives the database work of a job and returns when its answers have come back. The order is that of arrival, so the end is known at once.
func (d *database) run(now, work int64, queries int) int64 {
	best := 0
	for i := range d.free {
		if d.free[i] < d.free[best] {
			best = i
		}
	}
	start := max(now, d.free[best])
	end := start + work
	for _, s := range d.stalls {
		if start < s.to && end > s.from {
			end += s.to - max(start, s.from)
		}
	}
	d.free[best] = end
	d.busy += work
	return end + int64(queries)*int64(d.RoundTrip)
}

// answer is when the answers have come back to queries that a shared host has just done the work of.
func (d *database) answer(now int64, queries int) int64 {
	for _, s := range d.stalls {
		if now >= s.from && now < s.to {
			now = s.to
		}
	}
	return now + int64(queries)*int64(d.RoundTrip)
}
