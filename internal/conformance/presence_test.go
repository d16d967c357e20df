package conformance

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/queueville/queueville/worker"
)

// TestConformancePresence: items 67 to 77 with a whole engine and Sidekiq::Web's buttons.
func TestConformancePresence(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	ctx := t.Context()
	busy := payload("OracleNoop", `["ü",9007199254740993]`, jid(1), "")
	g.push("default", busy)
	e := g.start(func(cfg *worker.Config, h *oracleJobs) { h.blockJID, cfg.StopTimeout = jid(1), 500*time.Millisecond })
	g.waitFor("the busy list", func() bool { return g.c.HLen(ctx, e.identity+":work").Val() == 1 })

	v := g.ruby.Inspect("processes", "work", "stats")
	if len(v.Processes) != 1 || len(v.Work) != 1 {
		t.Fatalf("Ruby sees %s", v.Raw)
	}
	ps := v.Processes[0]
	for key, want := range map[string]any{"identity": e.identity, "tag": "conformance", "queues": []any{"default"}, "concurrency": 25, "busy": 1, "stopping?": false, "labels": []any{"queueville"}} {
		if fmt.Sprint(ps[key]) != fmt.Sprint(want) {
			t.Errorf("item 67: %s = %v, want %v", key, ps[key], want)
		}
	}
	if w := v.Work[0]; w.Process != e.identity || w.Queue != "default" || w.Payload["jid"] != jid(1) {
		t.Errorf("item 70: %s", v.Raw)
	}
	for _, key := range []string{":work", ":workers"} {
		for _, text := range g.c.HVals(ctx, e.identity+key).Val() {
			var entry struct {
				RunAt   json.Number `json:"run_at"`
				Payload string      `json:"payload"`
			}
			if err := json.Unmarshal([]byte(text), &entry); err != nil || entry.Payload != busy {
				t.Errorf("item 72: %s has %s, %v", key, text, err)
			}
			if n, err := strconv.ParseInt(string(entry.RunAt), 10, 64); err != nil || len(entry.RunAt) > 10 || time.Since(time.Unix(n, 0)) > time.Minute {
				t.Errorf("item 72: run_at = %s", entry.RunAt)
			}
		}
	}
	first := g.c.HGet(ctx, e.identity, "beat").Val()
	if ttl := g.c.TTL(ctx, e.identity).Val(); ttl < 50*time.Second || ttl > time.Minute {
		t.Errorf("item 69: the hash lives for %v", ttl)
	}
	if page := mustPage(t, g.ruby, "/busy"); !strings.Contains(page, "OracleNoop") || !strings.Contains(page, e.identity[:strings.LastIndex(e.identity, ":")]) {
		t.Errorf("items 68, 70: the page does not show it: %s", page)
	}
	if g.c.HGet(ctx, e.identity, "beat").Val() == first {
		t.Error("item 69: beat does not advance")
	}

	// Item 82: everything about it is forgotten; the next beat brings it back.
	g.c.Del(ctx, e.identity)
	g.c.SRem(ctx, "processes", e.identity)
	g.waitFor("it to register again", func() bool {
		return g.c.SIsMember(ctx, "processes", e.identity).Val() && g.c.HExists(ctx, e.identity, "info").Val()
	})
	// Item 76.
	g.c.LPush(ctx, e.identity+"-signals", "PARTY")
	g.waitFor("the word to be taken", func() bool { return g.c.Exists(ctx, e.identity+"-signals").Val() == 0 })

	if !g.ruby.WebPost("/busy", "identity="+e.identity, "quiet=1") {
		t.Error("item 73: the button fails")
	}
	g.waitFor("quiet", func() bool { return g.c.HGet(ctx, e.identity, "quiet").Val() == "true" })
	later := payload("OracleNoop", `["later"]`, jid(2), "")
	g.push("default", later)
	if v := g.ruby.Inspect("processes", "stats"); len(v.Processes) != 1 || v.Processes[0]["stopping?"] != true || v.Stats.Busy != 1 {
		t.Errorf("item 73: %s", v.Raw)
	}
	if got := g.list("default"); !slices.Equal(got, []string{later}) {
		t.Errorf("item 73: a quiet engine fetched: queue = %q", got)
	}
	if !g.ruby.WebPost("/busy", "identity="+e.identity, "stop=1") {
		t.Error("item 74: the button fails")
	}
	select {
	case <-e.done:
	case <-time.After(20 * time.Second):
		t.Fatal("item 74: the engine does not stop")
	}
	if g.c.SIsMember(ctx, "processes", e.identity).Val() || g.c.Exists(ctx, e.identity+":work", e.identity+":workers").Val() != 0 {
		t.Error("item 74: it is still listed")
	}
	if got := g.list("default"); !slices.Equal(got, []string{busy, later}) {
		t.Errorf("item 77: queue = %q, want the interrupted job first, byte for byte", got)
	}
	sidekiq := g.ruby.StartSidekiq(nil, "-q", "default", "-c", "1")
	g.waitFor("Ruby to run them", func() bool { return len(g.done()) == 2 })
	sidekiq.Stop()
	if first := g.c.LIndex(ctx, "oracle:done", 0).Val(); !strings.Contains(first, jid(1)) {
		t.Errorf("item 77: Ruby ran %s first", first)
	}
	g.ruby.WebSmoke()
}

// TestConformanceSignalsInOrder: item 75. Quiet and Stop pushed together are obeyed one per beat, in that order.
func TestConformanceSignalsInOrder(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	ctx := t.Context()
	e := g.start(func(cfg *worker.Config, _ *oracleJobs) { cfg.BeatEvery = time.Second })
	g.waitFor("a heartbeat", func() bool { return g.c.SIsMember(ctx, "processes", e.identity).Val() })
	if err := g.c.LPush(ctx, e.identity+"-signals", "TSTP", "TERM").Err(); err != nil {
		t.Fatal(err)
	}
	g.waitFor("the first of the two", func() bool { return g.c.LLen(ctx, e.identity+"-signals").Val() == 1 })
	select {
	case <-e.done:
		t.Error("item 75: it stopped at the first signal")
	case <-time.After(400 * time.Millisecond):
	}
	if left := g.c.LIndex(ctx, e.identity+"-signals", 0).Val(); left != "TERM" {
		t.Errorf("item 75: left is %q", left)
	}
	select {
	case <-e.done:
	case <-time.After(10 * time.Second):
		t.Error("item 75: it does not stop")
	}
}

// TestConformanceCounters: items 84 to 88 with a whole engine.
func TestConformanceCounters(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	ctx := t.Context()
	day := func() string { return time.Now().UTC().Format(time.DateOnly) }
	today := day()
	g.c.Set(ctx, "stat:processed", 1000, 0)
	g.c.Set(ctx, "stat:failed", 100, 0)
	e := g.start(nil)
	time.Sleep(3 * beatEvery)
	if p, n := g.c.Get(ctx, "stat:processed").Val(), g.c.Exists(ctx, "stat:processed:"+today, "stat:failed:"+today).Val(); p != "1000" || n != 0 {
		t.Errorf("item 86: an idle engine changed totals: %s, %d daily keys", p, n)
	}
	for i := range 10 {
		g.push("default", payload("OracleNoop", "[]", jid(i), ""))
	}
	for i := range 3 {
		g.push("default", payload("OracleFail", "[]", jid(10+i), ""))
	}
	g.waitFor("the counters", func() bool { return g.c.Get(ctx, "stat:processed").Val() == "1013" })
	if day() != today {
		t.Skip("midnight in UTC")
	}
	v := g.ruby.Inspect("stats", "history", "metrics")
	if v.Stats.Processed != 1013 || v.Stats.Failed != 103 || v.History["processed"][today] != 13 || v.History["failed"][today] != 3 {
		t.Errorf("item 84: %s", v.Raw)
	}
	for _, key := range []string{"stat:processed:", "stat:failed:"} {
		if ttl := g.c.TTL(ctx, key+today).Val().Seconds(); ttl < 157_679_000 || ttl > 157_681_000 {
			t.Errorf("item 85: %s lives for %v s", key, ttl)
		}
	}
	if major, _ := g.sidekiqVersion(); major >= 7 {
		var metrics map[string]struct {
			Totals map[string]float64 `json:"totals"`
		}
		if err := json.Unmarshal(v.Metrics, &metrics); err != nil {
			t.Fatalf("item 88: %v: %s", err, v.Metrics)
		}
		if m := metrics["OracleNoop"].Totals; m["p"] != 10 {
			t.Errorf("item 88: OracleNoop = %v, want 10 jobs", m)
		}
		if m := metrics["OracleFail"].Totals; m["f"] != 3 {
			t.Errorf("item 88: OracleFail = %v, want 3 failures", m)
		}
	}
	if !g.ruby.Control("reset-stats") {
		t.Error("item 87: cannot reset")
	}
	g.push("default", payload("OracleNoop", "[]", jid(20), ""))
	g.waitFor("the counter after the reset", func() bool { return g.c.Get(ctx, "stat:processed").Val() == "1" })
	e.stop(t)
	g.ruby.WebSmoke()
}
