package suite

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/queueville/queueville/internal/throwaway"
	"github.com/queueville/queueville/loadtest/mastodondata"
	"github.com/redis/go-redis/v9"

	"github.com/queueville/queueville/bench/internal/jobs"
	"github.com/queueville/queueville/bench/internal/measure"
	"github.com/queueville/queueville/bench/internal/peers"
	"github.com/queueville/queueville/bench/internal/receiver"
)

// accountCount is how many local accounts send.
const accountCount = 20

// database is a Postgres with Mastodon's tables, used by all rounds of a suite: deliveries hardly change it.
type database struct {
	server *throwaway.PostgresServer
	data   *mastodondata.Data
	keys   map[string]string // key id → PEM of the public key
}

func startDatabase(ctx context.Context, o Options) (*database, error) {
	server, err := throwaway.Postgres(ctx, throwaway.PostgresConfig{}) // not in o.Dir, which its account may not enter
	if err != nil {
		return nil, err
	}
	db := &database{server: server, keys: map[string]string{}}
	if err := db.fill(ctx); err != nil {
		return nil, errors.Join(err, server.Stop())
	}
	o.logf("postgres with %d accounts", len(db.data.Accounts))
	return db, nil
}

func (db *database) fill(ctx context.Context) error {
	// 4.5: every account has its key as text in accounts.private_key, so neither side has to decrypt it.
	cfg := mastodondata.Config{Line: mastodondata.Line45, Domain: peers.Domain, Secrets: mastodondata.NewSecrets(), Accounts: accountCount}
	for i := range 2000 { // a server that has been there for a while knows some dead ones
		cfg.Unavailable = append(cfg.Unavailable, fmt.Sprintf("gone%04d.fedi.test", i))
	}
	var err error
	if db.data, err = mastodondata.Plan(cfg); err != nil {
		return err
	}
	for id, key := range db.data.PublicKeys() {
		der, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			return fmt.Errorf("encode public key: %w", err)
		}
		db.keys[id] = string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	}
	conn, err := pgx.Connect(ctx, db.server.DSN())
	if err != nil {
		return fmt.Errorf("connect to postgres: %w", err)
	}
	return errors.Join(mastodondata.Write(ctx, conn, cfg, db.data), conn.Close(ctx))
}

func (db *database) accounts() []int64 {
	ids := make([]int64, len(db.data.Accounts))
	for i := range ids {
		ids[i] = db.data.Accounts[i].ID
	}
	return ids
}

// receivers is the process of the inboxes.
type receivers struct {
	*process
	receiver.Ready
	caFile string
}

// startReceivers starts the inboxes and waits until they listen.
func startReceivers(ctx context.Context, o Options, cfg receiver.Config) (*receivers, error) {
	cfg.CAFile = filepath.Join(o.Dir, fmt.Sprintf("ca-%d.pem", time.Now().UnixNano()))
	if cfg.Sample == 0 {
		cfg.Sample = 64
	}
	text, err := json.Marshal(cfg)
	if err != nil {
		return nil, fmt.Errorf("encode receivers' configuration: %w", err)
	}
	file := filepath.Join(o.Dir, "receivers.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return nil, fmt.Errorf("write receivers' configuration: %w", err)
	}
	reader, writer := io.Pipe()
	p, err := startTo(ctx, "receivers", writer, nil, o.Self, "receive", "-config", file)
	if err != nil {
		return nil, err
	}
	r := &receivers{process: p, caFile: cfg.CAFile}
	line := make(chan error, 1)
	go func() {
		text, err := bufio.NewReaderSize(reader, 1<<20).ReadString('\n')
		if err == nil {
			err = json.Unmarshal([]byte(text), &r.Ready)
		}
		line <- err
		_, _ = io.Copy(io.Discard, reader)
	}()
	select {
	case err = <-line:
	case <-p.done:
		err = p.failed()
	case <-time.After(30 * time.Second):
		err = fmt.Errorf("receivers do not listen: %w", context.DeadlineExceeded)
	}
	if err != nil {
		p.stop(time.Second)
		return nil, fmt.Errorf("start receivers: %w", err)
	}
	return r, nil
}

// counts asks what has been received.
func (r *receivers) counts(ctx context.Context) (c receiver.Counts, err error) {
	err = r.ask(ctx, "", &c)
	return c, err
}

// waits asks how long every job waited whose inbox says when it was enqueued.
func (r *receivers) waits(ctx context.Context) (list []receiver.Wait, err error) {
	err = r.ask(ctx, "/waits", &list)
	return list, err
}

func (r *receivers) ask(ctx context.Context, path string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.Control+path, http.NoBody)
	if err != nil {
		return fmt.Errorf("ask receivers: %w", err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("ask receivers: %w", err)
	}
	defer func() { _ = res.Body.Close() }()
	if err := json.NewDecoder(res.Body).Decode(into); err != nil {
		return fmt.Errorf("ask receivers: %w", err)
	}
	return nil
}

// sender is a delivery contender.
type sender struct {
	name        string
	ruby        bool
	noCgo       bool // Queueville built without cgo
	concurrency int
	perHost     int
	args        []string // more of queueville's flags
	shared      bool     // share the queue instead of owning it
}

// foreignQueue is where an owning worker would move foreign jobs, if there were any.
const foreignQueue = "push_ruby"

// startSender starts a contender. db and the receivers are there already.
func (o Options) startSender(ctx context.Context, s sender, server *throwaway.RedisServer, db *database, r *receivers) (*process, error) {
	if s.ruby {
		return o.startRuby(ctx, s, server, db, r)
	}
	if o.Package || o.ProfileDir != "" {
		args := []string{
			o.Self, "child", "-contender", "delivery", "-redis", server.Addr(), "-database", db.server.DSN(),
			"-concurrency", fmt.Sprint(s.concurrency), "-per-host", fmt.Sprint(s.perHost),
		}
		if s.noCgo {
			args = append(args, "-go")
		}
		if s.shared {
			args = append(args, "-shared")
		}
		if o.ProfileDir != "" {
			args = append(args, "-cpuprofile", filepath.Join(o.ProfileDir, fileName("delivery-"+s.name)))
		}
		return start(ctx, s.name, []string{"SSL_CERT_FILE=" + r.caFile}, args...)
	}
	binary, err := o.build(ctx, !s.noCgo)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(o.Dir, "env.production")
	env := []string{
		"LOCAL_DOMAIN=" + peers.Domain, "REDIS_URL=" + server.URL(), "DATABASE_URL=" + db.server.DSN(), "ALLOWED_PRIVATE_ADDRESSES=127.0.0.0/8",
		"RAILS_ENV=production", "SECRET_KEY_BASE=" + strings.Repeat("0", 128), "MAX_REQUEST_POOL_SIZE=2048",
		"ACTIVE_RECORD_ENCRYPTION_PRIMARY_KEY=0123456789abcdef0123456789abcdef",
		"ACTIVE_RECORD_ENCRYPTION_DETERMINISTIC_KEY=0123456789abcdef0123456789abcdef",
		"ACTIVE_RECORD_ENCRYPTION_KEY_DERIVATION_SALT=0123456789abcdef0123456789abcdef",
	}
	if err := os.WriteFile(file, []byte(strings.Join(env, "\n")+"\n"), 0o600); err != nil {
		return nil, fmt.Errorf("write environment file: %w", err)
	}
	args := []string{
		binary, "work", "--mastodon", file, "--mastodon-version", peers.MastodonVersion, "--concurrency", fmt.Sprint(s.concurrency),
		"--per-host", fmt.Sprint(s.perHost), "--metrics", "127.0.0.1:0", "--log-level", "warn",
	}
	if s.shared {
		args = append(args, "--shared", peers.Queue)
	} else {
		args = append(args, "--own", peers.Queue, "--foreign-to", foreignQueue)
	}
	if err := storeBudget(ctx, binary, file, 60); err != nil {
		return nil, err
	}
	return start(ctx, s.name, []string{"SSL_CERT_FILE=" + r.caFile}, append(args, s.args...)...)
}

// storeBudget stores how many connections the workers may have, and that none has been running: otherwise the first one waits for PostgreSQL to
// show it. Builds of before there was a budget do without.
func storeBudget(ctx context.Context, binary, mastodon string, connections int) error {
	help, _ := exec.CommandContext(ctx, binary, "work", "--help").CombinedOutput() //nolint:gosec // our own; its text is what counts, whatever its status
	if !strings.Contains(string(help), "--db-priority") {
		return nil
	}
	//nolint:gosec // our own
	out, err := exec.CommandContext(ctx, binary, "budget", "set", strconv.Itoa(connections), "--new-cluster", "--force", "--mastodon", mastodon).CombinedOutput()
	if err != nil {
		return fmt.Errorf("store the connection budget: %w: %s", err, out)
	}
	return nil
}

func (o Options) startRuby(ctx context.Context, s sender, server *throwaway.RedisServer, db *database, r *receivers) (*process, error) {
	file, err := writeRuby(o)
	if err != nil {
		return nil, err
	}
	return start(ctx, s.name, []string{"REDIS_URL=" + server.URL(), "BENCH_DATABASE_URL=" + db.server.DSN(), "SSL_CERT_FILE=" + r.caFile, "RUBYOPT=-W0"},
		"sidekiq", "-r", file, "-q", peers.Queue, "-c", fmt.Sprint(s.concurrency), "-t", "5", "-e", "production")
}

// startForeign starts an idle Sidekiq process on the queue that an owning worker needs to be served, and waits until it is known.
func (o Options) startForeign(ctx context.Context, server *throwaway.RedisServer, client *redis.Client) (*process, error) {
	file, err := writeNoop(o)
	if err != nil {
		return nil, err
	}
	p, err := start(ctx, "sidekiq on "+foreignQueue, []string{"REDIS_URL=" + server.URL(), "RUBYOPT=-W0"},
		"sidekiq", "-r", file, "-q", foreignQueue, "-c", "1", "-t", "1", "-e", "production")
	if err != nil {
		return nil, err
	}
	for range 300 {
		n, err := client.SCard(ctx, "processes").Result()
		if err == nil && n > 0 {
			return p, nil
		}
		if err := errors.Join(pause(ctx, 100*time.Millisecond), p.failed()); err != nil {
			p.stop(time.Second)
			return nil, err
		}
	}
	p.stop(time.Second)
	return nil, fmt.Errorf("%s does not come up: %w", p.name, errLost)
}

// deliveries enqueues n jobs to the inboxes in turn.
func deliveries(ctx context.Context, client *redis.Client, n int, bodyBytes int, accounts []int64, inboxes []string, seed uint64) error {
	maker := jobs.NewMaker(seed, bodyBytes-200, bodyBytes+200, accounts, inboxes)
	if err := client.SAdd(ctx, "queues", peers.Queue).Err(); err != nil {
		return fmt.Errorf("enqueue: %w", err)
	}
	values := make([]any, 0, 200)
	for i := range n {
		values = append(values, maker.Next().Sidekiq(peers.Queue, time.Now()))
		if len(values) == cap(values) || i == n-1 {
			if err := client.LPush(ctx, "queue:"+peers.Queue, values...).Err(); err != nil {
				return fmt.Errorf("enqueue: %w", err)
			}
			values = values[:0]
		}
	}
	return nil
}

// run is one contender delivering one load.
type run struct {
	sender  sender
	cfg     receiver.Config
	jobs    int // to inboxes that answer
	body    int // bytes
	seed    uint64
	limit   time.Duration                               // for the whole run
	warm    float64                                     // share of the jobs before the clock starts
	sampled func(context.Context, *process, *receivers) // called at every look; may be nil
}

// outcome is what a run was.
type outcome struct {
	Figure
	counts receiver.Counts
	took   time.Duration // of the counted part
}

// deliver makes one run on a fresh Redis. Jobs for dead hosts come on top of those counted, in the same proportion as the hosts.
func (o Options) deliver(ctx context.Context, db *database, r run) (out outcome, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.limit)
	defer cancel()
	server, err := throwaway.Redis(ctx, throwaway.RedisConfig{Dir: o.Dir})
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer func() { err = errors.Join(err, client.Close()) }()
	r.cfg.Keys = db.keys
	inboxes, err := startReceivers(ctx, o, r.cfg)
	if err != nil {
		return out, err
	}
	defer inboxes.stop(5 * time.Second)
	to := spread(inboxes.Inboxes, inboxes.Dead)
	total := r.jobs * len(to) / len(inboxes.Inboxes)
	if err := deliveries(ctx, client, total, r.body, db.accounts(), to, r.seed); err != nil {
		return out, err
	}
	if !r.sender.ruby && !o.Package && o.ProfileDir == "" {
		foreign, err := o.startForeign(ctx, server, client)
		if err != nil {
			return out, err
		}
		defer foreign.stop(5 * time.Second)
	}
	p, err := o.startSender(ctx, r.sender, server, db, inboxes)
	if err != nil {
		return out, err
	}
	defer p.stop(10 * time.Second)
	out, err = follow(ctx, client, inboxes, p, r)
	if err != nil {
		return out, fmt.Errorf("%s: %w\n%s", r.sender.name, err, p.out)
	}
	return out, nil
}

// spread mixes two lists evenly.
func spread(a, b []string) []string {
	out := make([]string, 0, len(a)+len(b))
	for i, x := range a {
		out = append(out, x)
		out = append(out, b[len(b)*i/len(a):len(b)*(i+1)/len(a)]...)
	}
	return out
}

// follow waits until all countable deliveries have arrived.
func follow(ctx context.Context, client *redis.Client, inboxes *receivers, p *process, r run) (out outcome, err error) {
	list := []*process{p}
	var first *reading
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return out, fmt.Errorf("%d of %d delivered: %w", out.counts.Received, r.jobs, errLost)
		case <-tick.C:
		}
		if err := errors.Join(p.failed(), inboxes.failed()); err != nil {
			return out, err
		}
		if r.sampled != nil {
			r.sampled(ctx, p, inboxes)
		}
		if out.counts, err = inboxes.counts(ctx); err != nil {
			return out, err
		}
		received := int(out.counts.Received)
		if first == nil && float64(received) >= r.warm*float64(r.jobs) && received > 0 {
			if first, err = read(ctx, client, list); err != nil {
				return out, err
			}
			first.left = r.jobs - received
		}
		if received < r.jobs {
			continue
		}
		if out.counts.Bad > 0 {
			return out, fmt.Errorf("%d wrong signatures", out.counts.Bad)
		}
		out.took = time.Since(first.at)
		cpu, mem, err := usage(list)
		if err != nil {
			return out, err
		}
		redisNow, err := measure.ReadRedis(ctx, client)
		if err != nil {
			return out, err
		}
		n := float64(first.left)
		out.Figure = Figure{
			Jobs: first.left, PerSecond: n / out.took.Seconds(), CPU: micros(cpu-first.cpu) / n,
			RedisCPU: micros(redisNow.Since(first.redis).CPU) / n, PeakMiB: float64(mem.Peak) / (1 << 20),
		}
		return out, nil
	}
}
