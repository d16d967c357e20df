package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/queueville/queueville/dbpool"
	"github.com/queueville/queueville/internal/pgtest"
	"github.com/queueville/queueville/internal/redistest"
	"github.com/queueville/queueville/internal/throwaway"
)

// TestBudgetScripts runs testdata/budget: one PostgreSQL with 60 connections of the test's own, one PgBouncer that answers questions and
// one that does not, and an empty Redis for each script. The role mastodon is no superuser.
func TestBudgetScripts(t *testing.T) { //nolint:tparallel // each script counts every connection of one server
	t.Parallel()
	pg, err := throwaway.Postgres(t.Context(), throwaway.PostgresConfig{MaxConnections: 60})
	redistest.Need(t, err)
	t.Cleanup(func() { _ = pg.Stop() })
	conn, err := pgx.Connect(t.Context(), pg.DSN())
	if err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{"CREATE ROLE mastodon LOGIN PASSWORD 'geheim'", "CREATE DATABASE mastodon_production OWNER mastodon"} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	_ = conn.Close(t.Context())
	bouncer := func(lines ...string) *throwaway.PgBouncerServer {
		b, err := throwaway.PgBouncer(t.Context(), throwaway.PgBouncerConfig{Upstream: pg, PoolSize: 7, Lines: lines})
		redistest.Need(t, err)
		t.Cleanup(func() { _ = b.Stop() })
		return b
	}
	talking, silent := bouncer("stats_users = postgres", "reserve_pool_size = 2"), bouncer()
	files, err := filepath.Glob("testdata/budget/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, file := range files {
		// One after the other: each counts every connection of the server.
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			addr, db, client := redistest.DB(t)
			s := &budgetSite{t: t, pg: pg, redis: client, ledger: dbpool.NewLedger(client, "", "local.test")}
			setup := func(env *testscript.Env) error {
				env.Setenv("HOME", env.WorkDir)
				env.Setenv("COLUMNS", "170")
				env.Setenv("REDIS_LINE", fmt.Sprintf("REDIS_URL=redis://%s/%d", addr, db))
				env.Setenv("DB_LINE", fmt.Sprintf("DATABASE_URL=postgres://mastodon:geheim@127.0.0.1:%d/mastodon_production?sslmode=disable", pg.Port()))
				env.Setenv("SUPERUSER_LINE", "DATABASE_URL="+pg.DatabaseDSN("mastodon_production"))
				env.Setenv("TALKING_LINE", "DATABASE_URL="+talking.DSN())
				env.Setenv("SILENT_LINE", "DATABASE_URL="+silent.DSN())
				env.Setenv("GONE_LINE", "DATABASE_URL=postgres://mastodon:geheim@127.0.0.1:1/mastodon_production?sslmode=disable")
				env.Defer(s.close)
				return nil
			}
			testscript.Run(t, testscript.Params{Files: []string{file}, Setup: setup, RequireExplicitExec: true, Cmds: map[string]func(*testscript.TestScript, bool, []string){
				"exits": exits, "dotenv": s.envFile, "open": s.open, "stored": s.stored, "show": s.show, "hosts": s.hosts,
			}})
		})
	}
}

// budgetSite is what a script acts on.
type budgetSite struct {
	t      *testing.T
	pg     *throwaway.PostgresServer
	redis  *redis.Client
	ledger *dbpool.Ledger
	conns  []*pgx.Conn
	stop   context.CancelFunc // ends the hosts; nil without
	ended  sync.WaitGroup
}

func (s *budgetSite) close() {
	if s.stop != nil {
		s.stop()
		s.ended.Wait()
	}
	for _, c := range s.conns {
		_ = c.Close(s.t.Context())
	}
}

// dotenv LINE…: writes .env.production into $WORK/live.
func (s *budgetSite) envFile(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(os.MkdirAll(ts.MkAbs("live"), 0o700))
	ts.Check(os.WriteFile(ts.MkAbs("live/.env.production"), []byte("LOCAL_DOMAIN=local.test\n"+strings.Join(args, "\n")+"\n"), 0o600))
}

// open N ROLE [NAME]: opens connections that stay open, with this application_name.
func (s *budgetSite) open(ts *testscript.TestScript, _ bool, args []string) {
	dsn := s.pg.DSN()
	if args[1] == "mastodon" {
		dsn = strings.TrimPrefix(ts.Getenv("DB_LINE"), "DATABASE_URL=")
	}
	cfg, err := pgx.ParseConfig(dsn)
	ts.Check(err)
	if len(args) > 2 {
		cfg.RuntimeParams["application_name"] = args[2]
	}
	for range number(ts, args[0]) {
		c, err := pgx.ConnectConfig(s.t.Context(), cfg)
		ts.Check(err)
		s.conns = append(s.conns, c)
	}
}

// hosts N: so many hosts live from here on, each with a lease.
func (s *budgetSite) hosts(ts *testscript.TestScript, _ bool, args []string) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.t.Context()))
	s.stop = cancel
	for i := range number(ts, args[0]) {
		m, err := dbpool.NewManager(dbpool.ManagerConfig{
			Redis: s.redis, Cluster: "local.test", Host: fmt.Sprintf("host%d", i), DSN: strings.TrimPrefix(ts.Getenv("DB_LINE"), "DATABASE_URL="),
		})
		ts.Check(err)
		s.ended.Go(func() {
			if err := m.Run(ctx); err != nil {
				s.t.Error(err)
			}
		})
	}
	eventually(ts, func() error {
		snapshot, err := s.ledger.Snapshot(ctx)
		if err != nil || len(snapshot.Leases) < number(ts, args[0]) {
			return fmt.Errorf("%d hosts have a lease: %w", len(snapshot.Leases), err)
		}
		return nil
	})
}

// stored N MIN: that budget is stored, or with N 0 none.
func (s *budgetSite) stored(ts *testscript.TestScript, _ bool, args []string) {
	b, err := s.ledger.Budget(s.t.Context())
	if n := number(ts, args[0]); n == 0 && err == nil || n > 0 && (err != nil || b.Connections != n || b.MinPerHost != number(ts, args[1])) {
		ts.Fatalf("stored: %+v, %v", b, err)
	}
}

// show logs the last output, for a look with -v.
func (s *budgetSite) show(ts *testscript.TestScript, _ bool, _ []string) {
	ts.Logf("%s", ts.ReadFile("stdout"))
}

// TestBudgetKeepsThePasswordToItself: no error of a server or a parser carries it out.
func TestBudgetKeepsThePasswordToItself(t *testing.T) {
	t.Parallel()
	url := redistest.URL(t)
	refused := regexp.MustCompile(`://[^@]*@`).ReplaceAllString(pgtest.DB(t), "://mastodon:geheim@")
	for name, db := range map[string]string{
		"wrong password": "DATABASE_URL=" + refused, "nobody listens": "DATABASE_URL=postgres://u:geheim@127.0.0.1:1/x", "no URL": "DATABASE_URL=postgres://u:geheim@[::1/x",
		"bad parameter": "DATABASE_URL=postgres://u:geheim@127.0.0.1:1/x?sslrootcert=/nowhere&sslmode=verify-full", "no port": "DB_PORT=geheim",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, ".env.production"), []byte("LOCAL_DOMAIN=local.test\nREDIS_URL="+url+"\nDB_PASS=geheim\n"+db+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			var out, errs strings.Builder
			code := run(t.Context(), func() {}, []string{"budget", "-m", dir, "--units", dir}, stdio{out: &out, err: &errs})
			if !slices.Contains([]int{exitConfig, exitUnavailable}, code) {
				t.Errorf("exit code %d: %s%s", code, out.String(), errs.String())
			}
			if text := out.String() + errs.String(); strings.Contains(strings.ReplaceAll(text, `"geheim" is not a number`, ""), "geheim") || text == "" {
				t.Errorf("says %q", text)
			}
			for line := range strings.Lines(errs.String()) {
				if !strings.HasPrefix(line, "queueville: ") {
					t.Errorf("a line that is not ours: %q", line)
				}
			}
		})
	}
}
