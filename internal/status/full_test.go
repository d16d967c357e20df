package status

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/queueville/queueville/internal/redistest"
	"github.com/queueville/queueville/queues"
)

var update = flag.Bool("update", false, "write testdata/*.golden anew")

// golden compares with a file of testdata.
func golden(t *testing.T, file, got string) {
	t.Helper()
	path := filepath.Join("testdata", file)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", path, got, want)
	}
}

var allQueues = []string{"default", "push", "ingress", "mailers", "pull", "scheduler", "fasp"}

// host is one host in full mode with its worker and Ruby processes, as Redis shows them.
func host(ruby *Ruby) *Status {
	s := &Status{
		At:   time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC),
		Sets: Sets{Scheduled: 12, Retries: 340, Dead: 2, Processed: 1_234_567, Failed: 890},
		Processes: []Process{
			{Identity: "alpha:4711:0a1b2c3d4e5f", Hostname: "alpha", PID: 4711, Concurrency: 25, RSSKB: 83_000, BeatAge: 3.4, Worker: &Worker{
				Owned: allQueues, Running: 14, Waiting: 3, InHand: 60, Concurrency: 512, Signer: "openssl", Ruby: ruby,
				Database: &Lease{Budget: 180, Leased: 58, Limit: 57, Open: 5, InUse: 2, Ruby: 50, Waiting: 26, Reason: "needs 26"},
			}},
			{Identity: "alpha:4780:9f8e7d6c5b4a", Hostname: "alpha", PID: 4780, Queues: allQueues, Concurrency: 25, Busy: 9, RSSKB: 310_000, BeatAge: 7.2},
			{Identity: "alpha:4791:1f2e3d4c5b6a", Hostname: "alpha", PID: 4791, Queues: allQueues[:5], Concurrency: 25, Busy: 4, RSSKB: 300_000, BeatAge: 1},
		},
	}
	s.findFed()
	return s
}

// finish does what Read does last.
func (s *Status) finish() *Status {
	s.addQueues([]queues.QueueState{{Name: "default", Backlog: 1_204, Latency: 3.21}, {Name: "push"}, {Name: "scheduler", Backlog: 1, Latency: 0.02}})
	s.addNotes()
	return s
}

func running() *Ruby {
	return &Ruby{Running: 13, Waiting: 34, Threads: 50, Cron: true, Processes: []RubyProcess{
		{PID: 4780, State: "serving", Running: 9, PSSBytes: 222 << 20, Cron: true},
		{PID: 4791, State: "serving", Running: 4, PSSBytes: 148 << 20},
		{PID: 4802, State: "booting"},
	}}
}

// TestFullMode: what a person sees of a host in full mode, for people and as JSON.
func TestFullMode(t *testing.T) {
	t.Parallel()
	waiting := host(&Ruby{Waits: "needs 26, and has 10"})
	waiting.Processes = waiting.Processes[:1]
	waiting.Processes[0].Worker.Database = &Lease{Budget: 12, Leased: 0, Reason: "no room: 10 connections give 2 hosts their minimum"}
	failing := &Ruby{Waiting: 1, Processes: []RubyProcess{{State: "booting"}}, Problem: "the preloaded parent of ruby processes ended before it was ready: exit status 1 (a gem is missing: run `bundle install` in the application's directory, as its user)"}
	broken := host(failing)
	broken.Processes = broken.Processes[:1]
	besides := host(running())
	besides.Processes = append(besides.Processes, Process{Identity: "beta:811:aa", Hostname: "beta", PID: 4780, Queues: allQueues, Concurrency: 25, Busy: 25, RSSKB: 900_000, BeatAge: 2})
	besides.findFed()
	hostile := &Ruby{Cron: true, Running: -5, Problem: "\x1b[2J\nnote: all is well", Processes: []RubyProcess{{PID: -3, State: "\x1b[31m\t\n" + strings.Repeat("x", 500), PSSBytes: -1}}}
	for range 300 {
		hostile.Processes = append(hostile.Processes, RubyProcess{State: "serving", PSSBytes: 1 << 62})
	}
	killed := host(running())
	killed.Processes[0].BeatAge, killed.Processes[1].BeatAge, killed.Processes[2].BeatAge = 40, 38, 38
	killed.Processes = append(killed.Processes, Process{Identity: "alpha:4999:bb", Hostname: "alpha", PID: 4999, Queues: allQueues, Concurrency: 25, BeatAge: 38})
	killed.findFed()
	cases := map[string]*Status{"waiting": waiting, "killed": killed, "full": host(running()), "failing": broken, "beside": besides, "hostile": host(hostile)}
	for name, s := range cases {
		var text bytes.Buffer
		if err := Render(&text, s.finish()); err != nil {
			t.Fatal(err)
		}
		golden(t, name+".golden", text.String())
	}
	data, err := json.MarshalIndent(cases["full"], "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "full.json.golden", string(data)+"\n")
}

// TestReadFull: a worker's Ruby processes are known by host and pid, and do not count as Sidekiq of their own.
func TestReadFull(t *testing.T) {
	t.Parallel()
	c := redistest.Client(t)
	ctx := t.Context()
	store := queues.NewStore(c, "")
	now := time.Now()
	c.SAdd(ctx, "queues", "default")
	for id, info := range map[string]queues.ProcessInfo{
		"h:1:ours": {Hostname: "h", PID: 1, Queues: []string{"default"}}, "h:2:child": {Hostname: "h", PID: 2, Queues: []string{"default"}},
		"other:2:own": {Hostname: "other", PID: 2, Queues: []string{"default"}}, "h:3:new": {Hostname: "h", PID: 3, Queues: []string{"default"}},
	} {
		info.Identity, info.StartedAt = id, now.Add(-time.Hour)
		if info.PID == 3 { // the worker has not said yet that it is its
			info.StartedAt = now
		}
		if _, err := store.Beat(ctx, info, queues.Pulse{Now: now}); err != nil {
			t.Fatal(err)
		}
	}
	state, err := json.Marshal(Worker{Owned: []string{"default"}, Ruby: &Ruby{Processes: []RubyProcess{{PID: 2, State: "serving"}}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.PublishWorker(ctx, "h:1:ours", state); err != nil {
		t.Fatal(err)
	}
	s, text := mustRead(t, store)
	fed := map[string]string{}
	for _, p := range s.Processes {
		fed[p.Identity] = p.FedBy
	}
	if fed["h:2:child"] != "h:1:ours" || fed["other:2:own"] != "" || s.Queues[0].Ruby != 1 {
		t.Errorf("fed by: %v; %+v", fed, s.Queues)
	}
	if !strings.Contains(text, "Sidekiq still runs beside h:1:ours and takes jobs from its queues, without crash safety: other:2:own\n") || strings.Contains(text, "scheduler") {
		t.Errorf("status says\n%s", text)
	}
}
