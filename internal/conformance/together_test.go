package conformance

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/queueville/queueville/queues"
	"github.com/queueville/queueville/scheduler"
	"github.com/queueville/queueville/worker"
)

// foreignKeys are keys of somebody else's in the same database.
func (g *ground) plantForeignKeys() (dump func() string) {
	ctx := g.t.Context()
	g.c.SAdd(ctx, "foreign:set", "a", "b")
	g.c.HSet(ctx, "foreign:hash", "k", "v")
	g.c.RPush(ctx, "foreign:list", "1", "2")
	g.c.HSet(ctx, "it-"+jid(99), "ex", "3", "c", "[5]", "rt", "1.5")
	g.c.ZAdd(ctx, "unique:jobs:digests")
	g.c.Set(ctx, "uniquejobs:0123", "LOCKED", 0)
	return func() string {
		var all strings.Builder
		for _, key := range []string{"foreign:set", "foreign:hash", "foreign:list", "it-" + jid(99), "uniquejobs:0123"} {
			fmt.Fprintf(&all, "%q %v\n", g.c.Dump(ctx, key).Val(), g.c.TTL(ctx, key).Val())
		}
		return all.String()
	}
}

// TestConformanceLivingTogether: items 91, 92, 93 and 95. Ruby and Go serve the same queue, both have every class.
func TestConformanceLivingTogether(t *testing.T) {
	t.Parallel()
	once, twice := 10_000, 1000
	if testing.Short() {
		once, twice = 2000, 200
	}
	g := newGround(t)
	ctx := t.Context()
	dump := g.plantForeignKeys()
	foreign := dump()

	// Half of the jobs pushed by each side; the queue is full before anybody starts, so that both get their share.
	g.ruby.Eval(fmt.Sprintf(`%d.times.each_slice(1000) { |s|
  Sidekiq::Client.push_bulk("class" => "OracleNoop", "args" => s.map { |i| [i] }) }`, once/2), "")
	args := make([]any, once/2)
	for i := range args {
		args[i] = []any{i}
	}
	client := queues.NewClient(g.store)
	if _, err := client.PushBulk(ctx, queues.Push{Class: "OracleNoop"}, args); err != nil {
		t.Fatal(err)
	}
	args = make([]any, twice)
	for i := range args {
		args[i] = []any{fmt.Sprint("j", i), 1}
	}
	if _, err := client.PushBulk(ctx, queues.Push{Class: "OracleFailTimes"}, args); err != nil {
		t.Fatal(err)
	}
	sidekiq := g.ruby.StartSidekiq([]string{"ORACLE_POLL=0.5"}, "-q", "default", "-c", "5")
	g.waitFor("Ruby to be at work", func() bool { return g.c.LLen(ctx, "oracle:done").Val() > 20 })
	e := g.start(func(cfg *worker.Config, _ *oracleJobs) { cfg.Concurrency, cfg.Window = 5, 50 })
	g.waitFor("all jobs", func() bool { return g.c.LLen(ctx, "oracle:done").Val() >= int64(once+twice) })
	e.stop(t)
	sidekiq.Stop()

	runs := g.done()
	if len(runs) != once+twice {
		t.Errorf("item 91: %d different jobs were finished, want %d", len(runs), once+twice)
	}
	for id, n := range runs {
		if n != 1 {
			t.Errorf("item 91: %s was finished %d times", id, n)
		}
	}
	for i := range twice {
		if n := g.c.Get(ctx, fmt.Sprint("oracle:attempts:j", i)).Val(); n != "2" {
			t.Errorf("item 92: job %d ran %s times, want 2", i, n)
		}
	}
	goRan := e.ended(worker.Acked) + e.ended(worker.Retried)
	rubyRan := once + 2*twice - goRan
	t.Logf("Go ran %d, Ruby %d", goRan, rubyRan)
	if goRan < 100 || rubyRan < 20 {
		t.Errorf("item 91: Go ran %d and Ruby %d: they did not share", goRan, rubyRan)
	}
	v := g.ruby.Inspect("stats", "processes")
	if v.Stats.Processed != once+2*twice || v.Stats.Failed != twice || v.Stats.Enqueued+v.Stats.Retry+v.Stats.Dead+v.Stats.Scheduled != 0 {
		t.Errorf("item 84: %s", v.Raw)
	}
	if got := dump(); got != foreign {
		t.Errorf("item 93: keys of others changed:\n%s\nwere\n%s", got, foreign)
	}
	for _, key := range g.c.Keys(ctx, "queueville:inflight:*").Val() {
		t.Errorf("%s is left over", key)
	}
	g.ruby.WebSmoke()
}

// TestConformanceIterableJobs: item 94 (Sidekiq 7.3 and later).
func TestConformanceIterableJobs(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	ctx := t.Context()
	if major, minor := g.sidekiqVersion(); major < 7 || major == 7 && minor < 3 {
		t.Skipf("Sidekiq %d.%d has no iterable jobs", major, minor)
	}
	const steps = 40
	g.ruby.Push(fmt.Sprintf(`{"class":"OracleIterate","args":[%d,0.05],"jid":"%s"}`, steps, jid(1)))
	sidekiq := g.ruby.StartSidekiq(nil, "-q", "default", "-c", "1")
	g.waitFor("some steps", func() bool { return g.c.LLen(ctx, "oracle:steps:"+jid(1)).Val() > 5 })
	sidekiq.Stop()
	state := "it-" + jid(1)
	before := g.c.HGetAll(ctx, state).Val()
	if len(before) == 0 || len(g.list("default"))+len(g.set("retry"))+len(g.set("schedule")) != 1 {
		t.Fatalf("not interrupted: %v", before)
	}
	e := g.start(func(cfg *worker.Config, _ *oracleJobs) { cfg.Owned = []scheduler.Queue{{Name: "other"}} })
	time.Sleep(1500 * time.Millisecond) // some polls and clean-ups
	e.stop(t)
	if after := g.c.HGetAll(ctx, state).Val(); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("item 94: %v became %v", before, after)
	}
	g.makeDue("retry")
	g.makeDue("schedule")
	sidekiq = g.ruby.StartSidekiq([]string{"ORACLE_POLL=0.2"}, "-q", "default", "-c", "1")
	g.waitFor("the end", func() bool { return len(g.done()) == 1 })
	sidekiq.Stop()
	taken := g.c.LRange(ctx, "oracle:steps:"+jid(1), 0, -1).Val()
	zeros := 0
	for _, s := range taken {
		if s == "0" {
			zeros++
		}
	}
	if zeros != 1 || len(taken) < steps || len(taken) > steps+2 {
		t.Errorf("item 94: steps %v, want it resumed at the cursor", taken)
	}
	g.ruby.WebSmoke()
}
