package simulate

import (
	"time"

	"github.com/queueville/queueville/loadtest/world"
)

// stepKind is what a task does next.
type stepKind uint8

const (
	stepCPU    stepKind = iota // under Ruby's lock, or in the worker without one
	stepNative                 // processor time outside of Ruby's lock
	stepDB                     // queries; the first one takes a connection from the pool and keeps it to the end
	stepNet                    // a request to the far side
	stepBeside                 // work of other programs on a shared host that the job waits for
	stepEnd
)

type step struct {
	kind    stepKind
	amount  int64 // ns of processor or database time
	queries int
}

// task is a job that runs. Tasks live in a slab and are numbered, so that events need no pointers.
type task struct {
	job     world.Job
	proc    *proc
	thread  int32 // of Sidekiq
	steps   [10]step
	at      uint8
	began   int64
	left    int64 // of the CPU step
	slice   int64
	spent   int64 // CPU time of this run, for the shares
	answer  world.Answer
	hasConn bool
	answers bool // its queries are done, their answers under way
	native  bool
	waitSeq uint32 // of the time-out while it waits for a connection; 0 while it does not
	dead    bool   // its process was killed
	share   float64
	charged float64 // of a delivery: what its line was charged
	kind    uint8   // of a delivery: tries or retries
	beside  int32   // jobs in its process at its start
}

func (t *task) step() *step { return &t.steps[t.at] }

// poolTimeout is how long Active Record waits for a connection before it raises ConnectionTimeoutError.
const poolTimeout = int64(5 * time.Second)

// begin runs a job in p.
func (s *sim) begin(job *world.Job, p *proc, native bool) int32 {
	id := s.newTask()
	t := &s.tasks[id]
	*t = task{job: *job, proc: p, began: s.now, native: native}
	p.running++
	s.running++
	d := s.cfg.World.Demand(job)
	cpu := int64(float64(d.CPU)/p.host.Speed) + int64(s.cfg.Overhead.Fetch)
	nat := int64(float64(d.Native) / p.host.Speed)
	class := &world.ClassTable[job.Class]
	if class.Net == world.NetDelivery && !native {
		cpu = max(0, cpu+int64(s.cfg.Overhead.Delivery))
	}
	n := 0
	add := func(kind stepKind, amount int64, queries int) {
		t.steps[n] = step{kind: kind, amount: amount, queries: queries}
		n++
	}
	over := &s.cfg.Overhead
	if s.cfg.Shared {
		add(stepBeside, int64(over.Beside), 0)
		if s.cfg.Engine == Queueville && !native {
			add(stepNative, int64(over.HandOver), 0)
		}
	}
	// What a delivery costs its receiver, where that is on the same host.
	far := func() {
		if s.cfg.Shared && class.Net == world.NetDelivery {
			add(stepBeside, int64(over.Receive), 0)
		}
		add(stepNet, 0, 0)
	}
	switch {
	case native:
		// Keys, accounts and domains come from caches; what is left is one request and its signature.
		add(stepCPU, max(0, int64(float64(d.GoCPU)/p.host.Speed)+int64(over.Delivery)), 0)
		far()
	case class.Net != world.NetNone:
		add(stepCPU, cpu/3, 0)
		add(stepDB, int64(d.DB)/2, d.Queries/2)
		add(stepCPU, cpu/3, 0)
		far()
		if nat > 0 {
			add(stepNative, nat, 0)
		}
		add(stepCPU, cpu-2*(cpu/3), 0)
	default:
		add(stepCPU, cpu/2, 0)
		add(stepDB, int64(d.DB), d.Queries)
		if nat > 0 {
			add(stepNative, nat, 0)
		}
		add(stepCPU, cpu-cpu/2, 0)
	}
	add(stepEnd, 0, 0)
	s.enter(id)
	return id
}

// newTask takes a free number.
func (s *sim) newTask() int32 {
	if n := len(s.freeTasks); n > 0 {
		id := s.freeTasks[n-1]
		s.freeTasks = s.freeTasks[:n-1]
		return id
	}
	s.tasks = append(s.tasks, task{})
	return int32(len(s.tasks) - 1)
}

// enter begins the task's current step.
func (s *sim) enter(id int32) {
	t := &s.tasks[id]
	st := t.step()
	switch st.kind {
	case stepCPU, stepNative, stepBeside:
		if st.amount <= 0 {
			s.nextStep(id)
			return
		}
		t.left = st.amount
		s.wantCPU(id)
	case stepDB:
		if !t.hasConn && !s.takeConnection(id) {
			return
		}
		s.met.queries += st.queries
		if work := st.amount + int64(st.queries)*int64(s.cfg.Overhead.Query); s.cfg.Shared && work > 0 {
			t = &s.tasks[id]
			t.left = work
			s.wantCore(id)
			return
		}
		s.wake(id, s.db.run(s.now, st.amount+int64(st.queries)*int64(s.cfg.Overhead.Query), st.queries))
	case stepNet:
		t.answer = s.request(&t.job, t.native)
		s.wake(id, s.now+int64(t.answer.Took))
	case stepEnd:
		s.finish(id, t.answer.Verdict >= world.Failed)
	}
}

// fire goes on with a task whose event has come.
func (s *sim) fire(id int32, seq uint32) {
	t := &s.tasks[id]
	if t.dead {
		return
	}
	if t.waitSeq != 0 {
		if t.waitSeq == seq { // no connection within five seconds
			t.waitSeq = 0
			s.met.poolTimeouts++
			s.finish(id, true)
		}
		return
	}
	switch st := t.step(); {
	case st.kind == stepCPU || st.kind == stepNative || st.kind == stepBeside || st.kind == stepDB && s.cfg.Shared && !t.answers && t.left > 0:
		s.sliceEnded(id)
	case st.kind == stepNet && t.answer.Verdict >= world.Failed:
		s.finish(id, true) // the request raises: what would have come after it does not run
	default:
		s.nextStep(id)
	}
}

func (s *sim) nextStep(id int32) {
	s.tasks[id].at++
	s.tasks[id].answers = false
	s.enter(id)
}

// takeConnection takes a connection of the process's pool; false when the task has to wait for one.
func (s *sim) takeConnection(id int32) bool {
	t := &s.tasks[id]
	p := t.proc
	if p.used >= p.pool {
		p.poolWait.push(id)
		s.met.poolWaits++
		s.wake(id, s.now+poolTimeout)
		t.waitSeq = s.seq
		return false
	}
	p.used++
	if p.used > p.open {
		s.connections += p.used - p.open
		p.open = p.used
	}
	t.hasConn = true
	return true
}

// leaveConnection gives it to the next who waits.
func (s *sim) leaveConnection(t *task) {
	p := t.proc
	t.hasConn = false
	p.used--
	for p.poolWait.len() > 0 && p.used < p.pool {
		id := p.poolWait.pop()
		next := &s.tasks[id]
		if next.dead || next.waitSeq == 0 || next.proc != p {
			continue // timed out meanwhile
		}
		next.waitSeq = 0
		// The old time-out's event would wake the wrong step: the task moves to a number of its own.
		moved := s.newTask()
		s.tasks[moved] = s.tasks[id]
		s.tasks[id].dead = true
		s.moved(id, moved)
		s.enter(moved)
	}
}

// disconnect closes a process's connections: it ends.
func (s *sim) disconnect(p *proc) {
	s.connections -= p.open
	p.open = 0
}

// Connections that are kept for the next request, by Ruby (a pool) and by Queueville (activitypub.Config).
const (
	rubyKeeps   = int64(60 * time.Second)
	nativeKeeps = int64(30 * time.Second)
	// connecting and answering are the time-outs of both.
	connecting = 5 * time.Second
	answering  = 10 * time.Second
)

// request sends a request to the far side, and counts how busy that is.
func (s *sim) request(job *world.Job, native bool) world.Answer {
	if job.Dest < 0 {
		return s.cfg.World.Attempt(job, time.Duration(s.now), 0)
	}
	second := int32(s.now / int64(time.Second))
	d := &s.dests[job.Dest]
	if d.redTo > s.now && world.ClassTable[job.Class].Net == world.NetDelivery { // Mastodon's breaker: fails without being tried
		return world.Answer{Verdict: world.Failed}
	}
	if d.second != second {
		d.second, d.sent = second, 0
	}
	d.sent++
	a := s.cfg.World.Attempt(job, time.Duration(s.now), int(d.sent))
	if world.ClassTable[job.Class].Net != world.NetDelivery {
		return a
	}
	keeps := rubyKeeps
	if native {
		keeps = nativeKeeps
	}
	switch {
	case a.Verdict == world.Accepted:
		if d.until < s.now {
			d.kept = 0
		}
		d.kept, d.until = min(d.kept+1, mostKept), s.now+int64(a.Took)+keeps
	case a.Verdict == world.TimedOut && s.cfg.World.Temper(job.Dest, time.Duration(s.now)) == world.Dark:
		switch {
		case d.kept > 0 && s.now < d.until: // a connection from better times: nothing says that it is dead but that no answer comes
			d.kept--
			a.Took = answering
		case native: // all addresses within one limit
			a.Took = connecting
		}
	}
	return a
}

// mostKept is how many connections to one destination are kept: about as many as were open at once.
const mostKept = 2

// finish ends a task: what it leaves behind is pushed, or it is retried, or it is over.
func (s *sim) finish(id int32, failed bool) {
	t := &s.tasks[id]
	if t.hasConn {
		s.leaveConnection(t)
		t = &s.tasks[id] // leaving may have moved the slab
	}
	p := t.proc
	p.running--
	s.running--
	if p.quiet && p.running == 0 {
		s.disconnect(p)
	}
	done := *t
	s.freeTasks = append(s.freeTasks, id)
	s.met.ended(&done, s.now, failed)
	s.outcome(&done.job, failed, done.native)
	s.eng.ended(&done, failed)
}

// outcome is what becomes of a job that has run.
func (s *sim) outcome(job *world.Job, failed, safe bool) {
	if s.redisDown() && !safe && s.cfg.Engine == Sidekiq {
		// What would have been written is not: the retry, or the jobs that follow. A job that leaves nothing is simply done.
		wrote := failed
		if !failed {
			s.cfg.World.Spawn(job, time.Duration(s.now), &s.seen, func(world.Push) { wrote = true })
		}
		if wrote {
			s.met.lost++
			return
		}
	}
	if s.redisDown() && !safe && s.cfg.Engine == Queueville {
		// Ruby cannot write its retry either, but the worker has the job still: it goes back when Redis is there again.
		again := *job
		s.met.repeated++
		s.met.returning++
		s.after(s.redisDownTo, func() {
			s.met.returning--
			s.queues[again.Queue()].unshift(again)
			s.jobs++
		})
		return
	}
	if failed {
		s.retry(job)
		return
	}
	s.met.done++
	s.cfg.World.Spawn(job, time.Duration(s.now), &s.seen, s.follow)
}

// retry puts a job into the retry set, or ends it.
func (s *sim) retry(job *world.Job) {
	class := &world.ClassTable[job.Class]
	s.met.failures++
	if int(job.Retries) >= int(class.Retries) {
		if class.Dead {
			s.met.dead++
		} else {
			s.met.discarded++
		}
		return
	}
	dice := world.NewDice(job.ID, uint64(job.Retries)<<8|5)
	delay := class.Delay(int(job.Retries), &dice)
	job.Retries++
	s.met.retried++
	s.later(&s.due, s.now+int64(delay), job, false)
}

// wake schedules the task's next event.
func (s *sim) wake(id int32, at int64) {
	s.seq++
	s.heap.push(event{at: at, seq: s.seq, task: id})
}
