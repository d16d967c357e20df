package simulate

import (
	"cmp"
	"slices"
	"time"

	"github.com/queueville/queueville/activitypub"
	"github.com/queueville/queueville/loadtest/world"
	"github.com/queueville/queueville/scheduler"
)

// The worker's settings for destinations (activitypub.Config), and what instances of the model ask for with a 429.
const (
	hostStart  = 2
	hostMost   = 8
	limitedFor = 30 * time.Second
	// How long an unused destination is remembered.
	idleHealthy = 10 * time.Minute
	idleBroken  = 24 * time.Hour
)

// hostState is what one worker knows of one destination: activitypub's rules, and the worker's line.
type hostState struct {
	activitypub.Host
	waiting ring[parkedJob]
	moved   int64 // when one of its jobs last came, as the first, started or ended
	used    int64
	pace    scheduler.Pace
	stalled bool // its line was emptied, until one of its jobs ends
	later   bool // a timer will look again
	listed  bool // in the worker's list of lines
}

// parkedJob waits in hand.
type parkedJob struct {
	world.Job
	since int64
}

// admit starts a delivery, lets it wait for its host, or puts it off untried.
func (w *workerModel) admit(job *world.Job) {
	h := w.hosts[job.Dest]
	if h == nil {
		h = &hostState{Host: activitypub.NewHost(hostStart, hostMost), moved: w.e.s.now}
		w.hosts[job.Dest] = h
	}
	h.used = w.e.s.now
	if h.waiting.len() == 0 {
		now := w.e.clock()
		switch a := h.Admit(now); a.Verdict {
		case activitypub.Start:
			w.send(job, h, a)
			return
		case activitypub.Held:
			w.hold(job, h, a.Until)
			return
		default:
			w.again(job.Dest, h, a.Until)
		}
		h.moved = w.e.s.now
	}
	if h.stalled || h.waiting.len() >= perDest {
		w.hold(job, h, time.Time{})
		return
	}
	w.parked++
	h.waiting.push(parkedJob{*job, w.e.s.now})
	if !h.listed {
		h.listed = true
		w.lines = append(w.lines, job.Dest)
	}
}

func (w *workerModel) send(job *world.Job, h *hostState, a activitypub.Admission) {
	h.Take(a, w.e.clock())
	h.moved, h.used = w.e.s.now, w.e.s.now
	w.runs[native]++
	w.e.s.met.started(job, w.e.s.now)
	w.e.s.begin(job, w.own, true)
	w.level(native)
}

// again looks at a line once more at a time, if there is one.
func (w *workerModel) again(dest int32, h *hostState, at time.Time) {
	if at.IsZero() || h.later {
		return
	}
	h.later = true
	w.e.s.after(max(w.e.s.now+1, at.UnixNano()-w.e.clock().UnixNano()+w.e.s.now), func() {
		h.later = false
		if w.hosts[dest] == h && !w.quiet {
			w.drain(dest, h)
		}
	})
}

// hold puts a delivery off until its host may be tried again: an ordinary entry of Sidekiq's schedule or retry set.
func (w *workerModel) hold(job *world.Job, h *hostState, until time.Time) {
	dice := world.NewDice(job.ID, uint64(w.e.s.now))
	w.e.s.met.deferred++
	at := h.pace.Due(w.e.clock(), until, dice.Float64)
	w.e.s.later(&w.e.s.due, w.e.s.now+at.Sub(w.e.clock()).Nanoseconds(), job, true)
}

// kinds are the worker's names for how a request of the model ended.
func kindOfAnswer(a world.Answer) activitypub.FailureKind {
	switch a.Verdict {
	case world.Accepted:
		return activitypub.KindNone
	case world.Final:
		return activitypub.Kind4xx
	case world.TimedOut:
		return activitypub.KindTimeout
	case world.NoPath:
		return activitypub.KindRefused
	default:
		if a.Limited {
			return activitypub.Kind429
		}
		return activitypub.Kind5xx
	}
}

// released takes in how a delivery ended.
func (w *workerModel) released(t *task, _ bool) {
	h := w.hosts[t.job.Dest]
	now := w.e.clock()
	down := h.Down()
	dice := world.NewDice(t.job.ID, uint64(t.job.Retries)<<8|6)
	wait := time.Duration(0)
	if t.answer.Limited {
		wait = limitedFor
	}
	h.Observe(now.Add(time.Duration(t.began-w.e.s.now)), now, kindOfAnswer(t.answer), wait, dice.Float64)
	h.Release()
	h.moved, h.used, h.stalled = w.e.s.now, w.e.s.now, false
	if h.Down() != down && !w.quiet {
		if down {
			w.e.up(t.job.Dest)
		} else {
			w.e.down[t.job.Dest]++
		}
	}
	w.drain(t.job.Dest, h)
}

// up: a destination is not broken any more for one worker.
func (e *queueville) up(dest int32) {
	if e.down[dest]--; e.down[dest] <= 0 {
		delete(e.down, dest)
	}
}

// drain starts what may start of a line, or puts all of it off.
func (w *workerModel) drain(dest int32, h *hostState) {
	for h.waiting.len() > 0 && !w.quiet {
		a := h.Admit(w.e.clock())
		switch {
		case a.Verdict == activitypub.Held:
			w.empty(h, a.Until)
			return
		case a.Verdict != activitypub.Start:
			w.again(dest, h, a.Until)
			return
		case w.runs[native] >= w.limit[native]:
			return // the sweep looks again
		}
		job := h.waiting.pop()
		w.parked--
		w.send(&job.Job, h, a)
	}
}

// empty puts a whole line off.
func (w *workerModel) empty(h *hostState, until time.Time) {
	for h.waiting.len() > 0 {
		job := h.waiting.pop()
		w.parked--
		w.hold(&job.Job, h, until)
	}
}

// sweep puts off what waits in others' way, or for too long, and starts what could not be when all slots were taken.
func (w *workerModel) sweep() {
	now := w.e.s.now
	crowded := w.runs[native]+w.parked >= window*3/4 && w.runs[native] < w.limit[native]
	keep := w.lines[:0]
	for _, dest := range w.lines {
		h := w.hosts[dest]
		for h.waiting.len() > 0 && now-h.waiting.peek().since > longestWait {
			job := h.waiting.pop()
			w.parked--
			w.hold(&job.Job, h, time.Time{})
		}
		if crowded && h.InFlight() > 0 && now-h.moved > stallAfter {
			h.stalled = true
			w.empty(h, time.Time{})
		}
		w.drain(dest, h)
		if h.listed = h.waiting.len() > 0; h.listed {
			keep = append(keep, dest)
		}
	}
	w.lines = keep
}

// forget drops what has not been used for long.
func (w *workerModel) forget() {
	now := w.e.s.now
	for dest, h := range w.hosts {
		idle := idleHealthy
		if h.Troubled(w.e.clock()) {
			idle = idleBroken
		}
		if h.InFlight() == 0 && !h.listed && !h.later && now-h.used > int64(idle) {
			if h.Down() {
				w.e.up(dest)
			}
			delete(w.hosts, dest)
		}
	}
}

// sortJobs sorts by age, then by number, the youngest first: unshifted in that order the oldest comes out first.
func sortJobs(jobs []world.Job) {
	slices.SortFunc(jobs, func(a, b world.Job) int { return cmp.Or(cmp.Compare(b.Enqueued, a.Enqueued), cmp.Compare(b.ID, a.ID)) })
}
