package worker

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/alitto/pond/v2"

	"github.com/queueville/queueville/queues"
	"github.com/queueville/queueville/scheduler"
)

// lane holds every job that is in this process's hands and decides which of the waiting ones starts next: destinations take turns by what
// their jobs cost, each first in, first out, as far as the gate admits them and the budget of retries allows (destinations.go).
//
// A processor is a loop on a pond worker: take a job, run it, take the next. Processors are started when there is something to start
// and end when there is not, so an idle worker has none.
type lane struct {
	gate    Gate
	pool    pond.Pool
	window  int // jobs in hand at most, whatever their state
	perDest int // jobs waiting per destination at most; more for one that is quick (scheduler.LineRoom)
	fresh   func(now time.Time) bool
	run     func(*item)                      // runs one job; called on a processor
	hold    func([]*item, string, time.Time) // takes jobs that will not wait here, with reason and time
	room    chan struct{}                    // capacity 1: something left the window
	idle    chan struct{}                    // capacity 1: nothing waits and nothing runs

	elsewhere func() int // jobs in hand that do not count for the window, nor run here; nil: none

	mu         sync.Mutex
	session    *queues.Session
	items      map[uint64]*item // in hand under session, by sequence number
	top        uint64           // highest sequence number fetched under session
	dests      map[string]*destination
	turns      [kinds]scheduler.Turns[*line] // those worth asking the gate about
	budget     *scheduler.RetryBudget
	parked     []*destination // that are not in turns until a time
	wake       *time.Timer    // for them
	wakeAt     time.Time      // zero: nobody is parked
	mean       float64        // seconds that a job holds its slot, lately; 0: none has ended
	usual      float64        // the same of jobs that were not given up
	triedAt    time.Time      // a first try last came
	waiting    [kinds]int
	started    [kinds]uint64
	used       [kinds]float64 // seconds that slots were held, lately
	running    int            // includes jobs of earlier sessions
	processors int
	starting   bool             // a processor has been started that has not come for its first job
	limit      int              // processors at most
	closed     bool             // nothing starts any more
	meter      *scheduler.Meter // measures for who decides on the limit; nil until somebody asks
}

func newLane(gate Gate, concurrency, window, perDest int) *lane {
	return &lane{
		budget:  scheduler.NewRetryBudget(scheduler.DefaultRetryShare),
		gate:    gate,
		pool:    pond.NewPool(concurrency, pond.WithQueueSize(window+concurrency), pond.WithoutPanicRecovery()),
		window:  window,
		perDest: perDest,
		limit:   concurrency,
		fresh:   func(time.Time) bool { return true },
		room:    make(chan struct{}, 1),
		idle:    make(chan struct{}, 1),
		items:   make(map[uint64]*item, window),
		dests:   make(map[string]*destination),
	}
}

// free is how many more jobs the window has room for.
func (l *lane) free() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return 0
	}
	return max(0, l.window-l.here())
}

// here is how many jobs the window holds. mu is held.
func (l *lane) here() int {
	if l.elsewhere == nil {
		return len(l.items)
	}
	return max(0, len(l.items)-l.elsewhere())
}

// ours is true for a job that is held under the current session.
func (l *lane) ours(it *item) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return it.session == l.session
}

// hungry is true when processors could start more than is waiting: a fetch is worth making even for a few jobs.
func (l *lane) hungry() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.closed && l.waiting == [kinds]int{} && l.running < l.limit
}

// patient is how long a fetch may wait for more room than there is: for longer while every processor has a job and those that wait will do for
// more than twice as many as have ended.
func (l *lane) patient(room int) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.processors >= l.limit && l.waiting[tries]+l.waiting[retries] > 2*room && l.startable(time.Now()) {
		return fetchPlenty
	}
	return fetchLinger
}

// register puts fetched jobs on the books before anything else may happen to them. The caller holds keeper.steady, so s is in force.
func (l *lane) register(s *queues.Session, list []*item) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, it := range list {
		it.session = s
		l.items[it.ref.Seq] = it
		l.top = max(l.top, it.ref.Seq)
	}
}

// rewound takes off the books what was fetched under the numbers from first on, if first comes a second time: a replica that was a moment
// behind has become the master. Those fetches have not happened there; the jobs are on their queues, and their numbers will be those of
// other jobs. Outcomes of what runs will have no effect; what had not started is returned.
func (l *lane) rewound(first uint64) (unstarted []*item, happened bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if first > l.top {
		return nil, false
	}
	for seq, it := range l.items {
		if seq >= first {
			delete(l.items, seq)
			it.session = nil
		}
	}
	for _, d := range l.dests {
		for kind := range d.lines {
			ln := &d.lines[kind]
			for i := 0; i < len(ln.items); {
				if ln.items[i].session != nil {
					i++
					continue
				}
				unstarted = append(unstarted, l.cut(ln, i, i+1)...)
			}
		}
		l.forgetIdle(d)
	}
	return unstarted, true
}

// add lets registered jobs wait for their start. Jobs of a full waiting line are handed to hold. It returns those whose lease was lost
// in between: whoever adopts them will run them.
func (l *lane) add(list []*item) (lost []*item) {
	var over, crowd []*item
	now := time.Now()
	l.mu.Lock()
	for _, it := range list {
		if it.session != l.session {
			lost = append(lost, it)
			continue
		}
		d, kind := l.destination(it.dest, now), tries
		if it.job.HasRetryCount {
			kind = retries
		} else {
			l.triedAt = now
		}
		if it.dest != "" && (d.stalled || d.waiting() >= l.perDest && d.waiting() >= l.roomOf(d)) {
			l.forgetIdle(d)
			over = append(over, it)
			continue
		}
		if kind == retries && it.dest != "" && l.crowded(now) {
			l.forgetIdle(d)
			crowd = append(crowd, it)
			continue
		}
		it.state = waiting
		it.line = &d.lines[kind]
		it.line.items = append(it.line.items, it)
		l.waiting[kind]++
		l.push(d)
	}
	l.spawn(now)
	l.level(now)
	l.mu.Unlock()
	if len(over) > 0 {
		l.hold(over, ReasonBusy, time.Time{})
	}
	if len(crowd) > 0 {
		l.hold(crowd, reasonRetries, time.Time{})
	}
	return lost
}

// spawn starts one more processor if there is anything to ask the gate about; each processor that finds work starts the next. One at a
// time, for short jobs are done by those that are there before a new one arrives. mu is held.
func (l *lane) spawn(now time.Time) {
	if l.closed || l.starting || l.processors >= l.limit || !l.startable(now) {
		return
	}
	l.processors++
	l.starting = true
	if err := l.pool.Go(l.process); err != nil {
		l.processors-- // the pool was stopped
		l.starting = false
	}
}

// kick looks again, after something other than a release may have changed what can start.
func (l *lane) kick() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range l.dests {
		l.push(d)
	}
	l.spawn(time.Now())
}

func (l *lane) process() {
	now := time.Now()
	for first := true; ; first = false {
		it, held := l.next(now, first)
		for _, h := range held {
			l.hold(h.items, h.reason, h.until)
		}
		if it == nil {
			return
		}
		l.run(it)
		now = l.release(it)
	}
}

type heldBack struct {
	items  []*item
	reason string
	until  time.Time
}

// next takes the next job that may start, or nil: then the calling processor has been signed off. first is true for the first call of a
// processor. Jobs of destinations that the gate holds back come out beside it.
func (l *lane) next(now time.Time, first bool) (*item, []heldBack) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if first {
		l.starting = false
	}
	var held []heldBack
	if !l.closed && l.processors <= l.limit && l.fresh(now) {
		for ln := l.turn(now); ln != nil; ln = l.turn(now) {
			d := ln.dest
			adm := Admission{Verdict: Start}
			if d.name != "" {
				adm = l.gate.Acquire(d.name, now)
			}
			switch adm.Verdict {
			case Full:
				l.turns[ln.kind].Leave(ln) // release puts it back
				continue
			case Later:
				l.park(d, now, adm.Until)
				continue
			case HeldBack:
				held = append(held, heldBack{l.empty(d), adm.Reason, adm.Until})
				l.forgetIdle(d)
				continue
			case Start:
			}
			it := l.take(ln, now)
			l.spawn(now)
			l.level(now)
			return it, held
		}
	}
	l.processors--
	return nil, held
}

// release gives a job's slot back after its handler has returned, and tells the time.
func (l *lane) release(it *item) time.Time {
	now := time.Now()
	if it.dest != "" {
		l.gate.Release(it.dest, now)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended(it, now)
	l.level(now)
	if l.running == 0 && l.waiting == [kinds]int{} {
		signal(l.idle)
	}
	return now
}

// signal wakes the one reader of a channel of capacity 1, now or at its next look.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// forget takes settled jobs off the books and tells the fetcher that there is room.
func (l *lane) forget(list []settlement) {
	l.mu.Lock()
	for i := range list {
		it := list[i].item
		if it.session == l.session && l.items[it.ref.Seq] == it {
			delete(l.items, it.ref.Seq)
		}
	}
	l.mu.Unlock()
	signal(l.room)
}

// stale takes out every job that has waited since before the given time.
func (l *lane) stale(before time.Time) []*item {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []*item
	for _, d := range l.dests {
		for kind := range d.lines {
			ln := &d.lines[kind]
			n := 0
			for n < len(ln.items) && ln.items[n].fetched.Before(before) {
				n++
			}
			out = append(out, l.cut(ln, 0, n)...)
		}
		l.forgetIdle(d)
	}
	return out
}

// shed makes room when the window is nearly full although slots are free: it is full of jobs for destinations that do not answer. It
// takes out the jobs of those with requests under way of which none has ended, nor any started, for longer than they are given. New jobs
// for them are not let in until one of their requests ends. Of those that are let start few at present, a few stay.
func (l *lane) shed(now time.Time) []*item {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.here() < l.window*3/4 || l.running >= l.limit {
		return nil
	}
	var out []*item
	for _, d := range l.dests {
		switch {
		case d.parked:
			for kind := range d.lines {
				out = append(out, l.cut(&d.lines[kind], parkedKept, len(d.lines[kind].items))...)
			}
		case d.active > 0 && now.Sub(d.moved) > l.patience(d):
			out = append(out, l.empty(d)...)
			d.stalled = true
		}
	}
	return out
}

// sortReturns orders the returns of a batch, behind everything else, so that the oldest job ends rightmost: at a stop running jobs come
// back one by one, in no order. All other outcomes keep their places among each other.
func (l *lane) sortReturns(batch []settlement) {
	returns := 0
	for i := range batch {
		if batch[i].op == queues.OpRequeue {
			returns++
		}
	}
	if returns < 2 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	slices.SortStableFunc(batch, func(a, b settlement) int {
		ra, rb := a.op == queues.OpRequeue, b.op == queues.OpRequeue
		switch {
		case ra && rb:
			return cmp.Compare(b.item.ref.Seq, a.item.ref.Seq)
		case ra:
			return 1
		case rb:
			return -1
		}
		return 0
	})
}

// takeWaiting empties the waiting lines, for quiet and stop, and for a lost lease.
func (l *lane) takeWaiting() []*item {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.emptyLines()
}

// emptyLines does it. mu is held.
func (l *lane) emptyLines() []*item {
	var out []*item
	for kind := range l.turns {
		l.turns[kind].Clear()
	}
	for _, d := range l.dests {
		out = append(out, l.empty(d)...)
		l.forgetIdle(d)
	}
	return out
}

// close lets nothing start any more.
func (l *lane) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
}

// resize sets how many jobs may run at once.
func (l *lane) resize(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n = max(1, n) // the pool takes 0 for "no limit"
	l.limit = n
	l.pool.Resize(n)
	now := time.Now()
	l.spawn(now)
	l.level(now)
}

// begin makes s the current session and returns what had not started under the old one, in one step: whatever waited a moment longer
// would be started without being ours. All that was in hand is off the books; outcomes of what runs will have no effect.
func (l *lane) begin(s *queues.Session) (unstarted []*item) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.session = s
	l.items = make(map[uint64]*item, l.window)
	l.top = 0
	return l.emptyLines()
}

// inHand lists the jobs in hand under the current session in the order they were fetched, without changing anything.
func (l *lane) inHand() []*item {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]*item, 0, len(l.items))
	for _, it := range l.items {
		out = append(out, it)
	}
	slices.SortFunc(out, func(a, b *item) int { return cmp.Compare(a.ref.Seq, b.ref.Seq) })
	return out
}

// sortYoungestFirst sorts jobs for their return: each goes to the right end, so the oldest must be the last. The lane's lock guards
// their numbers, which change when Redis has forgotten.
func (l *lane) sortYoungestFirst(list []*item) {
	l.mu.Lock()
	defer l.mu.Unlock()
	slices.SortFunc(list, func(a, b *item) int { return cmp.Compare(b.ref.Seq, a.ref.Seq) })
}

// rebook puts jobs that were restored under a new session on its books.
func (l *lane) rebook(s *queues.Session, list []*item, refs []queues.Fetched) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.session = s
	l.items = make(map[uint64]*item, l.window)
	for i, it := range list {
		it.session, it.ref = s, refs[i].Ref
		l.items[it.ref.Seq] = it
	}
	l.top = uint64(len(list))
}

// split separates settlements that can still be carried out under the current session, with their names there, from those that cannot.
func (l *lane) split(list []settlement) (s *queues.Session, live, dropped []settlement, refs []queues.Ref) {
	l.mu.Lock()
	defer l.mu.Unlock()
	live = make([]settlement, 0, len(list))
	refs = make([]queues.Ref, 0, len(list))
	for i := range list {
		if list[i].item.session == l.session && l.session != nil {
			live = append(live, list[i])
			refs = append(refs, list[i].item.ref)
		} else {
			dropped = append(dropped, list[i])
		}
	}
	return l.session, live, dropped, refs
}

// known tells whether a sequence number of the current session is on the books.
func (l *lane) known(seq uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.items[seq]
	return ok
}

// Load is how full a worker is, at one moment.
type Load struct {
	InHand      int // fetched and not finished
	Waiting     int // of these, not started
	Running     int
	Concurrency int // processors at most
	Window      int // InHand at most
}

func (l *lane) load() Load {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Load{InHand: len(l.items), Waiting: l.waiting[tries] + l.waiting[retries], Running: l.running, Concurrency: l.limit, Window: l.window}
}

// runningJobs lists what runs now, for the busy list: at most n jobs and maxBytes of payload, longest running first is not promised.
func (l *lane) runningJobs(n, maxBytes int) []busyJob {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []busyJob
	size := 0
	for _, it := range l.items {
		if it.state != running || len(out) == n || size+len(it.payload) > maxBytes {
			continue
		}
		size += len(it.payload)
		out = append(out, busyJob{seq: it.ref.Seq, queue: it.queue, payload: it.payload, started: it.started})
	}
	return out
}

type busyJob struct {
	seq     uint64
	queue   string
	payload string
	started time.Time
}
