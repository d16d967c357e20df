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
