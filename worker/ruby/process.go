package ruby

import (
	"cmp"
	"net"
	"slices"
	"syscall"
	"time"
)

type state uint8

const (
	booting state = iota // started, has not asked for a job yet
	serving              // takes jobs
	leaving              // takes none; is ended when it has none
	ended                // gone
)

// String is the state as a word.
func (s state) String() string {
	return [...]string{"booting", "serving", "leaving", "ended"}[s]
}

// process is one Ruby process. Everything in it is guarded by Supervisor.mu.
type process struct {
	token string // what its connections say to be its
	pid   int    // 0 until known
	slot  int
	cron  bool
	seats int // jobs at once at most: its threads, or fewer if its connections suffice for fewer
	state state
	why   string // an Ending word once we mean to end it
	boot  time.Time
	ready time.Time

	parent  *zygote // nil for a plain one
	control net.Conn
	log     net.Conn
	lines   map[*line]struct{}
	asking  []*line // of those, by number
	out     *output

	jobs  map[uint64]*running // by number
	load  float64             // of their CPU shares
	light float64
	alone int  // of them that must be alone
	drain bool // to be replaced: leaves as soon as another one serves

	isQuiet   bool      // it said that it runs no more jobs
	leaveAt   time.Time // when it was told to be quiet
	termAt    time.Time // when it was told to end; zero: not yet
	silentAt  time.Time // when its control connection ended although it has not; zero: it lives
	killed    bool      // by us
	pss       int64
	watched   time.Time     // when cpu was read; zero: not yet
	cpu       time.Duration // CPU time then
	used      float64       // CPU use lately, 1 is a whole processor
	startTick string        // of the kernel, to know it again when its parent is gone
}

// line is the connection of one Ruby thread.
type line struct {
	conn   net.Conn
	proc   *process
	number uint64 // as Ruby counts them
	asked  bool
	job    *running
	closed time.Time // when it ended with a job; zero: it is open
	sched  schedule
}

// running is a job that a process has.
type running struct {
	job     Job
	number  uint64
	line    *line
	share   float64 // as it counts in the process's load
	alone   bool
	started time.Time
	beside  int   // others in its process at its start
	before  meter // then
	stuck   bool  // reported
}

func (p *process) add(r *running, now time.Time) {
	r.started, r.beside = now, len(p.jobs)
	p.jobs[r.number] = r
	p.load += r.share
	if r.share < lightShare {
		p.light += r.share
	}
	if r.alone {
		p.alone++
	}
}

func (p *process) remove(r *running) {
	delete(p.jobs, r.number)
	if r.line.job == r {
		r.line.job = nil
	}
	if r.alone {
		p.alone--
	}
	if len(p.jobs) == 0 {
		p.load, p.light = 0, 0 // no drift
		return
	}
	p.load -= r.share
	if r.share < lightShare {
		p.light -= r.share
	}
}

func (p *process) view() ProcView {
	return ProcView{Running: len(p.jobs), Load: p.load, Light: p.light, Alone: p.alone > 0, Idle: min(len(p.asking), max(0, p.seats-len(p.jobs)))}
}

// ask: a thread wants a job.
func (p *process) ask(l *line) {
	if l.asked {
		return
	}
	l.asked = true
	i, _ := slices.BinarySearchFunc(p.asking, l.number, func(other *line, n uint64) int { return cmp.Compare(other.number, n) })
	p.asking = slices.Insert(p.asking, i, l)
}

// answered: it wants none any more.
func (p *process) answered(l *line) {
	if !l.asked {
		return
	}
	l.asked = false
	if i := slices.Index(p.asking, l); i >= 0 {
		p.asking = slices.Delete(p.asking, i, i+1)
	}
}

// idleLine is the first thread that has asked; nil if none has. A thread that never gets a job opens no database connection and needs little memory.
func (p *process) idleLine() *line {
	if len(p.asking) == 0 {
		return nil
	}
	return p.asking[0]
}

// signal sends a signal to the process alone.
func (p *process) signal(sig syscall.Signal) {
	if p.pid > 1 && p.state != ended {
		_ = syscall.Kill(p.pid, sig) // it may have ended by itself: its end is seen elsewhere
	}
}

// kill ends the process and what its jobs have started.
func (p *process) kill() {
	p.killed = true
	if p.pid > 1 && p.state != ended {
		_ = syscall.Kill(-p.pid, syscall.SIGKILL)
		_ = syscall.Kill(p.pid, syscall.SIGKILL) // a child that is not yet in a group of its own
	}
}

// leave lets the process take no more jobs; it is ended when it has none. The first reason counts.
func (p *process) leave(why string, now time.Time) {
	if p.state >= leaving {
		return
	}
	if p.state == booting {
		p.state, p.why, p.leaveAt = leaving, why, now
		p.kill() // it has no jobs, and may not have its signal handlers yet
		return
	}
	p.state, p.why, p.leaveAt = leaving, why, now
	p.signal(syscall.SIGTSTP)
}
