package fullmode

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/queueville/queueville/dbpool"
	"github.com/queueville/queueville/internal/pgtest"
	"github.com/queueville/queueville/internal/rubyapp"
)

// A real read replica, configured as Mastodon's: Ruby's reads go there, and what is open on both servers together stays below the one budget,
// also when a worker is killed and its connections to both have to be shown gone.
func TestReplica(t *testing.T) {
	t.Parallel()
	primary, replica := pgtest.StartReplicated(t)
	const name = "mastodon_production"
	admin, err := pgx.Connect(t.Context(), primary.DSN())
	require.NoError(t, err)
	_, err = admin.Exec(t.Context(), "CREATE DATABASE "+name)
	require.NoError(t, err)
	require.NoError(t, admin.Close(t.Context()))
	app := rubyapp.StartOn(t, primary.DatabaseDSN(name))
	through(t, app, "", "", "REPLICA_DB_NAME="+name, "REPLICA_DB_HOST=127.0.0.1", fmt.Sprintf("REPLICA_DB_PORT=%d", replica.Port()),
		"REPLICA_DB_USER="+replica.User(), "REPLICA_DB_PASS="+replica.Password())
	eventually(t, "the replica has the data", 20*time.Second, func() bool {
		conn, err := pgx.Connect(t.Context(), replica.DatabaseDSN(name))
		if err != nil {
			return false
		}
		defer conn.Close(t.Context()) //nolint:errcheck // a test
		var ready bool
		return conn.QueryRow(t.Context(), "SELECT to_regclass('statuses') IS NOT NULL AND pg_is_in_recovery()").Scan(&ready) == nil && ready
	})
	const budget = 30
	app.SetBudget(t, budget)
	both := sampleServers(t, app.DatabaseURL, replica.DatabaseDSN(name))
	mix := func(n int) []string {
		jobs := make([]rubyapp.Job, n)
		for i := range jobs {
			jobs[i] = rubyapp.Job{Class: []string{rubyapp.Read, rubyapp.Query}[i%2], Args: []any{150}}
		}
		return app.Push(jobs...)
	}
	full := spec{Processes: 2, Threads: 5, DBLease: 3 * time.Second, Resolver: app.Fedi.NameServer(), Env: []string{"RUBYAPP_BOOT=connect"}}
	jids := mix(160)
	w := start(t, app, full)
	eventually(t, "both processes work on both servers", time.Minute, func() bool { return both.now[0].Load() > 5 && both.now[1].Load() > 5 })
	w.kill()
	w = start(t, app, full)
	before := len(app.Runs())
	eventually(t, "Ruby works in the next worker", time.Minute, func() bool { return len(app.Runs()) > before+5 })
	jids = append(jids, mix(40)...)
	app.WaitRuns(90*time.Second, jids...)
	notes := app.Notes("read")
	require.GreaterOrEqual(t, len(notes), 100)
	require.Equal(t, []string{"true"}, slices.Compact(slices.Sorted(slices.Values(notes))), "reads go to the replica")
	if n := both.most.Load(); n > budget {
		t.Errorf("%d connections with a budget of %d", n, budget)
	}
	if n := both.unnamed.Load(); n > lookers {
		t.Errorf("%d connections without a lease's name", n)
	}
	w.stop()
	snapshot, err := dbpool.NewLedger(app.Redis, "", "local.test").Snapshot(t.Context())
	require.NoError(t, err)
	require.Zero(t, snapshot.Leased, "%+v", snapshot)
	require.Equal(t, 4, snapshot.Reserve, "two confirmations on two servers")
	t.Logf("%d samples, at most %d connections on both servers, %d on the replica", both.samples.Load(), both.most.Load(), both.top[1].Load())
}
