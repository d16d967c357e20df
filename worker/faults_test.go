package worker

import (
	"bytes"
	"context"
	"crypto/sha1" //nolint:gosec // Redis names scripts by their SHA-1
	"encoding/hex"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/queueville/queueville/internal/faultproxy"
	"github.com/queueville/queueville/internal/redistest"
	"github.com/queueville/queueville/internal/throwaway"
	"github.com/queueville/queueville/queues"
)

// script loads one of the scripts of package queues and returns the name by which requests carry it.
func (r *rig) script(name string) []byte {
	r.t.Helper()
	source, err := os.ReadFile("../queues/lua/" + name + ".lua")
	require.NoError(r.t, err)
	require.NoError(r.t, r.client.ScriptLoad(r.ctx(), string(source)).Err())
	sum := sha1.Sum(source) //nolint:gosec // see above
	return []byte(hex.EncodeToString(sum[:]))
}

func (r *rig) proxy() *faultproxy.Proxy {
	r.t.Helper()
	p, err := faultproxy.Start(r.ctx(), r.addr)
	require.NoError(r.t, err)
	r.t.Cleanup(func() { require.NoError(r.t, p.Close()) })
	return p
}

// losing picks every n-th request that carries one of the names, at most most times.
func losing(n, most int, names ...[]byte) faultproxy.LoseReply {
	var seen, lost atomic.Int64
	return func(request []byte) bool {
		if !slices.ContainsFunc(names, func(name []byte) bool { return bytes.Contains(request, name) }) || seen.Add(1)%int64(n) != 0 {
			return false
		}
		return lost.Add(1) <= int64(most)
	}
}

// settledOnce requires that n jobs ran once each and are nowhere in Redis any more.
func (r *rig) settledOnce(f *fake, n int) {
	r.t.Helper()
	r.eventually("every job ran", func() bool { f.mu.Lock(); defer f.mu.Unlock(); return len(f.runs) == n })
	r.eventually("nothing is left in Redis", func() bool { return len(r.where("push")) == 0 })
	require.Equal(r.t, map[int]int{1: n}, f.runsOf())
	r.eventually("each was counted once", func() bool { return f.results()[Acked] == n })
}

func TestLostFetchReply(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	p := r.proxy()
	p.LoseReplies(losing(2, 3, r.script("fetch")))
	const jobs = 600
	r.push("push", natives(0, jobs, "")...)
	r.start(f, through(r, p.Addr()), func(c *Config) { c.LeaseTTL, c.RenewEvery = 30*time.Second, 5*time.Second })
	r.settledOnce(f, jobs)
	require.GreaterOrEqual(t, p.Lost(), 1)
	require.Empty(t, f.leasesLost())
}

func TestLostFetchReplyAndThenALostLook(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	p := r.proxy()
	fetch := losing(1, 1, r.script("fetch"))
	look := losing(1, 2, []byte("hkeys"))
	p.LoseReplies(func(b []byte) bool { return fetch(b) || look(b) })
	r.push("push", natives(0, 150, "")...)
	r.start(f, through(r, p.Addr()), one, func(c *Config) { c.LeaseTTL, c.RenewEvery = 30*time.Second, 5*time.Second })
	r.settledOnce(f, 150)
	require.Equal(t, 3, p.Lost(), "one fetch and two looks for it")
	require.True(t, slices.IsSorted(f.started()), "the jobs of the lost reply come before what is fetched later")
}

func TestLostReplyOfASharedFetch(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	p := r.proxy()
	p.LoseReplies(losing(1, 1, r.script("shared")))
	r.push("push", natives(0, 50, "")...)
	r.start(f, through(r, p.Addr()), sharing("push"), func(c *Config) { c.LeaseTTL, c.RenewEvery = 30*time.Second, 5*time.Second })
	r.settledOnce(f, 50)
	require.Equal(t, 1, p.Lost())
}

func TestQuietLooksForLostReplies(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	p := r.proxy()
	var w atomic.Pointer[live]
	fetch := r.script("fetch")
	p.LoseReplies(func(b []byte) bool {
		if l := w.Load(); l != nil && bytes.Contains(b, fetch) {
			l.Quiet() // while this fetch is under way
			return true
		}
		return false
	})
	w.Store(r.start(f, through(r, p.Addr()), func(c *Config) { c.LeaseTTL, c.RenewEvery = 30*time.Second, 5*time.Second }))
	list := natives(0, 20, "")
	r.push("push", list...)
	r.eventually("the fetch was lost", func() bool { return p.Lost() == 1 })
	p.LoseReplies(nil)
	r.eventually("quiet gives back what it never heard of", func() bool { return slices.Equal(list, r.queue("push")) })
	require.Zero(t, r.inFlight())
	require.Empty(t, f.started())
}

func TestLostCompletionReply(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	f.delay = time.Hour
	f.do = func(_ context.Context, job *queues.Job) Outcome {
		if strings.Contains(job.Args, "fail") {
			return Outcome{Kind: Failed, ErrorClass: "TestError", ErrorMessage: "on purpose"}
		}
		return Outcome{}
	}
	p := r.proxy()
	p.LoseReplies(losing(2, 3, r.script("complete")))
	const each = 400
	var list []string
	for i := range each {
		list = append(list, job(native, 2*i, `"ok"`), job(native, 2*i+1, `"fail"`))
	}
	r.push("push", list...)
	r.start(f, through(r, p.Addr()), func(c *Config) { c.LeaseTTL, c.RenewEvery = 30*time.Second, 5*time.Second })
	r.eventually("all settled", func() bool { res := f.results(); return res[Acked] == each && res[Retried] == each })
	require.GreaterOrEqual(t, p.Lost(), 1)
	require.Len(t, r.members("retry"), each, "no second entry")
	require.Equal(t, map[int]int{1: 2 * each}, f.runsOf())
	require.Zero(t, r.inFlight())
	require.Equal(t, map[Result]int{Acked: each, Retried: each}, f.results(), "counted once")
}

func TestConnectionsCutAgainAndAgain(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	p := r.proxy()
	const jobs = 3000
	f.do = func(context.Context, *queues.Job) Outcome { time.Sleep(time.Millisecond); return Outcome{} }
	r.push("push", natives(0, jobs, "")...)
	r.start(f, through(r, p.Addr()), func(c *Config) { c.LeaseTTL, c.RenewEvery = 30*time.Second, 5*time.Second })
	for range 4 {
		time.Sleep(60 * time.Millisecond)
		p.Cut()
	}
	r.settledOnce(f, jobs)
}

func TestRedisForgets(t *testing.T) {
	t.Parallel()
	tests := map[string]func(r *rig){
		"keys of queueville deleted": func(r *rig) {
			keys, err := r.client.Keys(r.ctx(), "queueville:*").Result()
			require.NoError(r.t, err)
			require.NoError(r.t, r.client.Del(r.ctx(), keys...).Err())
		},
		"flushed": func(r *rig) { require.NoError(r.t, r.client.FlushDB(r.ctx()).Err()) },
	}
	for name, forget := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, f := newRig(t), newFake()
			f.delay = time.Hour
			release := make(chan struct{})
			f.do = func(context.Context, *queues.Job) Outcome {
				<-release
				return Outcome{Kind: Failed, ErrorClass: "TestError"}
			}
			r.push("push", natives(0, 150, "")...)
			w := r.start(f, func(c *Config) { c.Concurrency = 20 })
			r.eventually("20 run and the rest waits", func() bool { l := w.Load(); return l.Running == 20 && l.InHand == 150 })
			forget(r)
			r.eventually("noticed", func() bool { return len(f.leasesLost()) > 0 })
			require.Equal(t, []string{"redis forgot"}, f.leasesLost())
			require.Equal(t, 150, r.inFlight(), "what was in hand is in Redis again")
			close(release)
			r.eventually("all settled", func() bool { return f.results()[Retried] == 150 })
			require.Len(t, r.members("retry"), 150)
			require.Equal(t, map[int]int{1: 150}, f.runsOf())
			require.Zero(t, r.inFlight())
		})
	}
}

func TestRedisForgetsUnderLoad(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	f.do = func(context.Context, *queues.Job) Outcome { time.Sleep(time.Millisecond); return Outcome{} }
	const jobs = 6000
	r.push("push", natives(0, jobs, "")...)
	r.start(f)
	for range 5 {
		time.Sleep(50 * time.Millisecond)
		keys, err := r.client.Keys(r.ctx(), "queueville:*").Result()
		require.NoError(t, err)
		if len(keys) > 0 { // none when it has not noticed yet that they are gone
			require.NoError(t, r.client.Del(r.ctx(), keys...).Err())
		}
	}
	r.settledOnce(f, jobs)
}

// durable lets the test's own server keep what it has been told, also through a crash.
func durable(t *testing.T) *throwaway.RedisServer {
	t.Helper()
	return redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
}

func TestRedisRestarts(t *testing.T) {
	t.Parallel()
	server := durable(t)
	r, f := rigOn(t, server.Addr()), newFake()
	f.do = func(context.Context, *queues.Job) Outcome { time.Sleep(time.Millisecond); return Outcome{} }
	const jobs = 3000
	r.push("push", natives(0, jobs, "")...)
	w := r.start(f, func(c *Config) { c.LeaseTTL, c.RenewEvery = 30*time.Second, time.Second })
	for _, crash := range []bool{false, true} {
		time.Sleep(50 * time.Millisecond)
		if crash {
			require.NoError(t, server.Kill())
		}
		require.NoError(t, server.Restart(r.ctx()))
	}
	r.settledOnce(f, jobs)
	require.Empty(t, f.leasesLost(), "the lease has survived with everything else")
	w.stop()
}

func TestRedisRestartsEmpty(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	r, f := rigOn(t, server.Addr()), newFake()
	release := make(chan struct{})
	f.do = func(context.Context, *queues.Job) Outcome { <-release; return Outcome{Kind: Failed, ErrorClass: "E"} }
	f.delay = time.Hour
	r.push("push", natives(0, 100, "")...)
	w := r.start(f)
	r.eventually("all in hand", func() bool { return w.Load().InHand == 100 })
	require.NoError(t, server.Restart(r.ctx()))
	close(release)
	r.eventually("all settled", func() bool { return f.results()[Retried] == 100 })
	require.Len(t, r.members("retry"), 100, "nothing of what was in hand is lost")
	require.Equal(t, map[int]int{1: 100}, f.runsOf())
	r.push("push", natives(1000, 10, "")...)
	r.eventually("goes on", func() bool { return f.results()[Retried] == 110 })
	w.stop()
}

func TestRedisHangs(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	r, f := rigOn(t, server.Addr()), newFake()
	f.do = func(context.Context, *queues.Job) Outcome { time.Sleep(2 * time.Millisecond); return Outcome{} }
	const jobs = 3000
	r.push("push", natives(0, jobs, "")...)
	w := r.start(f, func(c *Config) { c.LeaseTTL, c.RenewEvery = 30*time.Second, time.Second })
	time.Sleep(100 * time.Millisecond)
	require.NoError(t, server.Pause())
	time.Sleep(6 * time.Second) // beyond the timeout of every call
	require.NoError(t, server.Resume())
	r.settledOnce(f, jobs)
	w.stop()
}

func TestOutOfMemory(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	r, f := rigOn(t, server.Addr()), newFake()
	release := make(chan struct{})
	f.delay = time.Hour
	f.do = func(_ context.Context, job *queues.Job) Outcome {
		<-release
		if strings.Contains(job.Args, "fail") {
			return Outcome{Kind: Failed, ErrorClass: "TestError"}
		}
		return Outcome{}
	}
	pad := strings.Repeat("x", 2000)
	const each = 300
	for i := range each {
		r.push("push", job(native, 2*i, `"ok","`+pad+`"`), job(native, 2*i+1, `"fail","`+pad+`"`))
	}
	w := r.start(f, func(c *Config) { c.LeaseTTL, c.RenewEvery = 30*time.Second, time.Second })
	r.eventually("the window is full", func() bool { return w.Load().InHand == 200 })
	require.NoError(t, r.client.ConfigSet(r.ctx(), "maxmemory", "1mb").Err())
	close(release)
	r.eventually("writes are refused", func() bool { return f.errors("complete")+f.errors("fetch") > 2 })
	time.Sleep(500 * time.Millisecond)
	where := r.where("push")
	acked := f.results()[Acked]
	require.Equal(t, 2*each, len(where)+acked, "every job is somewhere")
	require.NoError(t, r.client.ConfigSet(r.ctx(), "maxmemory", "0").Err())
	r.eventually("all settled", func() bool { res := f.results(); return res[Acked] == each && res[Retried] == each })
	require.Len(t, r.members("retry"), each)
	require.Equal(t, map[int]int{1: 2 * each}, f.runsOf())
	w.stop()
}
