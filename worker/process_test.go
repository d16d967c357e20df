package worker

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/queueville/queueville/queues"
)

// list reads a list of notes of worker processes.
func (r *rig) list(key string) []string {
	r.t.Helper()
	l, err := r.client.LRange(r.ctx(), key, 0, -1).Result()
	require.NoError(r.t, err)
	return l
}

func (r *rig) holders() []queues.HolderState {
	r.t.Helper()
	h, err := r.store.Holders(r.ctx())
	require.NoError(r.t, err)
	return h
}

// elsewhere makes a worker of another machine, which knows of others only by their leases.
func elsewhere(c *Config) { c.Holder.BootID = "another machine" }

func TestFrozenProcess(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	const jobs = 40
	r.push("push", natives(0, jobs, "")...)
	// Five jobs run and fail when they have ended; the rest waits in the lane.
	c := r.startChild(childSpec{Concurrency: 5, Work: 700 * time.Millisecond, Fail: true})
	r.eventually("five have started", func() bool { return len(r.list("started")) >= 5 })
	c.signal(syscall.SIGSTOP)
	started := r.list("started")

	f.delay = time.Hour
	w := r.start(f, elsewhere, func(c *Config) { c.Handlers = []Handler{f} })
	r.eventually("the frozen process's jobs are run by another", func() bool { return f.results()[Acked] == jobs })
	require.Len(t, f.started(), jobs)
	require.Equal(t, jid(0), f.started()[0], "from the oldest on")
	w.stop()

	c.signal(syscall.SIGCONT)
	r.eventually("what ran there has ended", func() bool { return len(r.list("ended")) == len(started) })
	r.eventually("it has registered again", func() bool {
		h := r.holders()
		return len(h) == 1 && h[0].Alive && h[0].Epoch >= 3 // more on a machine so busy that the short lease ends again
	})
	r.push("push", job(native, 9999, ""))
	r.eventually("and works", func() bool { return len(r.members("retry")) == 1 })
	c.signal(syscall.SIGTERM)
	require.Zero(t, c.wait())

	require.Len(t, r.list("started"), len(started)+1, "what had not started there was dropped")
	retries := r.members("retry")
	require.Len(t, retries, 1, "no retry entry for jobs that were somebody else's by then")
	require.Contains(t, retries[0], jid(9999))
	require.NotEmpty(t, r.client.Get(r.ctx(), "child:lost").Val())
	require.Equal(t, fmt.Sprint(jobs), r.client.Get(r.ctx(), "child:dropped").Val(), "each is counted as dropped")
	require.Equal(t, map[string][]string{jid(9999): {"retry"}}, r.where("push"))
}

func TestKilledProcessIsAdoptedWithinTheBound(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	const jobs = 60
	r.push("push", natives(0, jobs, "")...)
	c := r.startChild(childSpec{Concurrency: 5, Work: time.Minute})
	r.eventually("five have started", func() bool { return len(r.list("started")) == 5 })
	r.push("push", natives(1000, 5, "")...) // younger ones behind it, which it takes too
	r.eventually("it has them all", func() bool { return r.inFlight() == jobs+5 })
	c.kill()
	r.push("push", natives(2000, 5, "")...) // and some that nobody has taken
	w := r.start(f, one, elsewhere, func(c *Config) { c.Owned = nil; c.Shared, c.ForeignTo = []string{"nothing"}, "" })
	died := time.Now()
	r.eventually("its jobs are back", func() bool { return len(r.queue("push")) == jobs+10 })
	require.Less(t, time.Since(died), shortLease+2*shortAdopt+2*time.Second) // and what a busy machine adds
	require.Equal(t, append(append(natives(0, jobs, ""), natives(1000, 5, "")...), natives(2000, 5, "")...), r.queue("push"), "in their order, byte for byte")
	w.stop()
	require.Empty(t, r.holders())
}

func TestRestartOnTheSameHostAdoptsAtOnce(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	const jobs = 60
	r.push("push", natives(0, jobs, "")...)
	c := r.startChild(childSpec{Concurrency: 5, Work: time.Minute, Lease: time.Hour, Renew: time.Second})
	r.eventually("five have started and all are in flight", func() bool { return len(r.list("started")) == 5 && r.inFlight() == jobs })
	c.kill()
	began := time.Now()
	r.start(f, one)
	r.eventually("all acked", func() bool { return f.results()[Acked] == jobs })
	require.Less(t, time.Since(began), 30*time.Second, "long before the lease ends")
	want := make([]string, jobs)
	for i := range want {
		want[i] = jid(i)
	}
	require.Equal(t, want, f.started(), "in their order")
}

//nolint:tparallel // the second part goes on where the first has ended
func TestReleaseWithoutAWorker(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.push("push", natives(0, 30, "")...)
	c := r.startChild(childSpec{Concurrency: 5, Work: time.Minute, Lease: time.Hour, Renew: time.Second})
	r.eventually("all are in flight", func() bool { return r.inFlight() == 30 })
	report, err := Release(r.ctx(), r.store)
	require.NoError(t, err)
	require.Empty(t, report.Released)
	require.Len(t, report.Alive, 1, "a live worker is left alone")
	c.kill()
	report, err = Release(r.ctx(), r.store)
	require.NoError(t, err)
	require.Equal(t, 30, report.Released[0].Jobs)
	require.Equal(t, natives(0, 30, ""), r.queue("push"))

	t.Run("jobs whose registration was deleted", func(t *testing.T) {
		c := r.startChild(childSpec{Concurrency: 5, Work: time.Minute, Lease: time.Hour, Renew: time.Hour / 2})
		r.eventually("all are in flight", func() bool { return r.inFlight() == 30 })
		c.kill()
		require.NoError(t, r.client.Del(r.ctx(), "queueville:workers").Err())
		for _, key := range r.client.Keys(r.ctx(), "queueville:lease:*").Val() {
			require.NoError(t, r.client.Del(r.ctx(), key).Err())
		}
		_, err := Release(r.ctx(), r.store)
		require.NoError(t, err)
		require.Equal(t, natives(0, 30, ""), r.queue("push"))
	})
}

func TestTermGivesBackInOrder(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.push("push", natives(0, 100, "")...)
	c := r.startChild(childSpec{Concurrency: 5, Work: 300 * time.Millisecond})
	r.eventually("five have started", func() bool { return len(r.list("started")) == 5 })
	c.signal(syscall.SIGTERM)
	require.Zero(t, c.wait())
	started := r.list("started")
	require.Equal(t, natives(len(started), 100-len(started), ""), r.queue("push"), "unmodified, the oldest next")
	require.Empty(t, r.holders())
	require.Zero(t, r.inFlight())
	require.Empty(t, r.client.SMembers(r.ctx(), "processes").Val())
}

// TestTermWhileOthersFetch: in the absence of faults every job runs exactly once, whoever else is fetching and however often a worker
// comes and goes.
func TestTermWhileOthersFetch(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const jobs = 10_000
	r.push("push", natives(0, jobs, "")...)
	ruby := make(chan []string)
	go func() { // a consumer as Ruby's: BRPOP, one at a time
		var got []string
		for {
			res, err := r.client.BRPop(r.ctx(), time.Second, "queue:push").Result()
			if err != nil {
				ruby <- got
				return
			}
			got = append(got, res[1])
		}
	}()
	runs, stops := map[string]int{}, 0
	for len(r.queue("push")) > 0 {
		f := newFake()
		f.do = func(context.Context, *queues.Job) Outcome { time.Sleep(time.Millisecond); return Outcome{} }
		w := r.start(f)
		stops++
		time.Sleep(15 * time.Millisecond)
		w.stop()
		for _, id := range f.started() {
			runs[id]++
		}
		require.Zero(t, f.results()[Dropped])
	}
	got := <-ruby
	for _, p := range got {
		j, err := queues.ParseJob(p)
		require.NoError(t, err)
		runs[j.JID]++
	}
	t.Logf("%d jobs by %d workers one after the other, %d by BRPOP", jobs-len(got), stops, len(got))
	require.Greater(t, stops, 3)
	require.Len(t, runs, jobs)
	for id, n := range runs {
		require.Equal(t, 1, n, id)
	}
	require.NotEmpty(t, got)
	require.Less(t, len(got), jobs)
	require.Zero(t, r.inFlight())
}

func TestSortedJIDs(t *testing.T) {
	ids := make([]string, 1000)
	for i := range ids {
		ids[i] = jid(i)
	}
	require.True(t, slices.IsSorted(ids), "tests compare orders by it")
	require.False(t, strings.ContainsAny(strings.Join(ids, ""), "ghijklmnopqrstuvwxyz"))
}

func TestIdleProcessCostsNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := r.startChild(childSpec{Concurrency: 5, Lease: 30 * time.Second, Renew: 5 * time.Second})
	ticks := func() int { // of 10 ms, in user and kernel mode
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.cmd.Process.Pid))
		require.NoError(t, err)
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		user, err := strconv.Atoi(fields[11])
		require.NoError(t, err)
		kernel, err := strconv.Atoi(fields[12])
		require.NoError(t, err)
		return user + kernel
	}
	time.Sleep(200 * time.Millisecond)
	before := ticks()
	time.Sleep(4 * time.Second)
	used := ticks() - before
	t.Logf("%d ms of CPU in 4 s", 10*used)
	require.LessOrEqual(t, used, 4, "under one per cent of a core")
}
