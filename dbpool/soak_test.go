package dbpool_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
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
	"github.com/queueville/queueville/internal/throwaway"
)

// TestSoak churns 40 worker processes (QUEUEVILLE_DBPOOL_SOAK=10m, QUEUEVILLE_DBPOOL_PROCESSES=40) with SIGKILL, SIGSTOP, Redis
// restarts, Redis emptied and Sentinel fail-overs against a PostgreSQL whose max_connections is the budget, the two confirmations'
// included, and a reserve for superusers. pg_stat_activity, read through that reserve, must never show more than the budget; nobody may
// ever hear "too many clients"; in the end no lease is stuck.
func TestSoak(t *testing.T) {
	length, err := time.ParseDuration(os.Getenv("QUEUEVILLE_DBPOOL_SOAK"))
	if err != nil {
		t.Skip("set QUEUEVILLE_DBPOOL_SOAK=10m")
	}
	processes := 40
	if v := os.Getenv("QUEUEVILLE_DBPOOL_PROCESSES"); v != "" {
		if processes, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	}
	s := newSoak(t, processes)
	s.run(length)
	s.end()
}

type soak struct {
	t        *testing.T
	r        *rig
	budget   int
	servers  []*throwaway.RedisServer
	sentinel *throwaway.RedisServer
	children []*child
	failures map[string]int
	counts   map[string]int
	done     int
	spec     string
	random   *rand.Rand
	highest  atomic.Int64
	samples  atomic.Int64
	stop     func()
}

func newSoak(t *testing.T, processes int) *soak {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	s := &soak{t: t, budget: processes*2 + 20, failures: map[string]int{}, counts: map[string]int{}, random: rand.New(rand.NewPCG(seed, 1))} //nolint:gosec // no secrets
	// A master that cannot see its replica takes no writes after a second or two: without that, a fail-over leaves two masters.
	safe := []string{"--save", "", "--repl-diskless-sync-delay", "0", "--min-replicas-to-write", "0"}
	s.servers = append(s.servers, redistest.Start(t, safe...))
	s.servers = append(s.servers, redistest.Start(t, append(safe, "--replicaof", "127.0.0.1 "+strconv.Itoa(s.servers[0].Port()))...))
	sentinel, err := throwaway.Sentinel(t.Context(), throwaway.SentinelConfig{Master: s.servers[0].Addr(), Name: "m"})
	redistest.Need(t, err)
	t.Cleanup(func() { _ = sentinel.Stop() })
	s.sentinel = sentinel
	s.spec = "m " + sentinel.Addr() + " 0"

	// PostgreSQL keeps that many for superusers whoever else is there: the sampler's own, which is open from the beginning, is one more.
	const superusers, sampler = 2, 1
	pg, err := throwaway.Postgres(t.Context(), throwaway.PostgresConfig{
		MaxConnections: s.budget + superusers + sampler,
		Settings:       map[string]string{"authentication_timeout": "5s", "superuser_reserved_connections": strconv.Itoa(superusers)},
	})
	redistest.Need(t, err)
	t.Cleanup(func() { _ = pg.Stop() })
	client := redis.NewFailoverClient(&redis.FailoverOptions{
		MasterName: "m", SentinelAddrs: []string{sentinel.Addr()}, MaxRetries: -1, ContextTimeoutEnabled: true, DisableIdentity: true,
		DialTimeout: time.Second, ReadTimeout: time.Second, WriteTimeout: time.Second,
	})
	t.Cleanup(func() { _ = client.Close() })
	s.r = &rig{pg: pg, redis: client, cluster: "soak", ttl: 6 * time.Second, ledger: dbpool.NewLedger(client, "", "soak")}
	eventually(t, 30*time.Second, "the budget is stored", func() bool {
		_, err := s.r.ledger.SetBudget(t.Context(), dbpool.Budget{Connections: s.budget, MinPerHost: 1, SetBy: "soak"}, dbpool.SetOptions{NewCluster: true})
		return err == nil
	})
	s.ordinaryUser()
	s.sample()
	for i := range processes {
		s.children = append(s.children, startChild(t, s.r, "h"+strconv.Itoa(i), s.spec, 3+i%6))
	}
	return s
}

// ordinaryUser: workers are not superusers, so the reserve is not theirs.
func (s *soak) ordinaryUser() {
	conn, err := pgx.Connect(s.t.Context(), s.r.pg.DSN())
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close(s.t.Context()) //nolint:errcheck // a test
	if _, err := conn.Exec(s.t.Context(), "CREATE ROLE mastodon LOGIN PASSWORD 'soak'"); err != nil {
		s.t.Fatal(err)
	}
	s.r.dsn = strings.Replace(s.r.pg.DSN(), "postgres:"+s.r.pg.Password()+"@", "mastodon:soak@", 1)
}

// sample reads pg_stat_activity through the superusers' reserve, about a hundred times a second.
func (s *soak) sample() {
	conn, err := pgx.Connect(s.t.Context(), s.r.pg.DSN())
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.t.Context()))
	var wg sync.WaitGroup
	wg.Go(func() {
		defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // a test
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			var n int64
			if err := conn.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity WHERE usename = 'mastodon'`).Scan(&n); err == nil {
				s.samples.Add(1)
				s.highest.Store(max(s.highest.Load(), n))
			}
		}
	})
	s.stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	s.t.Cleanup(s.stop)
}

func (s *soak) run(length time.Duration) {
	frozen := map[*child]time.Time{}
	nextRedis := time.Now().Add(15 * time.Second)
	for end := time.Now().Add(length); time.Now().Before(end); time.Sleep(time.Duration(300+s.random.IntN(700)) * time.Millisecond) {
		for c, until := range frozen {
			if time.Now().After(until) {
				c.signal(syscall.SIGCONT)
				delete(frozen, c)
			}
		}
		i := s.random.IntN(len(s.children))
		c := s.children[i]
		if _, is := frozen[c]; is {
			continue
		}
		switch s.random.IntN(6) {
		case 0:
			s.counts["SIGKILL"]++
			c.kill()
			s.collect(c)
			s.children[i] = startChild(s.t, s.r, "h"+strconv.Itoa(i), s.spec, 3+i%6)
		case 1:
			s.counts["SIGTERM"]++
			c.signal(syscall.SIGTERM)
			<-c.ended
			s.collect(c)
			s.children[i] = startChild(s.t, s.r, "h"+strconv.Itoa(i), s.spec, 3+i%6)
		case 2, 3:
			if len(frozen) < 6 {
				s.counts["SIGSTOP"]++
				c.signal(syscall.SIGSTOP)
				frozen[c] = time.Now().Add(time.Duration(1+s.random.IntN(25)) * time.Second)
			}
		}
		if time.Now().After(nextRedis) {
			s.redisFault()
			nextRedis = time.Now().Add(time.Duration(20+s.random.IntN(25)) * time.Second)
		}
	}
	for c := range frozen {
		c.signal(syscall.SIGCONT)
	}
}

// redisFault restarts the master empty, empties it, or kills it for the Sentinel to promote the other one.
func (s *soak) redisFault() {
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	master := s.master(ctx)
	if master == nil {
		return
	}
	switch s.random.IntN(3) {
	case 0:
		s.counts["Redis emptied"]++
		_ = s.r.redis.FlushAll(ctx).Err()
	case 1:
		s.counts["Redis restarted empty"]++
		if err := master.Kill(); err != nil {
			s.t.Error(err)
		}
		if err := master.Restart(ctx); err != nil {
			s.t.Error(err)
		}
		// The second server was first started as a replica and would be one again, of a replica.
		c := redistest.NewClient(master.Addr(), 0)
		if err := c.ReplicaOf(ctx, "NO", "ONE").Err(); err != nil {
			s.t.Error(err)
		}
		_ = c.Close()
	default:
		s.counts["fail-over"]++
		if err := master.Kill(); err != nil {
			s.t.Error(err)
		}
		for end := time.Now().Add(15 * time.Second); time.Now().Before(end) && s.master(ctx) == master; {
			time.Sleep(200 * time.Millisecond)
		}
		if err := master.Restart(ctx); err != nil { // the Sentinel makes it a replica
			s.t.Error(err)
		}
	}
}

// describe says what the servers think they are.
func (s *soak) describe() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.t.Context()), 5*time.Second)
	defer cancel()
	for i, server := range s.servers {
		c := redistest.NewClient(server.Addr(), 0)
		s.t.Logf("server %d at %s: %v, %s", i, server.Addr(), c.Keys(ctx, "*").Val(), strings.ReplaceAll(c.Info(ctx, "replication").Val(), "\r\n", " "))
		_ = c.Close()
	}
	if m := s.master(ctx); m != nil {
		s.t.Logf("the Sentinel's master is %s", m.Addr())
	}
	s.t.Logf("a write through the Sentinel: %v", s.r.redis.Set(ctx, "x", "1", time.Second).Err())
}

// master is the server that the Sentinel names.
func (s *soak) master(ctx context.Context) *throwaway.RedisServer {
	c := redis.NewSentinelClient(&redis.Options{Addr: s.sentinel.Addr(), MaxRetries: -1})
	defer c.Close() //nolint:errcheck // a test
	addr, err := c.GetMasterAddrByName(ctx, "m").Result()
	if err != nil || len(addr) != 2 {
		return nil
	}
	for _, server := range s.servers {
		if strconv.Itoa(server.Port()) == addr[1] {
			return server
		}
	}
	return nil
}

func (s *soak) collect(c *child) {
	for _, text := range c.failures() {
		kind := text
		for _, known := range []string{"too many clients", "remaining connection slots", "terminating connection due to administrator command", "deadline exceeded", "i/o timeout", "unexpected EOF"} {
			if strings.Contains(text, known) {
				kind = known
			}
		}
		s.failures[kind]++
	}
	s.done += c.done
}

func (s *soak) end() {
	// A fail-over late in the run is recovered from within a lease, a log-in and the slack.
	var last dbpool.Snapshot
	s.t.Cleanup(func() {
		if s.t.Failed() {
			s.t.Logf("the last snapshot: %+v", last)
			s.describe()
		}
	})
	eventually(s.t, 90*time.Second, "no lease is stuck", func() bool {
		time.Sleep(200 * time.Millisecond)
		snapshot, err := s.r.ledger.Snapshot(s.t.Context())
		last = snapshot
		return err == nil && !snapshot.Recovering && snapshot.Doubtful == 0 && snapshot.Leased > 0
	})
	for _, c := range s.children {
		c.signal(syscall.SIGTERM)
	}
	for _, c := range s.children {
		<-c.ended
		s.collect(c)
	}
	s.stop()
	s.t.Logf("%d samples, at most %d backends with a budget of %d; faults %v; %d queries; failed queries %v; last: leased %d of %d hosts",
		s.samples.Load(), s.highest.Load(), s.budget, s.counts, s.done, s.failures, last.Leased, len(last.Leases))
	if n := s.highest.Load(); n > int64(s.budget) {
		s.t.Errorf("%d backends with a budget of %d", n, s.budget)
	}
	for kind, n := range s.failures {
		if strings.Contains(kind, "too many clients") || strings.Contains(kind, "connection slots") {
			s.t.Errorf("%d × %s", n, kind)
		}
	}
	if s.done == 0 || s.samples.Load() == 0 {
		s.t.Error(fmt.Errorf("nothing was done"))
	}
	if left, err := s.r.ledger.Snapshot(s.t.Context()); err == nil {
		for _, l := range left.Leases {
			s.t.Logf("left in the ledger: %+v", l)
		}
	}
}
