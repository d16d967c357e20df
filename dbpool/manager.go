package dbpool

import (
	"cmp"
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"
)

// Timing of a Manager.
const (
	defaultTTL  = 12 * time.Second
	callTimeout = 2 * time.Second
	restEvery   = 3 * time.Second        // with no more than the minimum
	holdEvery   = 2 * time.Second        // with more, which somebody may need
	pressEvery  = time.Second            // wanting more, for long; while something is to be confirmed
	firstEvery  = 500 * time.Millisecond // wanting more, at first
	spareEvery  = 50 * time.Millisecond  // connections were closed for somebody
	firstFor    = 3 * time.Second
	watchEvery  = 250 * time.Millisecond
	lookEvery   = time.Second
	hurryEvery  = 250 * time.Millisecond // a process has just ended: calls of those who want what it had, and looks
	hurryFor    = 10 * time.Second
	goneAfter   = 2 * time.Second  // what a process that is gone had sent last has arrived
	loginWait   = 60 * time.Second // PostgreSQL's default of authentication_timeout
	lookBackOff = 10 * time.Second
	clockSlack  = 2 * time.Second
	closeWait   = 5 * time.Second // at the end: for those who still have a connection, then for servers to close theirs
)

// Observer is told what happens to the lease. Calls are quick and do not wait.
type Observer interface {
	// Leased: this process may now have so many connections.
	Leased(from, to int)
	// LeaseLost: all connections were closed, work waits for another lease.
	LeaseLost(reason string)
	// BackendEnded: this process, confirming for the cluster, has ended a connection of an ended lease.
	BackendEnded(Ended)
	// Failed: "redis" could not be called, or "postgres" not asked to confirm.
	Failed(what string, err error)
}

// Ended is a connection that was ended by pg_terminate_backend, as the journal has it.
type Ended struct {
	Host, Epoch, Role string // of the lease it belonged to, by its application_name
	PID               int    // of the backend
	By                string // host that did it
}

// ManagerConfig describes a Manager.
type ManagerConfig struct {
	Redis     redis.UniversalClient // Sidekiq's; must not repeat commands by itself (MaxRetries -1)
	Namespace string                // Sidekiq's; "" for none
	Cluster   string                // name of those who share the budget; unique on the PostgreSQL server
	Host      string                // "" is this host's name
	DSN       string                // of the server whose connections are counted
	Replica   string                // DSN of a read replica; its connections count against the same budget. "" for none
	Pooled    bool                  // DSN leads to PgBouncer: nothing is confirmed or ended, see docs/dbpool.md
	Priority  int                   // higher goes first when it is short
	TTL       time.Duration         // lease; 0 is 12 s, at most 60 s. The same on all hosts
	// Kin is inherited by all child processes that get reservations; nil: neighbours cannot see that children are gone, and wait.
	Kin *Kin
	// LoginTimeout is PostgreSQL's authentication_timeout for as long as this process could not ask; 0 is 60 s, the default there.
	LoginTimeout time.Duration
	Observer     Observer     // may be nil
	Log          *slog.Logger // nil discards
}

// Manager holds one process's lease of connections and lets its pools and children have no more. It works while Run runs.
type Manager struct {
	cfg     ManagerConfig
	ledger  *Ledger
	log     *slog.Logger
	servers []string // DSNs that are confirmed
	gate    *gate

	// Under gate.mu.
	witness   witness
	reply     *Reply
	learnt    bool // witness.login is PostgreSQL's
	failing   bool // the last call had no answer
	called    time.Time
	pressed   time.Time // since when more is wanted than there is; zero: it is not
	dropping  bool      // the confirmation is to be given up, and its connection is closed
	noConfirm time.Time // until then this process cannot confirm
	calls     uint64

	neighbours time.Time // when they were last looked for; keep's own
	overSince  time.Time // since when more is reserved than our share; watch's own
	share      int       // of ours, as it is since shareSince; watch's own
	shareSince time.Time
	soundSince time.Time // since when the lease is not in doubt; watch's own

	asking sync.Mutex
	asker  []*Pool // what Release asks with; under asking
}

// NewManager makes a Manager; nothing is connected and no goroutine started. Every problem of cfg is reported at once.
func NewManager(cfg ManagerConfig) (*Manager, error) {
	var problems []error
	if cfg.Redis == nil {
		problems = append(problems, errors.New("no Redis client"))
	}
	if cfg.Cluster == "" {
		problems = append(problems, errors.New("no name of the cluster"))
	}
	if cfg.TTL < 0 || cfg.TTL > longestLease*time.Millisecond {
		problems = append(problems, fmt.Errorf("a lease of %v", cfg.TTL))
	}
	m := &Manager{log: cfg.Log, servers: []string{cfg.DSN}}
	if cfg.Replica != "" {
		m.servers = append(m.servers, cfg.Replica)
	}
	for _, dsn := range m.servers {
		if _, err := pgx.ParseConfig(dsn); err != nil {
			problems = append(problems, ErrConfig) // pgx' error quotes the address
		}
	}
	if err := errors.Join(problems...); err != nil {
		return nil, fmt.Errorf("manage database connections: %w", err)
	}
	if cfg.Host == "" {
		cfg.Host, _ = os.Hostname()
	}
	cfg.TTL = cmp.Or(cfg.TTL, defaultTTL)
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	if cfg.Observer == nil {
		cfg.Observer = nobody{}
	}
	m.cfg = cfg
	m.ledger = NewLedger(cfg.Redis, cfg.Namespace, cfg.Cluster)
	m.gate = newGate(holder{
		host: part(cmp.Or(cfg.Host, "unnamed"), longHostBytes), process: processName(cfg.Kin), ttl: cfg.TTL, priority: cfg.Priority, slots: len(m.servers), pooled: cfg.Pooled,
	})
	m.witness = witness{ttl: cfg.TTL, login: cmp.Or(cfg.LoginTimeout, loginWait), gone: goneAfter, slack: clockSlack}
	return m, nil
}

// Ledger is the cluster's.
func (m *Manager) Ledger() *Ledger { return m.ledger }

// Limit is how many connections this process may have now; 0 while the lease is in doubt.
func (m *Manager) Limit() int {
	now := instantOf(time.Now())
	m.gate.mu.Lock()
	defer m.gate.mu.Unlock()
	if !m.gate.h.fresh(now) {
		return 0
	}
	return m.gate.h.limit()
}

// Pool makes a pool under the lease, without connecting. cfg.DSN and cfg.Hostname are the Manager's; cfg.MaxConns bounds the pool, 0 is
// as many as the lease has. Run closes it; after Run the error is ErrManagerClosed.
func (m *Manager) Pool(ctx context.Context, cfg Config) (*Pool, error) {
	return m.pool(ctx, cfg, m.cfg.DSN)
}

// ReplicaPool is Pool on the read replica, or on the primary if there is none.
func (m *Manager) ReplicaPool(ctx context.Context, cfg Config) (*Pool, error) {
	return m.pool(ctx, cfg, cmp.Or(m.cfg.Replica, m.cfg.DSN))
}

func (m *Manager) pool(ctx context.Context, cfg Config, dsn string) (*Pool, error) {
	cfg.DSN, cfg.NoPrepare = dsn, cfg.NoPrepare || m.cfg.Pooled
	limit := cfg.MaxConns
	cfg.MaxConns = cmp.Or(limit, 1000) // the lease is the bound
	pc, err := poolConfig(cfg)
	if err != nil {
		return nil, err
	}
	name := part(cmp.Or(cfg.Role, "main"), roleBytes)
	pc.BeforeConnect = func(_ context.Context, cc *pgx.ConnConfig) error { return m.prepare(cc, name) }
	pc.AfterConnect = func(ctx context.Context, c *pgx.Conn) error {
		if err := admit(c); err != nil {
			return err
		}
		g := m.gate
		g.mu.Lock()
		learnt := m.learnt || m.cfg.Pooled
		g.mu.Unlock()
		if learnt {
			return nil
		}
		return m.learn(ctx, c)
	}
	pc.PrepareConn = func(_ context.Context, c *pgx.Conn) (bool, error) {
		nc := connOf(c)
		return nc != nil && !nc.closing.Load(), nil // one that was cut is replaced, not used
	}
	pool, err := pgxpool.NewWithConfig(context.WithoutCancel(ctx), pc)
	if err != nil {
		return nil, fmt.Errorf("open database pool: %w", err)
	}
	g := m.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ended {
		pool.Close()
		return nil, ErrManagerClosed
	}
	p := &Pool{pool: pool, queryTimeout: cmp.Or(cfg.QueryTimeout, 5*time.Second), gate: g, role: g.role(name)}
	if limit > 0 {
		p.role.limit += limit
	}
	g.pools = append(g.pools, p)
	return p, nil
}

// prepare gives a connection that is about to be opened the name and the socket of the epoch in force.
func (m *Manager) prepare(cc *pgx.ConnConfig, role string) error {
	m.gate.mu.Lock()
	t := m.gate.term
	m.gate.mu.Unlock()
	d := &dialer{gate: m.gate, term: t}
	cc.DialFunc = d.dial
	cc.RuntimeParams["application_name"] = leaseName(m.ledger.cluster, m.gate.h.host, t.epoch, role, m.cfg.Pooled)
	return nil
}

// Run keeps the lease until ctx ends; then it closes the pools and gives everything back. Whoever uses connections should have ended
// before. It returns nil, or what was wrong when it gave back.
func (m *Manager) Run(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { m.keep(gctx); return nil })
	g.Go(func() error { m.watch(gctx); return nil })
	g.Go(func() error { m.confirm(gctx); return nil })
	_ = g.Wait()
	return m.leave(context.WithoutCancel(ctx))
}

// leave closes everything, then says so.
func (m *Manager) leave(ctx context.Context) error {
	g := m.gate
	g.mu.Lock()
	g.ended = true
	for _, queue := range []*list.List{&g.waiting, &g.families} {
		for e := queue.Front(); e != nil; e = queue.Front() {
			w, _ := queue.Remove(e).(*waiter)
			close(w.ready)
		}
	}
	pools := g.pools
	close(g.change)
	g.change = make(chan struct{})
	g.mu.Unlock()
	var closing sync.WaitGroup
	for _, p := range pools {
		closing.Go(p.pool.Close)
	}
	if !waitFor(&closing, closeWait) {
		g.mu.Lock()
		g.end(g.term)
		g.mu.Unlock()
		closing.Wait() // of those who have what is now cut
	}
	g.mu.Lock()
	g.end(g.confirm)
	g.end(g.term)
	g.mu.Unlock()
	g.stopLingering(closeWait)
	g.mu.Lock()
	g.h.target = 0
	drop := g.confirm == nil || g.confirm.open == 0
	c := g.h.next(instantOf(time.Now()), 0, !drop)
	c.Leave, c.Held = true, g.term.open+g.term.reserved
	registered := g.h.registered
	g.mu.Unlock()
	if !registered {
		return nil
	}
	callCtx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := m.ledger.sync(callCtx, &c); err != nil {
		return fmt.Errorf("give the lease of connections back: %w", err)
	}
	return nil
}

// waitFor waits until the group is done; false when that takes longer.
func waitFor(wg *sync.WaitGroup, limit time.Duration) bool {
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
		return false
	}
}

// stop lets no more begin and waits for those that are there; hurry is called when that takes longer.
func (l *lingerers) stop(limit time.Duration, hurry func()) {
	l.mu.Lock()
	l.over = true
	l.mu.Unlock()
	if !waitFor(&l.wg, limit) {
		hurry()
		l.wg.Wait()
	}
}

// nobody is the Observer of those who have none.
type nobody struct{}

func (nobody) Leased(int, int)      {}
func (nobody) LeaseLost(string)     {}
func (nobody) BackendEnded(Ended)   {}
func (nobody) Failed(string, error) {}
