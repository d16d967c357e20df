package worker

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/queueville/queueville/queues"
)

func TestQuietGivesBackInOrder(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	release := make(chan struct{})
	f.do = func(context.Context, *queues.Job) Outcome { <-release; return Outcome{} }
	list := natives(0, 500, "")
	r.push("push", list...)
	w := r.start(f, func(c *Config) { c.Concurrency = 5 })
	r.eventually("five run and the window is full", func() bool { l := w.Load(); return l.Running == 5 && l.InHand == 200 })
	w.Quiet()
	w.Quiet()
	r.eventually("the rest is back", func() bool { return len(r.queue("push")) == 495 })
	require.Equal(t, list[5:], r.queue("push"))
	require.Equal(t, 5, r.inFlight(), "what runs goes on")
	require.Equal(t, 5, w.Load().Running)
	r.push("push", job(native, 9999, ""))
	time.Sleep(100 * time.Millisecond)
	require.Len(t, r.queue("push"), 496, "nothing new is taken")
	close(release)
	r.eventually("five acked", func() bool { return f.results()[Acked] == 5 })
	w.stop()
	require.Len(t, f.started(), 5)
	require.Equal(t, map[Result]int{Acked: 5, Requeued: 195}, f.results())
}

// TestQuietAtAnyMoment: whatever the fetcher is just doing, order and number stay.
func TestQuietAtAnyMoment(t *testing.T) {
	t.Parallel()
	for i := range 25 {
		r, f := newRig(t), newFake()
		f.do = func(context.Context, *queues.Job) Outcome { time.Sleep(time.Millisecond); return Outcome{} }
		list := natives(0, 3000, "")
		r.push("push", list...)
		w := r.start(f)
		time.Sleep(time.Duration(i) * 2 * time.Millisecond)
		w.Quiet()
		r.eventually("nothing waits or runs", func() bool { return w.Load().InHand == 0 && r.inFlight() == 0 && w.idle() })
		w.stop()
		left := r.queue("push")
		require.Equal(t, 3000, len(left)+len(f.started()))
		require.True(t, slices.Equal(list[3000-len(left):], left), "round %d: the youngest stay, in their order", i)
	}
}

// idle is true when the fetcher has ended.
func (w *Worker) idle() bool {
	select {
	case <-w.fetched:
		return true
	default:
		return false
	}
}

func TestStopLetsRunningJobsFinish(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	f.do = func(context.Context, *queues.Job) Outcome { time.Sleep(300 * time.Millisecond); return Outcome{} }
	list := natives(0, 100, "")
	r.push("push", list...)
	w := r.start(f, func(c *Config) { c.Concurrency = 10 })
	r.eventually("ten run", func() bool { return w.Load().Running == 10 })
	w.stop()
	require.Equal(t, map[Result]int{Acked: 10, Requeued: 90}, f.results())
	require.Equal(t, list[10:], r.queue("push"))
	require.Empty(t, r.holders())
	require.Empty(t, r.client.Keys(r.ctx(), "queueville:inflight:*").Val())
	require.Empty(t, r.client.Keys(r.ctx(), "queueville:lease:*").Val())
	require.Empty(t, r.client.SMembers(r.ctx(), "processes").Val())
	require.Equal(t, "10", r.client.Get(r.ctx(), "stat:processed").Val())
}

func TestStopTimeout(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	f.do = func(ctx context.Context, _ *queues.Job) Outcome {
		<-ctx.Done()
		if context.Cause(ctx) != ErrStopping { //nolint:errorlint // the cause itself is what is promised
			return Outcome{Kind: Failed, ErrorClass: "wrong cause"}
		}
		return Outcome{Kind: Returned}
	}
	list := natives(0, 50, "")
	r.push("push", list...)
	w := r.start(f, func(c *Config) { c.Concurrency, c.StopTimeout = 10, 300*time.Millisecond })
	r.eventually("ten run", func() bool { return w.Load().Running == 10 })
	began := time.Now()
	w.stop()
	require.Less(t, time.Since(began), 20*time.Second)
	require.Equal(t, list, r.queue("push"), "original bytes, the oldest next, also those that had run")
	require.Equal(t, map[Result]int{Requeued: 50}, f.results())
}

func TestStopTimeoutAndDeafHandlers(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	release := make(chan struct{})
	defer close(release)
	f.do = func(context.Context, *queues.Job) Outcome {
		<-release
		return Outcome{Kind: Failed, ErrorClass: "late"}
	}
	list := natives(0, 50, "")
	r.push("push", list...)
	w := r.start(f, func(c *Config) { c.Concurrency, c.StopTimeout = 10, 300*time.Millisecond })
	r.eventually("ten run", func() bool { return w.Load().Running == 10 })
	began := time.Now()
	w.stop()
	require.Less(t, time.Since(began), unwindTimeout+3*time.Second)
	require.Equal(t, list, r.queue("push"), "given back although their handlers go on")
	require.Empty(t, r.holders())
	require.Empty(t, r.members("retry"))
}

func TestStopWhileRedisIsAway(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	p := r.proxy()
	r.push("push", natives(0, 50, "")...)
	started := make(chan struct{}, 100)
	f.do = func(context.Context, *queues.Job) Outcome {
		started <- struct{}{}
		time.Sleep(200 * time.Millisecond)
		return Outcome{}
	}
	w := r.start(f, through(r, p.Addr()), func(c *Config) { c.Concurrency = 10 })
	<-started
	p.Refuse(true)
	p.Cut()
	began := time.Now()
	w.stop()
	require.Less(t, time.Since(began), 20*time.Second)
	t.Logf("stopped after %v", time.Since(began))
	n, err := r.store.Holders(r.ctx())
	require.NoError(t, err)
	if len(n) == 0 { // the connections were cut too late: it has said goodbye
		require.Equal(t, 50, f.results()[Acked]+len(r.queue("push")), "nothing is lost: acknowledged or given back")
		return
	}
	require.Equal(t, 50, r.inFlight(), "nothing is lost: to be adopted")
}

func TestStopDoesNotRegisterAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for range 10 {
		w := r.start(newFake(), func(c *Config) { c.RenewEvery = 20 * time.Millisecond })
		w.stop()
		require.Empty(t, r.holders())
		require.Empty(t, r.client.Keys(r.ctx(), "queueville:lease:*").Val())
	}
}
