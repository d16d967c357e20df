package status

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/queueville/queueville/internal/redistest"
	"github.com/queueville/queueville/queues"
)

// TestExplain: what a person reads of lanes that are bound in different ways, also when what Redis holds is hostile.
func TestExplain(t *testing.T) {
	t.Parallel()
	c := redistest.Client(t)
	ctx := t.Context()
	store := queues.NewStore(c, "")
	gain := 41.5
	state, err := json.Marshal(Worker{Concurrency: 32, Limits: []Limit{
		{Lane: "native", Limit: 32, Bound: "demand", Inputs: &Inputs{Backlog: 0, CPU: 0.12, HostCPU: 1.96, Ours: 0.95, Cores: 2, Pressure: -1, Quota: -1, Want: -1}},
		{Lane: "ruby", Limit: 1, Running: 1, Rate: 76.4, Bound: "cpu of others", Value: 0.98, Unit: "core", Gain: &gain, Inputs: &Inputs{
			Running: 1, Full: 1, Rate: 76.4, Wall: 0.0131, CPU: 0.83, Want: 0.85, Backlog: 608, Arrivals: 80, Goal: 5, HostCPU: 1.96, Ours: 0.95, Cores: 2, Pressure: 0.52, Quota: -1,
		}},
		{Lane: "\x1b[2J\n", Bound: strings.Repeat("x", 500), Value: -1, Unit: "\t"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for _, id := range []string{"alpha:1:aa", "beta:2:bb"} {
		if _, err := store.Beat(ctx, queues.ProcessInfo{Identity: id, Hostname: "h", PID: 1, StartedAt: now}, queues.Pulse{Now: now}); err != nil {
			t.Fatal(err)
		}
	}
	fixed, _ := json.Marshal(Worker{Concurrency: 512})
	for id, data := range map[string][]byte{"alpha:1:aa": state, "beta:2:bb": fixed} {
		if err := store.PublishWorker(ctx, id, data); err != nil {
			t.Fatal(err)
		}
	}
	for i, lane := range []string{"ruby", "native", "ruby"} {
		if err := c.XAdd(ctx, &redis.XAddArgs{Stream: store.OwnKey(JournalKey), Values: []any{
			"worker", "alpha:1:aa", "at", now.Add(time.Duration(i-300) * time.Second).UnixMilli(), "lane", lane, "from", 3 + i, "to", 2, "why", "less for \x1b[31mcpu of others", "bound", "cpu of others", "inputs", "{}",
		}}).Err(); err != nil {
			t.Fatal(err)
		}
	}
	e, err := Explain(ctx, store, "", 2)
	if err != nil {
		t.Fatal(err)
	}
	for i := range e.Workers {
		e.Workers[i].BeatAge = 3
	}
	var text bytes.Buffer
	if err := RenderExplanation(&text, e); err != nil {
		t.Fatal(err)
	}
	golden(t, "explain.golden", text.String())
	if e, err = Explain(ctx, store, "ruby", 10); err != nil || len(e.Changes) != 2 || len(e.Workers[0].Lanes) != 1 {
		t.Errorf("of Ruby alone: %+v, %v", e, err)
	}
}
