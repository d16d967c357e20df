package dbpool_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/queueville/queueville/dbpool"
	"github.com/queueville/queueville/internal/pgtest"
	"github.com/queueville/queueville/internal/redistest"
	"github.com/queueville/queueville/internal/throwaway"
)

// rig is a cluster of its own: PostgreSQL whose log-ins time out soon, a Redis database, a budget.
type rig struct {
	pg      *throwaway.PostgresServer
	redis   *redis.Client
	ledger  *dbpool.Ledger
	cluster string
	ttl     time.Duration
	dsn     string // the workers', if not the superuser's
}

// url is the workers' DSN.
func (r *rig) url() string {
	if r.dsn != "" {
		return r.dsn
	}
	return r.pg.DSN()
}

const (
	testTTL   = 3 * time.Second
	testLogin = 5 * time.Second // as the soak's PostgreSQL
)

func newRig(t *testing.T, connections, least int) *rig {
	t.Helper()
	_, _, client := redistest.DB(t)
	return newRigOn(t, client, connections, least)
}

func newRigOn(t *testing.T, client *redis.Client, connections, least int) *rig {
	t.Helper()
	pg, err := throwaway.Postgres(t.Context(), throwaway.PostgresConfig{
		MaxConnections: connections + 20, Settings: map[string]string{"authentication_timeout": "2s"},
	})
	redistest.Need(t, err)
	t.Cleanup(func() { _ = pg.Stop() })
	r := &rig{pg: pg, redis: client, cluster: "test", ttl: testTTL}
	r.ledger = dbpool.NewLedger(client, "", r.cluster)
	r.setBudget(t, connections, least)
	return r
}

func (r *rig) setBudget(t *testing.T, connections, least int) {
	t.Helper()
	if _, err := r.ledger.SetBudget(t.Context(), dbpool.Budget{Connections: connections, MinPerHost: least, SetBy: "test"}, dbpool.SetOptions{NewCluster: true}); err != nil {
		t.Fatal(err)
	}
}

// events records what a Manager's observer was told.
type events struct {
	mu    sync.Mutex
	lost  []string
	ended []dbpool.Ended

	failed []string
}

func (*events) Leased(int, int) {}

func (e *events) Failed(what string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.failed = append(e.failed, what+": "+err.Error())
}

func (e *events) failures() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.failed)
}

func (e *events) LeaseLost(reason string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lost = append(e.lost, reason)
}

func (e *events) BackendEnded(x dbpool.Ended) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ended = append(e.ended, x)
}

type host struct {
	*dbpool.Manager
	events *events
	stop   func()
}

func (r *rig) host(tb testing.TB, name string, change func(*dbpool.ManagerConfig)) *host {
	tb.Helper()
	cfg := dbpool.ManagerConfig{Redis: r.redis, Cluster: r.cluster, Host: name, DSN: r.url(), TTL: r.ttl, LoginTimeout: testLogin}
	h := &host{events: &events{}}
	cfg.Observer = h.events
	cfg.Log = slog.New(slog.NewTextHandler(logTo{tb}, &slog.HandlerOptions{Level: slog.LevelDebug})).With(slog.String("host", name))
	if change != nil {
		change(&cfg)
	}
	m, err := dbpool.NewManager(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	h.Manager = m
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	var running sync.WaitGroup
	running.Go(func() {
		if err := m.Run(ctx); err != nil {
			tb.Logf("%s: %v", name, err)
		}
	})
	h.stop = func() { cancel(); running.Wait() }
	tb.Cleanup(h.stop)
	return h
}

type logTo struct{ testing.TB }

func (l logTo) Write(b []byte) (int, error) {
	l.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// load keeps n goroutines busy with the pool and counts errors.
type load struct {
	failed, done atomic.Int64
	last         atomic.Pointer[error]
	stop         func()
}

func busy(tb testing.TB, p *dbpool.Pool, n int, sql string) *load {
	tb.Helper()
	l := &load{}
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for ctx.Err() == nil {
				qctx, done := context.WithTimeout(ctx, 60*time.Second)
				_, err := p.Exec(qctx, sql)
				done()
				switch {
				case err == nil:
					l.done.Add(1)
				case ctx.Err() == nil && !errors.Is(err, dbpool.ErrManagerClosed):
					l.failed.Add(1)
					l.last.Store(&err)
					time.Sleep(20 * time.Millisecond)
				}
			}
		})
	}
	l.stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	tb.Cleanup(l.stop)
	return l
}

// watcher samples how many backends the cluster has, over a connection of its own.
type watcher struct {
	highest atomic.Int64
	now     atomic.Int64
	stop    func()
}

func (r *rig) watch(tb testing.TB) *watcher {
	tb.Helper()
	conn, err := pgx.Connect(tb.Context(), r.pg.DSN())
	if err != nil {
		tb.Fatal(err)
	}
	w := &watcher{}
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	var wg sync.WaitGroup
	wg.Go(func() {
		defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // a test
		for ctx.Err() == nil {
			var n int64
			if err := conn.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'queueville/test/%/%'`).Scan(&n); err != nil {
				continue
			}
			w.now.Store(n)
			w.highest.Store(max(w.highest.Load(), n))
			time.Sleep(5 * time.Millisecond)
		}
	})
	w.stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	tb.Cleanup(w.stop)
	return w
}

func (w *watcher) check(tb testing.TB, budget int64) {
	tb.Helper()
	if n := w.highest.Load(); n > budget {
		tb.Errorf("%d backends with a budget of %d", n, budget)
	}
}

func eventually(tb testing.TB, limit time.Duration, what string, ok func() bool) time.Duration {
	tb.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > limit {
			tb.Fatalf("not after %v: %s", limit, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(start)
}

func (h *host) pool(tb testing.TB, role string, limit int) *dbpool.Pool {
	tb.Helper()
	p, err := h.Pool(tb.Context(), dbpool.Config{Role: role, MaxConns: limit})
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func TestTwoHostsShareTheBudget(t *testing.T) {
	r := newRig(t, 22, 2)
	w := r.watch(t)
	a, b := r.host(t, "a", nil), r.host(t, "b", nil)
	pa, pb := a.pool(t, "worker", 0), b.pool(t, "worker", 0)
	la := busy(t, pa, 40, "SELECT pg_sleep(0.02)")
	eventually(t, 30*time.Second, "a has all but b's minimum", func() bool { return a.Limit() == 18 && w.now.Load() >= 18 })
	lb := busy(t, pb, 40, "SELECT pg_sleep(0.02)")
	took := eventually(t, 30*time.Second, "half each", func() bool { return a.Limit() == 10 && b.Limit() == 10 })
	t.Logf("half of the budget moved in %v", took)
	la.stop()
	eventually(t, 30*time.Second, "what a does not use goes to b", func() bool { return a.Limit() == 2 && b.Limit() == 18 })
	lb.stop()
	w.check(t, 22)
	for name, l := range map[string]*load{"a": la, "b": lb} {
		if l.failed.Load() > 0 {
			t.Errorf("%s: %d queries failed, last with %v", name, l.failed.Load(), *l.last.Load())
		}
	}
	b.stop()
	s, err := r.ledger.Snapshot(t.Context())
	if err != nil || s.Leased != 2 || s.Doubtful != 0 || len(s.Leases) != 1 {
		t.Errorf("after b has gone: %+v, %v", s, err)
	}
}

// In a steady state a busy host calls Redis at most once a second, an idle one every three.
func TestCallsPerHost(t *testing.T) {
	r := newRig(t, 42, 2)
	r.ttl = 12 * time.Second
	idle, lively := r.host(t, "idle", nil), r.host(t, "lively", nil)
	l := busy(t, lively.pool(t, "worker", 0), 10, "SELECT pg_sleep(0.01)")
	time.Sleep(5 * time.Second)
	a, b := idle.Stats().Calls, lively.Stats().Calls
	time.Sleep(6 * time.Second)
	a, b = idle.Stats().Calls-a, lively.Stats().Calls-b
	l.stop()
	if a > 3 || b > 4 {
		t.Errorf("calls in 6 s: idle %d, busy %d", a, b)
	}
}

// Pools of two roles share one lease: idle connections of one make room for the other.
func TestRolesShareTheLease(t *testing.T) {
	r := newRig(t, 6, 2)
	w := r.watch(t)
	h := r.host(t, "h", nil)
	a, b := h.pool(t, "a", 0), h.pool(t, "b", 0)
	la := busy(t, a, 8, "SELECT pg_sleep(0.01)")
	eventually(t, 30*time.Second, "a has all", func() bool { return w.now.Load() == 4 && la.done.Load() > 10 })
	la.stop()
	lb := busy(t, b, 8, "SELECT pg_sleep(0.01)")
	eventually(t, 30*time.Second, "b works", func() bool { return lb.done.Load() > 50 })
	lb.stop()
	if n := la.failed.Load() + lb.failed.Load(); n > 0 {
		t.Errorf("%d queries failed", n)
	}
	s := h.Stats()
	if s.Roles["a"].Acquired == 0 || s.Roles["b"].Waited == 0 || s.Leased > 4 {
		t.Errorf("stats %+v", s)
	}
	w.check(t, 6)
}

// Every way to use a pool gives its connection back.
func TestEveryMethodReleases(t *testing.T) {
	r := newRig(t, 4, 1)
	h := r.host(t, "h", nil)
	p := h.pool(t, "worker", 0)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 4 { // there are two connections
		_, err := p.Exec(ctx, "CREATE TABLE IF NOT EXISTS x (i int)")
		must(err)
		rows, err := p.Query(ctx, "SELECT generate_series(1, 3)")
		must(err)
		_, err = pgx.CollectRows(rows, pgx.RowTo[int])
		must(err)
		if rows, err := p.Query(ctx, "SELECT nonsense"); err == nil {
			rows.Close()
			if rows.Err() == nil {
				t.Error("nonsense was selected")
			}
		}
		var n int
		must(p.QueryRow(ctx, "SELECT 1").Scan(&n))
		if err := p.QueryRow(ctx, "SELECT nonsense").Scan(&n); err == nil {
			t.Error("nonsense was selected")
		}
		tx, err := p.Begin(ctx)
		must(err)
		_, err = tx.Exec(ctx, "INSERT INTO x VALUES (1)")
		must(err)
		must(tx.Commit(ctx))
		if err := tx.Rollback(ctx); !errors.Is(err, pgx.ErrTxClosed) {
			t.Errorf("Rollback after Commit: %v", err)
		}
		var batch pgx.Batch
		batch.Queue("SELECT 1")
		must(p.SendBatch(ctx, &batch).Close())
		_, err = p.CopyFrom(ctx, pgx.Identifier{"x"}, []string{"i"}, pgx.CopyFromRows([][]any{{1}, {2}}))
		must(err)
		must(p.Ping(ctx))
	}
	if s := h.Stats(); s.Roles["worker"].InUse != 0 {
		t.Errorf("%+v still in use", s.Roles["worker"])
	}
}

// A smaller budget: hosts shrink to it.
func TestBudgetIsLowered(t *testing.T) {
	r := newRig(t, 22, 2)
	w := r.watch(t)
	h := r.host(t, "h", nil)
	l := busy(t, h.pool(t, "worker", 0), 30, "SELECT pg_sleep(0.01)")
	eventually(t, 30*time.Second, "it has all", func() bool { return w.now.Load() >= 20 })
	r.setBudget(t, 8, 2)
	eventually(t, 30*time.Second, "it has less", func() bool { return h.Limit() == 6 && w.now.Load() <= 6 })
	l.stop()
	if l.failed.Load() > 0 {
		t.Errorf("%d queries failed: %v", l.failed.Load(), *l.last.Load())
	}
}

// Without a budget nothing is granted and work waits.
func TestNoBudget(t *testing.T) {
	r := newRig(t, 10, 1)
	r.redis.FlushDB(t.Context())
	h := r.host(t, "h", nil)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	p := h.pool(t, "worker", 0)
	_, err := p.Acquire(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || !dbpool.Unavailable(err) || h.Stats().Roles["worker"].Refused != 1 {
		t.Errorf("Acquire = %v, stats %+v", err, h.Stats())
	}
	h.stop()
	if _, err := p.Acquire(t.Context()); !errors.Is(err, dbpool.ErrManagerClosed) {
		t.Errorf("Acquire after the end: %v, want ErrManagerClosed", err)
	}
	if _, err := h.Pool(t.Context(), dbpool.Config{}); !errors.Is(err, dbpool.ErrManagerClosed) {
		t.Errorf("Pool after the end: %v, want ErrManagerClosed", err)
	}
}

// Behind PgBouncer the lease bounds its clients, and nothing carries a name by which it could be ended.
func TestBehindPgBouncer(t *testing.T) {
	r := newRig(t, 12, 1)
	b := pgtest.PgBouncer(t, r.pg)
	h := r.host(t, "h", func(c *dbpool.ManagerConfig) { c.DSN, c.Pooled = b.DSN(), true })
	p := h.pool(t, "worker", 0)
	l := busy(t, p, 12, "SELECT pg_sleep(0.01)")
	eventually(t, 30*time.Second, "it works", func() bool { return h.Limit() == 10 && l.done.Load() > 50 })
	if n := p.Stat().TotalConns(); n > 10 {
		t.Errorf("%d connections", n)
	}
	var name string
	if err := p.QueryRow(t.Context(), "SELECT current_setting('application_name')").Scan(&name); err != nil || !strings.HasPrefix(name, "queueville-pooled/test/h/") {
		t.Errorf("application_name = %q, %v", name, err)
	}
	l.stop()
	if l.failed.Load() > 0 {
		t.Errorf("%d queries failed: %v", l.failed.Load(), *l.last.Load())
	}
}

// Behind PgBouncer a first start, of which nobody vouches that nobody is there, ends its wait by itself.
func TestFirstStartBehindPgBouncer(t *testing.T) {
	t.Parallel()
	r := newRig(t, 12, 1)
	b := pgtest.PgBouncer(t, r.pg)
	r.redis.FlushDB(t.Context())
	if _, err := r.ledger.SetBudget(t.Context(), dbpool.Budget{Connections: 12, MinPerHost: 1, SetBy: "test"}, dbpool.SetOptions{OnlyIfUnset: true}); err != nil {
		t.Fatal(err)
	}
	h := r.host(t, "h", func(c *dbpool.ManagerConfig) { c.DSN, c.Pooled = b.DSN(), true })
	p := h.pool(t, "worker", 0)
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	if s := h.Stats(); s.Limit != 0 {
		t.Errorf("granted at once: %+v", s)
	}
	start := time.Now()
	if _, err := p.Exec(ctx, "SELECT 1"); err != nil {
		t.Fatalf("%v; %s", err, h.Why(1))
	}
	if took := time.Since(start); took < r.ttl+testLogin {
		t.Errorf("the first connection after %v", took)
	}
}
