package simulate

import (
	"fmt"
	"math"
	"time"

	"github.com/queueville/queueville/internal/placement"
	"github.com/queueville/queueville/loadtest/world"
	"github.com/queueville/queueville/scheduler"
)

// What of a worker is not in a package that can be asked: its machinery (docs/full-mode.md, docs/architecture.md).
const (
	rubyThreads = 25 // --ruby-threads, at most
	perCore     = 4  // --ruby-processes for each processor
	growAfter   = int64(time.Second)
	shrinkAfter = int64(2 * time.Minute)
	forkTime    = int64(1500 * time.Millisecond) // from the preloaded parent
	memoryKeep  = 0.5                            // GiB
	window      = 1024                           // deliveries in hand
	perDest     = window / 8                     // that wait for one destination, more for one that is quick
	stallAfter  = int64(time.Second)
	longestWait = int64(30 * time.Second)
	nativeConns = 5   // --db-connections
	mixedAhead  = 500 // jobs of Ruby in hand that came from a queue of deliveries
	stepEvery   = int64(250 * time.Millisecond)
	handOver    = 130 * time.Microsecond // the worker's own work for a job of Ruby (docs/full-mode.md)
	workerGiB   = 0.08
	childGiB    = 0.25 // of a forked process that is its own

	firstNative = 32 // limits at first
	firstRuby   = 16 // for each core
)

// The two kinds of jobs.
const (
	native = iota
	foreign
)

// queueville is the model of a fleet of workers in full mode.
type queueville struct {
	s       *sim
	workers []*workerModel
	hungry  [2]ring[*workerModel] // workers that have room for a job of the kind, in turn
	ledger  *ledger
	lists   *lists
	down    map[int32]int // destinations that are broken for some workers: for how many
	swept   int64

	// What is learnt of Ruby's jobs. Each worker learns it by itself, and all of them the same, so the model keeps it once.
	shares  [world.Classes]placement.Share
	walls   [world.Classes]float64 // seconds that a run takes, lately
	typical [world.Queues]float64  // CPU share of what came from a queue lately

	// Scratch, of one call each.
	procViews []placement.ProcView
	procs     []*proc
	jobViews  []placement.JobView
	gone      []bool
}

func newQueueville(s *sim) *queueville {
	e := &queueville{s: s, down: map[int32]int{}, lists: newLists(s.cfg)}
	for i := range e.typical {
		e.typical[i] = placement.UnknownShare
	}
	s.after(stepEvery, e.step)
	return e
}

// clock is virtual time as scheduler wants it.
func (e *queueville) clock() time.Time { return time.Unix(1_650_000_000, e.s.now) }

func isNative(c world.ClassID) bool { return world.ClassTable[c].GoCPU > 0 }

func kindOf(c world.ClassID) int {
	if isNative(c) {
		return native
	}
	return foreign
}

func (e *queueville) install(machines []*machine, ready int64) {
	if e.ledger == nil {
		e.ledger = newLedger(e.s)
	}
	budget := e.s.db.Connections
	if budget == 0 { // what stock Sidekiq would be allowed on the same hosts
		for _, m := range machines {
			for i := range m.Sidekiq {
				p := &m.Sidekiq[i]
				budget += max(p.DBPool, 0)
				if p.DBPool == 0 {
					budget += p.Concurrency
				}
			}
		}
	}
	e.ledger.set(e.s.now, budget, len(machines))
	for i, m := range machines {
		w := &workerModel{e: e, m: m, name: fmt.Sprintf("host%d", i+1), picker: scheduler.NewPicker(e.s.cfg.Policy, e.s.rnd), hosts: map[int32]*hostState{}, lane: lane{budget: scheduler.NewRetryBudget(scheduler.DefaultRetryShare)}}
		w.own = &proc{host: m, threads: math.MaxInt32, pool: nativeConns}
		most := perCore * m.Cores * rubyThreads
		ctl, err := scheduler.NewController(scheduler.ControllerConfig{Lanes: []scheduler.LaneConfig{
			{Name: "native", Max: e.s.cfg.Native, Start: min(firstNative, e.s.cfg.Native)}, {Name: "ruby", Max: most, Start: min(most, firstRuby*m.Cores)},
		}})
		if err != nil {
			panic(err) // the bounds are checked before: a mistake of ours
		}
		w.ctl = ctl
		for k, name := range []string{"native", "ruby"} {
			w.meters[k] = scheduler.NewMeter(name, e.clock())
			w.limit[k] = ctl.Limit(name)
		}
		if e.s.cfg.Fixed {
			w.limit = [2]int{e.s.cfg.Native, most}
		}
		m.worker = w
		m.procs = append(m.procs, w.own)
		e.s.after(ready, func() {
			if w.quiet {
				return
			}
			e.workers = append(e.workers, w)
			e.ledger.join(w)
			w.look()
		})
	}
}

func (e *queueville) retire(machines []*machine, killed bool) {
	gone := map[*workerModel]bool{}
	for _, m := range machines {
		w := m.worker
		m.stopped = true
		if w == nil {
			continue
		}
		w.quiet = true
		gone[w] = true
		for _, p := range m.procs {
			p.quiet = true
			if p.running == 0 {
				e.s.disconnect(p)
			}
		}
		back := append([]world.Job(nil), w.waiting...)
		for dest, h := range w.hosts {
			for kind := range h.lines {
				for h.lines[kind].items.len() > 0 {
					back = append(back, h.lines[kind].items.pop().Job)
				}
			}
			if h.Down() {
				e.up(dest)
			}
		}
		w.waiting, w.parked, w.pushWaits = nil, 0, 0
		if killed {
			// What was in hand is in the in-flight hash: whoever adopts it gives it back to the right end of its queue.
			jobs := e.s.kill(m)
			e.s.met.repeated += len(jobs)
			back = append(back, jobs...)
			e.ledger.crash(w)
		} else {
			e.ledger.leave(w)
		}
		e.giveBack(back)
	}
	keep := e.workers[:0]
	for _, w := range e.workers {
		if !gone[w] {
			keep = append(keep, w)
		}
	}
	e.workers = keep
	e.hungry = [2]ring[*workerModel]{}
	for _, w := range e.workers {
		w.hungry = [2]bool{}
	}
}

// giveBack puts jobs to the end of their queues that is fetched next, in the order of their numbers, so that no map decides it.
func (e *queueville) giveBack(jobs []world.Job) {
	sortJobs(jobs)
	for i := range jobs {
		e.s.queues[jobs[i].Queue()].unshift(jobs[i])
		e.s.jobs++
	}
}

// pushed gives the queue's next job to the worker that has had room for its kind for longest.
func (e *queueville) pushed(q int) {
	if e.s.redisDown() || e.s.queues[q].len() == 0 {
		return
	}
	k := kindOf(e.s.queues[q].peek().Class)
	for e.hungry[k].len() > 0 {
		w := e.hungry[k].pop()
		w.hungry[k] = false
		if w.quiet {
			continue
		}
		w.fetch()
		return
	}
}

// take takes the next job of a list. moved: it has gone into a list beside its queue instead.
func (e *queueville) take(list string) (job world.Job, moved bool) {
	if q := world.QueueNumber(list); q >= 0 {
		job = e.s.fetch(q)
		moved = e.lists.put(&job, &e.s.queues[q])
		if moved {
			e.s.jobs++ // it is still in Redis
		}
		return job, moved
	}
	for _, side := range e.lists.sides {
		if side.Name == list {
			job = side.jobs.pop()
			side.mix.note(kindOf(job.Class) == foreign, true)
			e.s.jobs--
		}
	}
	return job, false
}

func (e *queueville) beside(q int) int { return e.lists.beside(q) }

func (e *queueville) look() {
	for _, w := range e.workers {
		w.look()
	}
	if e.s.now-e.swept >= int64(time.Minute) {
		e.swept = e.s.now
		for _, w := range e.workers {
			w.forget()
		}
	}
}

// step lets every worker's controller decide, four times a second.
func (e *queueville) step() {
	for _, w := range e.workers {
		w.step()
	}
	e.s.after(e.s.now+stepEvery, e.step)
}

func (e *queueville) pollers() int { return len(e.workers) }

func (e *queueville) troubled() int { return len(e.down) }

func (e *queueville) waiting() int {
	n := 0
	for _, w := range e.workers {
		n += len(w.waiting) + w.parked
	}
	return n
}

func (e *queueville) memory() float64 {
	sum := 0.0
	for _, w := range e.workers {
		sum += workerGiB + rubyGiB // the preloaded parent
		for _, p := range w.rubies {
			sum += childGiB + rubyThreadGiB*float64(p.threads)
		}
	}
	return sum
}
