package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/queueville/queueville/queues"
)

// leaseMargin is how long before the lease's end nothing new starts, for a lease of the usual 30 s: clocks, scheduling and the network
// are not exact.
const leaseMargin = 5 * time.Second

// margin is a sixth of shorter leases.
func margin(ttl time.Duration) time.Duration { return min(leaseMargin, ttl/6) }

// rotateTimeout bounds finding out why a lease was lost and registering again.
const rotateTimeout = 10 * time.Second

// keeper keeps this process's registration: the lease, and what to do when it is lost.
type keeper struct {
	store    *queues.Store
	holder   queues.Holder
	ttl      time.Duration
	every    time.Duration
	lane     *lane
	log      *slog.Logger
	observer Observer
	dropped  func([]*item) // unstarted jobs that are no longer ours

	renewed atomic.Pointer[time.Time] // when the last successful renewal was sent; written here, read by the lane

	// Held for reading from the sending of a fetch until its jobs are on the books, and from the sending of outcomes until their jobs
	// are off; for writing while the session changes. So a job is never in the old session's hash, nor in the new one's, without being
	// on the books. Never wait for anything but Redis with it: a waiting writer stops readers.
	steady sync.RWMutex
}

// register makes the first registration.
func (k *keeper) register(ctx context.Context) error {
	sent := time.Now()
	s, _, err := k.store.Register(ctx, k.holder, k.ttl, nil)
	if err != nil {
		return fmt.Errorf("register: %w", err)
	}
	k.lane.begin(s)
	k.renewed.Store(&sent)
	return nil
}

// Fresh is true while the lease certainly lives. The monotonic clock stands still while a machine is suspended and the wall clock
// jumps when it is set, so the lease counts as in doubt as soon as either says that too much time has passed.
func (k *keeper) fresh(now time.Time) bool {
	sent := k.renewed.Load()
	if sent == nil {
		return false
	}
	mono := now.Sub(*sent)
	wall := now.Round(0).Sub(sent.Round(0))
	return max(mono, wall) < k.ttl-margin(k.ttl)
}

// current is the session in force.
func (k *keeper) current() *queues.Session {
	k.lane.mu.Lock()
	defer k.lane.mu.Unlock()
	return k.lane.session
}

// Run renews the lease until ctx ends.
func (k *keeper) Run(ctx context.Context) error {
	wait := k.every
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = k.every
		if err := k.renew(ctx); err != nil && ctx.Err() == nil {
			k.observer.RedisError("renew")
			k.log.WarnContext(ctx, "lease not renewed", slog.Any("err", err))
			wait = time.Second
		}
	}
}

func (k *keeper) renew(ctx context.Context) error {
	s := k.current()
	sent := time.Now()
	callCtx, cancel := context.WithTimeout(ctx, k.every)
	defer cancel()
	err := s.Renew(callCtx)
	if errors.Is(err, queues.ErrLeaseLost) {
		return k.lost(ctx, s)
	}
	if err != nil {
		return err
	}
	k.renewed.Store(&sent)
	k.lane.kick() // processors have gone if the lease was in doubt at any time since the last renewal
	return nil
}

// lost replaces a session whose lease is gone. What had not started is dropped: another worker has it or will have it. Only if Redis has
// forgotten (a new generation) nobody else can have it, and everything in hand is written into the new session.
func (k *keeper) lost(ctx context.Context, s *queues.Session) error {
	k.steady.Lock()
	defer k.steady.Unlock()
	if k.current() != s {
		return nil // somebody was quicker
	}
	ctx, cancel := context.WithTimeout(ctx, rotateTimeout)
	defer cancel()
	generation, err := k.store.Generation(ctx)
	if err != nil {
		return fmt.Errorf("read generation: %w", err)
	}
	if generation == s.Generation() {
		return k.replace(ctx)
	}
	return k.restore(ctx)
}

func (k *keeper) replace(ctx context.Context) error {
	sent := time.Now()
	s, _, err := k.store.Register(ctx, k.holder, k.ttl, nil)
	if err != nil {
		return fmt.Errorf("register again: %w", err)
	}
	unstarted := k.lane.begin(s)
	k.renewed.Store(&sent)
	k.dropped(unstarted)
	k.observer.LeaseLost("expired")
	k.log.WarnContext(ctx, "lease was lost, registered again", slog.Int("dropped", len(unstarted)), slog.Int64("epoch", s.Epoch()))
	return nil
}

func (k *keeper) restore(ctx context.Context) error {
	list := k.lane.inHand()
	fetched := make([]queues.Fetched, len(list))
	for i, it := range list {
		fetched[i] = queues.Fetched{Ref: it.ref, Payload: it.payload}
	}
	sent := time.Now()
	s, refs, err := k.store.Register(ctx, k.holder, k.ttl, fetched)
	if err != nil {
		return fmt.Errorf("register again after Redis forgot: %w", err)
	}
	k.lane.rebook(s, list, refs)
	k.renewed.Store(&sent)
	k.lane.kick()
	k.observer.LeaseLost("redis forgot")
	k.log.WarnContext(ctx, "redis has forgotten this worker, restored what it held", slog.Int("restored", len(list)), slog.Int64("epoch", s.Epoch()))
	return nil
}
