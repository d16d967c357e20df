package worker

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/queueville/queueville/queues"
)

// metricClasses bounds the classes that execution metrics are kept for between two heartbeats.
const metricClasses = 200

// counts are Sidekiq's statistics since the last heartbeat. A number is subtracted only after Redis has it.
type counts struct {
	processed atomic.Int64
	failed    atomic.Int64
	metrics   *queues.ExecStats // nil when neither format is wanted
}

type takenCounts struct {
	processed, failed int64
	metrics           *queues.ExecStats
}

func newCounts(v7, v8 bool) *counts {
	c := &counts{}
	if v7 || v8 {
		c.metrics = queues.NewExecStats(v7, v8, metricClasses)
	}
	return c
}

// end counts a job that was run. What was deferred, given back, forwarded or dropped was not.
func (c *counts) end(e *End) {
	ran := e.Result == Acked || e.Result == Retried || e.Result == Discarded || e.Result == Dead
	if !ran || e.Foreign || e.Label == "malformed" {
		return
	}
	failed := e.Result != Acked
	c.processed.Add(1)
	if failed {
		c.failed.Add(1)
	}
	if c.metrics != nil {
		c.metrics.Add(e.Class, time.Now(), e.Run, failed)
	}
}

func (c *counts) take() takenCounts {
	t := takenCounts{processed: c.processed.Swap(0), failed: c.failed.Swap(0)}
	if c.metrics != nil {
		t.metrics = c.metrics.Take()
	}
	return t
}

func (c *counts) putBack(processed, failed int64) {
	c.processed.Add(processed)
	c.failed.Add(failed)
}

func (c *counts) mergeBack(m *queues.ExecStats) {
	if c.metrics != nil && m != nil {
		c.metrics.Merge(m)
	}
}

// flush writes what is left at the end.
func (c *counts) flush(ctx context.Context, store *queues.Store, log *slog.Logger) {
	t := c.take()
	if err := store.FlushStats(ctx, time.Now(), t.processed, t.failed); err != nil {
		log.WarnContext(ctx, "last counts not written", slog.Int64("processed", t.processed), slog.Any("err", err))
	}
	if t.metrics != nil {
		if err := store.FlushMetrics(ctx, t.metrics); err != nil {
			log.WarnContext(ctx, "last metrics not written", slog.Any("err", err))
		}
	}
}
