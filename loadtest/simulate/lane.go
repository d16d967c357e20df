package simulate

import (
	"cmp"
	"slices"
	"time"

	"github.com/queueville/queueville/loadtest/world"
)

// The rules for a destination, as docs/adr/0004-hosts-and-holding.md states them.
const (
	hostStart    = 2
	hostMost     = 8
	firstProbe   = int64(time.Minute)
	longestProbe = int64(time.Hour)
	limitedFor   = int64(30 * time.Second) // Retry-After of a 429
	relapse      = int64(10 * time.Minute)
)

// hostState is what one worker knows of one destination.
type hostState struct {
	limit     int
	inFlight  int
	fails     int
	lastFail  int64
	openUntil int64 // 0: closed
	backoff   int64
	probing   bool
	closedAt  int64
	heldUntil int64
	waiting   ring[world.Job]
}

// admit starts a delivery, lets it wait for its host, or puts it off untried.
func (w *workerModel) admit(job *world.Job) {
	h := w.hosts[job.Dest]
	if h == nil {
		h = &hostState{limit: hostStart}
		w.hosts[job.Dest] = h
	}
	now := w.e.s.now
	switch {
	case h.heldUntil > now:
		w.hold(job, h.heldUntil)
	case h.openUntil > now || h.openUntil > 0 && h.probing:
		w.hold(job, max(h.openUntil, now+firstProbe/2))
	case h.inFlight >= h.limit:
		if w.parked >= window-1 {
			w.hold(job, now+int64(10*time.Second))
			return
		}
		w.parked++
		h.waiting.push(*job)
	default:
		w.send(job, h)
	}
}

func (w *workerModel) send(job *world.Job, h *hostState) {
	if h.openUntil > 0 {
		h.probing = true
	}
	h.inFlight++
	w.runs[native]++
	w.e.s.met.started(job, w.e.s.now)
	w.e.s.begin(job, w.own, true)
	w.level(native)
}

// hold puts a delivery off until its host may be tried again, spread over a third of the time: an ordinary entry of Sidekiq's schedule or retry set.
func (w *workerModel) hold(job *world.Job, until int64) {
	dice := world.NewDice(job.ID, uint64(w.e.s.now))
	w.e.s.met.deferred++
	now := w.e.s.now
	w.e.s.later(&w.e.s.due, until+int64(dice.Float64()*float64(until-now)/3)+int64(time.Second), job, true)
}

// released takes in how a delivery ended.
func (w *workerModel) released(t *task, failed bool) {
	h := w.hosts[t.job.Dest]
	now := w.e.s.now
	h.inFlight--
	probe := h.openUntil > 0
	if probe {
		h.probing = false
	}
	kind := t.answer.Verdict
	if !failed || kind == world.Failed { // an answer, of whatever kind, closes the breaker
		if probe {
			h.openUntil, h.closedAt, h.limit = 0, now, 1
		}
	}
	switch {
	case !failed:
		h.fails = 0
		if h.limit < hostMost {
			h.limit++
		}
		if now-h.closedAt > relapse {
			h.backoff = 0
		}
	default:
		if kind != world.NoPath {
			h.limit = max(1, h.limit/2)
		}
		if t.answer.Limited {
			h.heldUntil = now + limitedFor
			break
		}
		// Ten that fail together are one failure.
		if t.began >= h.lastFail {
			h.fails++
			h.lastFail = now
		}
		if probe && kind != world.Failed || h.fails >= opensAfter(kind) {
			h.backoff = min(longestProbe, max(firstProbe, 2*h.backoff))
			dice := world.NewDice(t.job.ID, 6)
			h.openUntil = now + int64(float64(h.backoff)*(0.9+0.2*dice.Float64()))
			h.fails = 0
		}
	}
	if h.openUntil > now || h.heldUntil > now { // those that wait in hand go too
		for h.waiting.len() > 0 {
			job := h.waiting.pop()
			w.parked--
			w.hold(&job, max(h.openUntil, h.heldUntil))
		}
		return
	}
	for h.waiting.len() > 0 && h.inFlight < h.limit && !w.quiet {
		job := h.waiting.pop()
		w.parked--
		w.send(&job, h)
	}
}

func opensAfter(kind world.Verdict) int {
	switch kind {
	case world.TimedOut:
		return 2
	case world.NoPath:
		return 3
	default:
		return 5
	}
}

// sortJobs sorts by age, then by number, the youngest first: unshifted in that order the oldest comes out first.
func sortJobs(jobs []world.Job) {
	slices.SortFunc(jobs, func(a, b world.Job) int { return cmp.Or(cmp.Compare(b.Enqueued, a.Enqueued), cmp.Compare(b.ID, a.ID)) })
}
