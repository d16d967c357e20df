package sidecar_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/queueville/queueville/internal/mastodonenv"
	"github.com/queueville/queueville/internal/mastodontest"
	"github.com/queueville/queueville/internal/sidecar"
	"github.com/queueville/queueville/internal/status"
	"github.com/queueville/queueville/queues"
	"github.com/queueville/queueville/worker"
)

// A worker with adaptive limits says in `status` what each lane may do and what binds it, and writes its first limit into the journal.
func TestAdaptiveLimitsAreShown(t *testing.T) {
	t.Parallel()
	m := mastodontest.New(t)
	o := sidecar.DefaultOptions()
	o.Mastodon, o.Metrics, o.Limits, o.Shared = m.Dir, "", "adaptive", []string{"push"}
	s, problems := sidecar.New(t.Context(), o, sidecar.Env{
		Version: "test", Log: slog.New(slog.DiscardHandler), Tune: func(c *worker.Config) { c.BeatEvery = 100 * time.Millisecond },
	})
	if err := mastodonenv.Errors(problems); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	store := queues.NewStore(m.Redis, "")
	limit := func() *status.Limit {
		st, err := status.Read(ctx, store)
		if err != nil {
			t.Fatal(err)
		}
		for i := range st.Processes {
			if w := st.Processes[i].Worker; w != nil && len(w.Limits) == 1 {
				return &w.Limits[0]
			}
		}
		return nil
	}
	deadline := time.Now().Add(10 * time.Second)
	var l *status.Limit
	for l == nil || l.Bound != "demand" {
		if time.Now().After(deadline) {
			t.Fatalf("limits shown: %+v", l)
		}
		time.Sleep(20 * time.Millisecond)
		l = limit()
	}
	if l.Lane != worker.LaneNative || l.Limit != 32 || l.Running != 0 {
		t.Errorf("%+v", l)
	}
	if got := s.Worker.Load().Concurrency; got != 32 {
		t.Errorf("the worker runs up to %d jobs at once, want 32", got)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
