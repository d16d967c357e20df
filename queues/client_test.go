package queues

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/queueville/queueville/internal/oracle"
	"github.com/queueville/queueville/internal/redistest"
)

// bench is an empty database, our store on it, and Ruby on the same.
type bench struct {
	store *Store
	c     *redis.Client
	ruby  *oracle.Oracle
}

func newBench(t *testing.T) bench {
	t.Helper()
	addr, db, c := redistest.DB(t)
	return bench{NewStore(c, ""), c, oracle.New(t, fmt.Sprintf("redis://%s/%d", addr, db))}
}

// spy records the names and first arguments of what a client sends.
type spy struct{ sent []string }

func (s *spy) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}
func (s *spy) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (s *spy) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		for _, c := range cmds {
			if c.Name() == "select" { // a new connection
				continue
			}
			s.sent = append(s.sent, fmt.Sprintf("%v %v %d", c.Args()[0], c.Args()[1], len(c.Args())-2))
		}
		return next(ctx, cmds)
	}
}

func topLevel(t *testing.T, payload string) map[string]json.RawMessage {
	t.Helper()
	var fields map[string]json.RawMessage
	if err := json.Unmarshal([]byte(payload), &fields); err != nil {
		t.Fatal(err)
	}
	return fields
}

func TestPush(t *testing.T) {
	store, c := newStore(t)
	s := &spy{}
	c.AddHook(s)
	client := NewClient(store)
	client.now = func() time.Time { return now }

	t.Run("items 1, 2, 4, 5, 6: a push", func(t *testing.T) {
		id, err := client.Push(t.Context(), Push{Class: "C", Args: []any{1}})
		if err != nil || !regexp.MustCompile("^[0-9a-f]{24}$").MatchString(id) {
			t.Errorf("Push = %q, %v", id, err)
		}
		equal(t, "sent", s.sent, []string{"sadd queues 1", "lpush queue:default 1"})
		want := `{"retry":true,"queue":"default","class":"C","args":[1],"jid":"` + id + `","created_at":1795291060.0,"enqueued_at":1795291060.0}`
		equal(t, "queue", list(t, c, "queue:default"), []string{want})
		if id, err := client.Push(t.Context(), Push{Class: "C", JID: "given"}); id != "given" || err != nil {
			t.Errorf("Push = %q, %v", id, err)
		}
		c.FlushDB(t.Context())
	})
	t.Run("item 10: at", func(t *testing.T) {
		id, err := client.Push(t.Context(), Push{Class: "C", Args: []string{}, At: 1795294660.5})
		if err != nil {
			t.Fatal(err)
		}
		want := redis.Z{Score: 1795294660.5, Member: `{"retry":true,"queue":"default","class":"C","args":[],"jid":"` + id + `","created_at":1795291060.0}`}
		if got := c.ZRangeWithScores(t.Context(), "schedule", 0, -1).Val(); len(got) != 1 || got[0] != want {
			t.Errorf("schedule = %v, want %v", got, want)
		}
		if keys := c.Keys(t.Context(), "*").Val(); len(keys) != 1 {
			t.Errorf("keys = %v", keys)
		}
		c.FlushDB(t.Context())
	})
	t.Run("items 11, 12: delays and times", func(t *testing.T) {
		for delay, at := range map[float64]float64{0: 0, -5: 0, 1_000_000_001: 0, 999_999_999: 1795291060 + 999_999_999, 1795291061: 1795291061} {
			if _, err := client.PushIn(t.Context(), delay, Push{Class: "C"}); err != nil {
				t.Fatal(err)
			}
			z := c.ZRangeWithScores(t.Context(), "schedule", 0, -1).Val()
			if at == 0 && (len(z) != 0 || c.LLen(t.Context(), "queue:default").Val() != 1) || at != 0 && (len(z) != 1 || z[0].Score != at) {
				t.Errorf("PushIn(%v): schedule = %v", delay, z)
			}
			c.FlushDB(t.Context())
		}
	})
	t.Run("items 13, 14: bulk", func(t *testing.T) {
		s.sent = nil
		ids, err := client.PushBulk(t.Context(), Push{Class: "C"}, []any{[]int{0}, []int{1}, []int{2}})
		if err != nil || len(ids) != 3 {
			t.Fatal(ids, err)
		}
		equal(t, "sent", s.sent, []string{"sadd queues 1", "lpush queue:default 3"})
		for i, p := range list(t, c, "queue:default") {
			if job, err := ParseJob(p); err != nil || job.JID != ids[i] || job.Args != fmt.Sprintf("[%d]", i) {
				t.Errorf("job %d = %s", i, p)
			}
		}
		c.FlushDB(t.Context())
		args := make([]any, 2500)
		ids, err = client.PushBulk(t.Context(), Push{Class: "C"}, args)
		if err != nil {
			t.Fatal(err)
		}
		for i, p := range list(t, c, "queue:default") {
			if job, _ := ParseJob(p); job.JID != ids[i] {
				t.Fatalf("job %d is %s, want %s", i, job.JID, ids[i])
			}
		}
		slices.Sort(ids)
		if len(slices.Compact(ids)) != 2500 {
			t.Error("jids are not distinct")
		}
		c.FlushDB(t.Context())
	})
	t.Run("item 15: bulk with times", func(t *testing.T) {
		ids, err := client.PushBulk(t.Context(), Push{Class: "C"}, []any{nil, nil, nil}, 5, 7.5, 6)
		if err != nil {
			t.Fatal(err)
		}
		for i, at := range []float64{5, 7.5, 6} {
			z := c.ZRangeArgs(t.Context(), redis.ZRangeArgs{Key: "schedule", Start: at, Stop: at, ByScore: true}).Val()
			if len(z) != 1 || !strings.Contains(z[0], ids[i]) {
				t.Errorf("at %v: %v, want %s", at, z, ids[i])
			}
		}
		if _, err := client.PushBulk(t.Context(), Push{Class: "C"}, []any{nil, nil, nil}, 5, 7.5); !errors.Is(err, ErrRefused) {
			t.Errorf("two times for three jobs: %v", err)
		}
		c.FlushDB(t.Context())
	})
	t.Run("item 16: middleware", func(t *testing.T) {
		odd := 0
		client := NewClient(store, func(_ context.Context, p *Push) (bool, error) {
			odd++
			p.Fields = append(p.Fields, Field{"locale", `"pl"`})
			return odd%2 == 1, nil
		})
		ids, err := client.PushBulk(t.Context(), Push{Class: "C"}, []any{nil, nil, nil})
		if err != nil || ids[0] == "" || ids[1] != "" || ids[2] == "" {
			t.Errorf("PushBulk = %q, %v", ids, err)
		}
		if l := list(t, c, "queue:default"); len(l) != 2 || !strings.Contains(l[1], `"args":[],"locale":"pl","jid"`) {
			t.Errorf("queue = %q", l)
		}
		c.FlushDB(t.Context())
		if id, err := client.Push(t.Context(), Push{Class: "C"}); id != "" || err != nil {
			t.Errorf("Push = %q, %v", id, err)
		}
		if keys := c.Keys(t.Context(), "*").Val(); len(keys) != 0 {
			t.Errorf("keys = %v", keys)
		}
	})
	t.Run("items 17, 18: refusals", func(t *testing.T) {
		deep := func(n int) any { return json.RawMessage(strings.Repeat("[", n) + strings.Repeat("]", n)) }
		for name, p := range map[string]Push{
			"no class":        {},
			"args an object":  {Class: "C", Args: map[string]int{}},
			"args a string":   {Class: "C", Args: "x"},
			"args raw object": {Class: "C", Args: json.RawMessage("{}")},
			"invalid UTF-8":   {Class: "C", Args: []any{"\xff"}},
			"NaN":             {Class: "C", Args: []any{math.NaN()}},
			"infinity":        {Class: "C", Args: []any{math.Inf(1)}},
			"99 levels":       {Class: "C", Args: []any{deep(99)}},
			"tags no array":   {Class: "C", Fields: []Field{{"tags", `"a"`}}},
			"retry_for":       {Class: "C", Fields: []Field{{"retry_for", "1000000001"}}},
			"bad field":       {Class: "C", Fields: []Field{{"x", "{"}}},
			"empty field":     {Class: "C", Fields: []Field{{"x", ""}}},
			"at in fields":    {Class: "C", Fields: []Field{{"at", "1"}}},
			"retry a string":  {Class: "C", Retry: "1"},
			"time NaN":        {Class: "C", At: math.NaN()},
			"negative time":   {Class: "C", At: -1},
		} {
			if _, err := client.Push(t.Context(), p); !errors.Is(err, ErrRefused) {
				t.Errorf("%s: %v, want ErrRefused", name, err)
			}
		}
		empty := NewClient(store, func(_ context.Context, p *Push) (bool, error) { p.Queue = ""; return true, nil })
		if _, err := empty.Push(t.Context(), Push{Class: "C"}); !errors.Is(err, ErrRefused) {
			t.Errorf("empty queue: %v", err)
		}
		if keys := c.Keys(t.Context(), "*").Val(); len(keys) != 0 {
			t.Errorf("keys = %v", keys)
		}
		if _, err := client.Push(t.Context(), Push{Class: "C", Args: []any{deep(98)}}); err != nil {
			t.Errorf("98 levels: %v", err)
		}
		c.FlushDB(t.Context())
	})
	t.Run("item 20: retry keeps its type", func(t *testing.T) {
		for want, retry := range map[string]any{"true": nil, "false": false, "0": 0, "5": int64(5)} {
			if _, err := client.Push(t.Context(), Push{Class: "C", Retry: retry}); err != nil {
				t.Fatal(err)
			}
			if got := topLevel(t, list(t, c, "queue:default")[0])["retry"]; string(got) != want {
				t.Errorf("retry %v is written as %s", retry, got)
			}
			c.FlushDB(t.Context())
		}
	})
}

// TestRubyReadsOurPushes: items 1, 3, 7, 8, 9, 13, 19, 21, 22 with Ruby as the judge.
func TestRubyReadsOurPushes(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	client := NewClient(b.store)
	ctx := t.Context()
	must := func(id string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return id
	}

	// Item 9: the bytes that Ruby pushes for the same job.
	odd := "<>&'/ \u2028 \x00 😀 \" \\ żółw \x7f"
	raw, err := AppendJSON(nil, Object{{"class", "OracleNoop"}, {"args", []any{odd, 1.0, 0.1, []any{nil, true}}}, {"jid", jid(1)}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	b.ruby.Push(string(raw))
	must(client.Push(ctx, Push{Class: "OracleNoop", Args: []any{odd, 1.0, 0.1, []any{nil, true}}, JID: jid(1)}))
	both := list(t, b.c, "queue:default")
	stamp := regexp.MustCompile(`_at":(\d{10}\.\d{1,7}|\d{13})`) // Sidekiq 8 writes milliseconds
	if r, g := stamp.ReplaceAllString(both[0], ""), stamp.ReplaceAllString(both[1], ""); r != g {
		t.Errorf("item 9: Ruby pushes %s\nwe push    %s", r, g)
	}
	b.c.Del(ctx, "queue:default")

	// Item 22: Ruby finds our bytes again.
	later := must(client.Push(ctx, Push{Class: "OracleNoop", Args: []any{"<é\u2028>&"}, At: float64(time.Now().Unix() + 3600)}))
	if !b.ruby.Control("reschedule", "schedule", later, "7200") {
		t.Error("item 22: Ruby does not find the scheduled job")
	}
	if z := b.c.ZRangeWithScores(ctx, "schedule", 0, -1).Val(); len(z) != 1 || math.Abs(z[0].Score-float64(time.Now().Unix()+7200)) > 30 {
		t.Errorf("item 22: schedule = %v, want one member in two hours", z)
	}

	// Items 1, 7, 21.
	tagged := must(client.Push(ctx, Push{Class: "OracleNoop", Fields: []Field{{"tags", `["alpha","beta"]`}}}))
	v := b.ruby.Inspect("queues")
	if len(v.Queues) != 1 || v.Queues[0].Size != 1 || v.Queues[0].Jobs[0].JID != tagged || v.Queues[0].Latency > 10 || v.Queues[0].Latency < 0 {
		t.Errorf("items 1, 7: %s", v.Raw)
	}
	if page, ok := b.ruby.WebGet("/queues/default"); !ok || !strings.Contains(page, "alpha") {
		t.Errorf("item 21: %s", page)
	}

	// Items 3, 8, 13, 19: a Ruby worker with one thread.
	order := []string{tagged}
	order = append(order, must(client.Push(ctx, Push{Class: "OracleNoop"})))
	ids, err := client.PushBulk(ctx, Push{Class: "OracleNoop"}, []any{[]int{1}, []int{2}, []int{3}})
	if err != nil {
		t.Fatal(err)
	}
	order = append(order, ids...)
	numbers := `[9007199254740993,9223372036854775807,123456789012345678901234567890]`
	must(client.Push(ctx, Push{Class: "OracleEcho", Args: json.RawMessage(numbers)}))
	deep := strings.Repeat("[", 98) + strings.Repeat("]", 98)
	// Ruby's echo puts the args one level deeper than its generator allows, so that job is only run.
	order = append(order, must(client.Push(ctx, Push{Class: "OracleNoop", Args: json.RawMessage("[" + deep + "]")})))
	b.ruby.StartSidekiq(nil, "-q", "default", "-c", "1")
	waitFor(t, "Ruby to run the jobs", func() bool { return b.c.LLen(ctx, "oracle:done").Val() == int64(len(order)) })
	var done []string
	for _, line := range b.c.LRange(ctx, "oracle:done", 0, -1).Val() {
		done = append(done, text(string(topLevel(t, line)["jid"])))
	}
	equal(t, "items 3, 13, 19: run by Ruby", done, order)
	if echo := b.c.LRange(ctx, "oracle:echo", 0, -1).Val(); len(echo) != 1 || string(topLevel(t, echo[0])["args"]) != numbers {
		t.Errorf("item 8: %v", echo)
	}
	b.ruby.WebSmoke()
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited 30 s for %s", what)
		}
	}
}
