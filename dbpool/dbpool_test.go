package dbpool_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/goleak"

	"github.com/queueville/queueville/dbpool"
	"github.com/queueville/queueville/internal/pgtest"
	"github.com/queueville/queueville/internal/redisconn"
	"github.com/queueville/queueville/internal/redistest"
	"github.com/queueville/queueville/internal/throwaway"
)

func TestMain(m *testing.M) {
	redisconn.SetLogger(slog.New(slog.DiscardHandler)) // go-redis reports every fail-over on standard error
	if spec := os.Getenv(childEnv); spec != "" {
		os.Exit(runChild(spec))
	}
	goleak.VerifyTestMain(m)
}

func notify(c chan<- os.Signal) { signal.Notify(c, syscall.SIGTERM) }

func open(t *testing.T, cfg dbpool.Config) *dbpool.Pool {
	t.Helper()
	p, err := dbpool.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func TestPool(t *testing.T) {
	dsn := pgtest.DB(t)
	p := open(t, dbpool.Config{DSN: dsn, Role: "worker", Hostname: strings.Repeat("ä.long", 20), MaxConns: 2})
	if n := p.Stat().TotalConns(); n != 0 {
		t.Errorf("a pool that was not asked has %d connections", n)
	}
	var name string
	if err := p.QueryRow(t.Context(), "SELECT current_setting('application_name')").Scan(&name); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(name, "queueville/?.long") || !strings.HasSuffix(name, "/worker") || len(name) > 63 {
		t.Errorf("application_name = %q", name)
	}
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			if _, err := p.Exec(t.Context(), "SELECT pg_sleep(0.05)"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := p.Stat().MaxConns(); n != 2 || p.Stat().TotalConns() > 2 {
		t.Errorf("MaxConns = %d, connections = %d", n, p.Stat().TotalConns())
	}
}

func TestOpenKeepsThePasswordToItself(t *testing.T) {
	for _, dsn := range []string{"postgres://u:geheim@h:x/y", "host=h password='ge\\'heim' port=x"} {
		_, err := dbpool.Open(t.Context(), dbpool.Config{DSN: dsn})
		if !errors.Is(err, dbpool.ErrConfig) || strings.Contains(err.Error(), "heim") {
			t.Errorf("Open = %v, want ErrConfig", err)
		}
	}
	if _, err := dbpool.Open(t.Context(), dbpool.Config{MaxConns: -1}); err == nil {
		t.Error("a negative number of connections is accepted")
	}
}

// Many clients share few server connections, so a prepared statement of one would be missed by, or clash with, another.
func TestTransactionModePgBouncer(t *testing.T) {
	s := pgtest.Start(t)
	b := pgtest.PgBouncer(t, s)
	p := open(t, dbpool.Config{DSN: b.DSN(), NoPrepare: true, MaxConns: 12})
	if _, err := p.Exec(t.Context(), "CREATE TABLE accounts (id bigint, uri text, at timestamptz)"); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for n := range 12 {
		wg.Go(func() {
			for range 10 {
				if err := roundTrip(t.Context(), p, n); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func roundTrip(ctx context.Context, p *dbpool.Pool, n int) error {
	if _, err := p.Exec(ctx, "INSERT INTO accounts VALUES ($1, $2, $3)", int64(n), "it's "+strconv.Itoa(n)+` \`, time.Now()); err != nil {
		return fmt.Errorf("insert: %w", err)
	}
	rows, err := p.Query(ctx, "SELECT uri FROM accounts WHERE id = ANY($1) AND at > $2", []int64{int64(n)}, time.Now().Add(-time.Hour))
	if err != nil {
		return fmt.Errorf("select: %w", err)
	}
	uris, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("select: %w", err)
	}
	if len(uris) == 0 || uris[0] != "it's "+strconv.Itoa(n)+` \` {
		return fmt.Errorf("read back %q", uris)
	}
	return nil
}

func query(t *testing.T, p *dbpool.Pool) error {
	t.Helper()
	ctx, cancel := p.WithTimeout(t.Context())
	defer cancel()
	var one int
	return p.QueryRow(ctx, "SELECT 1").Scan(&one)
}

// The pool outlives whatever happens to the server, and tells that from a bad query.
func TestServerTroubles(t *testing.T) {
	s := pgtest.Start(t)
	b := pgtest.PgBouncer(t, s)
	for name, dsn := range map[string]string{"direct": s.DSN(), "pgbouncer": b.DSN()} {
		t.Run(name, func(t *testing.T) {
			p := open(t, dbpool.Config{DSN: dsn, NoPrepare: name == "pgbouncer", QueryTimeout: 500 * time.Millisecond, ConnectTimeout: time.Second})
			steps := []struct {
				name string
				do   func() error
				away bool
			}{
				{"up", func() error { return nil }, false},
				{"paused", s.Pause, true},
				{"resumed", s.Resume, false},
				{"stopped", s.Halt, true},
				{"restarted", func() error { return s.Restart(t.Context()) }, false},
				{"killed", s.Kill, true},
				{"up again", func() error { return s.Restart(t.Context()) }, false},
			}
			for _, step := range steps {
				if err := step.do(); err != nil {
					t.Fatalf("%s: %v", step.name, err)
				}
				err := query(t, p)
				for deadline := time.Now().Add(10 * time.Second); !step.away && dbpool.Unavailable(err) && time.Now().Before(deadline); {
					time.Sleep(50 * time.Millisecond) // a broken connection in the pool, or PgBouncer's pause between log-ins
					err = query(t, p)
				}
				if dbpool.Unavailable(err) != step.away || (!step.away && err != nil) {
					t.Errorf("%s: %v, want unavailable %v", step.name, err, step.away)
				}
			}
		})
	}
}

func TestTooManyConnections(t *testing.T) {
	s, err := throwaway.Postgres(t.Context(), throwaway.PostgresConfig{MaxConnections: 5, Settings: map[string]string{"superuser_reserved_connections": "0"}})
	redistest.Need(t, err)
	t.Cleanup(func() { _ = s.Stop() })
	p := open(t, dbpool.Config{DSN: s.DSN(), MaxConns: 5})
	for range 5 {
		c, err := p.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Release()
	}
	err = query(t, open(t, dbpool.Config{DSN: s.DSN()}))
	if pe, ok := errors.AsType[*pgconn.PgError](err); !ok || pe.Code != "53300" || !dbpool.Unavailable(err) {
		t.Errorf("the sixth connection: %v, want SQLSTATE 53300, unavailable", err)
	}
}

func TestUnavailable(t *testing.T) {
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	p := open(t, dbpool.Config{DSN: pgtest.DB(t)})
	_, badQuery := p.Exec(t.Context(), "SELECT nothing FROM nowhere")
	cancelledQuery := p.QueryRow(cancelled, "SELECT 1").Scan(new(int))
	_, terminated := p.Exec(t.Context(), "SELECT pg_terminate_backend(pg_backend_pid())")
	tests := map[string]struct {
		err  error
		want bool
	}{
		"nil":             {nil, false},
		"bad query":       {badQuery, false},
		"cancelled":       {cancelledQuery, false},
		"terminated":      {terminated, true},
		"no rows":         {pgx.ErrNoRows, false},
		"wrapped EOF":     {fmt.Errorf("x: %w", io.ErrUnexpectedEOF), true},
		"read-only":       {&pgconn.PgError{Code: "25006"}, true},
		"PgBouncer's own": {&pgconn.PgError{Code: "08P01"}, true},
		"disk full":       {&pgconn.PgError{Code: "53100"}, true},
		"unique":          {&pgconn.PgError{Code: "23505"}, false},
		"deadline":        {context.DeadlineExceeded, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := dbpool.Unavailable(test.err); got != test.want {
				t.Errorf("Unavailable(%v) = %v, want %v", test.err, got, test.want)
			}
			if got := errors.Is(dbpool.Classify(test.err), dbpool.ErrUnavailable); got != test.want {
				t.Errorf("Classify(%v) is ErrUnavailable: %v, want %v", test.err, got, test.want)
			}
			if test.err != nil && !errors.Is(dbpool.Classify(test.err), test.err) {
				t.Errorf("Classify(%v) lost the cause", test.err)
			}
		})
	}
}
