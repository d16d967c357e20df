package run

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/queueville/queueville/dbpool"
	"github.com/queueville/queueville/internal/faultproxy"
	"github.com/queueville/queueville/internal/rubyapp/app"
	"github.com/queueville/queueville/internal/synthca"
	"github.com/queueville/queueville/internal/throwaway"
	"github.com/queueville/queueville/loadtest/fediverse"
	"github.com/queueville/queueville/loadtest/mastodondata"
	"github.com/queueville/queueville/loadtest/simulate"
	"github.com/queueville/queueville/loadtest/sink"
	"github.com/queueville/queueville/loadtest/world"
)

//go:embed app
var overlay embed.FS

const (
	domain         = "local.test"
	database       = "mastodon_production"
	accounts       = 24
	maxConnections = 600
	cleanupTimeout = 15 * time.Second
	versionFile    = "MAJOR = 4\nMINOR = 3\nPATCH = 0\n"
	samplerName    = "queueville-loadtest" // of our own database connection
)

// workFunction is what a statement costs: a loop, whose length the run has measured.
const workFunction = `CREATE FUNCTION loadtest_work(n integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE i integer := 0;
BEGIN
  WHILE i < n LOOP i := i + 1; END LOOP;
  RETURN i;
END $$`

// site is everything besides the job processes: servers on loopback, their data, and Mastodon's directory.
type site struct {
	guard    *guard
	dir      string // removed at the end
	live     string // Mastodon's directory
	bundle   string
	redisURL string
	// workersRedis is where job processes find Redis: a proxy that fails on demand, where an incident of the scenario needs one.
	workersRedis string
	redis        *throwaway.RedisServer // nil when a Redis was named
	proxy        *faultproxy.Proxy      // before a named one, if the scenario wants it to fail; else nil
	postgres     *throwaway.PostgresServer
	client       *redis.Client
	db           *pgx.Conn // to look how many connections there are
	fedi         *fediverse.Fediverse
	conduct      *conductor
	control      *control
	caFile       string

	databaseUse usage
	stalled     atomic.Bool // PostgreSQL is frozen
	outage      atomic.Bool // the job processes are meant to be gone
	socket      string
}

// build starts and fills everything. On an error what was started is stopped again.
func build(ctx context.Context, o *Options, w *world.World, goals simulate.Goals, budget int) (_ *site, err error) {
	s := &site{}
	defer func() { //nolint:contextcheck // ends everything whatever has become of ctx
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.dir, err = os.MkdirTemp("", "queueville-loadtest-"); err != nil {
		return nil, fmt.Errorf("make a directory: %w", err)
	}
	s.live, s.caFile, s.socket = filepath.Join(s.dir, "live"), filepath.Join(s.dir, "ca.pem"), filepath.Join(s.dir, "control")
	if s.guard, err = startGuard(ctx, s.dir); err != nil {
		return nil, err
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.startRedis(groupCtx, o) })
	group.Go(func() (err error) {
		s.postgres, err = throwaway.Postgres(groupCtx, throwaway.PostgresConfig{MaxConnections: maxConnections})
		return err
	})
	cfg := mastodondata.Config{Line: mastodondata.Line43, Domain: domain, Secrets: mastodondata.NewSecrets(), Accounts: accounts}
	var data *mastodondata.Data
	group.Go(func() error {
		for range 2 {
			const bits = 2048
			key, err := rsa.GenerateKey(rand.Reader, bits)
			if err != nil {
				return fmt.Errorf("make RSA key: %w", err)
			}
			cfg.Keys = append(cfg.Keys, key)
		}
		var err error
		data, err = mastodondata.Plan(cfg)
		return err
	})
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if err := s.receive(ctx, o, w, goals, data); err != nil {
		return nil, err
	}
	if err := s.fill(ctx, cfg, data); err != nil {
		return nil, err
	}
	if err := s.write(cfg.Secrets); err != nil {
		return nil, err
	}
	if s.control, err = listen(ctx, s.socket, s.conduct); err != nil {
		return nil, err
	}
	_, err = dbpool.NewLedger(s.client, "", domain).SetBudget(ctx, dbpool.Budget{Connections: budget, MinPerHost: 5, SetBy: "loadtest"}, dbpool.SetOptions{NewCluster: true})
	if err != nil {
		return nil, fmt.Errorf("store the budget of connections: %w", err)
	}
	return s, nil
}

func (s *site) startRedis(ctx context.Context, o *Options) error {
	if o.RedisURL != "" {
		return s.openNamed(ctx, o)
	}
	// With its file it comes back from a kill with everything that it has confirmed.
	server, err := throwaway.Redis(ctx, throwaway.RedisConfig{Args: []string{"--appendonly", "yes", "--appendfsync", "everysec", "--save", ""}})
	if err != nil {
		return err
	}
	s.redis = server
	return s.dial(server.URL())
}

// receive starts the receivers, one for each instance of the world.
func (s *site) receive(ctx context.Context, o *Options, w *world.World, goals simulate.Goals, data *mastodondata.Data) error {
	authority, err := synthca.New()
	if err != nil {
		return fmt.Errorf("make certificates: %w", err)
	}
	hosts := sink.Hosts(w)
	s.conduct = &conductor{
		world: w, length: o.Scenario.Length, books: newBooks(o.MaxJobs), meter: newMeter(w, goals), dests: make([]dest, w.Instances()),
		address: func(to int32) string { return fediverse.Address(int(to)) },
	}
	s.fedi, err = fediverse.Start(ctx, fediverse.Config{
		Hosts: hosts, Seed: o.Scenario.Seed, Keys: fediverse.KeyMap(data.PublicKeys()), Authority: authority, Live: s.conduct,
	})
	if err != nil {
		return fmt.Errorf("start the receivers: %w", err)
	}
	name := func(to int32) string { return hosts[to].Name }
	s.conduct.write = newWriter(data, o.Scenario.Seed, time.Now(), func(to int32) string { return s.fedi.Origin(name(to)) }, name)
	if err := os.WriteFile(s.caFile, authority.PEM(), 0o600); err != nil {
		return fmt.Errorf("write the certificate: %w", err)
	}
	return nil
}

// fill makes the tables, and measures what their work costs.
func (s *site) fill(ctx context.Context, cfg mastodondata.Config, data *mastodondata.Data) error {
	admin, err := pgx.Connect(ctx, s.postgres.DSN())
	if err != nil {
		return fmt.Errorf("connect to PostgreSQL: %w", err)
	}
	_, err = admin.Exec(ctx, "CREATE DATABASE "+database)
	if err := errors.Join(err, admin.Close(ctx)); err != nil {
		return fmt.Errorf("create the database: %w", err)
	}
	dsn, err := pgx.ParseConfig(s.postgres.DatabaseDSN(database))
	if err != nil {
		return fmt.Errorf("connect to PostgreSQL: %w", err)
	}
	dsn.RuntimeParams["application_name"] = samplerName
	if s.db, err = pgx.ConnectConfig(ctx, dsn); err != nil {
		return fmt.Errorf("connect to PostgreSQL: %w", err)
	}
	if err := mastodondata.Write(ctx, s.db, cfg, data); err != nil {
		return err
	}
	if _, err := s.db.Exec(ctx, workFunction); err != nil {
		return fmt.Errorf("make the statements' function: %w", err)
	}
	s.conduct.perStep, err = calibrate(ctx, s.db)
	return err
}

// calibrate finds how many iterations of the loop a microsecond is: the best of some tries, for the machine may be busy.
func calibrate(ctx context.Context, db *pgx.Conn) (float64, error) {
	const iterations = 100_000
	best := time.Duration(0)
	for range 12 {
		begun := time.Now()
		if _, err := db.Exec(ctx, "SELECT loadtest_work($1)", iterations); err != nil {
			return 0, fmt.Errorf("measure a statement: %w", err)
		}
		if took := time.Since(begun); best == 0 || took < best {
			best = took
		}
	}
	return iterations / float64(best.Microseconds()), nil
}

// write writes what processes find in Mastodon's directory.
func (s *site) write(secrets mastodondata.Secrets) error {
	var err error
	// The application's own workers and its timetable are left out: the run's are in the overlay.
	if s.bundle, err = app.Write(s.live, "app/workers", "config/sidekiq.yml"); err != nil {
		return err
	}
	err = fs.WalkDir(overlay, "app", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := overlay.ReadFile(path)
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, "app/")
		if strings.HasPrefix(name, "workers/") {
			name = "app/" + name
		}
		target := filepath.Join(s.live, filepath.FromSlash(name))
		return errors.Join(os.MkdirAll(filepath.Dir(target), 0o755), os.WriteFile(target, text, 0o600))
	})
	if err != nil {
		return fmt.Errorf("write the ruby application: %w", err)
	}
	classes, err := json.MarshalIndent(rubyClasses(), "", " ")
	if err != nil {
		return fmt.Errorf("write the classes: %w", err)
	}
	env := []string{
		"LOCAL_DOMAIN=" + domain, "REDIS_URL=" + s.workersRedis, "DATABASE_URL=" + s.postgres.DatabaseDSN(database), "ALLOWED_PRIVATE_ADDRESSES=127.0.0.0/8",
		"ACTIVE_RECORD_ENCRYPTION_PRIMARY_KEY=" + secrets.PrimaryKey, "ACTIVE_RECORD_ENCRYPTION_DETERMINISTIC_KEY=" + secrets.DeterministicKey,
		"ACTIVE_RECORD_ENCRYPTION_KEY_DERIVATION_SALT=" + secrets.KeyDerivationSalt, "SECRET_KEY_BASE=" + strings.Repeat("0", 128),
	}
	version := filepath.Join(s.live, "lib", "mastodon")
	err = errors.Join(
		os.WriteFile(filepath.Join(s.live, "config", "loadtest.json"), classes, 0o600),
		os.WriteFile(filepath.Join(s.live, ".env.production"), []byte(strings.Join(env, "\n")+"\n"), 0o600),
		os.MkdirAll(version, 0o700),
		os.WriteFile(filepath.Join(version, "version.rb"), []byte(versionFile), 0o600),
	)
	if err != nil {
		return fmt.Errorf("write the server's files: %w", err)
	}
	return nil
}

// rubyClass is a class as the Ruby application is told of it.
type rubyClass struct {
	Queue   string `json:"queue"`
	Retry   int    `json:"retry"`
	Dead    bool   `json:"dead"`
	Backoff string `json:"backoff"`
}

func rubyClasses() map[string]rubyClass {
	list := map[string]rubyClass{}
	for i := range world.ClassTable {
		c := &world.ClassTable[i]
		list[c.Name] = rubyClass{
			Queue: world.QueueNames[c.Queue], Retry: int(c.Retries), Dead: c.Dead,
			Backoff: [...]string{world.BackoffSidekiq: "", world.BackoffExponential: "exponential", world.BackoffDelivery: "delivery"}[c.Backoff],
		}
	}
	return list
}

// close stops everything that was started.
func (s *site) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
	defer cancel()
	var problems []error
	if s.control != nil {
		problems = append(problems, s.control.close())
	}
	if s.fedi != nil {
		problems = append(problems, s.fedi.Close())
	}
	if s.db != nil {
		problems = append(problems, s.db.Close(ctx))
	}
	if s.client != nil {
		problems = append(problems, s.client.Close())
	}
	if s.postgres != nil {
		problems = append(problems, s.postgres.Stop())
	}
	if s.proxy != nil {
		problems = append(problems, s.proxy.Close())
	}
	if s.redis != nil {
		problems = append(problems, s.redis.Stop())
	}
	if s.guard != nil {
		problems = append(problems, s.guard.dismiss())
	}
	if s.dir != "" {
		problems = append(problems, os.RemoveAll(s.dir))
	}
	return errors.Join(problems...)
}
