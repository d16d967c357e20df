package fullmode

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/queueville/queueville/dbpool"
	"github.com/queueville/queueville/internal/rubyapp"
)

// sampler counts the connections to the application's databases, all but its own, about a hundred times a second.
type sampler struct {
	now, top               []atomic.Int64 // on each server, and at most
	most, samples, unnamed atomic.Int64
}

func sample(t *testing.T, app *rubyapp.App) *sampler {
	t.Helper()
	return sampleServers(t, app.DatabaseURL)
}

func sampleServers(t *testing.T, dsns ...string) *sampler {
	t.Helper()
	var conns []*pgx.Conn
	for _, dsn := range dsns {
		conn, err := pgx.Connect(t.Context(), dsn)
		require.NoError(t, err)
		// What has ended waits for no longer than a log-in may take.
		for _, sql := range []string{"ALTER SYSTEM SET authentication_timeout = '2s'", "SELECT pg_reload_conf()"} {
			_, err = conn.Exec(t.Context(), sql)
			require.NoError(t, err)
		}
		conns = append(conns, conn)
	}
	s := &sampler{now: make([]atomic.Int64, len(conns)), top: make([]atomic.Int64, len(conns))}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			var all, unnamed int64
			for i, conn := range conns {
				var n, un int64
				if conn.QueryRow(ctx, `SELECT count(*), count(*) FILTER (WHERE application_name NOT LIKE 'queueville/local.test/%')
					FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`).Scan(&n, &un) != nil {
					continue
				}
				s.now[i].Store(n)
				s.top[i].Store(max(s.top[i].Load(), n))
				all, unnamed = all+n, unnamed+un
			}
			s.most.Store(max(s.most.Load(), all))
			s.unnamed.Store(max(s.unnamed.Load(), unnamed))
			s.samples.Add(1)
			time.Sleep(10 * time.Millisecond)
		}
		for _, conn := range conns {
			_ = conn.Close(context.WithoutCancel(ctx))
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return s
}

// Two workers, one with Ruby, under one small budget: whatever happens to them, no more connections are open than it allows, and all work is
// done in the end.
func TestBudget(t *testing.T) {
	t.Parallel()
	app := rubyapp.Start(t)
	const budget, small = 20, 13
	app.SetBudget(t, budget)
	s := sample(t, app)
	var jobs []rubyapp.Job
	for i := range 240 {
		class := rubyapp.Query
		if i%4 == 0 {
			class = rubyapp.Burn
		}
		jobs = append(jobs, rubyapp.Job{Class: class, Args: []any{300}})
	}
	jids := app.Push(jobs...)
	deliver := func(n int) {
		for range n {
			payload, _ := app.Delivery(t, "good.test")
			app.Server.Push(t, "push", payload)
		}
	}
	deliver(50)
	full := spec{Processes: 2, Threads: 5, DBLease: 3 * time.Second, Resolver: app.Fedi.NameServer()}
	beside := spec{Sidecar: true, DBLease: 3 * time.Second, Resolver: app.Fedi.NameServer()}
	a, b := start(t, app, full), start(t, app, beside)
	check := func(when string, limit int64) {
		t.Helper()
		if n := s.most.Load(); n > limit {
			t.Errorf("%s: %d connections with a budget of %d", when, n, limit)
		}
	}
	eventually(t, "both work", time.Minute, func() bool { return len(app.Runs()) > 10 && app.Fedi.Accepted() > 10 && s.now[0].Load() > 6 })

	require.NoError(t, a.Process.Signal(syscall.SIGSTOP)) // past its lease
	time.Sleep(5 * time.Second)
	deliver(20)
	require.NoError(t, a.Process.Signal(syscall.SIGCONT))
	before := len(app.Runs())
	eventually(t, "Ruby works again", time.Minute, func() bool { return len(app.Runs()) > before+5 })
	check("after a freeze", budget)

	b.kill()
	b = start(t, app, beside)
	deliver(20)
	a.kill()
	a = start(t, app, full)
	before = len(app.Runs())
	eventually(t, "Ruby works in the next worker", time.Minute, func() bool { return len(app.Runs()) > before+5 })
	check("after two kills", budget)

	app.SetBudget(t, small) // room for one Ruby process
	eventually(t, "the connections are fewer", 30*time.Second, func() bool { return s.now[0].Load() <= small })
	ledger := dbpool.NewLedger(app.Redis, "", "local.test")
	eventually(t, "the leases are smaller", 30*time.Second, func() bool {
		snapshot, err := ledger.Snapshot(t.Context())
		require.NoError(t, err)
		return snapshot.Leased+snapshot.Doubtful <= small-snapshot.Reserve
	})
	s.most.Store(0)
	before = len(app.Runs())
	eventually(t, "Ruby works with less", time.Minute, func() bool { return len(app.Runs()) > before+5 })
	check("after the budget was lowered", small)
	app.SetBudget(t, budget)
	deliver(20)

	app.WaitRuns(90*time.Second, jids...)
	eventually(t, "everything is delivered", time.Minute, func() bool {
		n, err := app.Redis.LLen(t.Context(), "queue:push").Result()
		require.NoError(t, err)
		waiting, err := app.Redis.ZCard(t.Context(), "schedule").Result()
		require.NoError(t, err)
		return n == 0 && waiting == 0 && inFlight(t, app) == 0 && app.Fedi.Accepted() >= 110
	})
	check("in the end", budget)
	if n := s.unnamed.Load(); n > lookers {
		t.Errorf("%d connections without a lease's name", n)
	}
	for _, set := range []string{"retry", "dead"} {
		list, err := app.Redis.ZRange(t.Context(), set, 0, -1).Result()
		require.NoError(t, err)
		for _, job := range list {
			if strings.Contains(job, "too many clients") || strings.Contains(job, "connection slots") || set == "dead" {
				t.Errorf("%s: %s", set, job)
			}
		}
	}
	a.stop()
	b.stop()
	snapshot, err := ledger.Snapshot(t.Context())
	if err != nil || snapshot.Leased != 0 {
		t.Errorf("left in the ledger: %+v, %v", snapshot, err)
	}
	t.Logf("%d samples, at most %d connections", s.samples.Load(), s.most.Load())
}

// A budget that is smaller than one Ruby process with all its threads: both hosts run Ruby all the same, with as many jobs at once as they have
// connections for; a third one gets its part, and when the others are gone the last one gets more.
func TestSmallBudget(t *testing.T) {
	t.Parallel()
	app := rubyapp.Start(t)
	const budget = 12
	app.SetBudget(t, budget)
	s := sample(t, app)
	push := func(n int) []string {
		jobs := make([]rubyapp.Job, n)
		for i := range jobs {
			jobs[i] = rubyapp.Job{Class: rubyapp.Query, Args: []any{200}}
		}
		return app.Push(jobs...)
	}
	jids := push(400)
	full := spec{Processes: 2, Threads: 25, DBLease: 3 * time.Second, Resolver: app.Fedi.NameServer(), Env: []string{"RUBYAPP_BOOT=connect"}}
	a, b := start(t, app, full), start(t, app, full)
	ran := func(w *work) bool {
		return slices.ContainsFunc(app.Runs(), func(r rubyapp.Run) bool { return childOf(r.PID, w.Process.Pid) })
	}
	eventually(t, "Ruby runs on both", time.Minute, func() bool { return ran(a) && ran(b) })
	c := start(t, app, full)
	eventually(t, "Ruby runs on the third one", time.Minute, func() bool { return ran(c) })
	a.stop()
	c.kill()
	jids = append(jids, push(100)...)
	app.WaitRuns(2*time.Minute, jids...)
	if n := s.most.Load(); n > budget || n < budget/2 {
		t.Errorf("%d connections with a budget of %d", n, budget)
	}
	if n := s.unnamed.Load(); n > lookers {
		t.Errorf("%d connections without a lease's name", n)
	}
	for _, r := range app.Runs() {
		if r.Error != "" && r.Error != "killed" {
			t.Errorf("job %s: %s", r.JID, r.Error)
		}
	}
	b.stop()
	t.Logf("%d samples, at most %d connections", s.samples.Load(), s.most.Load())
}

// lookers are connections of the test's own and of starts, at one moment.
const lookers = 1
