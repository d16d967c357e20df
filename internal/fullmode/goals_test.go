package fullmode

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/queueville/queueville/internal/rubyapp"
	"github.com/queueville/queueville/internal/status"
	"github.com/queueville/queueville/queues"
)

// By goals and with adaptive limits every job of every queue runs once as well, and status tells what binds each lane.
func TestEverythingRunsByGoals(t *testing.T) {
	t.Parallel()
	app := rubyapp.Start(t)
	var jids []string
	jids = append(jids, app.PushMix(app.NewMix(3, rubyapp.Ingress()...), 150)...)
	jids = append(jids, app.PushMix(app.NewMix(4, rubyapp.Mixed()...), 150)...)
	w := start(t, app, spec{Goals: true})
	app.WaitRuns(2*time.Minute, jids...)
	app.Once(jids...)
	eventually(t, "the limit in status", 30*time.Second, func() bool {
		st, err := status.Read(t.Context(), queues.NewStore(app.Redis, ""))
		require.NoError(t, err)
		for i := range st.Processes {
			if p := st.Processes[i].Worker; p != nil && len(p.Limits) == 2 {
				return p.Limits[0].Limit >= 1 && p.Limits[0].Bound != "" && p.Limits[1].Lane == "ruby" && p.Limits[1].Limit >= 1
			}
		}
		return false
	})
	w.stop()
}

// Ruby jobs that have more time than their queue wait in a list beside it while others of the queue wait, though they came first; each runs
// once, as a job of its own queue.
func TestRubyJobsWaitBesideTheirQueue(t *testing.T) {
	t.Parallel()
	app := rubyapp.Start(t)
	const jobs = 60
	var patient, others []rubyapp.Job
	for i := range jobs {
		patient = append(patient, rubyapp.Job{Class: rubyapp.Announcement, Queue: "pull", Args: []any{i, 1, 200}})
		others = append(others, rubyapp.Job{Class: rubyapp.Wait, Queue: "pull", Args: []any{200}})
	}
	jids := app.Push(append(patient, others...)...)
	w := start(t, app, spec{Goals: true, Processes: 1, Threads: 3})
	app.WaitRuns(2*time.Minute, jids...)
	app.Once(jids...)
	middle := map[string]float64{}
	for _, class := range []string{rubyapp.Announcement, rubyapp.Wait} {
		runs := app.Runs(class)
		require.Len(t, runs, jobs)
		middle[class] = runs[jobs/2].Start
		for _, r := range runs {
			require.Equal(t, "pull", r.Queue)
		}
	}
	require.Less(t, middle[rubyapp.Wait], middle[rubyapp.Announcement])
	w.stop()
	left, err := app.Redis.Keys(t.Context(), "queue:pull*").Result()
	require.NoError(t, err)
	require.Empty(t, left)
	names, err := app.Redis.SMembers(t.Context(), "queues").Result()
	require.NoError(t, err)
	require.NotContains(t, names, "pull:within-15m")
}
