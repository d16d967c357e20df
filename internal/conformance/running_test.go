package conformance

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/queueville/queueville/internal/redistest"
	"github.com/queueville/queueville/queues"
	"github.com/queueville/queueville/scheduler"
	"github.com/queueville/queueville/worker"
)

// TestConformanceGoRunsWhatRubyEnqueues: item 23, with every kind of argument that the Ruby client pushes, and items 28 to 30 beside it.
func TestConformanceGoRunsWhatRubyEnqueues(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	pushed := g.ruby.Enqueue("async", "bulk", "tags", "extra", "bigint", "floats", "unicode", "nested", "no_args", "string_class", "given_jid", "at_past")
	before := map[string]string{}
	for _, p := range g.list("default") {
		job, err := queues.ParseJob(p)
		if err != nil {
			t.Fatal(err)
		}
		before[job.JID] = p
	}
	total := 0
	for _, p := range pushed {
		total += len(p.JIDs)
	}
	if len(before) != total {
		t.Fatalf("%d payloads for %d jids", len(before), total)
	}
	twice := payload("OracleEcho", `["first"]`, jid(1), `,"args":["last"]`)
	g.push("default", "not json", "[1,2]", twice)
	e := g.start(nil)
	g.waitFor("all jobs", func() bool { return e.ended(worker.Acked) == total+1 && e.ended(worker.Dead) == 2 })
	e.stop(t)

	// Ruby judges: what the handler was given is what Ruby reads in the payload, digit by digit.
	var pairs []string
	e.jobs.mu.Lock()
	for id, args := range e.jobs.args {
		if p, ok := before[id]; ok {
			pair, err := json.Marshal([]string{p, args})
			if err != nil {
				t.Fatal(err)
			}
			pairs = append(pairs, string(pair))
		}
	}
	if got := e.jobs.args[jid(1)]; got != `["last"]` {
		t.Errorf("item 30: args = %s, want the last of the duplicates", got)
	}
	e.jobs.mu.Unlock()
	verdict := g.ruby.Eval(`n = 0
DATA.each_line do |line|
  payload, args = JSON.parse(line)
  want = JSON.generate(JSON.parse(payload)["args"])
  got = JSON.generate(JSON.parse(args))
  puts "#{got} instead of #{want}" unless got == want
  n += 1
end
print n`, strings.Join(pairs, "\n"))
	if verdict != fmt.Sprint(total) {
		t.Errorf("item 23: %s, want %d equal", verdict, total)
	}
	dead := g.set("dead")
	if !slices.Contains(dead, "not json") || len(dead) != 2 {
		t.Errorf("items 28, 29: dead = %q", dead)
	}
	if s := g.ruby.Inspect("stats").Stats; s.Processed != total+1 || s.Failed != 0 {
		t.Errorf("item 28: %d processed, %d failed, want %d and 0", s.Processed, s.Failed, total+1)
	}
	if !slices.Contains(dead, queues.Burial("[1,2]")) {
		t.Errorf("item 29: dead = %q", dead)
	}
	g.ruby.WebSmoke()
}

// TestConformanceQueueOrder: items 24 and 25, with a worker that takes one job at a time.
func TestConformanceQueueOrder(t *testing.T) {
	t.Parallel()
	one := func(owned ...scheduler.Queue) func(*worker.Config, *oracleJobs) {
		return func(cfg *worker.Config, _ *oracleJobs) {
			cfg.Owned, cfg.Concurrency, cfg.Window = owned, 1, 1
		}
	}
	fill := func(g *ground, queue string, first, n int) {
		list := make([]string, n)
		for i := range list {
			list[i] = payload("OracleNoop", "[]", jid(first+i), "")
		}
		g.push(queue, list...)
	}
	t.Run("item 24: strict", func(t *testing.T) {
		t.Parallel()
		g := newGround(t)
		fill(g, "a", 0, 50)
		fill(g, "b", 1000, 50)
		e := g.start(one(scheduler.Queue{Name: "a"}, scheduler.Queue{Name: "b"}))
		g.waitFor("100 jobs", func() bool { return e.ended(worker.Acked) == 100 })
		for i, id := range e.jobs.started() {
			if want := jid(i%50 + i/50*1000); id != want {
				t.Fatalf("job %d was %s, want %s", i, id, want)
			}
		}
	})
	t.Run("item 25: weighted", func(t *testing.T) {
		t.Parallel()
		const fetches = 1000
		g := newGround(t)
		fill(g, "heavy", 0, fetches)
		fill(g, "light", 10_000, fetches)
		e := g.start(one(scheduler.Queue{Name: "heavy", Weight: 3}, scheduler.Queue{Name: "light", Weight: 1}))
		g.waitFor("1,000 jobs", func() bool { return len(e.jobs.started()) >= fetches })
		heavy := 0
		for _, id := range e.jobs.started()[:fetches] {
			if id < jid(10_000) {
				heavy++
			}
		}
		if heavy < 700 || heavy > 800 {
			t.Errorf("%d of %d from the heavier queue, want 700 to 800", heavy, fetches)
		}
		e.Quiet()
	})
}

// TestConformanceIdleStop: item 26, and 62's other half: an idle worker sends little.
func TestConformanceIdleStop(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	e := g.start(nil)
	time.Sleep(300 * time.Millisecond) // into the blocking wait
	began := time.Now()
	e.stop(t)
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("item 26: an idle worker took %v to stop, want about 2 s at most", took)
	}
}

// TestConformanceRedisGoesAway: items 27 and 63. Redis is killed under load and comes back with what it had acknowledged.
func TestConformanceRedisGoesAway(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	traces := redistest.Client(t) // jobs go on while Sidekiq's Redis is away
	opts, err := redis.ParseURL(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	opts.MaxRetries, opts.ContextTimeoutEnabled = -1, true
	c := redis.NewClient(opts)
	t.Cleanup(func() { _ = c.Close() })
	g := &ground{t: t, c: c, store: queues.NewStore(c, "")}

	const n = 3000
	list := make([]string, n)
	for i := range list {
		list[i] = payload("OracleNoop", "[]", jid(i), "")
	}
	g.push("default", list...)
	e := g.start(func(cfg *worker.Config, h *oracleJobs) {
		h.c = traces
		cfg.Concurrency = 20
	})
	waitFor(t, "a third of the jobs", func() bool { return e.ended(worker.Acked) > n/3 })
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.ScriptFlush(t.Context())
	done := &ground{t: t, c: traces}
	waitFor(t, "the rest", func() bool { return traces.LLen(t.Context(), "oracle:done").Val() >= n && len(done.done()) == n })
	e.stop(t)
	if left := c.LLen(t.Context(), "queue:default").Val(); left != 0 {
		t.Errorf("item 27: %d jobs are on the queue after all have run", left)
	}
	runs := done.done()
	more := 0
	for i := range n {
		if runs[jid(i)] > 1 {
			more++
		}
	}
	t.Logf("%d of %d jobs ran twice", more, n)
	if more > n/4 {
		t.Errorf("%d of %d jobs ran more than once for one outage", more, n)
	}
}

// TestConformanceGivesBackInOrder: item 78 (jobs fetched and not started when quiet is asked for) and 77's order.
func TestConformanceGivesBackInOrder(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	list := make([]string, 300)
	for i := range list {
		list[i] = payload("OracleNoop", "[]", jid(i), "")
	}
	g.push("default", list...)
	e := g.start(func(cfg *worker.Config, h *oracleJobs) {
		cfg.Concurrency, cfg.Window, h.blockJID = 1, 100, jid(0)
	})
	g.waitFor("a full window", func() bool { return e.Load().InHand == 100 })
	e.Quiet()
	g.waitFor("99 jobs back", func() bool { return len(g.list("default")) == 299 })
	if got := g.list("default"); !slices.Equal(got, list[1:]) {
		t.Errorf("item 78: the queue is not as it was")
	}
	close(e.jobs.release)
	e.stop(t)
	if got := g.done(); len(got) != 1 || got[jid(0)] != 1 {
		t.Errorf("ran %v, want the first only", got)
	}
}
