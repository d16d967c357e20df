package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/queueville/queueville/dbpool"
	"github.com/queueville/queueville/internal/synthca"
	"github.com/queueville/queueville/internal/throwaway"
	"github.com/queueville/queueville/loadtest"
	"github.com/queueville/queueville/loadtest/fediverse"
	"github.com/queueville/queueville/loadtest/mastodondata"
)

const (
	domain          = "local.test"
	database        = "mastodon_production"
	accounts        = 48
	suspended       = 8 // of the accounts: each sends one Delete to everybody
	mastodonVersion = "4.7.0"
	redisTimeout    = 10 * time.Second
	cleanupTimeout  = 15 * time.Second
)

// versionFile says 4.7.0 where Mastodon says its version.
const versionFile = "MAJOR = 4\nMINOR = 7\nPATCH = 0\n"

// site is everything that runs besides the worker.
type site struct {
	dir      string
	keepDir  bool
	log      *os.File
	redis    *throwaway.RedisServer
	postgres *throwaway.PostgresServer
	client   *redis.Client
	world    *loadtest.World
	data     *mastodondata.Data
	fedi     *fediverse.Fediverse
	jobs     []loadtest.Delivery
	server   Server
}

// build starts and fills everything, and reports each step. On an error what was started is stopped again.
func build(ctx context.Context, o *Options, report *reporter) (_ *site, err error) {
	s := &site{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close(false))
		}
	}()
	if err := s.makeDir(o); err != nil {
		return nil, err
	}
	report.start("Redis, PostgreSQL and RSA keys")
	if err := s.startServers(ctx); err != nil {
		return nil, err
	}
	report.done("Redis and PostgreSQL started")

	report.start("accounts, keys and followers")
	if s.world, err = loadtest.NewWorld(o.Classes, o.Hosts); err != nil {
		return nil, fmt.Errorf("plan the fediverse: %w", err)
	}
	authority, err := synthca.New()
	if err != nil {
		return nil, fmt.Errorf("make certificates: %w", err)
	}
	s.fedi, err = fediverse.Start(ctx, fediverse.Config{
		Hosts: s.world.Hosts, Seed: o.Seed, Keys: fediverse.KeyMap(s.data.PublicKeys()), Authority: authority,
		LedgerEntries: 2 * maxJobs,
	})
	if err != nil {
		return nil, fmt.Errorf("start the fediverse: %w", err)
	}
	secrets := mastodondata.NewSecrets()
	if err := s.fill(ctx, secrets); err != nil {
		return nil, err
	}
	if err := s.writeFiles(secrets); err != nil {
		return nil, err
	}
	report.done(fmt.Sprintf("%d accounts with keys, %s hosts at 127.64.0.0/16", accounts, count(o.Hosts)))

	report.start("activities")
	s.jobs, err = loadtest.Deliveries(s.world, s.data, o.Jobs, o.Seed, time.Now(), s.fedi.InboxURL)
	if err != nil {
		return nil, fmt.Errorf("make activities: %w", err)
	}

	return s, nil
}

// makeDir makes the directory that plays Mastodon's.
func (s *site) makeDir(o *Options) error {
	var err error
	if s.dir = o.KeepDir; s.dir != "" {
		s.keepDir = true
		err = os.MkdirAll(s.dir, 0o700)
	} else {
		s.dir, err = os.MkdirTemp("", "queueville-demo-")
	}
	if err != nil {
		return fmt.Errorf("make the demo's directory: %w", err)
	}
	if s.log, err = os.OpenFile(filepath.Join(s.dir, "worker.log"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600); err != nil {
		return fmt.Errorf("make the demo's log: %w", err)
	}

	return nil
}

// startServers starts Redis and Postgres, and makes keys meanwhile.
func (s *site) startServers(ctx context.Context) error {
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		if s.redis, err = throwaway.Redis(groupCtx, throwaway.RedisConfig{}); err != nil {
			return fmt.Errorf("start Redis: %w", err)
		}

		return nil
	})
	group.Go(func() (err error) {
		if s.postgres, err = throwaway.Postgres(groupCtx, throwaway.PostgresConfig{}); err != nil {
			return fmt.Errorf("start PostgreSQL: %w", err)
		}

		return nil
	})
	group.Go(func() (err error) {
		s.data, err = mastodondata.Plan(mastodondata.Config{Line: mastodondata.Line47, Domain: domain, Accounts: accounts, Suspended: suspended})

		return err
	})
	if err := group.Wait(); err != nil {
		return err
	}
	options, err := redis.ParseURL(s.redis.URL())
	if err != nil {
		return fmt.Errorf("read Redis' address: %w", err)
	}
	options.ReadTimeout, options.WriteTimeout, options.MaxRetries = redisTimeout, redisTimeout, -1
	s.client = redis.NewClient(options)

	return nil
}

// fill writes the database.
func (s *site) fill(ctx context.Context, secrets mastodondata.Secrets) error {
	admin, err := pgx.Connect(ctx, s.postgres.DSN())
	if err != nil {
		return fmt.Errorf("connect to PostgreSQL: %w", err)
	}
	_, err = admin.Exec(ctx, "CREATE DATABASE "+database)
	if err := errors.Join(err, admin.Close(ctx)); err != nil {
		return fmt.Errorf("create database: %w", err)
	}
	conn, err := pgx.Connect(ctx, s.postgres.DatabaseDSN(database))
	if err != nil {
		return fmt.Errorf("connect to PostgreSQL: %w", err)
	}
	cfg := mastodondata.Config{
		Line: mastodondata.Line47, Domain: domain, Secrets: secrets, Accounts: accounts, Unavailable: s.world.Unavailable(),
	}
	for i := range s.world.Hosts {
		cfg.Remotes = append(cfg.Remotes, mastodondata.Remote{Origin: s.fedi.Origin(s.world.Hosts[i].Name), Followers: 2})
	}

	return errors.Join(mastodondata.Write(ctx, conn, cfg, s.data), conn.Close(ctx), s.storeBudget(ctx))
}

// connections is the budget of the demo's workers, on a PostgreSQL of a hundred.
const connections = 60

// storeBudget vouches that no worker has been running, so that nobody waits for PostgreSQL to show it.
func (s *site) storeBudget(ctx context.Context) error {
	_, err := dbpool.NewLedger(s.client, "", domain).SetBudget(ctx, dbpool.Budget{Connections: connections, MinPerHost: 5, SetBy: "demo"}, dbpool.SetOptions{NewCluster: true})
	return err
}

// writeFiles writes what a worker finds in Mastodon's directory.
func (s *site) writeFiles(secrets mastodondata.Secrets) error {
	env := [][2]string{
		{"RAILS_ENV", "production"},
		{"LOCAL_DOMAIN", domain},
		{"REDIS_URL", s.redis.URL()},
		{"DATABASE_URL", s.postgres.DatabaseDSN(database)},
		{"ALLOWED_PRIVATE_ADDRESSES", "127.0.0.0/8"},
		{"ACTIVE_RECORD_ENCRYPTION_PRIMARY_KEY", secrets.PrimaryKey},
		{"ACTIVE_RECORD_ENCRYPTION_DETERMINISTIC_KEY", secrets.DeterministicKey},
		{"ACTIVE_RECORD_ENCRYPTION_KEY_DERIVATION_SALT", secrets.KeyDerivationSalt},
	}
	var text strings.Builder
	text.WriteString("# Written by queueville demo for servers that are gone by now.\n")
	for _, line := range env {
		text.WriteString(line[0] + "=" + line[1] + "\n")
	}
	s.server = Server{
		Dir: s.dir, EnvFile: filepath.Join(s.dir, ".env.production"), Version: mastodonVersion,
		RedisURL: s.redis.URL(), DatabaseURL: s.postgres.DatabaseDSN(database), Queues: []string{"push", "pull"},
		Resolver: s.fedi.Resolver(), RootCAs: s.fedi.RootCAs(),
		Log: slog.New(slog.NewJSONHandler(s.log, &slog.HandlerOptions{Level: slog.LevelInfo})),
	}
	versionDir := filepath.Join(s.dir, "lib", "mastodon")
	err := errors.Join(
		os.WriteFile(s.server.EnvFile, []byte(text.String()), 0o600),
		os.MkdirAll(versionDir, 0o700),
		os.WriteFile(filepath.Join(versionDir, "version.rb"), []byte(versionFile), 0o600),
	)
	if err != nil {
		return fmt.Errorf("write the server's files: %w", err)
	}

	return nil
}

// enqueue pushes all jobs, in one pass over the queues: what is for pull keeps its place among the others in time.
func (s *site) enqueue(ctx context.Context, seed uint64, pushed func(first, n int, at time.Time)) error {
	list := make([]mastodondata.Delivery, len(s.jobs))
	for i := range s.jobs {
		list[i] = s.jobs[i].Delivery
	}
	next := 0

	return mastodondata.NewJobs(s.data.Line, seed).Push(ctx, s.client, list, func(slice []mastodondata.Delivery, at time.Time) {
		pushed(next, len(slice), at)
		next += len(slice)
	})
}

// close stops everything and removes the files, unless they are to be kept. It can be called on a site that is half built.
func (s *site) close(keepFiles bool) error {
	var problems []error
	if s.fedi != nil {
		problems = append(problems, s.fedi.Close())
	}
	if s.client != nil {
		problems = append(problems, s.client.Close())
	}
	if s.redis != nil {
		problems = append(problems, s.redis.Stop())
	}
	if s.postgres != nil {
		problems = append(problems, s.postgres.Stop())
	}
	if s.log != nil {
		problems = append(problems, s.log.Close())
	}
	if s.dir != "" && !s.keepDir && !keepFiles {
		problems = append(problems, os.RemoveAll(s.dir))
	}

	return errors.Join(problems...)
}
