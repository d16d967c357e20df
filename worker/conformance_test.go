package worker

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/queueville/queueville/queues"
)

// The numbers are those of the checks in the description of Sidekiq's protocol that need no Ruby. 60 and 80 are proven with other
// timings in faults_test.go and process_test.go too.

// nothing makes a worker that serves no queue of the test: it beats and polls.
func nothing(c *Config) { c.Owned, c.ForeignTo, c.Shared = nil, "", []string{"nothing"} }

func beating(every time.Duration) func(*Config) { return func(c *Config) { c.BeatEvery = every } }

func (l *live) identity() string { return l.cfg.Process.Identity }

// work reads the busy list as Sidekiq's API does.
func (r *rig) work(identity string) []map[string]any {
	r.t.Helper()
	var out []map[string]any
	for _, text := range r.client.HVals(r.ctx(), identity+":work").Val() {
		var entry map[string]any
		d := json.NewDecoder(strings.NewReader(text))
		d.UseNumber()
		require.NoError(r.t, d.Decode(&entry))
		out = append(out, entry)
	}
	return out
}

func TestConformance26BlockingFetchObeysAStop(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.start(newFake())
	time.Sleep(200 * time.Millisecond)
	began := time.Now()
	w.stop()
	require.Less(t, time.Since(began), 8*time.Second)
}

func TestConformance27RedisGoesAwayAndComesBack(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	f.do = func(context.Context, *queues.Job) Outcome { time.Sleep(time.Millisecond); return Outcome{} }
	p := r.proxy()
	r.push("push", natives(0, 1500, "")...)
	r.start(f, through(r, p.Addr()), func(c *Config) { c.LeaseTTL, c.RenewEvery = 30*time.Second, time.Second })
	r.eventually("it works", func() bool { return len(f.started()) > 50 })
	p.Refuse(true)
	p.Cut()
	time.Sleep(1500 * time.Millisecond)
	p.Refuse(false)
	r.settledOnce(f, 1500)
}

func TestConformance28And29Unreadable(t *testing.T) {
	t.Parallel()
	for number, payload := range map[int]string{28: "not json", 29: "[1,2]"} {
		t.Run(strconv.Itoa(number), func(t *testing.T) {
			t.Parallel()
			r, f := newRig(t), newFake()
			r.push("push", payload, job(native, 1, ""))
			w := r.start(f)
			r.eventually("the next one is run", func() bool { res := f.results(); return res[Acked] == 1 && res[Dead] == 1 })
			dead := r.set("dead")
			require.Len(t, dead, 1)
			require.Equal(t, queues.Burial(payload), dead[0].Member)
			require.InDelta(t, float64(time.Now().Unix()), dead[0].Score, 10)
			w.stop()
			require.Equal(t, "1", r.client.Get(r.ctx(), "stat:processed").Val(), "only the one that was run")
			require.Equal(t, "0", cmp.Or(r.client.Get(r.ctx(), "stat:failed").Val(), "0"))
		})
	}
}

func TestConformance52RetryNow(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	f.delay, f.do = time.Hour, behave
	r.push("push", job(native, 1, `"fail"`))
	r.start(f)
	r.eventually("failed once", func() bool { return len(r.members("retry")) == 1 })
	// What Ruby's API does: find the entry by the score it has printed, take it out, push it with a count that is one less.
	z := r.set("retry")[0]
	printed := r.client.Do(r.ctx(), "ZSCORE", "retry", z.Member).String()
	score := printed[strings.LastIndexByte(printed, ' ')+1:]
	found, err := r.client.ZRangeArgs(r.ctx(), redis.ZRangeArgs{Key: "retry", ByScore: true, Start: score, Stop: score}).Result()
	require.NoError(t, err)
	require.Equal(t, []string{z.Member.(string)}, found)
	require.EqualValues(t, 1, r.client.ZRem(r.ctx(), "retry", found[0]).Val())
	again, err := queues.SetFields(found[0], queues.Field{Name: "retry_count", Raw: "-1"})
	require.NoError(t, err)
	r.push("push", again)
	r.eventually("failed again", func() bool { return f.results()[Retried] == 2 })
	require.Equal(t, 0, *parseEntry(t, r.members("retry")[0]).RetryCount)
}

func TestConformance53ScoresDiffer(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	f.delay, f.do = time.Hour, behave
	r.push("push", natives(0, 1000, `"fail"`)...)
	r.start(f)
	r.eventually("all failed", func() bool { return f.results()[Retried] == 1000 })
	scores := map[float64]int{}
	for _, z := range r.set("retry") {
		scores[z.Score]++
	}
	// Ruby's buttons take whatever has the score. A clash of two batches is possible in principle; within one it is not.
	require.GreaterOrEqual(t, len(scores), 998)
}

func (r *rig) due(set string, at time.Time, payloads ...string) {
	r.t.Helper()
	for i, p := range payloads {
		require.NoError(r.t, r.client.ZAdd(r.ctx(), set, redis.Z{Score: float64(at.UnixMicro())/1e6 + float64(i)/1e4, Member: p}).Err())
	}
}

func TestConformance58InvalidAndDue(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	past := time.Now().Add(-time.Minute)
	r.due("schedule", past, job(native, 1, ""), "not json", `{"args":[]}`, job(native, 2, ""))
	r.start(newFake(), nothing, polling)
	r.eventually("all moved", func() bool { return len(r.members("schedule")) == 0 })
	require.Len(t, r.queue("push"), 2)
	require.ElementsMatch(t, []string{"not json", `{"args":[]}`}, r.members("dead"))
}

func TestConformance59TenPollers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.due("schedule", time.Now().Add(-time.Minute), natives(0, 1000, "")...)
	for range 10 {
		r.start(newFake(), nothing, polling)
	}
	r.eventually("all moved", func() bool { return len(r.members("schedule")) == 0 })
	seen := map[string]int{}
	for _, p := range r.queue("push") {
		seen[parseEntry(t, p).JID]++
	}
	require.Len(t, seen, 1000)
	require.Len(t, r.queue("push"), 1000)
}

func TestConformance60CrashWhilePolling(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.proxy()
	due := r.script("due")
	p.LoseReplies(func(b []byte) bool { return bytes.Contains(b, due) })
	r.due("retry", time.Now().Add(-time.Minute), natives(0, 500, "")...)
	r.start(newFake(), nothing, polling, through(r, p.Addr()))
	r.eventually("a reply was lost", func() bool { return p.Lost() > 0 })
	for range 50 {
		n, err := r.client.Eval(r.ctx(), `return redis.call('ZCARD', 'retry') + redis.call('LLEN', 'queue:push')`, nil).Int()
		require.NoError(t, err)
		require.Equal(t, 500, n, "each in exactly one place")
		time.Sleep(2 * time.Millisecond)
	}
	p.LoseReplies(nil)
	r.eventually("all moved", func() bool { return len(r.members("retry")) == 0 })
	require.Len(t, r.queue("push"), 500)
}

func TestConformance61NotBeforeItsTime(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	at := time.Now().Add(700 * time.Millisecond)
	r.due("schedule", at, job(native, 1, ""))
	r.start(newFake(), nothing, polling)
	r.eventually("it moved", func() bool { return len(r.queue("push")) == 1 })
	require.False(t, time.Now().Before(at))
}

func TestConformance62PollIntervals(t *testing.T) {
	for n := 1; n < 10; n++ {
		for _, rnd := range []float64{0, 0.5, 0.999999} {
			d := queues.PollInterval(n, 0, func() float64 { return rnd })
			require.GreaterOrEqual(t, d, time.Duration(n)*2500*time.Millisecond)
			require.Less(t, d, time.Duration(n)*7500*time.Millisecond)
		}
	}
}

func TestConformance63ScriptFlush(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	r.start(f, polling)
	for i := range 3 {
		require.NoError(t, r.client.ScriptFlush(r.ctx()).Err())
		r.due("schedule", time.Now().Add(-time.Second), job(native, i, ""))
		r.eventually("polled, fetched and acked", func() bool { return f.results()[Acked] == i+1 })
	}
}

func TestConformance70To72BusyList(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	release := make(chan struct{})
	f.do = func(context.Context, *queues.Job) Outcome { <-release; return Outcome{} }
	payload := job(native, 1, `"<é>",12345678901234567890`)
	r.push("push", payload)
	w := r.start(f, beating(100*time.Millisecond))
	r.eventually("shown within a beat or two", func() bool { return len(r.work(w.identity())) == 1 })
	entry := r.work(w.identity())[0]
	require.Equal(t, "push", entry["queue"])
	require.Equal(t, payload, entry["payload"], "a JSON string of the fetched bytes")
	runAt, ok := entry["run_at"].(json.Number)
	require.True(t, ok)
	require.Regexp(t, `^\d{1,10}$`, runAt.String())
	at, err := runAt.Int64()
	require.NoError(t, err)
	require.InDelta(t, float64(time.Now().Unix()), float64(at), 5)
	r.eventually("busy", func() bool { return r.client.HGet(r.ctx(), w.identity(), "busy").Val() == "1" })
	close(release)
	r.eventually("gone within a beat or two", func() bool { return len(r.work(w.identity())) == 0 })
	r.eventually("not busy", func() bool { return r.client.HGet(r.ctx(), w.identity(), "busy").Val() == "0" })
}

func (r *rig) signals(identity string, words ...string) {
	r.t.Helper()
	for _, word := range words {
		require.NoError(r.t, r.client.LPush(r.ctx(), identity+"-signals", word).Err())
	}
}

func TestConformance73Quiet(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	release := make(chan struct{})
	f.do = func(context.Context, *queues.Job) Outcome { <-release; return Outcome{} }
	r.push("push", natives(0, 20, "")...)
	w := r.start(f, beating(100*time.Millisecond), func(c *Config) { c.Concurrency = 4 })
	r.eventually("four run", func() bool { return w.Load().Running == 4 })
	began := time.Now()
	r.signals(w.identity(), "TSTP")
	r.eventually("quiet", func() bool { return r.client.HGet(r.ctx(), w.identity(), "quiet").Val() == "true" })
	require.Less(t, time.Since(began), 5*time.Second)
	r.eventually("the rest is given back", func() bool { return len(r.queue("push")) == 16 })
	time.Sleep(150 * time.Millisecond)
	require.Len(t, r.queue("push"), 16)
	require.Equal(t, 4, w.Load().Running, "running jobs continue")
	close(release)
	r.eventually("and end", func() bool { return f.results()[Acked] == 4 })
}

func TestConformance74Stop(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	f.do = func(context.Context, *queues.Job) Outcome { time.Sleep(200 * time.Millisecond); return Outcome{} }
	r.push("push", natives(0, 20, "")...)
	w := r.start(f, beating(100*time.Millisecond))
	r.eventually("known", func() bool { return r.client.SIsMember(r.ctx(), "processes", w.identity()).Val() })
	r.signals(w.identity(), "TERM")
	w.wait()
	require.False(t, r.client.SIsMember(r.ctx(), "processes", w.identity()).Val())
	require.Zero(t, r.client.Exists(r.ctx(), w.identity()+":work").Val())
	require.Zero(t, r.inFlight())
}

func TestConformance75And76SignalsInOrder(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var words []string
	w := r.start(newFake(), beating(150*time.Millisecond), func(c *Config) { c.Signal = func(s string) { words = append(words, s) } })
	r.signals(w.identity(), "NONSENSE", "TSTP", "TERM")
	r.eventually("quiet comes first", func() bool { return w.quiet.Load() })
	select {
	case <-w.Worker.stop:
		t.Fatal("one signal a beat")
	default:
	}
	w.wait()
	require.Equal(t, []string{"NONSENSE"}, words)
	require.Zero(t, r.client.Exists(r.ctx(), w.identity()+"-signals").Val())
}

func TestConformance77And78BytesComeBackUnchanged(t *testing.T) {
	t.Parallel()
	t.Run("77 running at the timeout", func(t *testing.T) {
		t.Parallel()
		r, f := newRig(t), newFake()
		f.do = func(ctx context.Context, _ *queues.Job) Outcome { <-ctx.Done(); return Outcome{Kind: Returned} }
		odd := `{ "class":"` + native + `" ,"args":[1.0, 1e2 ,"\u00e9"],"retry":3,"jid":"` + jid(1) + `","queue":"push"}`
		r.push("push", odd, job("Ruby::Worker", 2, ""))
		w := r.start(f, func(c *Config) { c.StopTimeout = 100 * time.Millisecond })
		r.eventually("it runs", func() bool { return w.Load().Running == 1 })
		r.push("push", job("Ruby::Worker", 3, ""))
		r.eventually("the foreign ones have gone", func() bool { return len(r.queue("ruby")) == 2 })
		w.stop()
		require.Equal(t, []string{odd}, r.queue("push"))
	})
	t.Run("78 fetched during quiet", func(t *testing.T) {
		t.Parallel()
		r, f := newRig(t), newFake()
		p := r.proxy()
		w := r.start(f, through(r, p.Addr()), func(c *Config) { c.LeaseTTL, c.RenewEvery = 30*time.Second, 10*time.Second }) // outlasts the delay
		r.push("push", job(native, 99, ""))
		r.eventually("it has begun", func() bool { return len(f.started()) == 1 && r.inFlight() == 0 })
		p.Delay(2 * time.Second) // longer than a loaded machine takes to notice
		list := natives(0, 10, "")
		r.push("push", list...)
		r.eventually("a fetch is under way", func() bool { return r.inFlight() == 10 })
		w.Quiet()
		p.Delay(0)
		r.eventually("they are back", func() bool { return slices.Equal(list, r.queue("push")) })
		require.Len(t, f.started(), 1, "only what there was before")
	})
}

func TestConformance79And80Kill9(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	r.push("push", job(native, 1, ""))
	c := r.startChild(childSpec{Concurrency: 5, Work: time.Minute})
	r.eventually("it runs", func() bool { return len(r.list("started")) == 1 })
	var identity string
	r.eventually("it beats", func() bool {
		ids := r.client.SMembers(r.ctx(), "processes").Val()
		if len(ids) == 1 {
			identity = ids[0]
		}
		return len(ids) == 1 && r.client.Exists(r.ctx(), identity).Val() == 1
	})
	c.signal(syscall.SIGKILL)
	c.kill()
	require.LessOrEqual(t, r.client.TTL(r.ctx(), identity).Val(), time.Minute, "gone by itself")
	require.NoError(t, r.client.PExpire(r.ctx(), identity, time.Millisecond).Err())
	require.Equal(t, 1, len(r.where("push")[jid(1)]), "an unfinished job never vanishes")
	r.start(f, elsewhere, polling)
	r.eventually("it runs again when the lease has ended", func() bool { return f.results()[Acked] == 1 })
	r.eventually("the dead process is off the list", func() bool { return !r.client.SIsMember(r.ctx(), "processes", identity).Val() })
}

func TestConformance82RegistersAgain(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	w := r.start(f, beating(100*time.Millisecond))
	r.eventually("known", func() bool { return r.client.SIsMember(r.ctx(), "processes", w.identity()).Val() })
	// What two minutes without Redis leave of a process: its keys have expired and others have cleaned up.
	for _, h := range r.holders() {
		require.NoError(t, r.client.Del(r.ctx(), "queueville:lease:"+h.Name).Err())
		_, err := r.store.Adopt(r.ctx(), h.Name, false)
		require.NoError(t, err)
	}
	require.NoError(t, r.client.Del(r.ctx(), w.identity()).Err())
	require.NoError(t, r.client.SRem(r.ctx(), "processes", w.identity()).Err())
	r.eventually("known again with the next beat", func() bool {
		return r.client.SIsMember(r.ctx(), "processes", w.identity()).Val() && r.client.Exists(r.ctx(), w.identity()).Val() == 1
	})
	r.eventually("with a new lease", func() bool { h := r.holders(); return len(h) == 1 && h[0].Alive })
	r.push("push", natives(0, 10, "")...)
	r.eventually("and works", func() bool { return f.results()[Acked] == 10 })
	require.Equal(t, []string{"expired"}, f.leasesLost(), fmt.Sprint(f.leasesLost()))
}
