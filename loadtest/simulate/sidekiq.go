package simulate

import (
	"slices"
	"time"

	"github.com/queueville/queueville/loadtest/world"
	"github.com/queueville/queueville/scheduler"
)

// The breaker per inbox that Mastodon's deliveries go through (spec/mastodon.md §3.4).
const (
	breakerFails = 10
	breakerFor   = int64(time.Minute)
)

// fetchTime is Redis's answer and Sidekiq's own work for one job, under the lock: docs/benchmarks.md has measured 140 to 335 µs.
const fetchTime = 250 * time.Microsecond

// sidekiq is the model of stock Sidekiq: every thread fetches for itself.
type sidekiq struct {
	s       *sim
	groups  []*group
	threads []thread
}

// group is all threads that look at the same queues in the same way. Redis gives a pushed job to the client that has been blocked longest; a group's
// are in that order.
type group struct {
	queues  []scheduler.Queue
	numbers []int
	strict  bool
	idle    ring[int32] // threads blocked in BRPOP
}

type thread struct {
	proc  *proc
	group *group
	since int64 // blocked since
}

func newSidekiq(s *sim) *sidekiq { return &sidekiq{s: s} }

func (e *sidekiq) group(p *Process) *group {
	for _, g := range e.groups {
		if same(g.queues, p.Queues) {
			return g
		}
	}
	g := &group{queues: p.Queues, strict: true}
	for _, q := range p.Queues {
		if n := world.QueueNumber(q.Name); n >= 0 {
			g.numbers = append(g.numbers, n)
		}
		g.strict = g.strict && q.Weight == 0
	}
	e.groups = append(e.groups, g)
	return g
}

func same(a, b []scheduler.Queue) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func (e *sidekiq) install(machines []*machine, ready int64) {
	for _, m := range machines {
		for i := range m.Sidekiq {
			def := &m.Sidekiq[i]
			p := &proc{host: m, ruby: true, threads: def.Concurrency, pool: def.DBPool}
			if p.pool == 0 {
				p.pool = def.Concurrency
			}
			m.procs = append(m.procs, p)
			g := e.group(def)
			e.s.after(ready, func() {
				for range def.Concurrency {
					e.threads = append(e.threads, thread{proc: p, group: g})
					e.next(int32(len(e.threads) - 1))
				}
			})
		}
	}
}

func (e *sidekiq) retire(machines []*machine, killed bool) {
	for _, m := range machines {
		m.stopped = true
		for _, p := range m.procs {
			p.quiet = true
			if p.running == 0 {
				e.s.disconnect(p)
			}
		}
		if killed {
			// A job that was taken by BRPOP is in memory only: it is gone with its process.
			e.s.met.lost += len(e.s.kill(m))
		}
	}
	for _, g := range e.groups { // who is blocked and shall not be any more goes away
		for range g.idle.len() {
			if id := g.idle.pop(); !e.threads[id].proc.quiet {
				g.idle.push(id)
			}
		}
	}
}

// next lets a thread fetch.
func (e *sidekiq) next(id int32) {
	t := &e.threads[id]
	if t.proc.quiet {
		return
	}
	if !e.s.redisDown() {
		if q := e.choose(t.group); q >= 0 {
			e.start(id, q)
			return
		}
	}
	t.since = e.s.now
	t.group.idle.push(id)
}

// choose draws the order of queues and returns the first that has a job; −1 when none has. The draw is left out where it decides nothing.
func (e *sidekiq) choose(g *group) int {
	first, more := -1, false
	for _, q := range g.numbers {
		if e.s.queues[q].len() > 0 {
			if first >= 0 {
				more = true
				break
			}
			first = q
		}
	}
	if !more || g.strict {
		return first
	}
	for _, name := range scheduler.Order(g.queues, e.s.rnd) {
		if q := world.QueueNumber(name); q >= 0 && e.s.queues[q].len() > 0 {
			return q
		}
	}
	return -1
}

func (e *sidekiq) start(id int32, q int) {
	job := e.s.fetch(q)
	t := &e.threads[id]
	e.s.met.started(&job, e.s.now)
	task := e.s.begin(&job, t.proc, false)
	e.s.tasks[task].thread = id
}

func (e *sidekiq) pushed(q int) {
	if e.s.redisDown() {
		return
	}
	var best *group
	for _, g := range e.groups {
		if g.idle.len() == 0 || best != nil && e.threads[*best.idle.peek()].since <= e.threads[*g.idle.peek()].since {
			continue
		}
		if slices.Contains(g.numbers, q) {
			best = g
		}
	}
	if best != nil {
		e.start(best.idle.pop(), q)
	}
}

// look starts what could not be while Redis was away.
func (e *sidekiq) look() {
	for _, g := range e.groups {
		for g.idle.len() > 0 {
			q := e.choose(g)
			if q < 0 {
				break
			}
			e.start(g.idle.pop(), q)
		}
	}
}

func (e *sidekiq) ended(t *task, failed bool) {
	if t.job.Dest >= 0 && (t.job.Class == world.Delivery || t.job.Class == world.LowDelivery) {
		d := &e.s.dests[t.job.Dest]
		switch {
		case !failed:
			d.fails = 0
		case d.redTo <= e.s.now:
			if d.fails < breakerFails {
				d.fails++
			}
			if d.fails >= breakerFails {
				d.redTo = e.s.now + breakerFor
			}
		}
	}
	e.next(t.thread)
}

func (e *sidekiq) pollers() int {
	n := 0
	for _, m := range e.s.machines {
		n += len(m.procs)
	}
	return n
}

func (e *sidekiq) troubled() int {
	n := 0
	for i := range e.s.dests {
		if e.s.dests[i].redTo > e.s.now {
			n++
		}
	}
	return n
}

func (e *sidekiq) waiting() int { return 0 }

func (e *sidekiq) beside(int) int { return 0 }

// Resident memory of Ruby processes: docs/loadtest.md.
const (
	rubyGiB       = 0.45  // a process with Mastodon loaded and warm
	rubyThreadGiB = 0.010 // and each thread
)

func (e *sidekiq) memory() float64 {
	sum := 0.0
	for _, m := range e.s.machines {
		for _, p := range m.procs {
			sum += rubyGiB + rubyThreadGiB*float64(p.threads)
		}
	}
	return sum
}
