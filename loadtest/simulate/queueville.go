package simulate

import (
	"fmt"
	"math"
	"time"

	"github.com/queueville/queueville/loadtest/world"
	"github.com/queueville/queueville/scheduler"
)

// Rules of the worker that the model repeats, where they are not in package scheduler or dbpool: docs/full-mode.md, docs/architecture.md.
const (
	fullLoad    = 1.1 // CPU load up to which a Ruby process takes more
	lightShare  = 0.3
	lightLoad   = 0.9
	ahead       = 2   // jobs per Ruby process that may be in hand and wait
	mixedAhead  = 500 // the same, of a queue in which hardly any job is Ruby's
	busyLoad    = 0.75
	rubyThreads = 25 // --ruby-threads
	growAfter   = int64(time.Second)
	shrinkAfter = int64(2 * time.Minute)
	forkTime    = int64(1500 * time.Millisecond) // from the preloaded parent
	window      = 1024                           // deliveries in hand that wait for their host
	nativeConns = 5                              // --db-connections
	stepEvery   = int64(500 * time.Millisecond)
	handOver    = int64(130 * time.Microsecond) // the worker's own work for a job of Ruby (docs/full-mode.md)
	workerGiB   = 0.08
	childGiB    = 0.25 // of a forked process that is its own
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
	shares  [world.Classes]classShare
}

// classShare is what is known of how much of its time a class computes.
type classShare struct {
	share, wall float64 // wall in seconds
	runs        int
}

// workerModel is one host's worker.
type workerModel struct {
	e      *queueville
	m      *machine
	name   string
	own    *proc // the worker itself
	ctl    *scheduler.Controller
	meters [2]*scheduler.Meter
	picker *scheduler.Picker
	limit  [2]int
	runs   [2]int
	hungry [2]bool
	views  []scheduler.QueueView

	rubies   []*proc
	waiting  []world.Job // of Ruby, in hand
	mixed    int         // of these, from a queue of deliveries
	wantMore int64       // since when more processes are wanted; 0: they are not
	wantLess int64

	lease    lease
	hosts    map[int32]*hostState
	parked   int // deliveries in hand that wait for their host
	lastBusy int64
	quiet    bool
}

func newQueueville(s *sim) *queueville {
	e := &queueville{s: s}
	for i := range e.shares {
		e.shares[i] = classShare{share: 0.5}
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
		w := &workerModel{e: e, m: m, name: fmt.Sprintf("host%d", i+1), picker: scheduler.NewPicker(scheduler.PolicyGoals, nil), hosts: map[int32]*hostState{}}
		w.own = &proc{host: m, threads: math.MaxInt32, pool: nativeConns}
		most := m.Cores * rubyThreads
		ctl, err := scheduler.NewController(scheduler.ControllerConfig{Lanes: []scheduler.LaneConfig{
			{Name: "native", Max: e.s.cfg.Native}, {Name: "ruby", Max: most},
		}})
		if err != nil {
			panic(err) // the bounds are checked before: a mistake of ours
		}
		w.ctl = ctl
		for k, name := range []string{"native", "ruby"} {
			w.meters[k] = scheduler.NewMeter(name, e.clock())
			w.limit[k] = ctl.Limit(name)
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
		for _, h := range w.hosts {
			for h.waiting.len() > 0 {
				back = append(back, h.waiting.pop())
			}
		}
		w.waiting, w.parked = nil, 0
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

func (e *queueville) look() {
	for _, w := range e.workers {
		w.look()
	}
}

// step lets every worker's controller decide, twice a second.
func (e *queueville) step() {
	for _, w := range e.workers {
		w.step()
	}
	e.s.after(e.s.now+stepEvery, e.step)
}

func (e *queueville) pollers() int { return len(e.workers) }

func (e *queueville) troubled() int {
	down := map[int32]bool{}
	for _, w := range e.workers {
		for dest, h := range w.hosts {
			if h.openUntil > 0 {
				down[dest] = true
			}
		}
	}
	return len(down)
}

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

// step is the controller's turn: what happened since the last one, and the limits from now on.
func (w *workerModel) step() {
	e := w.e
	now := e.clock()
	span := float64(stepEvery) / 1e9
	host := scheduler.UnknownHost()
	host.Cores = float64(w.m.Cores)
	host.Busy = min(host.Cores, float64(w.m.busy-w.lastBusy)/1e9/span)
	host.Ours = host.Busy
	w.lastBusy = w.m.busy
	host.MemoryTotal = w.m.Memory * (1 << 30)
	host.MemoryAvailable = max(0, w.m.Memory-0.5-w.rubyMemory()) * (1 << 30)
	var lanes [2]scheduler.Lane
	for k := range lanes {
		lanes[k] = w.meters[k].Sample(now)
	}
	threads := 0
	for _, p := range w.rubies {
		threads += p.threads
	}
	lanes[foreign].Cores = float64(max(1, len(w.rubies)))
	lanes[foreign].Caps = []scheduler.Cap{{By: scheduler.ByThreads, Slots: float64(max(1, threads))}}
	for k, d := range w.ctl.Step(now, host, lanes[:]) {
		w.limit[k] = d.Limit
	}
	w.level(native)
	w.level(foreign)
	if !e.s.redisDown() {
		w.fetch()
	}
}

// level tells a lane's meter how much runs, and whether more would.
func (w *workerModel) level(k int) {
	full := false
	if w.runs[k] >= w.limit[k] {
		full = k == foreign && len(w.waiting) > 0 || k == native && w.parked > 0
		for q := range w.e.s.queues {
			if full {
				break
			}
			full = w.e.s.queues[q].len() > 0 && kindOf(w.e.s.queues[q].peek().Class) == k
		}
	}
	w.meters[k].Level(w.e.clock(), w.runs[k], full)
}

// look is what a worker does every second: its lease, its number of Ruby processes.
func (w *workerModel) look() {
	if w.quiet {
		return
	}
	w.e.ledger.call(w)
	w.size()
	w.fetch()
}

func (w *workerModel) rubyMemory() float64 {
	sum := rubyGiB + workerGiB
	for _, p := range w.rubies {
		sum += childGiB + rubyThreadGiB*float64(p.threads)
	}
	return sum
}

// demand is what the Ruby jobs at hand and in the queues would load processes with, as far as this host takes part in them.
func (w *workerModel) demand() (load float64, jobs int) {
	for _, p := range w.rubies {
		load += p.load
		jobs += p.running
	}
	for i := range w.waiting {
		load += w.e.shares[w.waiting[i].Class].share
	}
	jobs += len(w.waiting)
	backlog := 0
	for q := range w.e.s.queues {
		if ring := &w.e.s.queues[q]; ring.len() > 0 && kindOf(ring.peek().Class) == foreign {
			backlog += ring.len()
		}
	}
	// Its share of what waits in Redis: enough to want every process while there is a backlog.
	mine := min(backlog/max(1, len(w.e.workers)), rubyThreads*w.m.Cores)
	return load + 0.3*float64(mine), jobs + mine
}

// perProcess is how many connections, and so threads, a Ruby process gets out of this host's lease.
func (w *workerModel) perProcess() int {
	if b := w.e.ledger.budget(); b > 0 {
		fair := b/max(1, len(w.e.workers)) - nativeConns
		return min(rubyThreads, max(2, fair/min(w.m.Cores, max(1, fair/5))))
	}
	return rubyThreads
}

// size starts and ends Ruby processes.
func (w *workerModel) size() {
	now := w.e.s.now
	load, jobs := w.demand()
	per := w.perProcess()
	want := max(int(math.Ceil(load/busyLoad)), (jobs+per-1)/per)
	want = min(max(want, 1), w.m.Cores)
	for want > 1 && w.m.Memory-0.5-(rubyGiB+workerGiB)-float64(want)*(childGiB+rubyThreadGiB*float64(per)) < 0.5 {
		want--
	}
	w.lease.demand = nativeConns + want*per
	current := len(w.rubies)
	switch {
	case want > current:
		w.wantLess = 0
		if w.wantMore == 0 {
			w.wantMore = now
		}
		room := (w.lease.granted - nativeConns - w.reserved()) / per
		for (now-w.wantMore >= growAfter || current == 0) && current < want && room > 0 {
			p := &proc{host: w.m, ruby: true, threads: per, pool: per, ready: now + forkTime}
			w.m.procs = append(w.m.procs, p)
			w.rubies = append(w.rubies, p)
			current++
			room--
			w.e.s.after(p.ready, w.fetch)
		}
	case want < current:
		w.wantMore = 0
		if w.wantLess == 0 {
			w.wantLess = now
		}
		over := w.reserved()+nativeConns > w.lease.granted
		if now-w.wantLess >= shrinkAfter || over {
			w.letGo()
			w.wantLess = now
		}
	default:
		w.wantMore, w.wantLess = 0, 0
		if w.reserved()+nativeConns > w.lease.granted && current > 1 {
			w.letGo()
		}
	}
}

// reserved are the connections of Ruby processes, those that are leaving included.
func (w *workerModel) reserved() int {
	n := 0
	for _, p := range w.m.procs {
		if p.ruby && !p.gone {
			n += p.pool
		}
	}
	return n
}

// letGo makes the emptiest process quiet; it ends when its jobs have.
func (w *workerModel) letGo() {
	best := 0
	for i, p := range w.rubies {
		if p.running < w.rubies[best].running {
			best = i
		}
	}
	p := w.rubies[best]
	w.rubies = append(w.rubies[:best:best], w.rubies[best+1:]...)
	p.quiet = true
	if p.running == 0 {
		w.endProc(p)
	}
}

func (w *workerModel) endProc(p *proc) {
	p.gone = true
	w.e.s.disconnect(p)
	for i, o := range w.m.procs {
		if o == p {
			w.m.procs = append(w.m.procs[:i:i], w.m.procs[i+1:]...)
			return
		}
	}
}

// room is how many jobs of a kind the worker would take now.
func (w *workerModel) room(k int) int {
	if k == native {
		return max(0, min(w.limit[native]-w.runs[native], window-w.parked))
	}
	ready := 0
	for _, p := range w.rubies {
		if p.ready <= w.e.s.now {
			ready++
		}
	}
	if ready == 0 || w.runs[foreign] >= w.limit[foreign] {
		return 0
	}
	return max(0, ahead*ready-(len(w.waiting)-w.mixed)) // what cannot start at once waits here
}

// fetch takes what there is room for, in the order that the picker says.
func (w *workerModel) fetch() {
	e := w.e
	if w.quiet || e.s.redisDown() {
		return
	}
	for {
		room := [2]int{w.room(native), w.room(foreign)}
		w.views = w.views[:0]
		for q := range e.s.queues {
			ring := &e.s.queues[q]
			if ring.len() == 0 {
				continue
			}
			head := ring.peek()
			if k := kindOf(head.Class); room[k] == 0 && (k != foreign || q != world.QueuePush || w.mixed >= mixedAhead || len(w.rubies) == 0) {
				continue
			}
			w.views = append(w.views, scheduler.QueueView{
				Name: world.QueueNames[q], Backlog: ring.len(), HeadAge: time.Duration(e.s.now) - head.Enqueued, Goal: e.s.cfg.Goals[q],
				Cost: max(1e-4, e.shares[head.Class].wall),
			})
		}
		if len(w.views) == 0 {
			break
		}
		q := -1
		if len(w.views) == 1 {
			q = world.QueueNumber(w.views[0].Name)
		} else if takes := w.picker.Pick(1, w.views); len(takes) > 0 {
			q = world.QueueNumber(takes[0].Queue)
		}
		if q < 0 {
			break
		}
		for i := range w.views {
			if len(w.views) > 1 && w.views[i].Name == world.QueueNames[q] {
				w.picker.Took(w.views[i].Name, 1, w.views[i].Cost)
			}
		}
		job := e.s.fetch(q)
		if isNative(job.Class) {
			w.admit(&job)
			continue
		}
		w.place(&job, q == world.QueuePush)
	}
	for k := range w.hungry {
		if !w.hungry[k] && w.room(k) > 0 {
			w.hungry[k] = true
			e.hungry[k].push(w)
		}
	}
}

// place starts a job of Ruby, or keeps it in hand until a process has room for its class.
func (w *workerModel) place(job *world.Job, mixed bool) {
	if p := w.fits(job.Class); p != nil {
		w.start(job, p)
		return
	}
	if mixed {
		w.mixed++
	}
	w.waiting = append(w.waiting, *job)
}

// fits is the emptiest process that takes a job of the class now; worker/ruby.Place has the same rules.
func (w *workerModel) fits(class world.ClassID) *proc {
	if w.runs[foreign] >= w.limit[foreign] {
		return nil
	}
	share := w.e.shares[class].share
	var best *proc
	for _, p := range w.rubies {
		if p.ready > w.e.s.now || p.running >= p.threads {
			continue
		}
		if p.running > 0 && p.load+share > fullLoad && (share >= lightShare || p.light+share > lightLoad) {
			continue
		}
		if best == nil || p.load < best.load || p.load == best.load && p.running < best.running {
			best = p
		}
	}
	return best
}

func (w *workerModel) start(job *world.Job, p *proc) {
	share := w.e.shares[job.Class].share
	p.load += share
	if share < lightShare {
		p.light += share
	}
	w.runs[foreign]++
	w.e.s.met.started(job, w.e.s.now)
	id := w.e.s.begin(job, p, false)
	w.e.s.tasks[id].share = share
	w.m.busy += handOver // a worker's own work; beside what is modelled as tasks it is too little to wait for
	w.level(foreign)
}

// ended takes in the end of a task.
func (e *queueville) ended(t *task, failed bool) {
	w := t.proc.host.worker
	k := foreign
	if t.native {
		k = native
	}
	w.runs[k]--
	took := e.s.now - t.began
	now := e.clock()
	w.meters[k].Ended(now, scheduler.Run{Class: world.ClassTable[t.job.Class].Name, Wall: time.Duration(took), CPU: time.Duration(t.spent), DB: -1, Failed: failed})
	w.level(k)
	if t.native {
		w.released(t, failed)
		w.fetch()
		return
	}
	p := t.proc
	p.load = max(0, p.load-t.share)
	if t.share < lightShare {
		p.light = max(0, p.light-t.share)
	}
	if p.running == 0 {
		p.load, p.light = 0, 0
	}
	e.learn(t, took, p.load)
	if p.quiet && p.running == 0 && !p.gone {
		w.endProc(p)
	}
	w.startWaiting()
	w.fetch()
}

// learn takes in what a run has cost: its share is what it computed of the time that it would have taken alone (worker/ruby, costs).
func (e *queueville) learn(t *task, took int64, others float64) {
	c := &e.shares[t.job.Class]
	c.runs++
	weight := max(0.2, 1/float64(c.runs))
	if c.runs > 5 {
		weight = 0.2
	}
	busy := float64(t.spent) / 1e9
	wait := max(0, float64(took)/1e9-busy*(1+others))
	share := 1.0
	if busy+wait > 0 {
		share = busy / (busy + wait)
	}
	c.share += weight * (min(1, share) - c.share)
	c.wall += weight * (float64(took)/1e9 - c.wall)
}

// startWaiting starts jobs in hand, in their order; a class that cannot start blocks only itself.
func (w *workerModel) startWaiting() {
	if len(w.waiting) == 0 || w.quiet {
		return
	}
	var blocked [world.Classes]bool
	keep := w.waiting[:0]
	for i := range w.waiting {
		job := w.waiting[i]
		if !blocked[job.Class] {
			if p := w.fits(job.Class); p != nil {
				if job.Queue() == world.QueuePush {
					w.mixed--
				}
				w.start(&job, p)
				continue
			}
			blocked[job.Class] = true
		}
		keep = append(keep, job)
	}
	w.waiting = keep
}
