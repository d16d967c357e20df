package fullmode

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/queueville/queueville/internal/rubyapp"
	"github.com/queueville/queueville/scheduler"
)

// With ingress flooded for longer than all of this takes, 99 % of the jobs of default start within their goal, and the flood goes on meanwhile.
func TestAFloodOfIngressDoesNotDelayDefault(t *testing.T) {
	t.Parallel()
	floods(t, "ingress", rubyapp.Job{Class: rubyapp.Wait, Args: []any{10}}, rubyapp.Ingress()...)
}

// Jobs that wait fill the processes; those that compute start beside them.
func TestAFloodOfPullDoesNotDelayDefault(t *testing.T) {
	t.Parallel()
	floods(t, "pull", rubyapp.Job{Class: rubyapp.Burn, Args: []any{10}}, rubyapp.Share{Class: rubyapp.LinkCrawl, Parts: 1})
}

// floods fills a queue and then pushes jobs into default, which have to start within their goal.
func floods(t *testing.T, queue string, job rubyapp.Job, shares ...rubyapp.Share) {
	t.Helper()
	const (
		flood = 6000
		each  = 5 // every tenth of a second
		ticks = 60
	)
	app := rubyapp.Start(t)
	mix := app.NewMix(7, shares...)
	app.PushMix(mix, flood)
	w := start(t, app, spec{Goals: true, Stop: 2 * time.Second})
	eventually(t, "the flood is worked at", time.Minute, func() bool { return len(app.Started()) > 20 })
	pushed := map[string]float64{}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for range ticks {
		jobs := make([]rubyapp.Job, each)
		for i := range jobs {
			jobs[i] = job
		}
		at := float64(time.Now().UnixMicro()) / 1e6
		for _, id := range app.Push(jobs...) {
			pushed[id] = at
		}
		<-tick.C
	}
	goal := scheduler.MastodonGoals().Queue("default")
	began := map[string]float64{}
	eventually(t, "default is done", time.Minute, func() bool {
		for _, b := range app.Started() {
			if _, ours := pushed[b.JID]; ours {
				began[b.JID] = b.At
			}
		}
		return len(began) == len(pushed)
	})
	left, err := app.Redis.LLen(t.Context(), "queue:"+queue).Result()
	require.NoError(t, err)
	require.Positive(t, left, "the flood was over too early to show anything")
	late, worst := 0, 0.0
	for id, at := range pushed {
		wait := began[id] - at
		worst = max(worst, wait)
		if wait > goal.Seconds() {
			late++
		}
	}
	t.Logf("%d of %d jobs of default started later than %v, the last after %.2f s; %d of %s wait", late, len(pushed), goal, worst, left, queue)
	require.LessOrEqual(t, 100*late, len(pushed))
	w.stop()
}
