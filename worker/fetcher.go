package worker

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/queueville/queueville/queues"
)

const (
	fetchBatch   = 340                   // jobs per script call at most: while one batch is read and run, the next is fetched
	fetchTimeout = 5 * time.Second       // one call
	fetchLinger  = 10 * time.Millisecond // how long a little room waits to become more
	fetchPlenty  = 50 * time.Millisecond // the same while every processor has a job and enough others wait for one
	fetchGap     = 5 * time.Millisecond  // from one fetch that emptied the queues to the next, so that a steady trickle does not cost a call a job
	awaitFor     = 2 * time.Second       // one blocking wait, as Sidekiq's BRPOP
	lookBusy     = 20 * time.Millisecond // first pause after a look that found jobs, none of them ours
	lookIdle     = time.Second           // longest pause between two looks
)

// fetcher moves jobs from queues into this process's in-flight set, never more than the window has room for.
type fetcher struct {
	store    *queues.Store
	keeper   *keeper
	lane     *lane
	order    func() []string // owned queues, in the order of this fetch
	picks    *picks          // chooses the order by goals, and has side lists; nil: order does
	owned    bool            // there are owned queues
	look     queues.Look     // shared queues; Max is set per call
	limiter  *rate.Limiter
	foreign  *foreignSide                                    // nil: there is no foreign engine
	book     func(*queues.Session, []queues.Fetched) []*item // called with keeper.steady, for jobs of lost replies
	bookNew  func(*queues.Session, []queues.Fetched) []*item // the same for jobs fetched just now
	booked   chan []*item                                    // what was fetched, for the dispatcher; closed when Run ends
	unread   atomic.Int64                                    // jobs on their way through booked
	observer Observer
	log      *slog.Logger

	wake     chan struct{} // an owned queue has something; capacity 1
	awaiters []*awaiter    // one for each owned queue
	open     []string      // queues that the last fetch asked; with foreign only

	lookAfter time.Time     // no look at shared queues before this
	lookPause time.Duration // the pause after the last look
	doubts    []time.Time   // when to look for jobs of lost replies, soonest first
}

// awaiter waits for one owned queue to have something.
type awaiter struct {
	queue string
	arm   chan struct{} // asks it to wait; capacity 1
	found atomic.Bool   // it has seen a job: set there, cleared by the fetcher
	vain  atomic.Bool   // the fetch that followed brought nothing: set by the fetcher, cleared there

	watches bool // the fetcher's: it was asked to wait, and nobody else need look before it has found something
	empty   int  // the fetcher's: looks in a row that found the queue empty
}

// silent reports whether the queue is known to be empty.
func (a *awaiter) silent() bool {
	if a.watches && a.found.Load() {
		a.watches, a.empty = false, 0
	}
	return a.watches
}

// watch asks it to wait for the queue, if it does not yet.
func (a *awaiter) watch() {
	if !a.watches {
		a.watches = true
		signal(a.arm)
	}
}

// Run fetches until fetchCtx ends. Calls to Redis are made under workCtx, so that a stop does not lose their replies.
func (f *fetcher) Run(fetchCtx, workCtx context.Context) error {
	defer close(f.booked)
	errs := 0
	for fetchCtx.Err() == nil {
		if !f.reconcile(workCtx) {
			sleep(fetchCtx, time.Second/2+rand.N(time.Second/2))
			continue
		}
		room := f.enough(fetchCtx)
		if room == 0 {
			continue
		}
		began := time.Now()
		got, err := f.fetch(workCtx, room)
		if err != nil {
			errs++
			f.recover(fetchCtx, workCtx, err, errs)
			continue
		}
		errs = 0
		if f.limiter != nil && got > 0 {
			f.limiter.AllowN(time.Now(), got)
		}
		switch {
		case got == 0:
			f.waitForJobs(fetchCtx)
		case got < room:
			sleep(fetchCtx, f.gap()-time.Since(began))
		}
	}
	if len(f.doubts) > 0 {
		f.doubts[0] = time.Time{}
		f.reconcile(workCtx) // quiet may last for hours
	}
	return nil
}

// pass hands fetched jobs to dispatch, batch by batch, until Run has ended: reading a batch takes about as long as fetching the next.
func (f *fetcher) pass(dispatch func([]*item)) {
	for batch := range f.booked {
		n := len(batch)
		dispatch(batch)
		f.unread.Add(int64(-n))
	}
}

// gap is the time from one fetch that emptied the queues, or took all there was room for, to the next.
func (f *fetcher) gap() time.Duration {
	if f.foreign != nil {
		return fetchGap / 5 // an idle Ruby thread waits for it
	}
	return fetchGap
}

// enough waits until a fetch is worth a call, and tells for how many jobs: for a good part of the window, for those that processors could start at
// once, or for the little room that there is when it has waited for long enough. A call costs as much as reading some ten jobs.
func (f *fetcher) enough(ctx context.Context) int {
	began := time.Now()
	for {
		room := f.allowance()
		much := min(f.lane.window/8, fetchBatch)
		if f.foreign != nil {
			much = 1
		}
		if room >= max(1, much) || room > 0 && f.hungry() {
			return room
		}
		if patience := f.lane.patient(room); time.Since(began) >= patience || ctx.Err() != nil {
			return room
		}
		f.waitForRoom(ctx)
	}
}

// hungry is true when processors could start more than is on its way to them: a fetch is worth making even for a few jobs.
func (f *fetcher) hungry() bool { return f.unread.Load() == 0 && f.lane.hungry() }

// allowance is how many jobs may be fetched now.
func (f *fetcher) allowance() int {
	n := f.lane.free()
	if f.foreign != nil {
		order, _ := f.loud(f.picks.waiting(f.order()), nil)
		n += most(f.foreign.Room(f.picks.homesOf(order)))
	}
	n = min(n, fetchBatch)
	if f.limiter != nil {
		n = min(n, int(f.limiter.TokensAt(time.Now())))
	}
	return max(0, n)
}

func (f *fetcher) waitForRoom(ctx context.Context) {
	t := time.NewTimer(fetchLinger)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-f.lane.room:
	case <-f.wake:
	case <-t.C:
	}
}

// fetch asks the owned queues and then, when their turn has come, the shared ones.
func (f *fetcher) fetch(ctx context.Context, room int) (int, error) {
	got := 0
	if f.owned {
		n, err := f.fetchOwned(ctx, room)
		if err != nil {
			return 0, err
		}
		for _, a := range f.awaiters {
			if f.foreign == nil && a.found.Swap(false) && n == 0 {
				a.vain.Store(true)
			}
		}
		got = n
	}
	if len(f.look.Queues) > 0 && got < room && !time.Now().Before(f.lookAfter) {
		look := f.look
		look.Max = min(room-got, queues.LookJobs)
		looked := 0
		n, err := f.call(ctx, "shared", func(ctx context.Context, session *queues.Session) (jobs []queues.Fetched, err error) {
			jobs, looked, err = session.FetchShared(ctx, look)
			return jobs, err
		})
		if err != nil {
			return got, err
		}
		f.pace(n, looked, look.Max)
		got += n
	}
	return got, nil
}

// fetchOwned asks the owned queues.
func (f *fetcher) fetchOwned(ctx context.Context, room int) (int, error) {
	order, caps := f.next(room)
	if f.foreign == nil {
		return f.call(ctx, "owned", func(ctx context.Context, session *queues.Session) ([]queues.Fetched, error) {
			return session.FetchWithin(ctx, order, room, within(caps))
		})
	}
	order, caps = f.loud(order, caps)
	names, limits := f.foreign.limits(order, f.lane.free(), f.foreign.Room(f.picks.homesOf(order)), caps)
	f.open = names
	if len(names) == 0 {
		return 0, nil
	}
	return f.call(ctx, "owned", func(ctx context.Context, session *queues.Session) ([]queues.Fetched, error) {
		jobs, err := session.FetchWithin(ctx, names, room, limits)
		if err == nil {
			f.learnEmpty(names, room, limits, jobs)
		}
		return jobs, err
	})
}

// loud leaves out the queues that are known to be empty. With a foreign engine there is nearly always room for some kind of job, so that
// without this every job that ends would have all empty queues asked again.
func (f *fetcher) loud(order []string, caps []int) ([]string, []int) {
	names, most := order[:0:0], caps[:0:0]
	for i, q := range order {
		if a := f.awaiterOf(q); a != nil && a.silent() {
			continue
		}
		names = append(names, q)
		if caps != nil {
			most = append(most, caps[i])
		}
	}
	return names, most
}

func (f *fetcher) awaiterOf(queue string) *awaiter {
	for _, a := range f.awaiters {
		if a.queue == queue {
			return a
		}
	}
	return nil
}

// emptyLooks is after how many looks in a row that found a queue empty the fetcher lets its awaiter wait for it: one that jobs trickle into
// would otherwise cost a wait for each.
const emptyLooks = 2

// learnEmpty finds the queues that had nothing: those that gave nothing although the limits would have allowed it.
func (f *fetcher) learnEmpty(names []string, room int, l queues.Limits, jobs []queues.Fetched) {
	left, gave := l.Budgets, make([]int, len(names))
	for i := range jobs {
		at := slices.Index(names, jobs[i].Ref.Queue)
		if at < 0 {
			continue
		}
		gave[at]++
		left[0] -= l.Costs[at][0]
		left[1] -= l.Costs[at][1]
	}
	for i, q := range names {
		a := f.awaiterOf(q)
		switch {
		case a == nil:
		case gave[i] > 0:
			a.empty = 0
			a.found.Store(false)
		case len(jobs) < room && left[0] >= l.Costs[i][0] && left[1] >= l.Costs[i][1]:
			if a.found.Swap(false) {
				a.vain.Store(true)
			}
			if a.empty++; a.empty >= emptyLooks {
				a.watch()
			}
		}
	}
}

// next is the order of the owned queues for this fetch, and with goals how many jobs to take of each at most; else caps is nil.
func (f *fetcher) next(room int) (order []string, caps []int) {
	if f.picks != nil {
		return f.picks.order(room)
	}
	return f.order(), nil
}

// within bounds what is taken from each queue, and nothing else.
func within(caps []int) queues.Limits {
	if caps == nil {
		return queues.Limits{}
	}
	return queues.Limits{Costs: make([][2]float64, len(caps)), Most: caps}
}

// call makes one call that takes jobs and sends them on their way. kind "" is a look for jobs of lost replies.
func (f *fetcher) call(ctx context.Context, kind string, do func(context.Context, *queues.Session) ([]queues.Fetched, error)) (int, error) {
	book := f.bookNew
	if kind == "" {
		book = f.book
	}
	items, took, err := f.take(ctx, do, book)
	if err != nil {
		return 0, err
	}
	if kind != "" {
		f.observer.Fetched(kind, len(items), took)
	}
	if len(items) > 0 {
		f.unread.Add(int64(len(items)))
		f.booked <- items
	}
	return len(items), nil
}

// take makes the call and puts the jobs on the books before the session can change.
func (f *fetcher) take(
	ctx context.Context, do func(context.Context, *queues.Session) ([]queues.Fetched, error), book func(*queues.Session, []queues.Fetched) []*item,
) ([]*item, time.Duration, error) {
	f.keeper.steady.RLock()
	defer f.keeper.steady.RUnlock()
	session := f.keeper.current()
	callCtx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	start := time.Now()
	jobs, err := do(callCtx, session)
	if errors.Is(err, queues.ErrLeaseLost) {
		return nil, 0, &lostError{session}
	}
	took := time.Since(start)
	if err != nil || len(jobs) == 0 {
		return nil, took, err
	}
	return book(session, jobs), took, nil
}

// lostError says whose lease is gone.
type lostError struct{ session *queues.Session }

func (*lostError) Error() string { return queues.ErrLeaseLost.Error() }

// pace sets the pause before the next look at the shared queues: none while looks are fruitful, 20 ms when there are jobs of others,
// growing to a second when there is nothing for us.
func (f *fetcher) pace(taken, looked, asked int) {
	switch {
	case taken >= asked || taken >= max(1, looked/2):
		f.lookPause = 0
	case taken > 0 || f.lookPause == 0:
		f.lookPause = lookBusy
	case looked > 0:
		f.lookPause = min(f.lookPause*3/2, lookIdle/4)
	default:
		f.lookPause = min(f.lookPause*2, lookIdle)
	}
	f.lookAfter = time.Now().Add(f.lookPause)
}

// waitForJobs waits until an owned queue has something or the next look is due.
func (f *fetcher) waitForJobs(ctx context.Context) {
	wait := awaitFor
	if len(f.look.Queues) > 0 {
		wait = min(wait, max(time.Until(f.lookAfter), time.Millisecond))
	}
	for _, a := range f.awaiters {
		switch {
		case f.foreign == nil:
			signal(a.arm)
		case slices.Contains(f.open, a.queue): // one that there is no room for would wake us at once
			a.watch()
		}
	}
	var room <-chan struct{}
	if f.foreign != nil { // a queue may have been left alone for want of room
		room = f.lane.room
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-f.wake:
	case <-room:
	}
}

// await blocks on one owned queue whenever the fetcher has found nothing, and wakes it up. One goroutine for each owned queue.
//
// When the fetch after a wake-up brought nothing, either somebody else was quicker, and blocking again costs nothing, or the queue is
// paused, and would wake us at once again: then the next look waits, up to a second. Other queues are not delayed by that.
func (f *fetcher) await(ctx context.Context, a *awaiter) error {
	var pause time.Duration
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.arm:
		}
		if a.vain.Swap(false) && f.waiting(ctx, a.queue) {
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			sleep(ctx, pause)
		} else {
			pause = 0
		}
		for ctx.Err() == nil {
			found, err := f.store.Await(ctx, a.queue, awaitFor)
			if err != nil && ctx.Err() == nil {
				f.observer.RedisError("await")
				sleep(ctx, time.Second)
			}
			if found {
				a.found.Store(true)
				signal(f.wake)
				break
			}
		}
	}
}

// waiting is true when jobs wait in a queue, or when Redis does not say.
func (f *fetcher) waiting(ctx context.Context, queue string) bool {
	callCtx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	n, err := f.store.Client().LLen(callCtx, f.store.Key("queue:"+queue)).Result()
	return err != nil || n > 0
}

// recover handles a fetch that failed. Its reply may be lost although the jobs were moved.
func (f *fetcher) recover(fetchCtx, workCtx context.Context, cause error, errs int) {
	if lost, ok := errors.AsType[*lostError](cause); ok {
		if cause = f.keeper.lost(workCtx, lost.session); cause == nil {
			return
		}
	}
	f.observer.RedisError("fetch")
	if errs == 1 {
		f.log.WarnContext(workCtx, "fetch failed, trying again", slog.Any("err", cause))
	}
	// A command that we gave up can still be on its way, so one look is not enough.
	now := time.Now()
	f.doubts = append(f.doubts[:0], now, now.Add(2*time.Second), now.Add(15*time.Second))
	sleep(fetchCtx, time.Second/2+rand.N(time.Second/2))
}

// reconcile takes over what is in flight and unknown here after a lost reply, when a look is due. False when it could not look: then
// nothing may be fetched, for nobody would look again.
func (f *fetcher) reconcile(ctx context.Context) bool {
	now := time.Now()
	if len(f.doubts) == 0 || now.Before(f.doubts[0]) {
		return true
	}
	n, err := f.call(ctx, "", func(ctx context.Context, session *queues.Session) ([]queues.Fetched, error) {
		return session.Unknown(ctx, f.lane.known)
	})
	if lost, ok := errors.AsType[*lostError](err); ok {
		err = f.keeper.lost(ctx, lost.session) // what was in flight under it is not ours any more
	}
	if err != nil {
		f.observer.RedisError("fetch")
		return false
	}
	for len(f.doubts) > 0 && !now.Before(f.doubts[0]) {
		f.doubts = f.doubts[1:]
	}
	if n > 0 {
		f.log.InfoContext(ctx, "took over jobs whose fetch reply was lost", slog.Int("jobs", n))
	}
	return true
}
