package dbpool_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/queueville/queueville/dbpool"
	"github.com/queueville/queueville/internal/redistest"
)

// childEnv makes the test binary a worker process: its value is host, cluster, Redis addresses (a master's name and Sentinels, or one),
// database, lease and goroutines, separated by spaces; PGURL is the DSN.
const childEnv = "QUEUEVILLE_DBPOOL_CHILD"

// runChild runs a Manager and keeps it busy until SIGTERM. Each failed query is a line "failed …" on standard output; "up" comes first.
func runChild(spec string) int {
	f := strings.Fields(spec)
	db, _ := strconv.Atoi(f[4])
	ttl, _ := time.ParseDuration(f[5])
	n, _ := strconv.Atoi(f[6])
	var client redis.UniversalClient
	if f[2] == "-" {
		client = redistest.NewClient(f[3], db)
	} else {
		client = redis.NewFailoverClient(&redis.FailoverOptions{
			MasterName: f[2], SentinelAddrs: strings.Split(f[3], ","), DB: db, MaxRetries: -1, ContextTimeoutEnabled: true,
			DialTimeout: 2 * time.Second, ReadTimeout: 2 * time.Second, WriteTimeout: 2 * time.Second, DisableIdentity: true, PoolSize: 3,
		})
	}
	m, err := dbpool.NewManager(dbpool.ManagerConfig{Redis: client, Cluster: f[1], Host: f[0], DSN: os.Getenv("PGURL"), TTL: ttl, LoginTimeout: testLogin})
	if err != nil {
		fmt.Println("failed", err)
		return 1
	}
	p, err := m.Pool(context.Background(), dbpool.Config{Role: "worker", MaxConns: 20})
	if err != nil {
		fmt.Println("failed", err)
		return 1
	}
	ctx, cancel := context.WithCancel(context.Background())
	stop := make(chan os.Signal, 1)
	notify(stop)
	var running, work sync.WaitGroup
	running.Go(func() { _ = m.Run(ctx) })
	fmt.Println("up")
	workCtx, stopWork := context.WithCancel(ctx)
	var out sync.Mutex
	var done atomic.Int64
	for i := range n {
		work.Go(func() {
			for workCtx.Err() == nil {
				qctx, end := context.WithTimeout(workCtx, 60*time.Second)
				_, err := p.Exec(qctx, "SELECT pg_sleep(0.03)")
				end()
				if err == nil {
					done.Add(1)
				} else if workCtx.Err() == nil {
					out.Lock()
					fmt.Println("failed", strings.ReplaceAll(err.Error(), "\n", " "))
					out.Unlock()
					time.Sleep(50 * time.Millisecond)
				}
				// Bursts, so that demand moves about.
				if i > 0 && time.Now().Unix()/5%int64(i+1) != 0 {
					time.Sleep(200 * time.Millisecond)
				}
			}
		})
	}
	<-stop
	stopWork()
	work.Wait()
	cancel()
	running.Wait()
	fmt.Println("done", done.Load())
	return 0
}

// child is a worker process.
type child struct {
	cmd    *exec.Cmd
	mu     sync.Mutex
	failed []string
	done   int
	ended  chan struct{}
}

func startChild(tb testing.TB, r *rig, name, redisSpec string, n int) *child {
	tb.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(tb.Context()), os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %s %s %d", childEnv, name, r.cluster, redisSpec, r.ttl, n), "PGURL="+r.url(), "GOMAXPROCS=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	c := &child{cmd: cmd, ended: make(chan struct{})}
	up := make(chan struct{})
	var once sync.Once
	go func() {
		defer close(c.ended)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			text := lines.Text()
			c.mu.Lock()
			switch {
			case text == "up":
				once.Do(func() { close(up) })
			case strings.HasPrefix(text, "failed "):
				c.failed = append(c.failed, strings.TrimPrefix(text, "failed "))
			case strings.HasPrefix(text, "done "):
				c.done, _ = strconv.Atoi(strings.TrimPrefix(text, "done "))
			}
			c.mu.Unlock()
		}
		_ = cmd.Wait()
	}()
	tb.Cleanup(func() { c.kill() })
	select {
	case <-up:
	case <-time.After(20 * time.Second):
		tb.Fatalf("%s did not start", name)
	}
	return c
}

func (c *child) signal(s syscall.Signal) { _ = c.cmd.Process.Signal(s) }

func (c *child) kill() {
	c.signal(syscall.SIGKILL)
	<-c.ended
}

func (c *child) failures() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.failed...)
}

func redisSpec(c *redis.Client) string {
	return fmt.Sprintf("- %s %d", c.Options().Addr, c.Options().DB)
}

// bystanders connects others that use the database, some with names that are nearly ours; the function it returns sees that they live.
func (r *rig) bystanders(t *testing.T) func() {
	t.Helper()
	var conns []*pgx.Conn
	for _, name := range []string{
		"", "puma", "psql", "queueville", "queueville/web1/worker", "queueville/tes_/frozen/abcdefghij/worker", "queueville/test/frozen", "queueville/testing/frozen/abcdefghij/worker",
	} {
		cfg, err := pgx.ParseConfig(r.pg.DSN())
		if err != nil {
			t.Fatal(err)
		}
		cfg.RuntimeParams["application_name"] = name
		c, err := pgx.ConnectConfig(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close(context.WithoutCancel(t.Context())) })
		conns = append(conns, c)
	}
	return func() {
		t.Helper()
		for _, c := range conns {
			if err := c.Ping(t.Context()); err != nil {
				t.Errorf("%q was ended: %v", c.Config().RuntimeParams["application_name"], err)
			}
		}
	}
}

// A process that freezes with its connections open keeps them off the others until PostgreSQL shows that they are gone; that they are
// ended is journalled. When it wakes up it begins anew.
func TestFrozenHostPastItsLease(t *testing.T) {
	r := newRig(t, 12, 1)
	w := r.watch(t)
	bystanders := r.bystanders(t)
	frozen := startChild(t, r, "frozen", redisSpec(r.redis), 12)
	eventually(t, 30*time.Second, "it has all", func() bool { return w.now.Load() >= 10 })
	h := r.host(t, "next", nil)
	p := h.pool(t, "worker", 0)
	frozen.signal(syscall.SIGSTOP)
	l := busy(t, p, 12, "SELECT pg_sleep(0.01)")
	time.Sleep(r.ttl) // its lease ends about now
	if s, err := r.ledger.Snapshot(t.Context()); err != nil || s.Leased+s.Doubtful > 10 {
		t.Errorf("ledger: %+v, %v", s, err)
	}
	took := eventually(t, 30*time.Second, "the next host has all", func() bool { return h.Limit() == 10 })
	t.Logf("blocks of a frozen host were granted again %v after its lease's end", took)
	h.events.mu.Lock()
	ended := len(h.events.ended)
	for _, e := range h.events.ended {
		if e.Host != "frozen" || e.Role != "worker" || e.PID == 0 {
			t.Errorf("ended %+v", e)
		}
	}
	h.events.mu.Unlock()
	journal, err := r.ledger.Journal(t.Context(), 100)
	if err != nil || ended == 0 || len(journal) != ended {
		t.Errorf("%d connections ended, %d in the journal (%v)", ended, len(journal), err)
	}
	bystanders()
	for _, text := range h.events.failures() {
		if strings.HasPrefix(text, "postgres") {
			t.Error(text)
		}
	}
	frozen.signal(syscall.SIGCONT)
	eventually(t, 30*time.Second, "the one that woke up has its share", func() bool {
		s, err := r.ledger.Snapshot(t.Context())
		if err != nil {
			return false
		}
		for _, lease := range s.Leases {
			if lease.Host == "frozen" && lease.State == dbpool.Live && lease.Granted >= 4 {
				return true
			}
		}
		return false
	})
	l.stop()
	w.check(t, 12)
	if l.failed.Load() > 0 {
		t.Errorf("%d queries of the other host failed: %v", l.failed.Load(), *l.last.Load())
	}
}

// A process that was killed is seen to be gone by its neighbours, long before its lease ends.
func TestKilledHost(t *testing.T) {
	r := newRig(t, 12, 1)
	r.ttl = 20 * time.Second
	w := r.watch(t)
	killed := startChild(t, r, "killed", redisSpec(r.redis), 12)
	eventually(t, 30*time.Second, "it has all", func() bool { return w.now.Load() >= 10 })
	h := r.host(t, "next", nil)
	l := busy(t, h.pool(t, "worker", 0), 12, "SELECT pg_sleep(0.01)")
	killed.kill()
	took := eventually(t, 30*time.Second, "the next host has all", func() bool { return h.Limit() == 10 })
	t.Logf("blocks of a killed process were granted again after %v", took)
	l.stop()
	w.check(t, 12)
}

// Redis restarts empty: nobody's connections are closed, nobody gets more until PostgreSQL has shown what is open, the budget comes back
// from those who knew it.
func TestRedisRestartsEmpty(t *testing.T) {
	server := redistest.Start(t, "--save", "", "--appendonly", "no")
	client := redistest.NewClient(server.Addr(), 0)
	t.Cleanup(func() { _ = client.Close() })
	r := newRigOn(t, client, 22, 2)
	w := r.watch(t)
	a, b := r.host(t, "a", nil), r.host(t, "b", nil)
	la := busy(t, a.pool(t, "worker", 0), 20, "SELECT pg_sleep(0.01)")
	eventually(t, 30*time.Second, "a has what it wants", func() bool { return a.Limit() == 18 })
	lb := busy(t, b.pool(t, "worker", 0), 20, "SELECT pg_sleep(0.01)")
	eventually(t, 30*time.Second, "half each", func() bool { return a.Limit() == 10 && b.Limit() == 10 })
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "both are back", func() bool {
		s, err := r.ledger.Snapshot(t.Context())
		return err == nil && len(s.Leases) >= 2 && s.Leased == 20
	})
	s, err := r.ledger.Snapshot(t.Context())
	if err != nil || s.Budget.Connections != 22 || s.Budget.SetBy != "test" || !s.Recovering || s.Free != 0 {
		t.Errorf("after the restart: %+v, %v", s, err)
	}
	c := r.host(t, "c", nil) // a newcomer gets nothing yet
	lc := busy(t, c.pool(t, "worker", 0), 5, "SELECT pg_sleep(0.01)")
	took := eventually(t, 30*time.Second, "recovered", func() bool {
		s, err := r.ledger.Snapshot(t.Context())
		return err == nil && !s.Recovering
	})
	t.Logf("recovered in %v", took)
	eventually(t, 30*time.Second, "the newcomer works", func() bool { return lc.done.Load() > 10 })
	for name, l := range map[string]*load{"a": la, "b": lb, "c": lc} {
		l.stop()
		if l.failed.Load() > 0 {
			t.Errorf("%s: %d queries failed: %v", name, l.failed.Load(), *l.last.Load())
		}
	}
	w.check(t, 22)
}

// Redis is away for longer than the lease: everything is closed, work waits, and goes on when Redis is back.
func TestRedisAwayPastTheLease(t *testing.T) {
	server := redistest.Start(t)
	client := redistest.NewClient(server.Addr(), 0)
	t.Cleanup(func() { _ = client.Close() })
	r := newRigOn(t, client, 12, 1)
	w := r.watch(t)
	h := r.host(t, "h", nil)
	l := busy(t, h.pool(t, "worker", 0), 10, "SELECT pg_sleep(0.01)")
	eventually(t, 30*time.Second, "it works", func() bool { return h.Limit() == 10 && l.done.Load() > 20 })
	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 3*r.ttl, "everything is closed", func() bool { return h.Limit() == 0 && w.now.Load() == 0 })
	if err := server.Resume(); err != nil {
		t.Fatal(err)
	}
	done := l.done.Load()
	eventually(t, 30*time.Second, "it works again", func() bool { return h.Limit() > 0 && l.done.Load() > done+20 })
	l.stop()
	if l.failed.Load() > 0 {
		t.Errorf("%d queries failed: %v", l.failed.Load(), *l.last.Load())
	}
	w.check(t, 12)
}

// Blocks of an ended lease are not granted again while PostgreSQL cannot be asked.
func TestPostgresUnreachable(t *testing.T) {
	r := newRig(t, 12, 1)
	w := r.watch(t)
	killed := startChild(t, r, "killed", redisSpec(r.redis), 12)
	eventually(t, 30*time.Second, "it has all", func() bool { return w.now.Load() >= 10 })
	h := r.host(t, "next", nil)
	p := h.pool(t, "worker", 0)
	w.stop()
	if err := r.pg.Pause(); err != nil {
		t.Fatal(err)
	}
	killed.kill()
	l := busy(t, p, 12, "SELECT 1")
	time.Sleep(3 * r.ttl)
	if s, err := r.ledger.Snapshot(t.Context()); err != nil || s.Doubtful < 9 || h.Limit() > 2 {
		t.Errorf("while PostgreSQL is frozen: %+v, limit %d, %v", s, h.Limit(), err)
	}
	if err := r.pg.Resume(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 40*time.Second, "confirmed", func() bool { return h.Limit() == 10 })
	l.stop()
}

// 200 hosts at once, of which a third find room.
func TestManyHostsAtOnce(t *testing.T) {
	hosts := 200
	if testing.Short() {
		hosts = 60
	}
	budget := hosts/3 + 2
	r := newRig(t, budget, 1)
	w := r.watch(t)
	list := make([]*host, hosts)
	for i := range list {
		list[i] = r.host(t, "h"+strconv.Itoa(i), func(c *dbpool.ManagerConfig) { c.Log, c.TTL = nil, 20*time.Second })
		p := list[i].pool(t, "worker", 0)
		if i%4 == 0 {
			busy(t, p, 2, "SELECT pg_sleep(0.05)")
		}
	}
	waiting, reasons := 0, 0
	eventually(t, 60*time.Second, "as many hosts as there is room for have something, the others say why not", func() bool {
		waiting, reasons = 0, 0
		for _, h := range list {
			if s := h.Stats(); s.Limit == 0 {
				waiting++
				if strings.Contains(s.Reason, "no room") {
					reasons++
				}
			}
		}
		return waiting == hosts-(budget-2) && reasons == waiting
	})
	w.check(t, int64(budget))
}
