package fullmode

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/queueville/queueville/internal/rubyapp"
)

// kill -9 of a worker that has all of the budget, with its Ruby in the middle of jobs, and another one started at once, as systemd does: it
// has the connections again as soon as the killed one's processes are seen to be gone, not after a lease and PostgreSQL's authentication_timeout,
// and there are never more of them.
func TestRelaunchedWorker(t *testing.T) {
	t.Parallel()
	app := rubyapp.Start(t)
	const budget = 12
	app.SetBudget(t, budget)
	s := sample(t, app)
	conn, err := pgx.Connect(t.Context(), app.DatabaseURL)
	require.NoError(t, err)
	for _, sql := range []string{"ALTER SYSTEM RESET authentication_timeout", "SELECT pg_reload_conf()"} {
		_, err = conn.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	require.NoError(t, conn.Close(t.Context()))
	var jobs []rubyapp.Job
	for i := range 200 {
		class := rubyapp.Query
		if i%4 == 0 {
			class = rubyapp.Burn
		}
		jobs = append(jobs, rubyapp.Job{Class: class, Args: []any{300}})
	}
	jids := app.Push(jobs...)
	full := spec{Processes: 2, Threads: 9, Resolver: app.Fedi.NameServer()}
	a := start(t, app, full)
	eventually(t, "it has all connections, and works", time.Minute, func() bool { return len(app.Runs()) > 10 && s.now[0].Load() >= budget-4 })
	a.kill()
	killed := time.Now()
	start(t, app, full)
	payload, _ := app.Delivery(t, "good.test")
	app.Server.Push(t, "push", payload)
	before := len(app.Runs())
	eventually(t, "a delivery", 30*time.Second, func() bool { return app.Fedi.Accepted() > 0 })
	delivered := time.Since(killed)
	eventually(t, "Ruby works again", 30*time.Second, func() bool { return len(app.Runs()) > before+3 })
	t.Logf("after the kill: a delivery by %v, Ruby jobs by %v", delivered, time.Since(killed))
	app.WaitRuns(90*time.Second, jids...)
	require.LessOrEqual(t, s.most.Load(), int64(budget+1), "connections with this test's own")
}
