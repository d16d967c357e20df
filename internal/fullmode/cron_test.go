package fullmode

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/queueville/queueville/internal/rubyapp"
)

// A daily tick that the last leader's crash has swallowed is made up, once; one that comes again in a minute is not. With the real
// sidekiq-scheduler (RUBYAPP_REAL_GEMS) as with our stand-in.
func TestLostTickIsMadeUp(t *testing.T) {
	t.Parallel()
	app := rubyapp.Start(t)
	ago := func(d time.Duration) string { return time.Now().Add(-d).UTC().Format("2006-01-02 15:04:05 +0000") }
	_, err := app.Redis.Pipelined(t.Context(), func(pipe redis.Pipeliner) error {
		pipe.HSet(t.Context(), "sidekiq-scheduler:next_times", "vacuum_scheduler", ago(30*time.Minute), "scheduled_statuses_scheduler", ago(2*time.Minute))
		pipe.HSet(t.Context(), "sidekiq-scheduler:last_times", "vacuum_scheduler", ago(24*time.Hour+30*time.Minute), "scheduled_statuses_scheduler", ago(7*time.Minute))
		return nil
	})
	require.NoError(t, err)
	w := start(t, app, spec{})
	const daily, often = "Scheduler::VacuumScheduler", "Scheduler::ScheduledStatusesScheduler"
	eventually(t, "the daily tick is made up", 2*time.Minute, func() bool { return len(app.Runs(daily)) > 0 })
	runs := app.Runs(daily)
	require.Len(t, runs, 1)
	require.Equal(t, "scheduler", runs[0].Queue)
	require.EqualValues(t, 1, app.Redis.ZCard(t.Context(), "sidekiq-scheduler:pushed:vacuum_scheduler").Val())
	require.Empty(t, app.Runs(often), "it comes again by itself, in minutes")
	w.stop()
	require.Len(t, app.Runs(daily), 1)
}
