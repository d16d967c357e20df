package worker

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/queueville/queueville/internal/redistest"
	"github.com/queueville/queueville/queues"
	"github.com/queueville/queueville/scheduler"
)

func one(c *Config) { c.Concurrency = 1 }

func TestOwnedQueueIsFirstInFirstOut(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	r.push("push", natives(0, 700, "")...)
	r.start(f, one)
	r.eventually("all jobs acked", func() bool { return f.results()[Acked] == 700 })
	want := make([]string, 700)
	for i := range want {
		want[i] = jid(i)
	}
	require.Equal(t, want, f.started())
	require.Empty(t, r.queue("push"))
	r.eventually("nothing in flight", func() bool { return r.inFlight() == 0 })
}

func TestForeignJobsAreForwardedByteForByteInOrder(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	var foreign []string
	for i := range 400 {
		odd := `{"queue":"push", "class" :"Ruby::Worker" ,"args":[12345678901234567890, 1.0e2, "\u00e9 é"],"jid":"` + jid(i) + `","x":{"a":[]}, "retry":0}`
		foreign = append(foreign, odd)
		r.push("push", odd, job(native, 10_000+i, ""))
	}
	r.start(f)
	r.eventually("everything is settled", func() bool { res := f.results(); return res[Acked] == 400 && res[Forwarded] == 400 })
	require.Equal(t, foreign, r.queue("ruby"))
	member, err := r.client.SIsMember(r.ctx(), "queues", "ruby").Result()
	require.NoError(t, err)
	require.True(t, member, "Ruby finds queues by this set")
	for i := range 400 {
		f.mu.Lock()
		require.Zero(t, f.runs[jid(i)])
		f.mu.Unlock()
	}
}

func TestForeignJobWithNowhereToGoWaitsInSchedule(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	r.push("push", job("Ruby::Worker", 1, ""))
	r.start(f, func(c *Config) { c.ForeignTo = "" })
	r.eventually("it is deferred", func() bool { return f.results()[Deferred] == 1 })
	set := r.set("schedule")
	require.Len(t, set, 1)
	require.Greater(t, set[0].Score, float64(time.Now().Add(50*time.Second).Unix()))
	require.Contains(t, set[0].Member, `"class":"Ruby::Worker"`)
}

func TestBrokenPayloads(t *testing.T) {
	t.Parallel()
	bad := []string{"not json", "[1,2]", `"text"`, "null", "", `{"class":"` + native + `"`, "{\"class\":\"\xff\"", strings.Repeat("[", 5000)}
	r, f := newRig(t), newFake()
	for i, b := range bad {
		r.push("push", b, job(native, i, ""))
	}
	r.start(f)
	r.eventually("everything is settled", func() bool { res := f.results(); return res[Acked] == len(bad) && res[Dead] == len(bad) })
	var buried []string
	for _, b := range bad {
		buried = append(buried, queues.Burial(b))
	}
	require.ElementsMatch(t, buried, r.members("dead"), "byte for byte")
	for _, z := range r.set("dead") {
		require.InDelta(t, float64(time.Now().Unix()), z.Score, 20)
	}
}

func TestArgumentsThatCannotBeRunFailTheJob(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	f.dest = func(args string) (string, error) {
		switch args {
		case `["panic"]`:
			panic("in Destination")
		case `["bad"]`:
			return "", fmt.Errorf("argument 1 is bad")
		}
		return "", nil
	}
	r.push("push", job(native, 1, `"bad"`), job(native, 2, `"panic"`), job(native, 3, `"good"`))
	r.start(f)
	r.eventually("all settled", func() bool { res := f.results(); return res[Acked] == 1 && res[Retried] == 2 })
	require.Contains(t, r.members("retry")[0]+r.members("retry")[1], "argument 1 is bad")
}

func TestLargePayload(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	r.push("push", job(native, 1, `"`+strings.Repeat("x", 10<<20)+`"`), job(native, 2, ""))
	r.start(f)
	r.eventually("both acked", func() bool { return f.results()[Acked] == 2 })
}

//nolint:tparallel // one after the other: each measures what the one before has left
func TestOwnedQueueCosts(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	r, f := rigOn(t, server.Addr()), newFake()
	w := r.start(f, func(c *Config) {
		c.LeaseTTL, c.RenewEvery, c.AdoptEvery, c.Concurrency, c.Window = 30*time.Second, 5*time.Second, 10*time.Second, 64, 0
	})
	t.Run("idle", func(t *testing.T) {
		time.Sleep(100 * time.Millisecond)
		before := r.calls("evalsha", "eval", "blmove", "llen", "lrange", "rpop", "brpop")
		time.Sleep(3 * time.Second)
		n := r.calls("evalsha", "eval", "blmove", "llen", "lrange", "rpop", "brpop") - before
		require.LessOrEqual(t, n, 4*4, "two blocking waits and two fetches with what belongs to them in three seconds")
		t.Logf("idle: %d commands in 3 s", n)
	})
	t.Run("a job wakes it at once", func(t *testing.T) {
		began := time.Now()
		r.push("push", job(native, 1, ""))
		r.eventually("acked", func() bool { return f.results()[Acked] == 1 })
		require.Less(t, time.Since(began), 1900*time.Millisecond, "sooner than the next look without a wake-up")
		t.Logf("from push to ack: %v", time.Since(began))
	})
	t.Run("paused queue", func(t *testing.T) {
		require.NoError(t, r.client.SAdd(r.ctx(), "paused", "push").Err())
		r.push("push", natives(100, 50, "")...)
		time.Sleep(1500 * time.Millisecond) // the pauses grow to a second
		before := r.calls("evalsha", "blmove", "llen")
		time.Sleep(3 * time.Second)
		n := r.calls("evalsha", "blmove", "llen") - before
		require.LessOrEqual(t, n, 200, "it must not spin: that would be thousands")
		t.Logf("paused with jobs waiting: %d commands in 3 s", n)
		require.Len(t, r.queue("push"), 50)
		require.NoError(t, r.client.SRem(r.ctx(), "paused", "push").Err())
		r.eventually("goes on when it is not paused any more", func() bool { return f.results()[Acked] == 51 })
	})
	t.Run("under load", func(t *testing.T) {
		const jobs = 20_000
		before := r.calls("evalsha", "eval", "blmove", "llen")
		r.push("push", natives(1000, jobs, `"`+strings.Repeat("x", 1000)+`"`)...)
		r.eventually("all acked", func() bool { return f.results()[Acked] == 51+jobs })
		n := r.calls("evalsha", "eval", "blmove", "llen") - before
		t.Logf("%d calls for %d jobs: %.4f per job", n, jobs, float64(n)/jobs)
		require.LessOrEqual(t, float64(n)/jobs, 0.1)
	})
	t.Run("a steady trickle", func(t *testing.T) {
		const jobs = 2000
		before := r.calls("evalsha", "eval", "blmove", "llen")
		for i := range jobs / 2 {
			r.push("push", natives(100_000+2*i, 2, "")...)
		}
		r.eventually("all acked", func() bool { return f.results()[Acked] == 51+20_000+jobs })
		n := r.calls("evalsha", "eval", "blmove", "llen") - before
		t.Logf("%d calls for %d jobs that came two by two: %.3f per job", n, jobs, float64(n)/jobs)
		require.Less(t, n, jobs)
	})
	w.stop()
}

func TestPausedQueueDoesNotDelayOthers(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	require.NoError(t, r.client.SAdd(r.ctx(), "paused", "push").Err())
	r.push("push", natives(0, 10, "")...)
	r.start(f, func(c *Config) { c.Owned = []scheduler.Queue{{Name: "push"}, {Name: "other"}} })
	time.Sleep(1200 * time.Millisecond)
	quickest := time.Hour // a busy machine may be slow once, a queue that is held up is slow each time
	for i := range 5 {
		began := time.Now()
		r.push("other", job(native, 100+i, ""))
		r.eventually("acked", func() bool { return f.results()[Acked] == i+1 })
		quickest = min(quickest, time.Since(began))
		time.Sleep(50 * time.Millisecond)
	}
	require.Less(t, quickest, 900*time.Millisecond)
	require.Len(t, r.queue("push"), 10)
}

func TestStrictOrderOfQueues(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	r.push("low", natives(1000, 300, "")...)
	r.push("push", natives(0, 300, "")...)
	r.start(f, one, func(c *Config) { c.Owned = []scheduler.Queue{{Name: "push"}, {Name: "low"}} })
	r.eventually("all acked", func() bool { return f.results()[Acked] == 600 })
	require.Equal(t, jid(299), f.started()[299], "all of the first queue before any of the second")
}

func TestMaxRate(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	r.push("push", natives(0, 1000, "")...)
	began := time.Now()
	r.start(f, func(c *Config) { c.MaxRate = 200 })
	r.eventually("300 acked", func() bool { return f.results()[Acked] >= 300 })
	took := time.Since(began)
	require.Greater(t, took, 400*time.Millisecond, "a burst of 200 and then 200/s")
	require.Less(t, took, 3*time.Second)
}

func TestConcurrencyIsALimitAndIsReached(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	release := make(chan struct{})
	f.do = func(context.Context, *queues.Job) Outcome { <-release; return Outcome{} }
	r.push("push", natives(0, 100, "")...)
	w := r.start(f, func(c *Config) { c.Concurrency = 7 })
	r.eventually("seven run", func() bool { return w.Load().Running == 7 })
	w.Resize(11)
	r.eventually("eleven run", func() bool { return w.Load().Running == 11 })
	close(release)
	r.eventually("all acked", func() bool { return f.results()[Acked] == 100 })
	require.LessOrEqual(t, f.peak.Load(), int32(11))
}
