package throwaway_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/queueville/queueville/internal/throwaway"
)

func TestMain(m *testing.M) {
	if os.Getenv("THROWAWAY_CHILD") != "" {
		os.Exit(abandon())
	}
	goleak.VerifyTestMain(m)
}

// abandon starts servers, says where, and ends without stopping them.
func abandon() int {
	r, err := throwaway.Redis(context.Background(), throwaway.RedisConfig{})
	if err != nil {
		fmt.Fprint(os.Stderr, err)
		return 1
	}
	p, err := throwaway.Postgres(context.Background(), throwaway.PostgresConfig{})
	if err != nil {
		fmt.Fprint(os.Stderr, err)
		return 1
	}
	fmt.Println(r.PID(), p.PID())
	return 0
}

// must skips at a desk and fails in CI when a binary is missing.
func must(t *testing.T, err error) {
	t.Helper()
	if errors.Is(err, throwaway.ErrMissing) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func startRedis(t *testing.T, cfg throwaway.RedisConfig) *throwaway.RedisServer {
	t.Helper()
	r, err := throwaway.Redis(t.Context(), cfg)
	must(t, err)
	t.Cleanup(func() { must(t, r.Stop()) })
	return r
}

func startPostgres(t *testing.T, cfg throwaway.PostgresConfig) *throwaway.PostgresServer {
	t.Helper()
	p, err := throwaway.Postgres(t.Context(), cfg)
	must(t, err)
	t.Cleanup(func() { must(t, p.Stop()) })
	return p
}

func client(t *testing.T, r *throwaway.RedisServer) *redis.Client {
	t.Helper()
	opts, err := redis.ParseURL(r.URL())
	if err != nil {
		t.Fatal(err)
	}
	opts.MaxRetries = -1
	opts.ReadTimeout = 300 * time.Millisecond
	c := redis.NewClient(opts)
	t.Cleanup(func() { must(t, c.Close()) })
	return c
}

func TestRedis(t *testing.T) {
	dir := t.TempDir()
	r := startRedis(t, throwaway.RedisConfig{Dir: dir, Password: "geheim", Args: []string{"--appendonly", "yes"}})
	c := client(t, r)
	if err := c.Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	pid := r.PID()
	if err := r.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r.PID() == pid || r.PID() == 0 {
		t.Errorf("PID() after Restart = %d, was %d, want another", r.PID(), pid)
	}
	if got, err := client(t, r).Get(t.Context(), "k").Result(); err != nil || got != "v" {
		t.Errorf("GET k after Restart = %q, %v, want v", got, err)
	}
	if err := r.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := client(t, r).Ping(t.Context()).Err(); err == nil {
		t.Error("PING of a paused server succeeded")
	}
	if err := r.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := client(t, r).Ping(t.Context()).Err(); err != nil {
		t.Errorf("PING after Resume: %v", err)
	}
	if err := r.Kill(); err != nil {
		t.Fatal(err)
	}
	if r.PID() != 0 {
		t.Errorf("PID() after Kill = %d, want 0", r.PID())
	}
	if err := r.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := r.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Restart(t.Context()); err == nil {
		t.Error("Restart after Stop succeeded")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("after Stop the directory holds %v, %v, want nothing", left, err)
	}
}

func TestRedisStopsWhilePaused(t *testing.T) {
	r := startRedis(t, throwaway.RedisConfig{})
	if err := r.Pause(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("Stop of a paused server took %v", took)
	}
}

func TestRedisSaysWhatIsWrong(t *testing.T) {
	_, err := throwaway.Redis(t.Context(), throwaway.RedisConfig{Dir: t.TempDir(), Args: []string{"--no-such-option", "1"}})
	if errors.Is(err, throwaway.ErrMissing) {
		must(t, err)
	}
	if err == nil || !strings.Contains(err.Error(), "no-such-option") {
		t.Errorf("Redis with a bad option: %v, want the server's own words", err)
	}
}

func TestSentinel(t *testing.T) {
	master := startRedis(t, throwaway.RedisConfig{})
	s, err := throwaway.Sentinel(t.Context(), throwaway.SentinelConfig{Master: master.Addr(), Name: "stadt"})
	must(t, err)
	t.Cleanup(func() { must(t, s.Stop()) })
	for range 2 {
		c := redis.NewSentinelClient(&redis.Options{Addr: s.Addr()})
		got, err := c.GetMasterAddrByName(t.Context(), "stadt").Result()
		if err != nil || strings.Join(got, ":") != master.Addr() {
			t.Errorf("GetMasterAddrByName = %v, %v, want %s", got, err, master.Addr())
		}
		must(t, c.Close())
		if err := s.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func one(t *testing.T, dsn string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	cfg.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // a test
	var n int
	return conn.QueryRow(ctx, "SELECT 1").Scan(&n)
}

func TestPostgres(t *testing.T) {
	start := time.Now()
	p := startPostgres(t, throwaway.PostgresConfig{Settings: map[string]string{"log_statement": "none"}})
	t.Logf("started in %v", time.Since(start))
	if err := one(t, p.DSN()); err != nil {
		t.Fatal(err)
	}
	if err := p.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := one(t, p.DSN()); err == nil {
		t.Error("a paused server answers")
	}
	if err := p.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := one(t, p.DSN()); err != nil {
		t.Errorf("after Resume: %v", err)
	}
	if err := p.Halt(); err != nil {
		t.Fatal(err)
	}
	if err := one(t, p.DSN()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after Halt: %v, want connection refused", err)
	}
	if err := p.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	b, err := throwaway.PgBouncer(t.Context(), throwaway.PgBouncerConfig{Upstream: p})
	must(t, err)
	t.Cleanup(func() { must(t, b.Stop()) })
	if err := one(t, b.DSN()); err != nil {
		t.Errorf("through PgBouncer: %v", err)
	}
	if err := b.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// A process that ends without Stop leaves neither servers nor directories.
func TestServersEndWithUs(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // the server's account must be able to enter
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "THROWAWAY_CHILD=1", "TMPDIR="+dir)
	out, err := cmd.Output()
	if ee, ok := errors.AsType[*exec.ExitError](err); ok {
		if strings.Contains(string(ee.Stderr), "binary not found") {
			must(t, &throwaway.MissingError{Binary: string(ee.Stderr)})
		}
		t.Fatalf("child: %v: %s", err, ee.Stderr)
	}
	must(t, err)
	pids := strings.Fields(string(out))
	if len(pids) != 2 {
		t.Fatalf("child said %q, want two pids", out)
	}
	deadline := time.Now().Add(10 * time.Second)
	for _, pid := range pids {
		for alive(t, pid) {
			if time.Now().After(deadline) {
				t.Fatalf("server %s still runs", pid)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	for {
		left, err := os.ReadDir(dir)
		must(t, err)
		if len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("left over: %v", left)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// alive tells whether a process runs; one that nobody has reaped yet does not.
func alive(t *testing.T, pid string) bool {
	t.Helper()
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return false
	}
	rest := string(b[strings.LastIndexByte(string(b), ')')+1:])
	return !strings.HasPrefix(rest, " Z")
}

func TestMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := throwaway.Redis(t.Context(), throwaway.RedisConfig{})
	missing, ok := errors.AsType[*throwaway.MissingError](err)
	if !ok || !errors.Is(err, throwaway.ErrMissing) {
		t.Fatalf("Redis without a binary: %v, want ErrMissing", err)
	}
	want := "apt-get install -y --no-install-recommends redis-server"
	if missing.Hint() != want {
		t.Errorf("Hint() = %q, want %q", missing.Hint(), want)
	}
}
