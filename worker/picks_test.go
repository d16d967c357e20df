package worker

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/queueville/queueville/queues"
	"github.com/queueville/queueville/scheduler"
)

// aged is a job that was enqueued some seconds ago.
func aged(n int, seconds float64) string {
	now := float64(time.Now().UnixMilli()) / 1000
	return strings.Replace(job(native, n, ""), `"enqueued_at":1795291060.2779928`, fmt.Sprintf(`"enqueued_at":%.3f`, now-seconds), 1)
}

// A flooded queue that is hours late does not hold up one with a tighter goal, and goes on by its share all the same.
func TestGoalsKeepAFloodFromHoldingUpOthers(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	f.do = func(context.Context, *queues.Job) Outcome {
		time.Sleep(time.Millisecond)
		return Outcome{Kind: Done, Label: "done"}
	}
	for i := range 3000 {
		r.push("ingress", aged(i, 7200))
	}
	for i := range 300 {
		r.push("default", aged(10_000+i, 0))
	}
	l := r.start(f, one, func(c *Config) {
		c.Owned = []scheduler.Queue{{Name: "ingress"}, {Name: "default"}}
		c.Policy, c.Goals, c.Window = scheduler.PolicyGoals, scheduler.MastodonGoals(), 8
	})
	r.eventually("default is done", func() bool { return len(r.queue("default")) == 0 })
	flood := 0
	for _, id := range f.started() {
		if id <= jid(2999) {
			flood++
		}
	}
	require.Greater(t, flood, 10, "late jobs have a share")
	require.Less(t, flood, 300, "the flood held up the others")
	views := l.Queues()
	require.Len(t, views, 2)
	r.eventually("the backlog is known", func() bool { v := l.Queues()[0]; return v.Backlog > 100 && v.HeadAge > time.Hour })
	r.eventually("everything is done", func() bool { return f.results()[Acked] == 3300 })
}

// Sidekiq's strict order although there are weights, because somebody said so.
func TestPolicyStrictWithWeights(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	for i := range 100 {
		r.push("second", aged(i, 0))
		r.push("first", aged(1000+i, 0))
	}
	r.start(f, one, func(c *Config) {
		c.Owned = []scheduler.Queue{{Name: "first", Weight: 1}, {Name: "second", Weight: 100}}
		c.Policy, c.Window = scheduler.PolicyStrict, 4
	})
	r.eventually("everything is done", func() bool { return f.results()[Acked] == 200 })
	require.Equal(t, jid(1000), f.started()[0])
	require.Equal(t, jid(0), f.started()[100])
}

func TestUnknownPolicyIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	cfg := r.config(newFake())
	cfg.Policy = "fifo"
	_, err := New(cfg)
	require.ErrorContains(t, err, `unknown policy "fifo"`)
}

// What the lane measures is what it did, and that it was full.
func TestSample(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	f.do = func(context.Context, *queues.Job) Outcome {
		time.Sleep(20 * time.Millisecond)
		return Outcome{Kind: Done, Label: "done"}
	}
	r.push("push", natives(0, 60, "")...)
	l := r.startWith(f, func(w *Worker) { w.Sample(time.Now()) }, func(c *Config) { c.Concurrency = 2 })
	r.eventually("half are done", func() bool { return f.results()[Acked] >= 30 })
	s := l.Sample(time.Now())
	require.Equal(t, LaneNative, s.Name)
	require.GreaterOrEqual(t, s.Done, 30.0)
	require.Greater(t, s.Running, 1.0)
	require.LessOrEqual(t, s.Running, 2.0)
	require.Greater(t, s.Full, 0.5)
	require.InDelta(t, 0.025, s.Wall, 0.02)
	l.Resize(20)
	r.eventually("everything is done", func() bool { return f.results()[Acked] == 60 })
	l.Sample(time.Now())
	time.Sleep(50 * time.Millisecond)
	idle := l.Sample(time.Now())
	require.Zero(t, idle.Running)
	require.Zero(t, idle.Full)
}
