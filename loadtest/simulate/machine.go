package simulate

import "time"

// quantum is after how long Ruby's timer takes the lock from a thread that others wait for, and about what an operating system lets a busy
// thread run while others want the core.
const quantum = int64(100 * time.Millisecond)

// machine is a host at work.
type machine struct {
	Host
	idle     int           // cores
	queue    ring[int32]   // tasks that want a core
	busy     int64         // core-ns used
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
		t.proc.locked = true
	}
	s.wantCore(id)
}

func (s *sim) wantCore(id int32) {
	m := s.tasks[id].proc.host
	m.runnable++
	if m.idle == 0 {
		m.queue.push(id)
		return
	}
	m.idle--
	s.runSlice(id)
}

func (s *sim) runSlice(id int32) {
	t := &s.tasks[id]
	t.slice = min(t.left, quantum)
	s.wake(id, s.now+t.slice)
}

// sliceEnded gives the core and the lock on, and goes on with the task.
func (s *sim) sliceEnded(id int32) {
	t := &s.tasks[id]
	p, m := t.proc, t.proc.host
	m.busy += t.slice
	p.busy += t.slice
	m.runnable--
	t.left -= t.slice
	if t.step().kind == stepCPU {
		t.spent += t.slice
	}
	// Whoever has nobody waiting behind goes on without giving anything up: that is what a timer does.
	locks := p.ruby && t.step().kind == stepCPU
	if t.left > 0 && (!locks || p.queue.len() == 0) && m.queue.len() == 0 {
		m.runnable++
		s.runSlice(id)
		return
	}
	if m.queue.len() > 0 {
		s.runSlice(m.queue.pop())
	} else {
		m.idle++
	}
	if locks {
		if t.left > 0 { // to the end of the line
			p.queue.push(id)
		}
		if p.queue.len() > 0 {
			s.wantCore(p.queue.pop())
		} else {
			p.locked = false
		}
	} else if t.left > 0 {
		s.wantCore(id)
	}
	if t.left <= 0 {
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
