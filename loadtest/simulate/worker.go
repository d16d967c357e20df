package simulate

import (
	"time"

	"github.com/queueville/queueville/loadtest/world"
	"github.com/queueville/queueville/scheduler"
)

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

	rubies    []*proc
	waiting   []world.Job // of Ruby, in hand
	pushWaits int         // of these, from the queue of deliveries
	wantMore  int64       // since when more processes are wanted; 0: they are not
	wantLess  int64

	lease                lease
	hosts                map[int32]*hostState
	lines                []int32 // destinations for which somebody may wait in hand
	lane                 lane
	parked               int // deliveries in hand that wait for their host
	lastBusy, lastOthers int64
	use                  float64    // of the host's processors, lately
	cpu                  [2]float64 // cores that each kind used since the last step
	quiet                bool
}

// step is the governor's turn: what happened since the last one, and the limits from now on. The supervisor's looks come with it.
func (w *workerModel) step() {
	e := w.e
	now := e.clock()
	span := float64(stepEvery) / 1e9
	host := scheduler.UnknownHost()
	host.Cores = float64(w.m.Cores)
	host.Ours = min(host.Cores, float64(w.m.busy-w.lastBusy)/1e9/span)
	host.Busy = min(host.Cores, host.Ours+float64(w.m.others-w.lastOthers)/1e9/span)
	w.lastBusy, w.lastOthers = w.m.busy, w.m.others
	w.use += useWeight * (host.Busy/host.Cores - w.use)
	host.MemoryTotal = w.m.Memory * (1 << 30)
	host.MemoryAvailable = max(0, w.m.Memory-memoryKeep-w.rubyMemory()) * (1 << 30)
	w.watch(span)
	w.size()
	if !e.s.cfg.Fixed {
		var lanes [2]scheduler.Lane
		for k := range lanes {
			lanes[k] = w.meters[k].Sample(now)
		}
		lanes[native].CPU, lanes[foreign].CPU = w.cpu[native], w.cpu[foreign]
		w.complete(&lanes[foreign])
		for k, d := range w.ctl.Step(now, host, lanes[:]) {
			w.limit[k] = d.Limit
		}
		w.level(native)
		w.level(foreign)
	}
	w.sweep()
	if !e.s.redisDown() {
		w.startWaiting()
		w.fetch()
	}
}

// complete adds what the supervisor knows of its lane, as worker/ruby does.
func (w *workerModel) complete(v *scheduler.Lane) {
	want, n := 0.0, 0
	for _, p := range w.rubies {
		if p.ready <= w.e.s.now {
			v.Cores++
		}
		want += min(p.load, 1) // Ruby runs one thread at a time
		n += p.running
	}
	if n > 0 {
		v.Want = want / float64(n) * v.Running
	}
}

// useWeight is of one more look at how busy processes and processors are.
const useWeight = 0.5

// level tells a lane's meter how much runs, and whether more would.
func (w *workerModel) level(k int) {
	full := w.runs[k] >= w.limit[k]
	now := w.e.clock()
	if full && k == native {
		if w.lane.turns[tries].Len() > 0 {
			w.lane.budget.Scarce(now)
		}
		full = w.startable(now)
	}
	if full && k == foreign {
		full = len(w.waiting) > 0 || w.wanted(k)
	}
	w.meters[k].Level(now, w.runs[k], full)
}

// wanted says whether a job of the kind is the next of a queue.
func (w *workerModel) wanted(k int) bool {
	for q := range w.e.s.queues {
		if ring := &w.e.s.queues[q]; ring.len() > 0 && kindOf(ring.peek().Class) == k {
			return true
		}
	}
	return false
}

// look is what a worker does every second: its lease.
func (w *workerModel) look() {
	if w.quiet {
		return
	}
	w.e.ledger.call(w)
	w.fetch()
}

// room is how many jobs of a queue whose next one is of the kind the worker would take now.
func (w *workerModel) room(k, q int, b *backlog) int {
	if k == foreign {
		return w.rubyRoom(q, b)
	}
	return max(0, window-w.runs[native]-w.parked) // its destinations take turns here, not in the queue
}

// view adds a list in which something waits that the worker has room for. What v does not say yet is what the list holds.
func (w *workerModel) view(ring *jobRing, b *backlog, q int, v scheduler.QueueView) {
	if ring.len() == 0 {
		return
	}
	head := ring.peek()
	k := kindOf(head.Class)
	// Hardly a job of the queue of deliveries is Ruby's, so it is not left alone because Ruby has no room.
	if w.room(k, q, b) == 0 && (k != foreign || q != world.QueuePush || w.pushWaits >= mixedAhead || len(w.rubies) == 0) {
		return
	}
	v.Backlog, v.HeadAge, v.Cost = ring.len(), time.Duration(w.e.s.now)-head.Enqueued, max(1e-4, w.e.walls[head.Class])
	w.views = append(w.views, v)
}

// fetch takes what there is room for, in the order that the policy says.
func (w *workerModel) fetch() {
	e := w.e
	if w.quiet || e.s.redisDown() {
		return
	}
	for {
		b := w.backlog()
		w.views = w.views[:0]
		for q := range e.s.queues {
			w.view(&e.s.queues[q], &b, q, scheduler.QueueView{Name: world.QueueNames[q], Goal: e.lists.goals[q], Weight: world.QueueWeights[q], Foreign: e.lists.mixes[q].share()})
		}
		for _, side := range e.lists.sides {
			w.view(&side.jobs, &b, side.queue, scheduler.QueueView{Name: side.Name, Goal: side.Goal, Of: side.Queue, Behind: side.Behind, Foreign: side.mix.share()})
		}
		if len(w.views) == 0 {
			break
		}
		name := w.views[0].Name
		if len(w.views) > 1 {
			takes := w.picker.Pick(1, w.views)
			if len(takes) == 0 {
				break
			}
			name = takes[0].Queue
			for i := range w.views {
				if w.views[i].Name == name {
					w.picker.Took(name, 1, w.views[i].Cost)
				}
			}
		}
		job, moved := e.take(name)
		switch {
		case moved:
			w.picker.Returned(name, 1, max(1e-4, e.walls[job.Class]))
		case isNative(job.Class):
			w.admit(&job)
		default:
			w.submit(&job)
		}
	}
	b := w.backlog()
	for k := range w.hungry {
		if !w.hungry[k] && w.room(k, world.QueueDefault, &b) > 0 {
			w.hungry[k] = true
			e.hungry[k].push(w)
		}
	}
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
	if !e.s.cfg.Fixed {
		w.meters[k].Ended(e.clock(), scheduler.Run{
			Class: world.ClassTable[t.job.Class].Name, Wall: time.Duration(took), CPU: time.Duration(t.spent), DB: -1, Failed: failed,
		})
	}
	w.level(k)
	wall := &e.walls[t.job.Class]
	*wall += 0.2 * (float64(took)/1e9 - *wall)
	if t.native {
		w.released(t, failed)
	} else {
		w.rubyEnded(t, took)
	}
	w.fetch()
}
