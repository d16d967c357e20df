// Package dbpool opens the pools of connections to PostgreSQL. A pool connects when it is first asked for something, never has more
// connections than it was told, and gives idle ones back soon: connections are what a Mastodon server runs short of first.
//
// Under a Manager, all pools of all hosts together, and the Ruby children, have no more than one number, the budget. The Ledger on
// Sidekiq's Redis leases it out (Lua scripts, which Book repeats in Go); Shares decides who gets how many; PostgreSQL's
// pg_stat_activity confirms that the connections of ended leases are gone before others may have them. docs/dbpool.md says what
// is promised under which faults.
//
// Open starts no goroutines of ours; pgxpool has one per pool, which Close ends. Manager.Run has three, and one for each socket that is
// being closed.
package dbpool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// ErrConfig says that the database's address cannot be understood. The address is not part of it, because it holds the password.
var ErrConfig = errors.New("database settings are not valid")

// Config describes a pool.
type Config struct {
	DSN            string        // URL or keyword/value string, as libpq's; PG* variables and ~/.pgpass fill what it leaves out
	Role           string        // what the pool is for, e.g. "worker"; part of application_name
	Hostname       string        // "" is this host's; part of application_name
	MaxConns       int           // connections at most; 0 is 5
	NoPrepare      bool          // PREPARED_STATEMENTS=false: behind PgBouncer in transaction mode
	ConnectTimeout time.Duration // for one connection; 0 is 5 s
	QueryTimeout   time.Duration // what WithTimeout gives; 0 is 5 s
	MaxIdleTime    time.Duration // an idle connection is closed after it; 0 is 45 s
}

const closeTimeout = time.Second // to tell a server that we go

// Pool is a pool of connections. Its methods are safe for concurrent use.
type Pool struct {
	pool         *pgxpool.Pool
	queryTimeout time.Duration
	gate         *gate // nil: not under a Manager
	role         *role
}

// Open makes a pool without connecting; a server that is away is found by the first query, see Unavailable. The pool outlives ctx and
// is ended by Close. The error is ErrConfig or about a value of cfg. Such a pool is bounded by MaxConns alone; one under the
// cluster's budget is made by Manager.Pool.
func Open(ctx context.Context, cfg Config) (*Pool, error) {
	pc, err := poolConfig(cfg)
	if err != nil {
		return nil, err
	}
	pc.ConnConfig.RuntimeParams["application_name"] = applicationName(cfg.Hostname, cfg.Role)
	pool, err := pgxpool.NewWithConfig(context.WithoutCancel(ctx), pc)
	if err != nil {
		return nil, fmt.Errorf("open database pool: %w", err)
	}
	return &Pool{pool: pool, queryTimeout: cmp.Or(cfg.QueryTimeout, 5*time.Second)}, nil
}

// poolConfig is pgxpool's configuration of cfg, without an application_name.
func poolConfig(cfg Config) (*pgxpool.Config, error) {
	if cfg.MaxConns < 0 || cfg.MaxConns > maxConnections {
		return nil, fmt.Errorf("open database pool: %d connections", cfg.MaxConns)
	}
	pc, err := pgxpool.ParseConfig(cfg.DSN)
	if err != nil {
		return nil, ErrConfig // pgx' error quotes the address
	}
	pc.MaxConns = int32(cmp.Or(cfg.MaxConns, 5))
	pc.MinConns, pc.MinIdleConns = 0, 0
	pc.MaxConnIdleTime = cmp.Or(cfg.MaxIdleTime, 45*time.Second)
	pc.HealthCheckPeriod = 15 * time.Second // when idle connections are looked for: so they end after 45–60 s
	pc.MaxConnLifetime = 30 * time.Minute
	pc.MaxConnLifetimeJitter = 5 * time.Minute
	pc.ConnConfig.ConnectTimeout = cmp.Or(cfg.ConnectTimeout, 5*time.Second)
	if cfg.NoPrepare {
		// Unnamed statements, parsed, bound and run in one message: nothing stays on the server, and values still travel apart from the SQL
		// text, which pgx' simple protocol would splice into it.
		pc.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
		pc.ConnConfig.StatementCacheCapacity, pc.ConnConfig.DescriptionCacheCapacity = 0, 0
	}
	return pc, nil
}

// WithTimeout bounds one query, the wait for a connection included. With pgx a query that is cut off costs its connection. Exec, Query,
// QueryRow and SendBatch do it by themselves when ctx has no deadline.
func (p *Pool) WithTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, p.queryTimeout)
}

// bound gives a query a deadline if its caller has not.
func (p *Pool) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return p.WithTimeout(ctx)
}

// applicationName is queueville/<host>/<role>; PostgreSQL keeps 63 bytes of printable ASCII, so a long host is shortened.
func applicationName(host, role string) string {
	if host == "" {
		host, _ = os.Hostname() // an empty one is no worse
	}
	const fixed, limit = len("queueville//"), 63
	role = printable(cmp.Or(role, "main"), limit-fixed)
	return "queueville/" + printable(host, limit-fixed-len(role)) + "/" + role
}

func printable(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if r < '!' || r > '~' {
			return '?'
		}
		return r
	}, s)
	return s[:min(len(s), limit)]
}
