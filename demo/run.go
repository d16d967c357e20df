package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

const (
	lookEvery = time.Second            // at Redis and the receivers
	showEvery = 150 * time.Millisecond // progress, from counters only
	// settleTime is how long jobs without an outcome may be nowhere before they count as lost: longer than a completer holds
	// outcomes back, shorter than anybody's patience.
	settleTime = 3 * time.Second
	// patience is the same while the worker says that it is still at work on something.
	patience = 45 * time.Second
	// stopTimeout is for the worker's stop: its own timeout of 25 s and some.
	stopTimeout = 40 * time.Second
)

// Run runs the demo. The summary is printed and returned whenever there is one: with a nil error, with ErrLost, ErrBadSignature and
// ErrUnfinished (joined, the exit status is not 0 then), and with the context's cause when that ended early. Any other error means that
// there was nothing to sum up. A missing server is a *throwaway.MissingError.
func Run(ctx context.Context, o Options, start StartFunc) (*Summary, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("demo: %w", err)
	}
	at := moments{started: time.Now()}
	report := newReporter(&o)
	report.title()
	s, err := build(ctx, &o, report)
	if err != nil {
		report.abort()

		return nil, fmt.Errorf("demo: %w", err)
	}
	summary, err := s.run(ctx, &o, report, start, at)
	keep := summary != nil && summary.Lost+len(summary.DoubledJIDs) > 0
	if summary != nil && (keep || s.keepDir) {
		summary.Dir = s.dir
	}
	err = errors.Join(err, s.close(keep))
	if summary == nil {
		report.abort()

		return nil, fmt.Errorf("demo: %w", err)
	}
	if o.JSON {
		err = errors.Join(err, json.NewEncoder(o.Out).Encode(summary))
	} else {
		err = errors.Join(err, writeText(&o, summary))
	}

	return summary, err
}

// run enqueues, runs the worker and sums up.
func (s *site) run(ctx context.Context, o *Options, report *reporter, start StartFunc, at moments) (*Summary, error) {
	t := newTracker(s)
	if err := s.enqueue(ctx, o.Seed, t.pushed); err != nil {
		return nil, err
	}
	report.done(count(o.Jobs) + " jobs enqueued")
	at.workerStarted = time.Now()
	workerCtx, endWorker := context.WithCancel(context.WithoutCancel(ctx)) // Ctrl-C asks it to stop, below; it does not cut it off
	defer endWorker()
	worker, err := start(workerCtx, s.server)
	if err != nil {
		return nil, fmt.Errorf("start the worker: %w", err)
	}
	watchErr := t.watch(ctx, o, report, worker)
	report.stopping()
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	stopErr := worker.Stop(stopCtx)
	endWorker()
	at.stopped = time.Now()
	report.delivered(len(t.pending))

	// Looking costs a second at most and is worth it after an interrupt too: the counts are true then.
	lookCtx, cancelLook := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancelLook()
	if err := t.look(lookCtx); err != nil {
		return nil, errors.Join(watchErr, stopErr, err)
	}
	result, doubled, err := t.census(lookCtx)
	if err != nil {
		return nil, errors.Join(watchErr, stopErr, err)
	}
	stats := worker.Stats()
	summary := summarise(t, result, doubled, &stats, at)
	summary.Seed, summary.RedisVersion = o.Seed, redisVersion(lookCtx, s.client)
	summary.Interrupted = ctx.Err() != nil

	return summary, errors.Join(watchErr, stopErr, summary.verdict())
}

// verdict is the summary as an error: nil when clean.
func (s *Summary) verdict() error {
	var problems []error
	if s.Lost+len(s.DoubledJIDs) > 0 {
		problems = append(problems, fmt.Errorf("%w: %d, and %d in two places", ErrLost, s.Lost, len(s.DoubledJIDs)))
	}
	if s.BadSignatures+s.BadDigests > 0 {
		problems = append(problems, fmt.Errorf("%w: %d, and %d bad digests", ErrBadSignature, s.BadSignatures, s.BadDigests))
	}
	if s.Untried > s.Lost && !s.Interrupted {
		problems = append(problems, fmt.Errorf("%w: %d left", ErrUnfinished, s.Untried))
	}

	return errors.Join(problems...)
}

// watch shows progress until every job has had its first outcome, nothing moves any more, time is up, the worker has ended, or ctx has:
// its cause is returned then. Errors of Redis while watching are returned at the end only when they last.
func (t *tracker) watch(ctx context.Context, o *Options, report *reporter, worker Worker) error {
	deadline := time.NewTimer(o.Timeout)
	defer deadline.Stop()
	look, show := time.NewTicker(lookEvery), time.NewTicker(showEvery)
	defer look.Stop()
	defer show.Stop()
	var absentSince time.Time
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-deadline.C:
			return nil // the summary says what is left
		case <-worker.Done():
			return errors.New("the worker ended by itself: see its log")
		case <-show.C:
			report.progress(t, worker.Stats())
		case <-look.C:
			settled, err := t.step(ctx, o.settle, worker, &absentSince)
			if err != nil && ctx.Err() == nil {
				return err
			}
			if settled {
				report.progress(t, worker.Stats())

				return nil
			}
		}
	}
}

// step looks once, and says whether there is nothing left to wait for: every job has had its first outcome, or those that have not
// have been nowhere to be found for a while.
func (t *tracker) step(ctx context.Context, settle time.Duration, worker Worker, absentSince *time.Time) (bool, error) {
	if err := t.look(ctx); err != nil || len(t.pending) == 0 {
		return err == nil, err
	}
	absent, looked, err := t.absent(ctx)
	if err != nil {
		return false, err
	}
	missing := t.skipped(absent)
	if len(t.pending) == 0 {
		return true, nil
	}
	if !looked || len(missing) < len(t.pending) {
		*absentSince = time.Time{}

		return false, nil
	}
	if absentSince.IsZero() {
		*absentSince = time.Now()
	}
	if worker.Stats().InFlight > 0 {
		settle = patience // it may hold them in its memory, which is wrong, but the demo waits to see
	}

	return time.Since(*absentSince) > settle, nil
}
