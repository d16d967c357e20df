package queues

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

func info(identity string) ProcessInfo {
	return ProcessInfo{
		Identity: identity, Hostname: "web1", PID: 4242, StartedAt: now, Tag: "app", Concurrency: 25,
		Queues: []string{"push", "pull"}, Version: "1",
	}
}

func TestBeatWritesWhatEveryVersionReads(t *testing.T) {
	store, c := newStore(t)
	ctx := t.Context()
	payload := `{"class":"C","args":["\"<é>"]}`
	p := Pulse{
		Now: now, Busy: 1, Quiet: true, RSSKB: 1234, Processed: 13, Failed: 3, MirrorWorkers: true,
		Work: []WorkEntry{{TID: "abc", Queue: "push", Payload: payload, RunAt: now.Add(900 * time.Millisecond)}},
	}
	r, err := store.Beat(ctx, info("web1:4242:f143c78324aa"), p)
	if err != nil || !r.First || r.Signal != "" || !r.StatsWritten || !r.MetricsWritten || r.RTT <= 0 {
		t.Fatalf("Beat = %+v, %v", r, err)
	}
	h := c.HGetAll(ctx, "web1:4242:f143c78324aa").Val()
	const wantInfo = `{"hostname":"web1","started_at":1795291060.0,"pid":4242,"tag":"app","concurrency":25,` +
		`"capsules":{"default":{"concurrency":25,"mode":"strict","weights":{"push":0,"pull":0}}},` +
		`"queues":["push","pull"],"weights":[{"push":0,"pull":0}],"labels":[],"identity":"web1:4242:f143c78324aa","version":"1","embedded":false}`
	for field, want := range map[string]string{"info": wantInfo, "concurrency": "25", "busy": "1", "beat": "1795291060.0", "quiet": "true", "rss": "1234"} {
		if h[field] != want {
			t.Errorf("%s = %s, want %s", field, h[field], want)
		}
	}
	if us, err := strconv.Atoi(h["rtt_us"]); err != nil || us <= 0 {
		t.Errorf("rtt_us = %q", h["rtt_us"])
	}
	if d := c.TTL(ctx, "web1:4242:f143c78324aa").Val(); d < 50*time.Second || d > time.Minute {
		t.Errorf("item 69: the hash lives for %v", d)
	}
	for _, key := range []string{":work", ":workers"} {
		work := c.HGetAll(ctx, "web1:4242:f143c78324aa"+key).Val()
		if want := `{"queue":"push","payload":` + JSONString(payload) + `,"run_at":1795291060}`; len(work) != 1 || work["abc"] != want {
			t.Errorf("item 72: %s = %v, want %s", key, work, want)
		}
	}
	for key, want := range map[string]string{"stat:processed": "13", "stat:failed": "3", "stat:processed:2026-11-21": "13", "stat:failed:2026-11-21": "3"} {
		if got := c.Get(ctx, key).Val(); got != want {
			t.Errorf("item 84: %s = %q, want %s", key, got, want)
		}
	}
	if d := c.TTL(ctx, "stat:failed:2026-11-21").Val(); d < dailyTTL-time.Minute || d > dailyTTL {
		t.Errorf("item 85: a day lives for %v", d)
	}

	// The next one: nothing runs, two signals wait; one is taken.
	c.LPush(ctx, "web1:4242:f143c78324aa-signals", "TSTP")
	c.LPush(ctx, "web1:4242:f143c78324aa-signals", "TERM")
	before := c.Get(ctx, "stat:processed").Val()
	r, err = store.Beat(ctx, info("web1:4242:f143c78324aa"), Pulse{Now: now.Add(10 * time.Second), MirrorWorkers: true})
	if err != nil || r.First || r.Signal != "TSTP" {
		t.Errorf("second Beat = %+v, %v", r, err)
	}
	if n := c.Exists(ctx, "web1:4242:f143c78324aa:work", "web1:4242:f143c78324aa:workers").Val(); n != 0 {
		t.Errorf("item 71: %d work hashes are left", n)
	}
	if got := c.Get(ctx, "stat:processed").Val(); got != before {
		t.Errorf("item 86: stat:processed went from %s to %s", before, got)
	}
	if err := store.PublishWorker(ctx, "web1:4242:f143c78324aa", []byte("{}")); err != nil {
		t.Error(err)
	}
	if got, err := store.WorkerStates(ctx, []string{"x", "web1:4242:f143c78324aa"}); err != nil || len(got) != 1 || string(got["web1:4242:f143c78324aa"]) != "{}" {
		t.Errorf("WorkerStates = %v, %v", got, err)
	}
	if err := store.Leave(ctx, "web1:4242:f143c78324aa"); err != nil {
		t.Error(err)
	}
	if c.SCard(ctx, "processes").Val() != 0 || c.Exists(ctx, "queueville:worker:web1:4242:f143c78324aa").Val() != 0 {
		t.Error("Leave leaves traces")
	}
}

func TestBeatSaysWhatIsWritten(t *testing.T) {
	store, c := newStore(t)
	c.Set(t.Context(), "processes", "no set", 0)
	r, err := store.Beat(t.Context(), info("a"), Pulse{Now: now, Processed: 1})
	if err == nil || !r.StatsWritten || r.MetricsWritten {
		t.Errorf("Beat = %+v, %v", r, err)
	}
	if got := c.Get(t.Context(), "stat:processed").Val(); got != "1" {
		t.Errorf("stat:processed = %q", got)
	}
}

func TestItem83CleanProcesses(t *testing.T) {
	store, c := newStore(t)
	ctx := t.Context()
	if _, err := store.Beat(ctx, info("alive"), Pulse{Now: now}); err != nil {
		t.Fatal(err)
	}
	c.SAdd(ctx, "processes", "dead", "without info")
	c.HSet(ctx, "without info", "busy", "1")
	if n, err := store.CleanProcesses(ctx); n != 2 || err != nil {
		t.Errorf("CleanProcesses = %d, %v", n, err)
	}
	equal(t, "processes", c.SMembers(ctx, "processes").Val(), []string{"alive"})
	c.SAdd(ctx, "processes", "dead")
	if n, err := store.CleanProcesses(ctx); n != 0 || err != nil {
		t.Errorf("second CleanProcesses = %d, %v, want none within a minute", n, err)
	}
	if d := c.TTL(ctx, "process_cleanup").Val(); d < 50*time.Second || d > time.Minute {
		t.Errorf("process_cleanup lives for %v", d)
	}
}

func TestExecStats(t *testing.T) {
	store, c := newStore(t)
	ctx := t.Context()
	at := time.Date(2026, 11, 2, 5, 1, 30, 0, time.UTC)
	e := NewExecStats(true, true, 3)
	e.Add("C", at, 280*time.Millisecond, false)
	e.Add("C", at, time.Second, true)
	e.Add("A|B", at, 400*time.Second, false)
	e.Add("D", at, 0, false)
	e.Add("beyond the bound", at, 0, false)
	taken := e.Take()
	if !e.Empty() {
		t.Error("Take leaves something")
	}
	e.Add("C", at, 281*time.Millisecond, false)
	e.Merge(taken)
	if err := store.FlushMetrics(ctx, e.Take()); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"C|p": "3", "C|f": "1", "C|ms": "561", "A_B|p": "1", "A_B|ms": "400000", "D|p": "1"}
	for key, ttl := range map[string]time.Duration{"j|20261102|5:1": minuteTTL, "j|261102|5:01": minuteTTL, "j|261102|5:0": tenMinuteTTL} {
		got := c.HGetAll(ctx, key).Val()
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("item 88: %s = %v, want %v", key, got, want)
		}
		if d := c.TTL(ctx, key).Val(); d > ttl || d < ttl-time.Minute {
			t.Errorf("%s lives for %v, want %v", key, d, ttl)
		}
	}
	// Item 89: 280 ms is in bucket 7.
	for _, key := range []string{"C-02-05:1", "h|C-2-5:1"} {
		if got := c.BitField(ctx, key, "GET", "u16", "#7", "GET", "u16", "#6", "GET", "u16", "#8").Val(); !slices.Equal(got, []int64{2, 0, 0}) {
			t.Errorf("item 89: %s = %v", key, got)
		}
	}
	if got := c.BitField(ctx, "h|A_B-2-5:1", "GET", "u16", "#25").Val(); got[0] != 1 {
		t.Errorf("last bucket = %v", got)
	}
	for ms, want := range map[int64]int{0: 0, 19: 0, 20: 1, 334: 7, 335: 8, 334_999: 24, 335_000: 25} {
		if got := histogramBucket(ms); got != want {
			t.Errorf("histogramBucket(%d) = %d, want %d", ms, got, want)
		}
	}
}

// TestRubySeesOurProcess: items 67, 68, 70, 73 to 75 (the data), 79, 84, 87, 90.
func TestRubySeesOurProcess(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx := t.Context()
	id := NewIdentity("web1", 4242)
	us := info(id)
	wrapped := `{"class":"ActiveJob::QueueAdapters::SidekiqAdapter::JobWrapper","wrapped":"RealJob","args":[{"job_class":"RealJob","arguments":[1]}],"jid":"` + jid(1) + `","queue":"push","created_at":1795291060.5,"enqueued_at":1795291060.5}`
	began := time.Now()
	p := Pulse{Now: began, Busy: 1, Processed: 13, Failed: 3, MirrorWorkers: true, Work: []WorkEntry{{"t1", "push", wrapped, began}}}
	p.Metrics = NewExecStats(true, true, 10)
	p.Metrics.Add("RealJob", began, 280*time.Millisecond, false)
	if _, err := b.store.Beat(ctx, us, p); err != nil {
		t.Fatal(err)
	}
	v := b.ruby.Inspect("processes", "work", "stats", "history")
	if len(v.Processes) != 1 || len(v.Work) != 1 {
		t.Fatalf("Ruby sees %s", v.Raw)
	}
	ps := v.Processes[0]
	for key, want := range map[string]any{"hostname": "web1", "pid": 4242.0, "tag": "app", "identity": id, "busy": 1.0, "stopping?": false} {
		if fmt.Sprint(ps[key]) != fmt.Sprint(want) {
			t.Errorf("item 67: %s = %v, want %v", key, ps[key], want)
		}
	}
	if fmt.Sprint(ps["queues"]) != "[push pull]" || fmt.Sprint(ps["concurrency"]) != "25" {
		t.Errorf("item 67: queues %v, concurrency %v", ps["queues"], ps["concurrency"])
	}
	if w := v.Work[0]; w.Process != id || w.TID != "t1" || w.Queue != "push" || w.Payload["jid"] != jid(1) || string(w.RunAt) != strconv.FormatInt(began.Unix(), 10) {
		t.Errorf("item 70: %s", v.Raw)
	}
	if v.Stats.Processed != 13 || v.Stats.Failed != 3 || v.Stats.Busy != 1 || v.Stats.Processes != 1 || v.History["processed"][began.UTC().Format(time.DateOnly)] != 13 {
		t.Errorf("item 84: %s", v.Raw)
	}
	page, ok := b.ruby.WebGet("/busy")
	if !ok || !strings.Contains(page, "RealJob") || !strings.Contains(page, "web1:4242") {
		t.Errorf("items 68, 90: %v %s", ok, page)
	}
	b.ruby.WebSmoke()

	// Buttons: Quiet, then Stop; one per beat, in that order.
	if !b.ruby.WebPost("/busy", "identity="+id, "quiet=1") || !b.ruby.Control("stop", id) {
		t.Error("item 73: a button fails")
	}
	var signals []string
	for range 3 {
		r, err := b.store.Beat(ctx, us, Pulse{Now: time.Now(), Quiet: true, MirrorWorkers: true})
		if err != nil {
			t.Fatal(err)
		}
		signals = append(signals, r.Signal)
	}
	equal(t, "item 75: signals", signals, []string{"TSTP", "TERM", ""})
	b.ruby.Control("reset-stats")
	if _, err := b.store.Beat(ctx, us, Pulse{Now: time.Now(), Quiet: true, Processed: 2, MirrorWorkers: true}); err != nil {
		t.Fatal(err)
	}
	v = b.ruby.Inspect("processes", "work", "stats")
	if v.Stats.Processed != 2 || v.Stats.Failed != 0 {
		t.Errorf("item 87: after reset %d processed, %d failed, want 2 and 0", v.Stats.Processed, v.Stats.Failed)
	}
	if len(v.Processes) != 1 || v.Processes[0]["stopping?"] != true || len(v.Work) != 0 {
		t.Errorf("items 71, 73: %s", v.Raw)
	}

	// Item 79: killed; its hash expires, Ruby's clean-up removes the member. (A page of the API does it.)
	b.c.Del(ctx, id, "process_cleanup")
	b.ruby.Eval(`require "sidekiq/api"; Sidekiq::ProcessSet.new.size`, "")
	if n := b.c.SCard(ctx, "processes").Val(); n != 0 {
		t.Errorf("item 79: processes has %d members", n)
	}
}

// TestWeSeeRubysProcess: the read side on what Ruby writes.
func TestWeSeeRubysProcess(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx := t.Context()
	b.ruby.Push(`{"class":"OracleSleep","args":[20],"queue":"low"}`, `{"class":"OracleNoop","args":[],"queue":"other"}`)
	b.ruby.Enqueue("in")
	s := b.ruby.StartSidekiq(nil, "-q", "default", "-q", "low", "-c", "3", "-t", "1")
	var running []RunningJob
	waitFor(t, "Ruby to run a job", func() bool {
		var err error
		if running, err = b.store.Running(ctx); err != nil {
			t.Fatal(err)
		}
		return len(running) == 1
	})
	if r := running[0]; r.Queue != "low" || mustParse(t, r.Payload).Class != "OracleSleep" || time.Since(r.RunAt) > 30*time.Second {
		t.Errorf("Running = %+v", running)
	}
	ps, err := b.store.Processes(ctx)
	if err != nil || len(ps) != 1 {
		t.Fatal(ps, err)
	}
	if p := ps[0]; p.Concurrency != 3 || p.Identity != running[0].Identity || p.Hostname == "" || p.PID == 0 || !slices.Equal(p.Queues, []string{"default", "low"}) ||
		p.RSSKB < 1000 || time.Since(p.StartedAt) > time.Minute || time.Since(p.Beat) > time.Minute || p.RTT <= 0 || p.Quiet {
		t.Errorf("Processes = %+v", p)
	}
	qs, err := b.store.Queues(ctx, time.Now())
	if err != nil || len(qs) != 2 || qs[0].Name != "low" || qs[1].Name != "other" || qs[1].Backlog != 1 || qs[1].Latency <= 0 || qs[1].Latency > 60 {
		t.Errorf("Queues = %+v, %v", qs, err)
	}
	tot, err := b.store.Totals(ctx)
	if err != nil || tot.Scheduled != 1 || tot.Enqueued != 1 || tot.Processes != 1 {
		t.Errorf("Totals = %+v, %v", tot, err)
	}
	if n, err := b.store.ProcessCount(ctx); n != 1 || err != nil {
		t.Errorf("ProcessCount = %d, %v", n, err)
	}
	s.Kill()
}

func TestReadSideIsTolerant(t *testing.T) {
	store, c := newStore(t)
	ctx := t.Context()
	for id, text := range map[string]string{
		"8.1":   `{"hostname":"h","started_at":1795291060.5,"pid":1,"tag":"","queues":["a","b"],"labels":["x"],"weights":[{"a":2,"b":1}],"capsules":{"default":{"concurrency":5,"mode":"weighted","weights":{"a":2,"b":1}}},"version":"8.1.7","embedded":false}`,
		"7.0.2": `{"hostname":"h","concurrency":10,"weights":{"a":1}}`,
		"odd":   `{"hostname":5,"started_at":"x","queues":"no","labels":null}`,
		"bad":   `not json`,
	} {
		c.SAdd(ctx, "processes", id)
		c.HSet(ctx, id, "info", text)
	}
	c.HSet(ctx, "8.1", "concurrency", "7", "busy", "2", "quiet", "true", "beat", "x")
	c.SAdd(ctx, "processes", "gone", "no hash")
	c.Set(ctx, "no hash", "x", 0)
	got, err := store.Processes(ctx)
	if err != nil || len(got) != 4 {
		t.Fatalf("Processes = %+v, %v", got, err)
	}
	if p := got[0]; p.Concurrency != 10 || !slices.Equal(p.Queues, []string{"a"}) {
		t.Errorf("7.0.2 = %+v", p)
	}
	if p := got[1]; p.Concurrency != 7 || p.Mode != "weighted" || p.Weights["a"] != 2 || !p.Quiet || p.Busy != 2 || !p.StartedAt.Equal(now.Add(500*time.Millisecond)) {
		t.Errorf("8.1 = %+v", p)
	}

	c.SAdd(ctx, "queues", "f", "ms", "created", "empty", "future", "bad", "string")
	for name, payload := range map[string]string{
		"f": `{"enqueued_at":1795291050.0}`, "ms": `{"enqueued_at":1795291050000}`, "created": `{"created_at":1795291050.0}`,
		"future": `{"enqueued_at":1795299999.0}`, "bad": "x", "string": `{"enqueued_at":"1795291050"}`,
	} {
		push(t, c, "queue:"+name, payload)
	}
	c.SAdd(ctx, "paused", "f")
	qs, err := store.Queues(ctx, now)
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range qs {
		want := map[string]float64{"f": 10, "ms": 10, "created": 10}[q.Name]
		if q.Latency != want || q.Paused != (q.Name == "f") {
			t.Errorf("queue %+v, want latency %v", q, want)
		}
	}
	if p, err := store.PausedQueues(ctx); err != nil || !slices.Equal(p, []string{"f"}) {
		t.Errorf("PausedQueues = %v, %v", p, err)
	}
	c.HSet(ctx, "8.1:work", "a", `{"queue":"q","payload":{"class":"C"},"run_at":5}`, "b", "not json")
	if r, err := store.Running(ctx); err != nil || len(r) != 1 || r[0].Payload != `{"class":"C"}` {
		t.Errorf("Running = %+v, %v", r, err)
	}
	c.ZAdd(ctx, "dead", redis.Z{Score: 1, Member: "a"}, redis.Z{Score: 2, Member: "b"})
	if e, err := store.Entries(ctx, SetDead, 1, 5); err != nil || !slices.Equal(e, []Entry{{"b", 2}}) {
		t.Errorf("Entries = %v, %v", e, err)
	}
}
