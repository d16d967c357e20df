package status

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/queueville/queueville/internal/redistest"
	"github.com/queueville/queueville/queues"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := redistest.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "stop the shared redis-server:", err)
		code = 1
	}
	os.Exit(code)
}

func mustRead(t *testing.T, store *queues.Store) (*Status, string) {
	t.Helper()
	s, err := Read(t.Context(), store)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := Render(&b, s); err != nil {
		t.Fatal(err)
	}
	return s, b.String()
}

// TestRead: queues, sets, Ruby's processes and ours, and what should be said about them.
func TestRead(t *testing.T) {
	t.Parallel()
	c := redistest.Client(t)
	ctx := t.Context()
	store := queues.NewStore(c, "")
	now := time.Now()
	for name, n := range map[string]int{"push": 0, "pull": 3, "own": 2, "default": 1, "stopped": 1} {
		c.SAdd(ctx, "queues", name)
		for range n {
			c.LPush(ctx, "queue:"+name, fmt.Sprintf(`{"class":"C","args":[],"jid":"1","enqueued_at":%d.5}`, now.Unix()-10_800))
		}
	}
	c.SAdd(ctx, "paused", "stopped")
	c.Set(ctx, "stat:processed", 1_234_567, 0)
	beat := func(id string, list []string) {
		t.Helper()
		if _, err := store.Beat(ctx, queues.ProcessInfo{Identity: id, Hostname: "h", PID: 1, StartedAt: now, Concurrency: 5, Queues: list}, queues.Pulse{Now: now, Busy: 1}); err != nil {
			t.Fatal(err)
		}
	}
	beat("ruby:1:a", []string{"push", "pull"})
	beat("ours:2:b", []string{"own"})
	state, err := json.Marshal(Worker{Owned: []string{"own"}, Shared: []string{"push"}, ForeignTo: "own_ruby", Running: 7, Waiting: 2, Concurrency: 512, Outage: "dns since 12:00:00"})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.PublishWorker(ctx, "ours:2:b", state); err != nil {
		t.Fatal(err)
	}
	session, _, err := store.Register(ctx, queues.Holder{Identity: "dead:3:c"}, 50*time.Millisecond, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := session.Fetch(ctx, []string{"default"}, 1); err != nil || len(got) != 1 {
		t.Fatalf("Fetch = %v, %v", got, err)
	}
	time.Sleep(100 * time.Millisecond) // its lease ends

	s, text := mustRead(t, store)
	for _, want := range []string{
		"processed 1,234,567", "1 queueville (shared), 1 ruby", "1 queueville", "7/512 (+2 waiting)", "paused", "3.0 h",
		"idle Ruby threads get new jobs first", "most destinations fail at once, probably our own network: dns since 12:00:00",
		"no Ruby process serves own_ruby", "a dead worker still holds jobs: dead:3:c", "queueville release", "own push (shared)",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("status does not say %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "queue stopped has jobs and nobody") {
		t.Error("a paused queue is not complained about")
	}
	if len(s.Orphans) != 1 || s.Orphans[0].Jobs != 1 || len(s.Processes) != 2 || len(s.Queues) != 5 {
		t.Errorf("Read = %+v", s)
	}
	if !slices.IsSortedFunc(s.Queues, func(a, b Queue) int { return strings.Compare(a.Name, b.Name) }) {
		t.Error("queues are not sorted")
	}
}

// TestHostileNames: nothing that Redis holds can steer a terminal, add lines, or turn the direction of writing.
func TestHostileNames(t *testing.T) {
	t.Parallel()
	c := redistest.Client(t)
	ctx := t.Context()
	store := queues.NewStore(c, "")
	evil := []string{"\x1b[2J\x1b]0;t\x07", "a\nnote: all is well", "tab\there", "\u202eevil", "\u200b\u2066x", "\xff\xfe", "\u009b31m", "\r", strings.Repeat("é", 5000), ""}
	for _, name := range evil {
		c.SAdd(ctx, "queues", name)
		c.LPush(ctx, "queue:"+name, "{broken", "[1]", `"x"`)
		id := "host" + name + ":1:x"
		info, err := json.Marshal(map[string]any{"hostname": name, "pid": "no number", "queues": []any{name, 5, nil}, "concurrency": 1e300, "tag": name})
		if err != nil {
			t.Fatal(err)
		}
		c.SAdd(ctx, "processes", id)
		c.HSet(ctx, id, "info", info, "busy", "many", "beat", "never", "rss", "-5", "quiet", "true")
		c.Set(ctx, "queueville:worker:"+id, `{"owned":["`+strings.ToValidUTF8(strings.NewReplacer("\n", "", "\t", "", "\r", "", "\x1b", "", "\x07", "").Replace(name), "")+`"],"local_outage":"\u001b[1m"}`, 0)
	}
	s, text := mustRead(t, store)
	for line := range strings.SplitSeq(text, "\n") {
		for _, r := range line {
			if !unicode.IsPrint(r) || r == '\ufffd' {
				t.Errorf("status prints %q in %.200q", r, line)
				break
			}
		}
		if strings.HasPrefix(line, "note: all is well") {
			t.Error("a name makes a line of its own")
		}
		if len(line) > 4000 {
			t.Errorf("a line of %d bytes", len(line))
		}
	}
	if _, err := json.Marshal(s); err != nil {
		t.Errorf("as JSON: %v", err)
	}
}

func TestNumbers(t *testing.T) {
	t.Parallel()
	for in, want := range map[float64]string{0: "-", 0.0042: "4 ms", 3.21: "3.2 s", 600: "10 min", 9000: "2.5 h"} {
		if got := latency(in); got != want {
			t.Errorf("latency(%v) = %q, want %q", in, got, want)
		}
	}
	for in, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", -1234567: "-1,234,567"} {
		if got := group(in); got != want {
			t.Errorf("group(%d) = %q, want %q", in, got, want)
		}
	}
}

// What binds a lane is said in words, with its value and what more would give; names come from Redis, so they are hostile.
func TestLimitsInWords(t *testing.T) {
	t.Parallel()
	gain := 250.4
	for want, l := range map[string]Limit{
		"not needed: 3.2 running, 16.0 jobs/s":                               {Bound: "demand", Running: 3.2, Rate: 16, Limit: 40},
		"cpu (97 %), 480.0 jobs/s; one more core: about +250.4":              {Bound: "cpu", Value: 0.97, Unit: "core", Gain: &gain, Rate: 480},
		"memory (200 MiB left), 5.0 jobs/s":                                  {Bound: "memory", Value: 200 << 20, Unit: "GiB", Rate: 5},
		"db connections (12), 5.0 jobs/s; one more connection: about +250.4": {Bound: "db connections", Value: 12, Unit: "connection", Gain: &gain, Rate: 5},
	} {
		if got := l.explain(); got != want {
			t.Errorf("explain() = %q, want %q", got, want)
		}
	}
	var b strings.Builder
	s := &Status{Processes: []Process{{Identity: "h:1:a", Worker: &Worker{Limits: []Limit{{Lane: "\x1b[31mx", Bound: "\x1b[2Jy", Value: math.Inf(1), Unit: "GiB"}}}}}}
	if err := Render(&b, s); err != nil || strings.Contains(b.String(), "\x1b") {
		t.Errorf("Render = %v: %q", err, b.String())
	}
}
