// Package pgtest gives tests a real PostgreSQL: one server per test binary, started when the first test asks, with a database for each
// test; or a server of a test's own. It starts no goroutines. The shared server ends with the test binary.
//
// A machine without PostgreSQL skips the test; under CI=true the test fails.
package pgtest

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/queueville/queueville/internal/redistest"
	"github.com/queueville/queueville/internal/throwaway"
)

const timeout = 60 * time.Second // for starting a server, and for making or dropping a database

// shared is the binary's server.
var shared struct {
	sync.Mutex
	server *throwaway.PostgresServer
	err    error
}

// serial numbers the databases of this binary.
var serial atomic.Int64

// Start starts a server of the test's own and stops it when the test ends.
func Start(tb testing.TB) *throwaway.PostgresServer {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), timeout)
	defer cancel()
	s, err := throwaway.Postgres(ctx, throwaway.PostgresConfig{})
	redistest.Need(tb, err)
	tb.Cleanup(func() {
		if err := s.Stop(); err != nil {
			tb.Errorf("stop postgres: %v", err)
		}
	})
	return s
}

// StartReplicated starts a server of the test's own and a read replica of it, which follows by streaming, and stops them when the test ends.
func StartReplicated(tb testing.TB) (primary, replica *throwaway.PostgresServer) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), timeout)
	defer cancel()
	cfg := throwaway.PostgresConfig{Settings: throwaway.Replicated()}
	primary, err := throwaway.Postgres(ctx, cfg)
	redistest.Need(tb, err)
	stop := func(s *throwaway.PostgresServer) {
		tb.Cleanup(func() {
			if err := s.Stop(); err != nil {
				tb.Errorf("stop postgres: %v", err)
			}
		})
	}
	stop(primary)
	replica, err = throwaway.PostgresReplica(ctx, primary, cfg)
	redistest.Need(tb, err)
	stop(replica)
	return primary, replica
}

// PgBouncer starts a PgBouncer in transaction mode before a server and stops it when the test ends.
func PgBouncer(tb testing.TB, upstream *throwaway.PostgresServer) *throwaway.PgBouncerServer {
	tb.Helper()
	return pgBouncer(tb, throwaway.PgBouncerConfig{Upstream: upstream})
}

func pgBouncer(tb testing.TB, cfg throwaway.PgBouncerConfig) *throwaway.PgBouncerServer {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), timeout)
	defer cancel()
	b, err := throwaway.PgBouncer(ctx, cfg)
	redistest.Need(tb, err)
	tb.Cleanup(func() {
		if err := b.Stop(); err != nil {
			tb.Errorf("stop pgbouncer: %v", err)
		}
	})
	return b
}

// SharedPgBouncer starts a PgBouncer in transaction mode before the shared server, whose databases have the same names there, and stops it when
// the test ends. lines are more of its section [pgbouncer].
func SharedPgBouncer(tb testing.TB, lines ...string) *throwaway.PgBouncerServer {
	tb.Helper()
	server, err := sharedServer(tb.Context())
	redistest.Need(tb, err)
	return pgBouncer(tb, throwaway.PgBouncerConfig{Upstream: server, Lines: lines})
}

// DB makes an empty database on the shared server and returns its URL; it is dropped, open connections or not, when the test ends.
func DB(tb testing.TB) (dsn string) {
	tb.Helper()
	server, err := sharedServer(tb.Context())
	redistest.Need(tb, err)
	name := fmt.Sprintf("test_%d", serial.Add(1))
	run(tb, server, "CREATE DATABASE "+name)
	tb.Cleanup(func() { run(tb, server, "DROP DATABASE "+name+" WITH (FORCE)") })
	return server.DatabaseDSN(name)
}

// Stop ends the shared server before the test binary does; for a TestMain that wants nothing left. A later test starts another.
func Stop() error {
	shared.Lock()
	defer shared.Unlock()
	server := shared.server
	shared.server, shared.err = nil, nil
	if server == nil {
		return nil
	}
	return server.Stop()
}

func sharedServer(ctx context.Context) (*throwaway.PostgresServer, error) {
	shared.Lock()
	defer shared.Unlock()
	if shared.server != nil || shared.err != nil {
		return shared.server, shared.err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	server, err := throwaway.Postgres(ctx, throwaway.PostgresConfig{MaxConnections: 200})
	if err != nil {
		shared.err = fmt.Errorf("shared postgres: %w", err)
		return nil, shared.err
	}
	shared.server = server
	return server, nil
}

// run runs one statement on the database postgres, on a connection of its own.
func run(tb testing.TB, server *throwaway.PostgresServer, sql string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), timeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, server.DSN())
	if err != nil {
		tb.Fatalf("connect to the shared postgres: %v", err)
	}
	defer conn.Close(ctx) //nolint:errcheck // the statement's own error is what counts
	if _, err := conn.Exec(ctx, sql); err != nil {
		tb.Errorf("%s: %v", sql, err)
	}
}
