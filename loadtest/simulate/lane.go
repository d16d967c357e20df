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
	hostMost   = 64
	limitedFor = 30 * time.Second
	// How long an unused destination is remembered.
	idleHealthy = 10 * time.Minute
	idleBroken  = 24 * time.Hour
)

// hostState is what one worker knows of one destination: activitypub's rules, and the worker's lines.
type hostState struct {
	activitypub.Host
	dest    int32
	lines   [2]line
	active  int   // jobs running
	moved   int64 // when one of its jobs last came, as the first, started or ended
	used    int64
	mean    float64 // seconds that a job holds its slot, lately; 0: none has ended
	pace    scheduler.Pace
	stalled bool // its lines were emptied, until one of its jobs ends
	parked  bool // takes no turns until a time
	listed  bool // in the worker's list of hosts with lines
}

// Jobs wait by destination and, of each, first tries apart from retries.
const (
	tries = iota
	retries
)

// line is one waiting line, first in, first out.
type line struct {
	host    *hostState
	kind    int
	items   ring[parkedJob]
	account scheduler.Account
}

// Account implements scheduler.Line.
func (l *line) Account() *scheduler.Account { return &l.account }

// parkedJob waits in hand.
type parkedJob struct {
	world.Job
	since int64
}

func (h *hostState) waiting() int { return h.lines[tries].items.len() + h.lines[retries].items.len() }

// lane is the worker's lane of deliveries (worker/lane.go, worker/destinations.go): scheduler's turns and budget, and what is remembered for them.
type lane struct {
	turns   [2]scheduler.Turns[*line]
	budget  *scheduler.RetryBudget
	mean    float64 // seconds that a job holds its slot, lately
	waits   [2]int
	triedAt int64 // a first try last came
}

// The constants of worker/destinations.go.
const (
	meanOfOne   = 1.0 / 8
	meanOfAll   = 1.0 / 128
	retriesSeen = int64(5 * time.Second)
	leastRoom   = 32
	parkedKept  = 8
)

// admit takes a delivery in hand, or puts it off untried.
func (w *workerModel) admit(job *world.Job) {
	h := w.hosts[job.Dest]
	now := w.e.s.now
	if h == nil {
		h = &hostState{Host: activitypub.NewHost(hostStart, hostMost), dest: job.Dest, moved: now}
		for kind := range h.lines {
			h.lines[kind].host, h.lines[kind].kind = h, kind
		}
		w.hosts[job.Dest] = h
	}
	h.used = now
	kind := tries
	if job.Retries > 0 {
		kind = retries
	} else {
		w.lane.triedAt = now
	}
	if h.stalled || h.waiting() >= scheduler.LineRoom(perDest, window, w.runs[native]+w.parked, h.Pace()) || kind == retries && w.crowded() {
		w.hold(job, h, time.Time{})
		return
	}
	if h.waiting() == 0 && h.active == 0 {
		h.moved = now
	}
	if w.alone(h, kind) { // its line would be made for nothing
		if a := h.Admit(w.e.clock()); a.Verdict == activitypub.Start {
			w.launch(job, &h.lines[kind], a)
			return
		}
	}
	w.parked++
	w.lane.waits[kind]++
	h.lines[kind].items.push(parkedJob{*job, now})
	if !h.listed {
		h.listed = true
		w.lines = append(w.lines, job.Dest)
	}
	w.join(h)
	w.deliver()
	w.level(native)
}

// alone tells whether a delivery that comes is the only one that waits for a slot, and there is one.
func (w *workerModel) alone(h *hostState, kind int) bool {
	l := &w.lane
	return h.waiting() == 0 && !h.parked && l.turns[tries].Len()+l.turns[retries].Len() == 0 && w.runs[native] < w.limit[native] &&
		(kind == tries || l.budget.May(w.e.clock(), false, w.limit[native]))
}

// crowded tells whether a retry should not wait here: there are enough of them, the window is nearly full, and first tries come.
func (w *workerModel) crowded() bool {
	share := w.lane.budget.Share()
	return share < 1 && w.e.s.now-w.lane.triedAt < retriesSeen && w.runs[native]+w.parked >= window*3/4 &&
		w.lane.waits[retries] >= max(leastRoom, int(share*window))
}

// join lets the lines of a destination take turns in which something waits.
func (w *workerModel) join(h *hostState) {
	if h.parked {
		return
	}
	for kind := range h.lines {
		if h.lines[kind].items.len() > 0 {
			w.lane.turns[kind].Join(&h.lines[kind])
		}
	}
}

// turn names the line whose job is next; nil when there is none.
func (w *workerModel) turn(now time.Time) *line {
	l := &w.lane
	next, contended := l.turns[tries].Next()
	if l.turns[retries].Len() > 0 && l.budget.May(now, contended, w.limit[native]) {
		next, _ = l.turns[retries].Next()
	}
	return next
}

// startable tells whether there is anything to ask a destination about.
func (w *workerModel) startable(now time.Time) bool {
	l := &w.lane
	return l.turns[tries].Len() > 0 || l.turns[retries].Len() > 0 && l.budget.May(now, false, w.limit[native])
}

// deliver starts what may start.
func (w *workerModel) deliver() {
	for !w.quiet && w.runs[native] < w.limit[native] {
		now := w.e.clock()
		ln := w.turn(now)
		if ln == nil {
			return
		}
		h := ln.host
		switch a := h.Admit(now); {
		case a.Verdict == activitypub.Start:
			w.send(ln, a)
		case a.Verdict == activitypub.Held:
			w.empty(h, a.Until)
		case a.Until.IsZero():
			w.lane.turns[ln.kind].Leave(ln) // the end of one of its jobs puts it back
		default:
			w.park(h, a.Until)
		}
	}
}

// send starts the first job of a line.
func (w *workerModel) send(ln *line, a activitypub.Admission) {
	job := ln.items.pop()
	w.parked--
	w.lane.waits[ln.kind]--
	w.launch(&job.Job, ln, a)
	if ln.items.len() == 0 {
		w.lane.turns[ln.kind].Leave(ln)
		ln.items = ring[parkedJob]{}
	}
}

// launch starts a job of a line's.
func (w *workerModel) launch(job *world.Job, ln *line, a activitypub.Admission) {
	h, l, s := ln.host, &w.lane, w.e.s
	h.Take(a, w.e.clock())
	contended := ln.kind == retries && l.turns[tries].Len() > 0
	charged := h.mean
	if charged == 0 {
		charged = l.mean
	}
	l.turns[ln.kind].Charge(ln, charged)
	if ln.kind == retries {
		l.budget.Retried(contended)
	} else {
		l.budget.Tried()
	}
	h.moved, h.used = s.now, s.now
	h.active++
	w.runs[native]++
	s.met.started(job, s.now)
	t := &s.tasks[s.begin(job, w.own, true)]
	t.charged, t.kind = charged, uint8(ln.kind)
	w.level(native)
}

// park does not ask a destination before a time.
func (w *workerModel) park(h *hostState, until time.Time) {
	for kind := range h.lines {
		w.lane.turns[kind].Leave(&h.lines[kind])
	}
	h.parked = true
	s := w.e.s
	s.after(max(s.now+int64(time.Millisecond), until.UnixNano()-w.e.clock().UnixNano()+s.now), func() {
		h.parked = false
		if w.hosts[h.dest] == h && !w.quiet {
			w.join(h)
			w.deliver()
		}
	})
}

// hold puts a delivery off until its host may be tried again: an ordinary entry of Sidekiq's schedule or retry set.
func (w *workerModel) hold(job *world.Job, h *hostState, until time.Time) {
	dice := world.NewDice(job.ID, uint64(w.e.s.now))
	w.e.s.met.deferred++
	h.pace.Step = h.Pace()
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
	w.charge(h, t)
	if h.Down() != down && !w.quiet {
		if down {
			w.e.up(t.job.Dest)
		} else {
			w.e.down[t.job.Dest]++
		}
	}
	w.join(h)
	w.deliver()
}

// charge corrects what a job was thought to cost its destination's line.
func (w *workerModel) charge(h *hostState, t *task) {
	l, now := &w.lane, w.e.s.now
	h.active--
	h.moved, h.used, h.stalled = now, now, false
	if t.kind == retries {
		l.budget.Ended()
	}
	took := max(float64(now-t.began)/1e9, 1e-6)
	l.turns[t.kind].Charge(&h.lines[t.kind], took-t.charged)
	if h.mean == 0 {
		h.mean = took
	}
	h.mean += (took - h.mean) * meanOfOne
	if l.mean == 0 {
		l.mean = took
	}
	l.mean += (took - l.mean) * meanOfAll
	for kind := range l.turns {
		l.turns[kind].SetQuantum(l.mean)
	}
	if h.active == 0 && h.waiting() == 0 && !h.parked { // the worker's lane forgets it; activitypub does not
		h.mean = 0
		for kind := range h.lines {
			h.lines[kind].account = scheduler.Account{}
		}
	}
}

// up: a destination is not broken any more for one worker.
func (e *queueville) up(dest int32) {
	if e.down[dest]--; e.down[dest] <= 0 {
		delete(e.down, dest)
	}
}

// empty puts all of a destination's lines off.
func (w *workerModel) empty(h *hostState, until time.Time) {
	for kind := range h.lines {
		w.cut(&h.lines[kind], 0, until)
	}
}

// cut puts off what is in a line beyond so many.
func (w *workerModel) cut(ln *line, keep int, until time.Time) {
	for n := ln.items.len(); n > keep; n-- {
		job := ln.items.pop()
		w.parked--
		w.lane.waits[ln.kind]--
		w.hold(&job.Job, ln.host, until)
	}
	if ln.items.len() == 0 {
		w.lane.turns[ln.kind].Leave(ln)
		ln.items = ring[parkedJob]{}
	}
}

// sweep puts off what waits in others' way, or for too long, and starts what could not be when all slots were taken.
func (w *workerModel) sweep() {
	now := w.e.s.now
	crowded := w.runs[native]+w.parked >= window*3/4 && w.runs[native] < w.limit[native]
	keep := w.lines[:0]
	for _, dest := range w.lines {
		h := w.hosts[dest]
		for kind := range h.lines {
			ln := &h.lines[kind]
			n := 0
			for n < ln.items.len() && now-ln.items.at(n).since > longestWait {
				n++
			}
			if n > 0 {
				w.cut(ln, ln.items.len()-n, time.Time{})
			}
			if crowded && h.parked && ln.items.len() > parkedKept {
				w.cut(ln, parkedKept, time.Time{})
			}
		}
		if crowded && !h.parked && h.active > 0 && now-h.moved > stallAfter {
			h.stalled = true
			w.empty(h, time.Time{})
		}
		if h.listed = h.waiting() > 0; h.listed {
			keep = append(keep, dest)
		}
	}
	w.lines = keep
	w.deliver()
}

// forget drops what has not been used for long.
func (w *workerModel) forget() {
	now := w.e.s.now
	for dest, h := range w.hosts {
		idle := idleHealthy
		if h.Troubled(w.e.clock()) {
			idle = idleBroken
		}
		if h.InFlight() == 0 && !h.listed && !h.parked && now-h.used > int64(idle) {
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
