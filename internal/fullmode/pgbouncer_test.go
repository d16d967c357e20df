package fullmode

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/queueville/queueville/internal/pgtest"
	"github.com/queueville/queueville/internal/rubyapp"
)

// clients counts who is connected to a database through a PgBouncer (SHOW CLIENTS), some fifty times a second.
type clients struct {
	now, most, samples, unnamed atomic.Int64
}

func countClients(t *testing.T, console, database string) *clients {
	t.Helper()
	cfg, err := pgx.ParseConfig(console)
	require.NoError(t, err)
	cfg.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol // the console knows no other
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	require.NoError(t, err)
	c := &clients{}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var wg sync.WaitGroup
	wg.Go(func() {
		defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // a test
		for ctx.Err() == nil {
			rows, err := conn.Query(ctx, "SHOW CLIENTS")
			if err != nil {
				return
			}
			list, err := pgx.CollectRows(rows, pgx.RowToMap)
			if err != nil {
				return
			}
			n, unnamed := int64(0), int64(0)
			for _, row := range list {
				if row["database"] == database {
					n++
					if !strings.HasPrefix(fmt.Sprint(row["application_name"]), "queueville-pooled/local.test/") {
						unnamed++
					}
				}
			}
			c.now.Store(n)
			c.most.Store(max(c.most.Load(), n))
			c.unnamed.Store(max(c.unnamed.Load(), unnamed))
			c.samples.Add(1)
			time.Sleep(20 * time.Millisecond)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return c
}

// Behind a PgBouncer in transaction mode that keeps no prepared statements, the budget is of client connections: there are never more, no job
// fails, and all of it is done on a handful of server connections.
func TestPgBouncer(t *testing.T) {
	t.Parallel()
	app := rubyapp.Start(t)
	bouncer := pgtest.SharedPgBouncer(t, "stats_users = postgres", "default_pool_size = 3")
	address, err := url.Parse(app.DatabaseURL)
	require.NoError(t, err)
	c := countClients(t, bouncer.DatabaseDSN("pgbouncer"), strings.TrimPrefix(address.Path, "/"))
	through(t, app, address.Host, fmt.Sprintf("127.0.0.1:%d", bouncer.Port()), "PREPARED_STATEMENTS=false")
	const budget, small = 20, 13
	app.SetBudget(t, budget)
	var jobs []rubyapp.Job
	mix := app.NewMix(5, rubyapp.Mixed()...)
	for i := range 300 {
		j := rubyapp.Job{Class: rubyapp.Query, Args: []any{100}}
		if i%3 == 0 {
			j = mix.Next()
		}
		jobs = append(jobs, j)
	}
	deliver := func(n int) {
		for range n {
			payload, _ := app.Delivery(t, "good.test")
			app.Server.Push(t, "push", payload)
		}
	}
	jids := app.Push(jobs...)
	deliver(60)
	w := start(t, app, spec{Processes: 2, Threads: 5, DBLease: 3 * time.Second, Resolver: app.Fedi.NameServer()})
	eventually(t, "both sides work", time.Minute, func() bool { return c.now.Load() > 6 && app.Fedi.Accepted() > 10 })
	app.SetBudget(t, small)
	eventually(t, "there are fewer clients", 30*time.Second, func() bool { return c.now.Load() <= small })
	before := c.most.Load()
	if before > budget || before <= 6 { // more than one Ruby process has
		t.Errorf("%d clients with a budget of %d", before, budget)
	}
	c.most.Store(0)
	deliver(20)
	app.WaitRuns(90*time.Second, jids...)
	app.Once(jids...)
	eventually(t, "everything is delivered", time.Minute, func() bool { return app.Fedi.Accepted() == 80 && inFlight(t, app) == 0 })
	if n := c.most.Load(); n > small {
		t.Errorf("%d clients with a budget of %d", n, small)
	}
	if n := c.unnamed.Load(); n > lookers {
		t.Errorf("%d clients without a lease's name", n)
	}
	w.stop()
	eventually(t, "nobody is left", 10*time.Second, func() bool { return c.now.Load() == 0 })
	retries, err := app.Redis.ZCard(t.Context(), "retry").Result()
	require.NoError(t, err)
	require.Zero(t, retries)
	t.Logf("%d samples, at most %d and %d clients", c.samples.Load(), before, c.most.Load())
}
