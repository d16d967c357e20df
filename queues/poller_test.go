package queues

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

func schedule(t *testing.T, c *redis.Client, set string, score float64, members ...string) {
	t.Helper()
	for _, m := range members {
		if err := c.ZAdd(t.Context(), set, redis.Z{Score: score, Member: m}).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPollDue(t *testing.T) {
	const stamp = `"enqueued_at":1795291060.0`
	for name, c := range map[string]struct{ in, queue, out string }{
		"item 54: a scheduled job": {
			`{"retry":true,"queue":"low","class":"C","args":[9007199254740993,1.10],"jid":"1","created_at":1795291060276,"x":{"y":1e5}}`,
			"low", `{"retry":true,"queue":"low","class":"C","args":[9007199254740993,1.10],"jid":"1","created_at":1795291060276,"x":{"y":1e5},` + stamp + `}`,
		},
		"item 56: a retry": {
			`{"retry":3,"queue":"low","class":"C","args":[],"jid":"1","created_at":1.5,"enqueued_at":2.5,"retry_count":0}`,
			"low", `{"retry":3,"queue":"low","class":"C","args":[],"jid":"1","created_at":1.5,` + stamp + `,"retry_count":0}`,
		},
		"item 57: a stored at": {
			`{"retry":3,"queue":"low","at":5,"class":"C","args":[],"jid":"1","created_at":1.5}`,
			"low", `{"retry":3,"queue":"low","class":"C","args":[],"jid":"1","created_at":1.5,` + stamp + `}`,
		},
		"null retry and created_at are not absent": {
			`{"retry":null,"queue":"low","class":"C","args":[],"jid":"1","created_at":null}`,
			"low", `{"retry":null,"queue":"low","class":"C","args":[],"jid":"1","created_at":null,` + stamp + `}`,
		},
		"defaults": {
			`{"class":"C","args":[],"jid":"1"}`,
			"default", `{"class":"C","args":[],"jid":"1",` + stamp + `,"queue":"default","retry":true,"created_at":1795291060.0}`,
		},
		"item 58: not JSON":  {"not json", "", ""},
		"not an object":      {"[1]", "", ""},
		"no class":           {`{"args":[],"jid":"1"}`, "", ""},
		"args no array":      {`{"class":"C","args":{},"jid":"1"}`, "", ""},
		"queue is no string": {`{"class":"C","args":[],"queue":5,"jid":"1"}`, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			store, rc := newStore(t)
			other := `{"retry":1,"queue":"other","class":"C","args":[],"jid":"2","created_at":1.5}`
			schedule(t, rc, "schedule", 5, c.in)
			schedule(t, rc, "schedule", 6, other)
			schedule(t, rc, "schedule", float64(now.Unix())+0.001, "item 61: in the future")
			got, err := store.PollDue(t.Context(), SetSchedule, now, 100)
			if err != nil || got.Due != 2 {
				t.Fatalf("PollDue = %+v, %v", got, err)
			}
			if n := rc.LLen(t.Context(), "queue:other").Val(); n != 1 || got.Queues["other"] != 1 {
				t.Errorf("the other due job: %d in its queue, %+v", n, got)
			}
			if n := rc.ZCard(t.Context(), "schedule").Val(); n != 1 {
				t.Errorf("%d members left, want the future one", n)
			}
			if c.queue == "" {
				z := rc.ZRangeWithScores(t.Context(), "dead", 0, -1).Val()
				if got.Buried != 1 || len(z) != 1 || z[0].Member != Burial(c.in) || z[0].Score != float64(now.Unix()) {
					t.Errorf("dead = %v, %+v", z, got)
				}
				return
			}
			equal(t, "queue", list(t, rc, "queue:"+c.queue), []string{c.out})
			if !rc.SIsMember(t.Context(), "queues", c.queue).Val() || got.Moved != 2 {
				t.Errorf("queues or %+v", got)
			}
		})
	}
}

func TestPollMakesAJID(t *testing.T) {
	store, c := newStore(t)
	schedule(t, c, "retry", 5, `{"class":"C","args":[]}`)
	if _, err := store.PollDue(t.Context(), SetRetry, now, 1); err != nil {
		t.Fatal(err)
	}
	if job := mustParse(t, list(t, c, "queue:default")[0]); len(job.JID) != 24 || job.Retry.Max != 25 || job.CreatedAt == 0 {
		t.Errorf("job = %+v", job)
	}
}

// TestItem59And63: ten pollers and 1,000 due jobs, scripts forgotten now and then; each job is queued once, in order of time.
func TestItem59TenPollersMoveEachJobOnce(t *testing.T) {
	store, c := newStore(t)
	jobs := numbered(1000)
	for i, j := range jobs {
		schedule(t, c, "schedule", float64(i), j)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	moved := 0
	for n := range 10 {
		wg.Go(func() {
			for {
				if n == 0 {
					c.ScriptFlush(t.Context())
				}
				got, err := store.PollDue(t.Context(), SetSchedule, now, 100)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				moved += got.Moved
				mu.Unlock()
				if got.Due == 0 {
					return
				}
			}
		})
	}
	wg.Wait()
	queued := list(t, c, "queue:default")
	if moved != 1000 || len(queued) != 1000 {
		t.Fatalf("%d moved, %d in the queue, want 1,000", moved, len(queued))
	}
	seen := map[string]bool{}
	for _, p := range queued {
		seen[mustParse(t, p).JID] = true
	}
	if len(seen) != 1000 {
		t.Errorf("%d distinct jobs", len(seen))
	}
}

func TestItem62PollInterval(t *testing.T) {
	for _, c := range []struct {
		n         int
		average   time.Duration
		low, high time.Duration
	}{
		{0, 0, 2500 * time.Millisecond, 7500 * time.Millisecond},
		{1, 0, 2500 * time.Millisecond, 7500 * time.Millisecond},
		{9, 0, 22500 * time.Millisecond, 67500 * time.Millisecond},
		{10, 0, 0, 100 * time.Second},
		{3, 2 * time.Second, time.Second, 3 * time.Second},
	} {
		low, high := PollInterval(c.n, c.average, func() float64 { return 0 }), PollInterval(c.n, c.average, func() float64 { return math.Nextafter(1, 0) })
		if low != c.low || high > c.high || high < c.high-time.Microsecond {
			t.Errorf("PollInterval(%d, %v) lies in [%v, %v), want [%v, %v)", c.n, c.average, low, high, c.low, c.high)
		}
		for range 100 {
			if d := PollInterval(c.n, c.average, rand.Float64); d < c.low || d >= c.high {
				t.Errorf("PollInterval(%d, %v) = %v", c.n, c.average, d)
			}
		}
	}
}

// TestRubyAndWePollTheSameSets: items 54, 55 and 57, both ways.
func TestRubyAndWePollTheSameSets(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx := t.Context()
	b.ruby.Enqueue("soon")
	theirs := b.c.ZRange(ctx, "schedule", 0, -1).Val()
	if len(theirs) != 1 {
		t.Fatal(theirs)
	}
	got, err := b.store.PollDue(ctx, SetSchedule, time.Now().Add(10*time.Second), 10)
	if err != nil || got.Moved != 1 {
		t.Fatal(got, err)
	}
	mine := list(t, b.c, "queue:default")[0]
	if !strings.HasPrefix(mine, strings.TrimSuffix(theirs[0], "}")+`,"enqueued_at":`) {
		t.Errorf("item 54: %s became %s", theirs[0], mine)
	}
	client := NewClient(b.store)
	at := float64(time.Now().Unix() - 5)
	ids, err := client.PushBulk(ctx, Push{Class: "OracleEcho"}, []any{[]int{1}, json.RawMessage(`["<é>"]`)}, at, at+1)
	if err != nil {
		t.Fatal(err)
	}
	b.ruby.StartSidekiq([]string{"ORACLE_POLL=1"}, "-q", "default", "-c", "1")
	waitFor(t, "Ruby to poll and run our jobs", func() bool { return b.c.LLen(ctx, "oracle:echo").Val() == 2 })
	var run []string
	for _, line := range b.c.LRange(ctx, "oracle:echo", 0, -1).Val() {
		run = append(run, text(mustTop(t, line, "jid")))
	}
	slices.Sort(run)
	slices.Sort(ids)
	equal(t, "item 55: run by Ruby", run, ids)
	if n := b.c.LLen(ctx, "oracle:done").Val(); n != 1 {
		t.Errorf("item 54: Ruby ran %d of the jobs we moved, want 1", n)
	}
}
