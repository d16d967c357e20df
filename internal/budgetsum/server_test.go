package budgetsum

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/queueville/queueville/dbpool"
	"github.com/queueville/queueville/internal/mastodonenv"
	"github.com/queueville/queueville/internal/pgtest"
	"github.com/queueville/queueville/internal/redistest"
	"github.com/queueville/queueville/internal/throwaway"
	"github.com/queueville/queueville/queues"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := errors.Join(redistest.Stop(), pgtest.Stop()); err != nil {
		fmt.Fprintln(os.Stderr, "stop the shared servers:", err)
		code = 1
	}
	os.Exit(code)
}

// TestPooled: PostgreSQL is told from a PgBouncer that answers this role, and from one that does not.
func TestPooled(t *testing.T) {
	t.Parallel()
	pg := pgtest.Start(t)
	at := func(dsn string) *mastodonenv.Config {
		env, _ := mastodonenv.Load("", []string{"LOCAL_DOMAIN=local.test", "DATABASE_URL=" + dsn})
		cfg, problems := env.Config()
		for _, p := range problems {
			if strings.HasPrefix(p.Name, "DATABASE") {
				t.Fatal(p)
			}
		}
		return cfg
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	silent := pgtest.PgBouncer(t, pg)
	open, err := throwaway.PgBouncer(ctx, throwaway.PgBouncerConfig{Upstream: pg, Lines: []string{"stats_users = postgres"}})
	redistest.Need(t, err)
	t.Cleanup(func() { _ = open.Stop() })
	for name, c := range map[string]struct {
		dsn  string
		want bool
	}{
		"PostgreSQL":             {pg.DSN(), false},
		"PgBouncer":              {silent.DSN(), true},
		"a PgBouncer that tells": {open.DSN(), true},
	} {
		if got, err := Pooled(ctx, at(c.dsn)); err != nil || got != c.want {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	conn, err := connect(ctx, pg.DSN(), "", "test")
	if err != nil {
		t.Fatal(err)
	}
	defer closeSoon(ctx, conn)
	if _, err := conn.Exec(ctx, "CREATE DATABASE pgbouncer"); err != nil {
		t.Fatal(err)
	}
	if got, err := Pooled(ctx, at(pg.DSN())); err != nil || got {
		t.Errorf("PostgreSQL with a database called pgbouncer: %v, %v", got, err)
	}
	gone := at("postgres://u:geheim@127.0.0.1:1/x")
	if _, err := Pooled(ctx, gone); err == nil || strings.Contains(err.Error(), "geheim") {
		t.Errorf("nobody there: %v", err)
	}
}

// Ruby processes that a worker says are its own are in its lease, and not counted twice.
func TestReadRunningLeavesOursOut(t *testing.T) {
	t.Parallel()
	ctx, store := t.Context(), queues.NewStore(redistest.Client(t), "")
	for id, pid := range map[string]int{"h:1:worker": 1, "h:2:child": 2, "h:3:sidekiq": 3, "other:2:sidekiq": 2} {
		host, _, _ := strings.Cut(id, ":")
		info := queues.ProcessInfo{Identity: id, Hostname: host, PID: pid, Queues: []string{"default"}, Concurrency: 25, StartedAt: time.Now().Add(-time.Hour)}
		if _, err := store.Beat(ctx, info, queues.Pulse{Now: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.PublishWorker(ctx, "h:1:worker", []byte(`{"owned":["default"],"ruby":{"processes":[{"pid":2,"state":"serving"}]}}`)); err != nil {
		t.Fatal(err)
	}
	running, err := ReadRunning(ctx, store)
	if err != nil || len(running) != 2 || running[0].Host == running[1].Host {
		t.Errorf("running by themselves: %+v, %v", running, err)
	}
}

// TestMeasureServer: limits and sessions of a server of its own, asked as a role that may see nothing of others.
func TestMeasureServer(t *testing.T) {
	t.Parallel()
	pg := pgtest.Start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	dial := func(dsn, name string) *pgx.Conn {
		c, err := connect(ctx, dsn, "", name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { closeSoon(ctx, c) })
		return c
	}
	admin := dial(pg.DSN(), "backup 1234")
	for _, sql := range []string{"CREATE ROLE mastodon LOGIN PASSWORD 'x' CONNECTION LIMIT 40", "CREATE DATABASE m CONNECTION LIMIT 30"} {
		if _, err := admin.Exec(ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	u, err := url.Parse(pg.DatabaseDSN("m"))
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("mastodon", "x")
	for range 3 {
		dial(u.String(), "")
	}
	dial(u.String(), "queueville/main/alpha/abcdefghij/worker")
	s, err := MeasureServer(ctx, u.String(), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if s.MaxConnections != 100 || s.SuperuserReserved != 3 || s.RoleLimit != 40 || s.DatabaseLimit != 30 || s.Role != "mastodon" || s.Database != "m" || s.Behind {
		t.Errorf("MeasureServer = %+v", s)
	}
	got := classify(s.Sessions, "mastodon")
	if got.unnamed != 3 || got.queueville != 1 || len(got.others) != 1 || got.others[0].Application != "backup" || got.others[0].Count != 1 {
		t.Errorf("classify(%+v) = %+v", s.Sessions, got)
	}
	if asAdmin, err := MeasureServer(ctx, pg.DSN(), "mastodon", []int{int(admin.PgConn().PID())}); err != nil || asAdmin.RoleLimit != 40 || asAdmin.Role != "mastodon" || len(classify(asAdmin.Sessions, "mastodon").others) != 0 {
		t.Errorf("asked by a superuser: %+v, %v", asAdmin, err)
	}
	if _, err := ReadPooler(ctx, u.String(), "m", "mastodon"); !errors.Is(err, ErrNoPooler) {
		t.Errorf("ReadPooler on PostgreSQL: %v, want ErrNoPooler", err)
	}
	// A database of PgBouncer's name, and a role that may not enter: still PostgreSQL.
	if _, err := admin.Exec(ctx, "CREATE DATABASE pgbouncer"); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadPooler(ctx, u.String(), "m", "mastodon"); !errors.Is(err, ErrNoPooler) {
		t.Errorf("ReadPooler on a database called pgbouncer: %v, want ErrNoPooler", err)
	}
}

func TestAddressStaysSecret(t *testing.T) {
	t.Parallel()
	for _, dsn := range []string{"postgres://u:geheim@h:x/y", "host=h password='ge\\'heim' port=x"} {
		_, err := MeasureServer(t.Context(), dsn, "", nil)
		if _, more := ReadPooler(t.Context(), dsn, "m", "r"); !errors.Is(err, ErrAddress) || !errors.Is(more, ErrAddress) || strings.Contains(err.Error()+more.Error(), "heim") {
			t.Errorf("errors %v, %v, want ErrAddress", err, more)
		}
	}
}

// TestLedger: what is stored is read back, and what cannot be is refused with a reason and leaves everything as it was.
func TestLedger(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	client := redistest.Client(t)
	ledger := dbpool.NewLedger(client, "", "local.test")
	if stored, state, err := ReadLedger(ctx, ledger); err != nil || stored != nil || state == nil {
		t.Fatalf("ReadLedger of nothing = %+v, %+v, %v", stored, state, err)
	}
	s := Make(small())
	if _, err := Store(ctx, ledger, s, Change{Found: true, MinPerHost: 3, SetBy: "alice@alpha", Reason: "two\nlines"}); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]Change{
		"none": {Connections: 0}, "negative": {Connections: -1}, "more than all": {Connections: s.Available + 1, Force: true},
		"what others can hold": {Connections: s.Available - s.CanHold + 1}, "less than one host's minimum": {Connections: 10, MinPerHost: 10}, "no minimum": {Connections: 10, MinPerHost: -1},
	} {
		refused, ok := errors.AsType[*RefusedError](func() error { _, err := Store(ctx, ledger, s, c); return err }())
		if !ok || refused.Why == "" || refused.Hint == "" || refused.Sum != s {
			t.Errorf("%s: %+v", name, refused)
		}
	}
	stored, _, err := ReadLedger(ctx, ledger)
	if err != nil || stored == nil || stored.Connections != *s.Found || stored.MinPerHost != 3 || stored.SetBy != "alice@alpha" || stored.Reason != "two lines" || stored.SetAt.IsZero() {
		t.Errorf("stored: %+v, %v", stored, err)
	}
}

func TestReadRunning(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	client := redistest.Client(t)
	store := queues.NewStore(client, "")
	for id, worker := range map[string]bool{"gamma:1:a": false, "alpha:2:b": true} {
		host, _, _ := strings.Cut(id, ":")
		if _, err := store.Beat(ctx, queues.ProcessInfo{Identity: id, Hostname: host, PID: 1, StartedAt: time.Now(), Concurrency: 15, Queues: []string{"push"}}, queues.Pulse{Now: time.Now()}); err != nil {
			t.Fatal(err)
		}
		if worker {
			if err := store.PublishWorker(ctx, id, []byte("{}")); err != nil {
				t.Fatal(err)
			}
		}
	}
	got, err := ReadRunning(ctx, store)
	if err != nil || len(got) != 1 || got[0] != (RubyProcess{"gamma", 15}) {
		t.Errorf("ReadRunning = %+v, %v", got, err)
	}
}
