package worker

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/queueville/queueville/internal/redistest"
	"github.com/queueville/queueville/queues"
)

// sharing makes a worker a sidecar of queues that others serve too.
func sharing(names ...string) func(*Config) {
	return func(c *Config) { c.Owned, c.ForeignTo, c.Shared = nil, "", names }
}

func TestSharedQueueLeavesOthersInTheirOrder(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	var foreign []string
	for i := range 150 {
		other := job("Ruby::Worker", 10_000+i, "")
		foreign = append(foreign, other)
		r.push("push", other, job(native, i, ""))
	}
	r.start(f, one, sharing("push"))
	// A look goes 160 jobs deep, and foreign jobs stay: natives behind that depth wait for Ruby to do its part.
	r.eventually("the natives within the window are run", func() bool { return f.results()[Acked] >= 100 })
	for range 4 {
		time.Sleep(50 * time.Millisecond)
		for range 40 { // Ruby
			if got, _ := r.client.RPop(r.ctx(), "queue:push").Result(); got != "" {
				require.Equal(t, foreign[0], got, "Ruby meets its jobs in their order")
				foreign = foreign[1:]
				if len(foreign) == 0 {
					break
				}
			}
		}
	}
	r.eventually("all natives are run", func() bool { return f.results()[Acked] == 150 })
	require.True(t, slices.IsSorted(f.started()) || len(f.started()) == 150)
	require.Zero(t, r.inFlight())
}

func TestSharedQueueBacksOff(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	r, f := rigOn(t, server.Addr()), newFake()
	w := r.start(f, sharing("push"), func(c *Config) {
		c.LeaseTTL, c.RenewEvery, c.AdoptEvery = 30*time.Second, 5*time.Second, 10*time.Second
	})
	time.Sleep(2 * time.Second)
	before := r.calls("evalsha")
	time.Sleep(3 * time.Second)
	idle := r.calls("evalsha") - before
	require.LessOrEqual(t, idle, 5, "a look a second when there is nothing")

	for i := range 50 {
		r.push("push", job("Ruby::Worker", i, ""))
	}
	time.Sleep(1500 * time.Millisecond)
	before = r.calls("evalsha")
	time.Sleep(2 * time.Second)
	others := r.calls("evalsha") - before
	require.LessOrEqual(t, others, 12, "a look each quarter of a second at jobs of others")
	t.Logf("idle %d looks in 3 s, among jobs of others %d in 2 s", idle, others)

	r.push("push", natives(1000, 500, "")...)
	began := time.Now()
	r.eventually("natives found", func() bool { return f.results()[Acked] >= 100 })
	require.Less(t, time.Since(began), 8*time.Second)
	w.stop()
}

func TestSharedShare(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	const share, jobs = 500, 4000 // 5 %
	want := map[string]bool{}
	list := natives(0, jobs, "")
	for i := range jobs {
		if queues.InShare(jid(i), share) {
			want[jid(i)] = true
		}
	}
	r.push("push", list...)
	r.start(f, sharing("push"), func(c *Config) { c.Share, c.WindowJobs = share, jobs; c.WindowBytes = 16 << 20 })
	r.eventually("its share is run", func() bool { return f.results()[Acked] == len(want) })
	time.Sleep(300 * time.Millisecond)
	require.Len(t, f.started(), len(want), "and no more")
	for _, id := range f.started() {
		require.True(t, want[id])
	}
	require.InDelta(t, jobs*share/10_000, len(want), 80)
	require.Len(t, r.queue("push"), jobs-len(want))
}

func TestSharedOnlyHost(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	for i := range 50 {
		r.push("push", job(native, 2*i, `"{}",1,"https://chosen.test/inbox"`), job(native, 2*i+1, `"{}",1,"https://other.test/inbox"`))
	}
	r.start(f, sharing("push"), func(c *Config) { c.OnlyHosts = []string{"chosen.test"} })
	r.eventually("50 acked", func() bool { return f.results()[Acked] == 50 })
	time.Sleep(100 * time.Millisecond)
	require.Len(t, r.queue("push"), 50)
	require.Len(t, f.started(), 50)
}

func TestSharedMaxRate(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	r.push("push", natives(0, 500, "")...)
	began := time.Now()
	r.start(f, sharing("push"), func(c *Config) { c.MaxRate = 100 })
	r.eventually("150 acked", func() bool { return f.results()[Acked] >= 150 })
	require.Greater(t, time.Since(began), 400*time.Millisecond)
}

func TestOwnedAndSharedTogether(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	r.push("push", natives(0, 300, "")...)
	r.push("default", natives(1000, 300, "")...)
	r.push("default", job("Ruby::Worker", 5000, ""))
	r.start(f, func(c *Config) { c.Shared = []string{"default"} })
	r.eventually("all acked", func() bool { return f.results()[Acked] == 600 })
	require.Len(t, r.queue("default"), 1)
}
