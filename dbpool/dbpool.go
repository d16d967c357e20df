// Package dbpool opens the pools of connections to PostgreSQL. A pool connects when it is first asked for something, never has more
// connections than it was told, and gives idle ones back soon: connections are what a Mastodon server runs short of first.
//
// Open starts no goroutines of ours; pgxpool has one per pool, which Close ends.
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

// Pool is a pool of connections. Its methods are safe for concurrent use.
type Pool struct {
	*pgxpool.Pool
	queryTimeout time.Duration
}

// Open makes a pool without connecting; a server that is away is found by the first query, see Unavailable. The pool outlives ctx and
// is ended by Close. The error is ErrConfig or about a value of cfg.
func Open(ctx context.Context, cfg Config) (*Pool, error) {
	if cfg.MaxConns < 0 || cfg.MaxConns > 1<<15 {
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
	pc.ConnConfig.RuntimeParams["application_name"] = applicationName(cfg.Hostname, cfg.Role)
	if cfg.NoPrepare {
		// Unnamed statements, parsed, bound and run in one message: nothing stays on the server, and values still travel apart from the SQL
		// text, which pgx' simple protocol would splice into it.
		pc.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
		pc.ConnConfig.StatementCacheCapacity, pc.ConnConfig.DescriptionCacheCapacity = 0, 0
	}
	pool, err := pgxpool.NewWithConfig(context.WithoutCancel(ctx), pc)
	if err != nil {
		return nil, fmt.Errorf("open database pool: %w", err)
	}
	return &Pool{Pool: pool, queryTimeout: cmp.Or(cfg.QueryTimeout, 5*time.Second)}, nil
}

// WithTimeout bounds one query, the wait for a connection included. With pgx a query that is cut off costs its connection.
func (p *Pool) WithTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, p.queryTimeout)
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
