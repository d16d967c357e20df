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

// lane holds every job that is in this process's hands and decides which of the waiting ones starts next: destinations take turns,
// each first in, first out, as far as the gate admits them.
//
// A processor is a loop on a pond worker: take a job, run it, take the next. Processors are started when there is something to start
// and end when there is not, so an idle worker has none.
type lane struct {
	gate    Gate
	pool    pond.Pool
	window  int // jobs in hand at most, whatever their state
	perDest int // jobs waiting per destination at most
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
	active     map[string]int      // jobs running, by destination
	stalled    map[string]struct{} // active destinations whose waiting jobs were shed, until one of their jobs ends
	ring       ring                // those worth asking the gate about, next first
	waiting    int
	running    int // includes jobs of earlier sessions
	processors int
	starting   bool             // a processor has been started that has not come for its first job
	limit      int              // processors at most
	closed     bool             // nothing starts any more
	meter      *scheduler.Meter // measures for who decides on the limit; nil until somebody asks
}

// destination is the waiting line of one destination. It exists while somebody waits in it.
type destination struct {
	name   string
	items  []*item
	inRing bool
	moved  time.Time // when one of its jobs last came, as the first, started or ended
}

func newLane(gate Gate, concurrency, window, perDest int) *lane {
	return &lane{
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
		active:  make(map[string]int),
		stalled: make(map[string]struct{}),
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
	return !l.closed && l.waiting == 0 && l.running < l.limit
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
	for name, d := range l.dests {
		kept := make([]*item, 0, len(d.items))
		for _, it := range d.items {
			if it.session == nil {
				it.state = settling
				unstarted = append(unstarted, it)
				continue
			}
			kept = append(kept, it)
		}
		if d.items = kept; len(kept) == 0 {
			l.unlink(name, d)
		}
	}
	l.waiting -= len(unstarted)
	return unstarted, true
}

// add lets registered jobs wait for their start. Jobs of a full waiting line are handed to hold. It returns those whose lease was lost
// in between: whoever adopts them will run them.
func (l *lane) add(list []*item) (lost []*item) {
	var over []*item
	l.mu.Lock()
	for _, it := range list {
		if it.session != l.session {
			lost = append(lost, it)
			continue
		}
		d := l.dests[it.dest]
		if d == nil {
			d = &destination{name: it.dest, moved: time.Now()}
			l.dests[it.dest] = d
		}
		_, stalled := l.stalled[it.dest]
		if it.dest != "" && (stalled || len(d.items) >= l.perDest) {
			if len(d.items) == 0 {
				delete(l.dests, it.dest)
			}
			over = append(over, it)
			continue
		}
		it.state = waiting
		d.items = append(d.items, it)
		l.waiting++
		l.push(d)
	}
	l.spawn()
	l.level(time.Now())
	l.mu.Unlock()
	if len(over) > 0 {
		l.hold(over, reasonBusy, time.Time{})
	}
	return lost
}

// push puts a destination back into the ring. mu is held.
func (l *lane) push(d *destination) {
	if !d.inRing {
		d.inRing = true
		l.ring.push(d)
	}
}

// spawn starts one more processor if there is anything to ask the gate about; each processor that finds work starts the next. One at a
// time, for short jobs are done by those that are there before a new one arrives. mu is held.
func (l *lane) spawn() {
	if l.closed || l.starting || l.ring.empty() || l.processors >= l.limit {
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
	l.spawn()
}

func (l *lane) process() {
	for first := true; ; first = false {
		it, held := l.next(time.Now(), first)
		for _, h := range held {
			l.hold(h.items, h.reason, h.until)
		}
		if it == nil {
			return
		}
		l.run(it)
		l.release(it)
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
		for !l.ring.empty() {
			d := l.ring.pop()
			d.inRing = false
			adm := Admission{Verdict: Start}
			if d.name != "" {
				adm = l.gate.Acquire(d.name, now)
			}
			if adm.Verdict == Full {
				continue // release puts it back
			}
			if adm.Verdict == HeldBack {
				l.waiting -= len(d.items)
				for _, it := range d.items {
					it.state = settling
				}
				held = append(held, heldBack{d.items, adm.Reason, adm.Until})
				delete(l.dests, d.name)
				continue
			}
			it := d.items[0]
			d.items[0] = nil
			d.items = d.items[1:]
			if len(d.items) == 0 {
				delete(l.dests, d.name)
			} else {
				l.push(d)
			}
			d.moved = now
			if d.name != "" {
				l.active[d.name]++
			}
			l.waiting--
			l.running++
			it.state = running
			it.started = now
			l.spawn()
			l.level(now)
			return it, held
		}
	}
	l.processors--
	return nil, held
}

// release gives a job's slot back after its handler has returned.
func (l *lane) release(it *item) {
	if it.dest != "" {
		l.gate.Release(it.dest, time.Now())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running--
	if it.dest != "" {
		delete(l.stalled, it.dest)
		if l.active[it.dest]--; l.active[it.dest] <= 0 {
			delete(l.active, it.dest)
		}
	}
	if d := l.dests[it.dest]; d != nil {
		d.moved = time.Now()
		l.push(d)
	}
	l.level(time.Now())
	if l.running == 0 && l.waiting == 0 {
		signal(l.idle)
	}
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
	for name, d := range l.dests {
		n := 0
		for n < len(d.items) && d.items[n].fetched.Before(before) {
			d.items[n].state = settling
			n++
		}
		if n == 0 {
			continue
		}
		out = append(out, d.items[:n]...)
		d.items = d.items[n:]
		if len(d.items) == 0 {
			l.unlink(name, d)
		}
	}
	l.waiting -= len(out)
	return out
}

// shed makes room when the window is nearly full although slots are free: it is full of jobs for destinations that do not answer. It
// takes out the jobs of those with requests under way of which none has ended, nor any started, since the given time. New jobs for them
// are not let in until one of their requests ends.
func (l *lane) shed(before time.Time) []*item {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.here() < l.window*3/4 || l.running >= l.limit {
		return nil
	}
	var out []*item
	for name, d := range l.dests {
		if l.active[name] == 0 || !d.moved.Before(before) {
			continue
		}
		for _, it := range d.items {
			it.state = settling
		}
		out = append(out, d.items...)
		l.stalled[name] = struct{}{}
		d.items = nil
		l.unlink(name, d)
	}
	l.waiting -= len(out)
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
	for _, d := range l.dests {
		for _, it := range d.items {
			it.state = settling
		}
		out = append(out, d.items...)
		d.inRing = false
	}
	clear(l.dests)
	l.ring = ring{}
	l.waiting = 0
	return out
}

// unlink forgets an empty destination. mu is held.
func (l *lane) unlink(name string, d *destination) {
	delete(l.dests, name)
	if d.inRing {
		l.ring.remove(d)
		d.inRing = false
	}
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
	l.spawn()
	l.level(time.Now())
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
	return Load{InHand: len(l.items), Waiting: l.waiting, Running: l.running, Concurrency: l.limit, Window: l.window}
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
