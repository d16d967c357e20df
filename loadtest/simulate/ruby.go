package simulate

import (
	"math"
	"slices"
	"time"

	"github.com/queueville/queueville/internal/placement"
	"github.com/queueville/queueville/loadtest/world"
)

// rubyMemory is the resident memory of a worker and its Ruby processes, in GiB.
func (w *workerModel) rubyMemory() float64 {
	sum := rubyGiB + workerGiB
	for _, p := range w.rubies {
		sum += childGiB + rubyThreadGiB*float64(p.threads)
	}
	return sum
}

// perProcess is how many connections, and so threads, a Ruby process gets: as many as an administrator would allow who wants a process for each
// processor out of an equal part of the budget.
func (w *workerModel) perProcess() int {
	if b := w.e.ledger.budget(); b > 0 {
		fair := b/max(1, len(w.e.workers)) - nativeConns
		return min(rubyThreads, max(2, fair/min(w.m.Cores, max(1, fair/5))))
	}
	return rubyThreads
}

// share is the CPU share of a class.
func (e *queueville) share(class world.ClassID) float64 {
	if k := &e.shares[first[class]]; k.Runs > 0 {
		return k.Of
	}
	return placement.UnknownShare
}

// watch measures what the processes use, over so many seconds.
func (w *workerModel) watch(span float64) {
	w.cpu[native] = float64(w.own.busy-w.own.lastBusy) / 1e9 / span
	w.own.lastBusy = w.own.busy
	w.cpu[foreign] = 0
	for _, p := range w.m.procs {
		if p == w.own {
			continue
		}
		used := float64(p.busy-p.lastBusy) / 1e9 / span
		p.lastBusy = p.busy
		w.cpu[foreign] += used
		p.use += useWeight * (min(1, used) - p.use)
	}
}

// size starts and ends Ruby processes, as placement.Size wants.
func (w *workerModel) size() {
	now := w.e.s.now
	per := w.perProcess()
	view := placement.SizeView{Current: len(w.rubies), Threads: per, Jobs: len(w.waiting), Min: 1, Max: perCore * w.m.Cores, Memory: math.MaxInt32}
	serves := 0
	for _, p := range w.rubies {
		view.Jobs += p.running
		view.Load += p.load
		if p.ready <= now {
			serves++
		}
	}
	for i := range w.waiting {
		view.Load += w.e.share(w.waiting[i].Class)
	}
	view.Memory = max(0, int((w.m.Memory-2*memoryKeep-w.rubyMemory())/(childGiB+rubyThreadGiB*float64(per))))
	want := placement.Size(view)
	current := len(w.rubies)
	// The worker demands what its processes have, and the connections of one more while it wants one.
	w.lease.demand = nativeConns + min(want, current+1)*per
	if want < current {
		w.lease.demand = nativeConns + current*per
	}
	if w.lease.demand > w.lease.granted {
		w.e.ledger.call(w)
	}
	over := w.reserved()+nativeConns > w.lease.granted
	switch {
	case want > current:
		w.wantLess = 0
		if w.wantMore == 0 {
			w.wantMore = now
		}
		room := (w.lease.granted - nativeConns - w.reserved()) / per
		for (now-w.wantMore >= growAfter || current == 0) && current < want && room > 0 {
			p := &proc{host: w.m, ruby: true, threads: per, pool: per, ready: now + forkTime}
			if now <= stepEvery { // the run begins with processes that are up
				p.ready = now
			}
			w.m.procs = append(w.m.procs, p)
			w.rubies = append(w.rubies, p)
			current++
			room--
			w.e.s.after(p.ready, w.serve)
		}
	case want < current && serves > want:
		w.wantMore = 0
		if w.wantLess == 0 {
			w.wantLess = now
		}
		if now-w.wantLess >= shrinkAfter {
			w.wantLess = now
			w.letGo()
			return
		}
	default:
		w.wantMore, w.wantLess = 0, 0
	}
	if over && len(w.rubies) > 1 {
		w.letGo()
	}
}

// serve is when a process has booted.
func (w *workerModel) serve() {
	w.startWaiting()
	w.fetch()
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

// procViews are the processes that take jobs, and which they are.
func (w *workerModel) procViews() ([]placement.ProcView, []*proc) {
	views, procs := w.e.procViews[:0], w.e.procs[:0]
	for _, p := range w.rubies {
		if p.ready <= w.e.s.now {
			views = append(views, placement.ProcView{Idle: p.threads - p.running, Running: p.running, Load: p.load, Light: p.light})
			procs = append(procs, p)
		}
	}
	w.e.procViews, w.e.procs = views, procs
	return views, procs
}

// backlog counts what waits in hand: jobs that compute, jobs that wait for others, and the jobs of each queue.
type backlog struct {
	heavy, light int
	byQueue      [world.Queues]int
}

func (w *workerModel) backlog() backlog {
	var b backlog
	for i := range w.waiting {
		job := &w.waiting[i]
		if w.e.share(job.Class) < placement.LightShare {
			b.light++
		} else {
			b.heavy++
		}
		b.byQueue[job.Queue()]++
	}
	return b
}

// rubyRoom is how many more jobs of a queue the Ruby processes want.
func (w *workerModel) rubyRoom(q int, b *backlog) int {
	views, _ := w.procViews()
	if len(views) == 0 {
		return 0
	}
	typical := w.e.typical[q]
	waiting := b.heavy
	if typical < placement.LightShare {
		waiting = b.light
	}
	waiting = max(waiting, b.byQueue[q])
	if !slices.ContainsFunc(views, func(v placement.ProcView) bool { return v.Idle > 0 }) {
		waiting = len(w.waiting) // all of it waits for the same thing: a thread
	}
	room := placement.Room(waiting, views, typical, placement.Ahead)
	return max(0, min(room, w.limit[foreign]-w.runs[foreign]+placement.Ahead*len(views)-len(w.waiting)))
}

// submit takes a job of Ruby: it starts, or waits until a process has room for its class.
func (w *workerModel) submit(job *world.Job) {
	w.waiting = append(w.waiting, *job)
	if job.Queue() == world.QueuePush {
		w.pushWaits++
	}
	w.startWaiting()
}

// startWaiting gives jobs in hand to processes, as placement.Place says.
func (w *workerModel) startWaiting() {
	e := w.e
	left := w.limit[foreign] - w.runs[foreign]
	if len(w.waiting) == 0 || w.quiet || left <= 0 {
		return
	}
	views, procs := w.procViews()
	jobs := e.jobViews[:0]
	for i := range w.waiting {
		class := w.waiting[i].Class
		jobs = append(jobs, placement.JobView{Class: world.ClassTable[class].Name, Share: e.share(class)})
	}
	e.jobViews = jobs
	placed := placement.Place(jobs, views)
	if len(placed) == 0 {
		return
	}
	placed = placed[:min(len(placed), left)]
	// Starting may not end anything at once, so indices stay true.
	gone := e.gone[:0]
	for range w.waiting {
		gone = append(gone, false)
	}
	e.gone = gone
	for _, a := range placed {
		gone[a.Job] = true
		w.start(&w.waiting[a.Job], procs[a.Proc], jobs[a.Job].Share)
	}
	keep := w.waiting[:0]
	for i := range w.waiting {
		if !gone[i] {
			keep = append(keep, w.waiting[i])
		} else if w.waiting[i].Queue() == world.QueuePush {
			w.pushWaits--
		}
	}
	w.waiting = keep
}

// first is the first entry of each entry's class: variants of a class are one class for a worker.
var first = func() (list [world.Classes]world.ClassID) {
	for i := range list {
		for k := i; k >= 0; k-- {
			if world.ClassTable[k].Name == world.ClassTable[i].Name {
				list[i] = world.ClassID(k)
			}
		}
	}
	return list
}()

func (w *workerModel) start(job *world.Job, p *proc, share float64) {
	p.load += share
	if share < placement.LightShare {
		p.light += share
	}
	w.runs[foreign]++
	w.e.s.met.started(job, w.e.s.now)
	beside := p.running
	id := w.e.s.begin(job, p, false)
	t := &w.e.s.tasks[id]
	t.share, t.beside = share, int32(beside)
	if over := int64(w.e.s.cfg.Overhead.HandOver); !w.e.s.cfg.Shared { // a worker's own work; beside what is modelled as tasks it is too little to wait for
		w.m.busy += over
		w.own.busy += over
	}
	w.level(foreign)
}

// rubyEnded takes in the end of a job of Ruby.
func (w *workerModel) rubyEnded(t *task, took int64) {
	e, p := w.e, t.proc
	p.load = max(0, p.load-t.share)
	if t.share < placement.LightShare {
		p.light = max(0, p.light-t.share)
	}
	if p.running == 0 {
		p.load, p.light = 0, 0
	}
	e.shares[first[t.job.Class]].Note(time.Duration(took), time.Duration(t.spent), placement.Around{
		Jobs: 1 + float64(int(t.beside)+p.running)/2, Used: p.use, Host: w.use, Crowd: float64(w.runs[foreign]) / float64(w.m.Cores), Delayed: -1,
	})
	q := t.job.Queue()
	e.typical[q] += 0.1 * (e.share(t.job.Class) - e.typical[q])
	if p.quiet && p.running == 0 && !p.gone {
		w.endProc(p)
	}
	w.startWaiting()
}
