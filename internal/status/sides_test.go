package status

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/queueville/queueville/internal/redistest"
	"github.com/queueville/queueville/queues"
)

// TestSideLists: a list beside a queue is served by whoever says so, explain says what its jobs wait for, and one that nobody serves is noted.
func TestSideLists(t *testing.T) {
	t.Parallel()
	c := redistest.Client(t)
	ctx := t.Context()
	store, now := queues.NewStore(c, ""), time.Now()
	for _, q := range []string{"pull", "pull:behind", "pull:within-1h", "push:behind"} {
		c.SAdd(ctx, "queues", q)
		c.LPush(ctx, "queue:"+q, `{"class":"X","args":[]}`)
	}
	data, err := json.Marshal(Worker{Owned: []string{"pull"}, Sides: []Side{
		{Name: "pull:behind", Queue: "pull", GoalSeconds: 1200, Behind: true, Backlog: 9900, AgeSeconds: 180},
		{Name: "pull:within-15m", Queue: "pull", GoalSeconds: 900},
		{Name: "pull:within-1h", Queue: "pull", GoalSeconds: 3600, Backlog: 1, AgeSeconds: 90},
		{Name: "\x1b[2J", Queue: "\n", GoalSeconds: 1, Behind: true, Backlog: -5},
		{Name: "late:behind", Queue: "late", GoalSeconds: 1200, Behind: true, Backlog: 1, AgeSeconds: 1300},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Beat(ctx, queues.ProcessInfo{Identity: "alpha:1:aa", Hostname: "h", PID: 1, StartedAt: now}, queues.Pulse{Now: now}); err != nil {
		t.Fatal(err)
	}
	if err := store.PublishWorker(ctx, "alpha:1:aa", data); err != nil {
		t.Fatal(err)
	}
	s, err := Read(ctx, store)
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := Render(&text, s); err != nil {
		t.Fatal(err)
	}
	e, err := Explain(ctx, store, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := RenderExplanation(&text, e); err != nil {
		t.Fatal(err)
	}
	got := strings.Join(strings.Fields(text.String()), " ")
	for _, want := range []string{
		"pull:behind 1 - 1 queueville, beside pull", "pull:within-1h 1 - 1 queueville, beside pull", "push:behind 1 - nobody",
		"queue push:behind has jobs and nobody serves all of it; if they are jobs of push that a worker with --policy goals has put aside, queueville release gives them back to it",
		"beside pull: 9,900 waiting in pull:behind, the oldest for 3 min they start when no others of pull wait, or after 20 min",
		"beside pull: 1 waiting in pull:within-1h, the oldest for 90.0 s they have 60 min, more than others of pull",
		"beside late: 1 waiting in late:behind, the oldest for 22 min they go behind all others of late, but have waited more than 20 min and take turns with them",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("not said: %s\n%s", want, got)
		}
	}
	if strings.Contains(got, "within-15m") || strings.ContainsRune(got, 0x1b) || strings.Contains(got, "pull:behind has jobs and nobody") {
		t.Errorf("said too much: %s", got)
	}
}
