package worker

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"golang.org/x/time/rate"

	"github.com/queueville/queueville/queues"
)

const (
	fetchBatch   = 500                   // jobs per script call at most
	fetchTimeout = 5 * time.Second       // one call
	fetchLinger  = 10 * time.Millisecond // how long a little room waits to become more
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
	owned    bool            // there are owned queues
	look     queues.Look     // shared queues; Max is set per call
	limiter  *rate.Limiter
	accept   func(*queues.Session, []queues.Fetched)
	observer Observer
	log      *slog.Logger

	wake chan struct{}            // an owned queue has something; capacity 1
	arm  map[string]chan struct{} // asks the awaiter of a queue to wait; capacity 1

	lookAfter time.Time     // no look at shared queues before this
	lookPause time.Duration // the pause after the last look
	idleFor   time.Duration // the pause after the last fruitless owned fetch that a wake-up had promised to be fruitful
}

// Run fetches until fetchCtx ends. Calls to Redis are made under workCtx, so that a stop does not lose their replies.
func (f *fetcher) Run(fetchCtx, workCtx context.Context) error {
	errs := 0
	for fetchCtx.Err() == nil {
		room := f.allowance()
		if room == 0 || room < f.lane.window/8 && !f.lane.hungry() {
			f.waitForRoom(fetchCtx)
			if room = f.allowance(); room == 0 {
				continue
			}
		}
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
		if got > 0 {
			f.idleFor = 0
			continue
		}
		f.waitForJobs(fetchCtx)
	}
	return nil
}

// allowance is how many jobs may be fetched now.
func (f *fetcher) allowance() int {
	n := min(f.lane.free(), fetchBatch)
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
	case <-t.C:
	}
}

// fetch asks the owned queues and then, when their turn has come, the shared ones.
func (f *fetcher) fetch(ctx context.Context, room int) (int, error) {
	session := f.keeper.current()
	got := 0
	if f.owned {
		jobs, err := f.call(ctx, "owned", func(ctx context.Context) ([]queues.Fetched, error) {
			return session.Fetch(ctx, f.order(), room)
		})
		if err != nil {
			return 0, err
		}
		f.accept(session, jobs)
		got = len(jobs)
	}
	if len(f.look.Queues) > 0 && got < room && !time.Now().Before(f.lookAfter) {
		look := f.look
		look.Max = room - got
		looked := 0
		jobs, err := f.call(ctx, "shared", func(ctx context.Context) (jobs []queues.Fetched, err error) {
			jobs, looked, err = session.FetchShared(ctx, look)
			return jobs, err
		})
		if err != nil {
			return 0, err
		}
		f.accept(session, jobs)
		f.pace(len(jobs), looked, look.Max)
		got += len(jobs)
	}
	return got, nil
}

func (f *fetcher) call(ctx context.Context, kind string, do func(context.Context) ([]queues.Fetched, error)) ([]queues.Fetched, error) {
	callCtx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	start := time.Now()
	jobs, err := do(callCtx)
	if err == nil {
		f.observer.Fetched(kind, len(jobs), time.Since(start))
	}
	return jobs, err
}

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
	for _, arm := range f.arm {
		signal(arm)
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
		f.idleFor = 0
	case <-f.wake:
		// The queue has something. If the last wake-up came to nothing (the queue is paused, or somebody else was quicker),
		// do not spin on it.
		if f.idleFor > 0 && !sleep(ctx, f.idleFor) {
			return
		}
		f.idleFor = min(max(2*f.idleFor, 5*time.Millisecond), time.Second)
	}
}

// await blocks on one owned queue whenever the fetcher has found nothing, and wakes it up. One goroutine for each owned queue.
func (f *fetcher) await(ctx context.Context, queue string) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.arm[queue]:
		}
		for ctx.Err() == nil {
			found, err := f.store.Await(ctx, queue, awaitFor)
			if err != nil && ctx.Err() == nil {
				f.observer.RedisError("await")
				sleep(ctx, time.Second)
			}
			if found {
				signal(f.wake)
				break
			}
		}
	}
}

// recover handles a fetch that failed. Its reply may be lost although the jobs were moved, so what is in flight and unknown here is taken over.
func (f *fetcher) recover(fetchCtx, workCtx context.Context, cause error, errs int) {
	session := f.keeper.current()
	if errors.Is(cause, queues.ErrLeaseLost) {
		if err := f.keeper.lost(workCtx, session); err == nil {
			return
		}
	}
	f.observer.RedisError("fetch")
	if errs == 1 {
		f.log.WarnContext(workCtx, "fetch failed, trying again", slog.Any("err", cause))
	}
	if !sleep(fetchCtx, time.Second/2+rand.N(time.Second/2)) {
		return
	}
	callCtx, cancel := context.WithTimeout(workCtx, fetchTimeout)
	defer cancel()
	jobs, err := session.Unknown(callCtx, f.lane.known)
	if err != nil || session != f.keeper.current() {
		return
	}
	if len(jobs) > 0 {
		f.log.InfoContext(workCtx, "took over jobs whose fetch reply was lost", slog.Int("jobs", len(jobs)))
		f.accept(session, jobs)
	}
}
