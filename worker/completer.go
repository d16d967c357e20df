package worker

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/queueville/queueville/queues"
)

const (
	completeBatch   = 500                    // outcomes per script call at most
	completeLinger  = 10 * time.Millisecond  // how long the first outcome of a batch waits for company
	completeForeign = 25 * time.Millisecond  // the same where Ruby runs jobs, some hundred a second at most: a call costs about a hundredth of such a job
	completeTimeout = 5 * time.Second        // one call
	completeBackoff = 100 * time.Millisecond // first pause after an error, doubled up to 2 s
)

// completer is the only writer of outcomes. Outcomes are data on a channel, so none of them depends on a context that may have ended;
// each is retried until Redis has it or the process is told to give up.
type completer struct {
	in       chan settlement // written by processors, the fetcher and the lane; capacity of the window, so that nobody waits
	lane     *lane
	keeper   *keeper
	observer Observer
	log      *slog.Logger
	ended    func(settlement) // counts, after Redis has it
	linger   time.Duration    // completeLinger or completeForeign
}

// Run writes outcomes until finish is closed and nothing is left, or ctx ends: then what is left stays in the in-flight set, to be adopted.
func (c *completer) Run(ctx context.Context, finish <-chan struct{}) error {
	batch := make([]settlement, 0, completeBatch)
	for {
		batch = batch[:0]
		select {
		case s := <-c.in:
			batch = append(batch, s)
		case <-finish:
			if len(c.in) == 0 {
				return nil
			}
		}
		c.fill(&batch)
		c.lane.sortReturns(batch)
		if !c.flush(ctx, batch) {
			c.log.WarnContext(ctx, "outcomes not written, left to adoption", slog.Int("jobs", len(batch)+len(c.in)))
			return nil
		}
	}
}

// fill gathers more outcomes for a short while, and stops at once when nothing runs that could bring one.
func (c *completer) fill(batch *[]settlement) {
	timer := time.NewTimer(c.linger)
	defer timer.Stop()
	for len(*batch) < completeBatch {
		select {
		case s := <-c.in:
			*batch = append(*batch, s)
		case <-c.lane.idle:
			if len(c.in) == 0 {
				return
			}
		case <-timer.C:
			return
		}
	}
}

// flush writes one batch. False only when ctx ended first.
func (c *completer) flush(ctx context.Context, batch []settlement) bool {
	pause := completeBackoff
	unsure := false // an earlier call may have been carried out although we did not hear of it
	for {
		session, live, err := c.write(ctx, batch, unsure)
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		if errors.Is(err, queues.ErrLeaseLost) {
			err = c.keeper.lost(ctx, session)
		}
		if err != nil {
			unsure = true
			c.observer.RedisError("complete")
			c.log.WarnContext(ctx, "outcomes not written yet", slog.Int("jobs", len(live)), slog.Any("err", err))
			if !sleep(ctx, pause/2+rand.N(pause)) {
				return false
			}
			pause = min(2*pause, 2*time.Second)
		}
		batch = live
	}
}

// write sends what can still be carried out, live, and takes it off the books. An error leaves it all to be written again.
func (c *completer) write(ctx context.Context, batch []settlement, unsure bool) (session *queues.Session, live []settlement, err error) {
	c.keeper.steady.RLock()
	defer c.keeper.steady.RUnlock()
	session, live, dropped, refs := c.lane.split(batch)
	c.drop(dropped)
	if len(live) == 0 {
		return session, nil, nil
	}
	list := make([]queues.Completion, len(live))
	for i := range live {
		s := &live[i]
		list[i] = queues.Completion{Ref: refs[i], Op: s.op, Payload: s.payload, At: s.at, Queue: s.queue}
	}
	callCtx, cancel := context.WithTimeout(ctx, completeTimeout)
	defer cancel()
	held, err := session.Complete(callCtx, list)
	if err != nil {
		return session, live, err
	}
	c.lane.forget(live)
	for i := range live {
		if !held[i] && !unsure {
			live[i].event.Result, live[i].event.Label = Dropped, "not held"
		}
		c.ended(live[i])
	}
	return session, nil, nil
}

func (c *completer) drop(list []settlement) {
	for i := range list {
		list[i].event.Result, list[i].event.Label = Dropped, "lease lost"
		c.ended(list[i])
	}
}

// sleep waits for d; false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
