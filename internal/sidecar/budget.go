package sidecar

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/queueville/queueville/dbpool"
	"github.com/queueville/queueville/internal/budgetsum"
	"github.com/queueville/queueville/internal/mastodonenv"
	"github.com/queueville/queueville/internal/status"
	"github.com/queueville/queueville/internal/workmetrics"
	"github.com/queueville/queueville/queues"
	"github.com/queueville/queueville/worker/ruby"
)

const (
	// probeWait is how long the look at the database waits for a connection of the lease; later the worker starts without it.
	probeWait = 5 * time.Second
	// lookConns is what --check and a shadow, which have no lease, open at most.
	lookConns = 2
	budgetKey = "connection budget" // what problems with it are about
)

// ClusterName is the name of the workers that share a budget: what is given, else Mastodon's domain.
func ClusterName(given string, cfg *mastodonenv.Config) string {
	return cmp.Or(given, cfg.LocalDomain, "mastodon")
}

// database is the worker's connections to PostgreSQL: a pool under this process's lease of the cluster's budget.
type database struct {
	pool    *dbpool.Pool
	manager *dbpool.Manager // nil for --check and --shadow, which only look
	kin     *dbpool.Kin     // what Ruby processes inherit; nil where there is no such thing
	events  *workmetrics.LeaseEvents
	servers int // pools of a Ruby process: Rails has one for the primary and one for the replica
	slots   int // servers that are asked to confirm
	pooled  bool
	end     func() error
}

// close gives everything back.
func (d *database) close() error {
	if d == nil || d.end == nil {
		return nil
	}
	return d.end()
}

// openDatabase opens the database and looks whether it is Mastodon's. With a Redis that works it does so under the cluster's budget, which is
// found and stored when there is none; not when the start has failed already. ctx bounds the questions; the lease outlives it.
func (s *servers) openDatabase(ctx context.Context, cfg *mastodonenv.Config, opts *Options, env *Env, failed bool) []mastodonenv.Problem {
	s.db = &database{servers: 1, slots: 1, events: &workmetrics.LeaseEvents{}}
	if cfg.Replica != nil {
		s.db.servers = 2
	}
	if replicaOf(cfg) != "" {
		s.db.slots = 2
	}
	b := &budgeter{servers: s, cfg: cfg, opts: opts, env: env, looks: opts.Check || opts.Shadow || failed}
	if s.sidekiq == nil {
		return b.look(ctx)
	}
	b.ledger = dbpool.NewLedger(s.sidekiq, cfg.Namespace, ClusterName(opts.Cluster, cfg))
	snapshot, err := b.ledger.Snapshot(ctx)
	if err != nil {
		return b.look(ctx) // what is wrong with Redis is found elsewhere
	}
	b.snapshot = snapshot
	if name := snapshot.Cluster; name != "" && name != b.ledger.Cluster() {
		return append(b.look(ctx), budgetProblem(fmt.Errorf("%w: %s", dbpool.ErrCluster, name)))
	}
	if s.db.pooled, err = budgetsum.Pooled(ctx, cfg); err != nil {
		return []mastodonenv.Problem{unreachable(cfg, err)}
	}
	var problems []mastodonenv.Problem
	if snapshot.Budget.Connections == 0 {
		problems = b.discover(ctx)
	}
	problems = append(problems, b.judge()...)
	if b.looks || mastodonenv.Errors(problems) != nil {
		return append(problems, b.look(ctx)...)
	}
	if err := b.lease(ctx); err != nil {
		return append(problems, problemf(cfg.Postgres.Source, "", "%v", err))
	}
	return append(problems, b.probe(ctx)...)
}

// budgeter finds out how many connections this process may have.
type budgeter struct {
	*servers

	cfg      *mastodonenv.Config
	opts     *Options
	env      *Env
	looks    bool // changes nothing
	ledger   *dbpool.Ledger
	snapshot dbpool.Snapshot
}

// discover makes the sum that `queueville budget` shows, and stores what it finds, once for the cluster.
func (b *budgeter) discover(ctx context.Context) []mastodonenv.Problem {
	host, _ := os.Hostname()
	const advice = "queueville budget shows the sum; store one with queueville budget set N"
	running, err := budgetsum.ReadRunning(ctx, queues.NewStore(b.sidekiq, b.cfg.Namespace))
	if err != nil {
		return []mastodonenv.Problem{problemf(budgetKey, advice, "none is stored, and Sidekiq's process list cannot be read: %v", err)}
	}
	c := budgetsum.Config{Mastodon: b.opts.Mastodon, Environ: b.env.Environ, Host: cmp.Or(host, "localhost"), HeadRoom: -1, Running: running}
	in, err := c.Collect(ctx, b.cfg)
	if err != nil {
		return []mastodonenv.Problem{unreachable(b.cfg, err)}
	}
	sum := budgetsum.Make(*in)
	switch wrong := mastodonenv.Errors(sum.Warnings); {
	case sum.Found == nil:
		return []mastodonenv.Problem{problemf(budgetKey, "store one with queueville budget set N, as many client connections as the pooler has for all workers",
			"none is stored, and it cannot be found because the pooler does not tell its sizes")}
	case wrong != nil:
		return []mastodonenv.Problem{problemf(budgetKey, advice, "none is stored, and it cannot be found: %v", wrong)}
	}
	budget := dbpool.Budget{Connections: *sum.Found, MinPerHost: budgetsum.DefaultMinPerHost, SetBy: "discovered", Reason: sum.Line()}
	budget.MinPerHost = max(1, min(budget.MinPerHost, budget.Leasable(b.db.slots)))
	if budget.Leasable(b.db.slots) < 1 {
		return []mastodonenv.Problem{problemf(budgetKey, "make the pools of others fewer, or raise max_connections; queueville budget shows the sum",
			"none is stored, and too little is left for one: %s", sum.Line())}
	}
	if b.looks {
		b.snapshot.Budget = budget
		return []mastodonenv.Problem{{
			Severity: mastodonenv.SeverityWarning, Name: budgetKey, What: fmt.Sprintf("none is stored; the first worker will store %d: %s", budget.Connections, sum.Line()),
			Hint: "queueville budget shows the sum; queueville budget set --found --new-cluster stores it now, and then nobody waits at the first start",
		}}
	}
	stored, err := b.ledger.SetBudget(ctx, budget, dbpool.SetOptions{OnlyIfUnset: true})
	if err != nil {
		return []mastodonenv.Problem{budgetProblem(err)}
	}
	b.snapshot.Budget, b.snapshot.Recovering = stored, true
	b.env.Log.InfoContext(ctx, "no connection budget was stored: it was found, and is stored for all workers", slog.Int("connections", stored.Connections),
		slog.Int("min_per_host", stored.MinPerHost), slog.String("sum", stored.Reason), slog.String("change_it_with", "queueville budget set"))
	return nil
}

func budgetProblem(err error) mastodonenv.Problem {
	switch {
	case errors.Is(err, dbpool.ErrCluster):
		return problemf(budgetKey, "give its name with --cluster", "%v", err)
	default:
		return problemf(budgetKey, "queueville budget shows the sum; store another with queueville budget set N", "%v", err)
	}
}

// judge holds the budget against what this worker needs at least.
func (b *budgeter) judge() []mastodonenv.Problem {
	budget := b.snapshot.Budget
	if budget.Connections == 0 {
		return nil // said already
	}
	var problems []mastodonenv.Problem
	leasable := budget.Leasable(b.db.slots)
	live := 0
	for i := range b.snapshot.Leases {
		if l := &b.snapshot.Leases[i]; l.State == dbpool.Live && !l.Confirmation {
			live++
		}
	}
	warn := func(hint, format string, args ...any) {
		problems = append(problems, mastodonenv.Problem{Severity: mastodonenv.SeverityWarning, Name: budgetKey, What: fmt.Sprintf(format, args...), Hint: hint})
	}
	kept := fmt.Sprintf("%d − %d kept to confirm with = %d", budget.Connections, budget.Connections-leasable, leasable)
	if budget.MinPerHost > 0 && (live+1)*budget.MinPerHost > leasable {
		warn("store a larger budget or a smaller minimum (queueville budget set N --min M)", "%d workers that run and this one × a minimum of %d = %d, more than %s: one of them waits",
			live, budget.MinPerHost, (live+1)*budget.MinPerHost, kept)
	}
	if !b.opts.Full {
		return problems
	}
	need, least := b.opts.RubyThreads*b.db.servers+1, b.db.servers+1 // Rails has a pool for each server
	sum := fmt.Sprintf("a Ruby process with all its threads (--ruby-threads %d) can open %d connections", b.opts.RubyThreads, need-1)
	if b.db.servers > 1 {
		sum = fmt.Sprintf("a Ruby process with all its threads (--ruby-threads %d) can open %d connections on the primary and on the replica", b.opts.RubyThreads, need-1)
	}
	switch share := leasable / (live + 1); {
	case least > leasable:
		problems = append(problems, problemf(budgetKey, "store a larger one", "a Ruby process needs %d connections at least, one of them to see that the others are closed: more than %s", least, kept))
	case least > share:
		warn("store a larger budget", "a Ruby process needs %d connections at least, more than an equal share of %s among %d workers: while all are busy, Ruby waits", least, kept, live+1)
	case need > share:
		warn("store a larger budget for more", "%s, and one more is needed: %d, more than an equal share of %s among %d workers: while all are busy, it runs %d jobs at once",
			sum, need, kept, live+1, (share-1)/b.db.servers)
	}
	return problems
}

// look opens a pool outside of the budget, for those who only look.
func (b *budgeter) look(ctx context.Context) []mastodonenv.Problem {
	host, _ := os.Hostname()
	pool, err := dbpool.Open(ctx, dbpool.Config{
		DSN: b.cfg.Postgres.DSN(), Role: "look", Hostname: host, MaxConns: lookConns, NoPrepare: !b.cfg.PreparedStatements || b.db.pooled,
	})
	if err != nil {
		return []mastodonenv.Problem{problemf(b.cfg.Postgres.Source, "", "%v", err)}
	}
	b.db.pool = pool
	b.db.end = func() error { pool.Close(); return nil }
	return b.probeDB(ctx, b.cfg, b.snapshot.Budget)
}

// replicaOf is the address of a read replica on a server of its own. What is open on the primary's server is counted there.
func replicaOf(cfg *mastodonenv.Config) string {
	if r := cfg.Replica; r != nil && (r.Host != cfg.Postgres.Host || r.Port != cfg.Postgres.Port) {
		return r.DSN()
	}
	return ""
}

// lease begins to keep this process's lease.
func (b *budgeter) lease(ctx context.Context) error {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	kin, err := dbpool.NewKin()
	if err != nil {
		b.env.Log.DebugContext(ctx, "children of a killed worker will not be seen to be gone", slog.Any("err", err))
	}
	m, err := dbpool.NewManager(dbpool.ManagerConfig{
		Redis: b.sidekiq, Namespace: b.cfg.Namespace, Cluster: ClusterName(b.opts.Cluster, b.cfg), Host: host, DSN: b.cfg.Postgres.DSN(), Replica: replicaOf(b.cfg),
		Pooled: b.db.pooled, Priority: b.opts.DBPriority, TTL: b.env.LeaseTTL, LoginTimeout: b.env.LoginTimeout, Observer: b.db.events, Log: b.env.Log, Kin: kin,
	})
	if err != nil {
		return errors.Join(err, kin.Close())
	}
	pool, err := m.Pool(ctx, dbpool.Config{Role: "worker", MaxConns: b.opts.DBConnections, NoPrepare: !b.cfg.PreparedStatements})
	if err != nil {
		return errors.Join(err, kin.Close())
	}
	runCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- m.Run(runCtx) }()
	b.db.manager, b.db.pool, b.db.kin = m, pool, kin
	b.db.end = func() error {
		cancel()
		return errors.Join(<-done, kin.Close())
	}
	return nil
}

// probe looks at the database under the lease. A worker whose lease waits starts without having looked.
func (b *budgeter) probe(ctx context.Context) []mastodonenv.Problem {
	waitCtx, cancel := context.WithTimeout(ctx, probeWait)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for b.db.manager.Limit() == 0 {
		select {
		case <-tick.C:
			if !b.db.manager.Stats().Recovering {
				continue
			}
		case <-waitCtx.Done():
		}
		what := cmp.Or(b.db.manager.Why(1), "it is not known why")
		b.env.Log.WarnContext(ctx, "no database connection yet: the worker starts, and what needs one waits", slog.String("why", what),
			slog.String("hint", "on a first start this takes about authentication_timeout + 15 s; queueville budget set --found --new-cluster before it saves the wait"))
		return nil
	}
	return b.probeDB(ctx, b.cfg, b.snapshot.Budget)
}

// state is what status shows of the lease; nil without one.
func (d *database) state(children int) *status.Lease {
	if d.manager == nil {
		return nil
	}
	st := d.manager.Stats()
	l := &status.Lease{
		Budget: st.Budget.Connections, Leased: st.Leased, Limit: st.Limit, Open: st.Open, Recovering: st.Recovering, Pooled: d.pooled, Reason: st.Reason,
	}
	for _, r := range st.Roles {
		l.InUse += r.InUse
		l.Waiting += r.Waiting
		l.Ruby += r.Reserved
	}
	switch {
	case l.Limit == 0:
		l.Reason = d.manager.Why(1)
	case l.Waiting > 0 && l.Reason == "":
		l.Reason = d.manager.Why(max(1, children))
	}
	return l
}

// lender lends Ruby processes their connections.
type lender struct {
	*dbpool.Manager

	threads int // of a process at most
	servers int // connections that each of its jobs may have
}

// Reserve implements ruby.Connections.
func (l lender) Reserve(ctx context.Context, least, most int) (ruby.Reservation, error) {
	r, err := l.ReserveUpTo(ctx, dbpool.Wish{Most: most * l.servers, Least: least * l.servers, Unit: l.servers}, "ruby")
	if err != nil {
		return nil, err
	}
	return loan{Reservation: r, servers: l.servers}, nil
}

// Why implements ruby.Connections.
func (l lender) Why() string { return l.Manager.Why(l.threads*l.servers + 1) }

// loan is the connections of one Ruby process.
type loan struct {
	*dbpool.Reservation

	servers int
}

// Seats implements ruby.Reservation.
func (l loan) Seats() int { return l.Connections / l.servers }

// Limit implements ruby.Reservation.
func (l loan) Limit() int { return l.Connections }
