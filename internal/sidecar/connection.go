package sidecar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/queueville/queueville/dbpool"
	"github.com/queueville/queueville/internal/mastodonenv"
	"github.com/queueville/queueville/internal/redisconn"
	"github.com/queueville/queueville/queues"
)

// checkTimeout bounds what is asked of one server before the start.
const checkTimeout = 10 * time.Second

// Connection is Mastodon's Sidekiq Redis, opened.
type Connection struct {
	Config *mastodonenv.Config
	Store  *queues.Store
	client redis.UniversalClient
}

// Close ends it.
func (c *Connection) Close() { _ = c.client.Close() }

// Connect reads Mastodon's configuration and opens its Sidekiq Redis, without asking anything of it. Problems of severity error come
// with a nil Connection.
func Connect(opts *Options, environ []string) (*Connection, []mastodonenv.Problem) {
	env, problems := mastodonenv.Load(opts.Mastodon, environ)
	if nothing := opts.nothingToGoOn(env, problems, "REDIS_URL", "REDIS_HOST", "REDIS_SENTINELS", "SIDEKIQ_REDIS_URL", "SIDEKIQ_REDIS_HOST", "SIDEKIQ_REDIS_SENTINELS"); nothing != nil {
		return nil, nothing
	}
	cfg, more := env.Config()
	// What is wrong with the rest of the configuration keeps nobody from looking at the queues.
	more = slices.DeleteFunc(more, func(p mastodonenv.Problem) bool {
		return !strings.HasPrefix(p.Name, "REDIS_") && !strings.HasPrefix(p.Name, "SIDEKIQ_REDIS_")
	})
	if problems = append(problems, more...); mastodonenv.Errors(problems) != nil {
		return nil, problems
	}
	client, err := redisconn.Open(cfg.Sidekiq, redisconn.Options{ClientName: "queueville", PoolSize: 4})
	if err != nil {
		return nil, append(problems, problemf(cfg.Sidekiq.Source, "", "%v", err))
	}
	return &Connection{Config: cfg, Store: queues.NewStore(client, cfg.Namespace), client: client}, problems
}

// Reachable asks the Redis whether it is there and fit for Sidekiq's data.
func (c *Connection) Reachable(ctx context.Context) []mastodonenv.Problem {
	callCtx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	return redisconn.Check(callCtx, c.client, redisconn.CheckOptions{Name: c.Config.Sidekiq.Source})
}

// readMastodon reads Mastodon's configuration; it is nil when there is none.
func (o *Options) readMastodon(environ []string) (*mastodonenv.Config, []mastodonenv.Problem) {
	env, problems := mastodonenv.Load(o.Mastodon, environ)
	if nothing := o.nothingToGoOn(env, problems, "LOCAL_DOMAIN"); nothing != nil {
		return nil, nothing
	}
	cfg, more := env.Config()
	return cfg, append(problems, more...)
}

// nothingToGoOn is the one thing to say when there is no file and none of the needed variables is set: everything else would be about
// defaults, and asking the servers that those name would ask somebody's. nil when there is something.
func (o *Options) nothingToGoOn(env *mastodonenv.Env, problems []mastodonenv.Problem, needed ...string) []mastodonenv.Problem {
	for _, name := range needed {
		if v, ok := env.Lookup(name); ok && v != "" {
			return nil
		}
	}
	if o.Mastodon == "" {
		return []mastodonenv.Problem{problemf("--mastodon", "give Mastodon's directory, for example --mastodon /home/mastodon/live",
			"is not given, and %s is not in the process environment either", needed[0])}
	}
	for _, p := range problems {
		if p.Severity == mastodonenv.SeverityError && p.Line == 0 {
			return []mastodonenv.Problem{p} // the file cannot be read
		}
	}
	return nil
}

func problemf(name, hint, format string, args ...any) mastodonenv.Problem {
	return mastodonenv.Problem{Severity: mastodonenv.SeverityError, Name: name, What: fmt.Sprintf(format, args...), Hint: hint}
}

// servers are all the servers a worker talks to.
type servers struct {
	sidekiq, base, cache redis.UniversalClient
	db                   *database
}

func (s *servers) close() {
	_ = s.db.close() // first: the lease is given back through Redis; without an answer it ends by itself
	for _, c := range []redis.UniversalClient{s.sidekiq, s.base, s.cache} {
		if c != nil {
			_ = c.Close()
		}
	}
}

// openServers opens, without connecting, every Redis that cfg names. The database is opened by probe: how, is written in Redis.
func openServers(cfg *mastodonenv.Config, blocking int) (*servers, []mastodonenv.Problem) {
	s := &servers{}
	var problems []mastodonenv.Problem
	open := func(where mastodonenv.Redis, pool, readBuffer int) redis.UniversalClient {
		client, err := redisconn.Open(where, redisconn.Options{ClientName: "queueville", PoolSize: pool, ReadBuffer: readBuffer})
		if err != nil {
			problems = append(problems, problemf(where.Source, "", "%v", err))
			return nil
		}
		return client
	}
	s.sidekiq = open(cfg.Sidekiq, 12+blocking, 96<<10) // a fetch of a hundred jobs is one reply
	s.base = open(cfg.Redis, 8, 0)
	s.cache = open(cfg.Cache, 4, 0)
	return s, problems
}

// wrong tells whether the address of a server is known to be wrong, so that asking there would ask somebody else: a variable whose name
// begins like this has a problem.
func wrong(problems []mastodonenv.Problem, prefixes ...string) bool {
	return slices.ContainsFunc(problems, func(p mastodonenv.Problem) bool {
		return p.Severity == mastodonenv.SeverityError && slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(p.Name, prefix) })
	})
}

// probe asks every server that could be opened whether it is there and fit, all at once; those that known problems are about are left out.
func (s *servers) probe(ctx context.Context, cfg *mastodonenv.Config, opts *Options, env *Env, known []mastodonenv.Problem) []mastodonenv.Problem {
	noRedis, noDB := wrong(known, "REDIS_", "SIDEKIQ_REDIS_", "CACHE_REDIS_"), wrong(known, "DB_", "DATABASE_URL")
	callCtx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	found := make([][]mastodonenv.Problem, 4) // in a fixed order, whoever answers first
	var asking sync.WaitGroup
	check := func(i int, client redis.UniversalClient, where mastodonenv.Redis, cache bool) {
		asking.Go(func() {
			if client != nil && !noRedis {
				found[i] = redisconn.Check(callCtx, client, redisconn.CheckOptions{Name: where.Source, Cache: cache})
			}
		})
	}
	check(0, s.sidekiq, cfg.Sidekiq, false)
	if !cfg.Redis.Same(cfg.Sidekiq) {
		check(1, s.base, cfg.Redis, false)
	}
	if !cfg.Cache.Same(cfg.Redis) {
		check(2, s.cache, cfg.Cache, true)
	}
	asking.Go(func() {
		if !noDB {
			found[3] = s.openDatabase(callCtx, cfg, opts, env, mastodonenv.Errors(known) != nil)
		}
	})
	asking.Wait()
	return slices.Concat(found...)
}

// probeDB connects and looks for the tables that deliveries need, and for keys that can be decrypted.
func (s *servers) probeDB(ctx context.Context, cfg *mastodonenv.Config, budget dbpool.Budget) []mastodonenv.Problem {
	var accounts, keypairs, unavailable bool
	var most, reserved int
	err := s.db.pool.QueryRow(ctx, `SELECT to_regclass('accounts') IS NOT NULL, to_regclass('keypairs') IS NOT NULL, to_regclass('unavailable_domains') IS NOT NULL,
		current_setting('max_connections')::int, current_setting('superuser_reserved_connections')::int + coalesce(current_setting('reserved_connections', true)::int, 0)`).
		Scan(&accounts, &keypairs, &unavailable, &most, &reserved)
	if err != nil {
		return []mastodonenv.Problem{unreachable(cfg, dbpool.Classify(err))}
	}
	var problems []mastodonenv.Problem
	if !s.db.pooled && budget.Connections > most-reserved {
		problems = append(problems, problemf(budgetKey, "store a smaller one with queueville budget set N, or raise max_connections",
			"%d is more than max_connections %d − %d reserved = %d", budget.Connections, most, reserved, most-reserved))
	}
	if !accounts || !unavailable {
		problems = append(problems, problemf(cfg.Postgres.Source, "name Mastodon's database", "the tables accounts and unavailable_domains are not there"))
	}
	if keypairs && !cfg.Encryption.Complete() {
		problems = append(problems, problemf("ACTIVE_RECORD_ENCRYPTION_PRIMARY_KEY", "copy the ACTIVE_RECORD_ENCRYPTION_* lines from the web server's environment",
			"the database has a table of encrypted keys, and the keys to read it are not set"))
	}
	return problems
}

// unreachable is about a database that does not answer as it should.
func unreachable(cfg *mastodonenv.Config, err error) mastodonenv.Problem {
	hint := "is PostgreSQL up, and are address, user and password right?"
	if errors.Is(err, context.DeadlineExceeded) {
		hint = "it did not answer in time"
	}
	p := problemf(cfg.Postgres.Source, hint, "cannot be asked: %s", oneLine(err))
	p.Unreachable = true
	return p
}

// oneLine is an error's text on one line, and each of its lines once: pgx prints one for every address and TLS mode that it tried.
func oneLine(err error) string {
	var lines []string
	for line := range strings.Lines(err.Error()) {
		if line = strings.TrimSpace(line); line != "" && !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, " ")
}

// parseLevel reads a log level.
func parseLevel(s string) (slog.Level, error) {
	var l slog.Level
	err := l.UnmarshalText([]byte(s))
	return l, err
}
