// Package mastodontest gives tests a small Mastodon server of their own: a Redis database, a PostgreSQL database with accounts and keys, a
// directory with .env.production, and a synthetic fediverse to deliver to, whose receivers verify every signature. Whole workers and whole
// commands run on it.
//
// The servers are those of redistest and pgtest: shared by a test binary, skipped where missing, failed under CI=true. The fediverse's
// goroutines end with the test.
package mastodontest

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/queueville/queueville/dbpool"
	"github.com/queueville/queueville/internal/pgtest"
	"github.com/queueville/queueville/internal/redistest"
	"github.com/queueville/queueville/internal/synthca"
	"github.com/queueville/queueville/loadtest/fediverse"
	"github.com/queueville/queueville/loadtest/mastodondata"
)

// Budget is how many database connections the workers of a new Server have together.
const Budget = 60

// accounts is how many local accounts can sign; on 4.7 half of them have their key encrypted.
const accounts = 4

// Server is a Mastodon server with nothing running on it.
type Server struct {
	Dir         string // Mastodon's directory
	EnvFile     string // Dir/.env.production
	RedisURL    string
	DatabaseURL string
	CAFile      string // PEM of who issued the receivers' certificates, for SSL_CERT_FILE
	Redis       *redis.Client
	Fedi        *fediverse.Fediverse
	Data        *mastodondata.Data

	jobs   *mastodondata.Jobs
	serial int
}

// keys are made once per test binary: four RSA keys take a second.
var keys = sync.OnceValues(func() ([]*rsa.PrivateKey, error) {
	const bits = 2048
	first, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		return nil, err
	}
	second, err := rsa.GenerateKey(rand.Reader, bits)
	return []*rsa.PrivateKey{first, second}, err
})

// New makes a server of release line 4.7 whose fediverse has the given hosts (names under .test; by default good.test).
func New(tb testing.TB, hosts ...fediverse.Host) *Server {
	tb.Helper()
	return NewOn(tb, pgtest.DB(tb), hosts...)
}

// NewOn is New on a given empty database.
func NewOn(tb testing.TB, dsn string, hosts ...fediverse.Host) *Server {
	tb.Helper()
	ctx := tb.Context()
	if len(hosts) == 0 {
		hosts = []fediverse.Host{{Name: "good.test"}}
	}
	addr, db, client := redistest.DB(tb)
	s := &Server{
		Dir: tb.TempDir(), Redis: client, RedisURL: fmt.Sprintf("redis://%s/%d", addr, db), DatabaseURL: dsn,
		jobs: mastodondata.NewJobs(mastodondata.Line47, 1),
	}
	signing, err := keys()
	must(tb, err)
	secrets := mastodondata.NewSecrets()
	cfg := mastodondata.Config{Line: mastodondata.Line47, Domain: "local.test", Secrets: secrets, Accounts: accounts, Keys: signing}
	s.Data, err = mastodondata.Plan(cfg)
	must(tb, err)
	authority, err := synthca.New()
	must(tb, err)
	s.Fedi, err = fediverse.Start(ctx, fediverse.Config{Hosts: hosts, Seed: 1, Keys: fediverse.KeyMap(s.Data.PublicKeys()), Authority: authority})
	must(tb, err)
	tb.Cleanup(func() { must(tb, s.Fedi.Close()) })
	for _, h := range hosts {
		cfg.Remotes = append(cfg.Remotes, mastodondata.Remote{Origin: s.Fedi.Origin(h.Name), Followers: 1})
	}
	conn, err := pgx.Connect(ctx, s.DatabaseURL)
	must(tb, err)
	err = mastodondata.Write(ctx, conn, cfg, s.Data)
	_ = conn.Close(ctx)
	must(tb, err)

	s.EnvFile = filepath.Join(s.Dir, ".env.production")
	s.CAFile = filepath.Join(s.Dir, "ca.pem")
	must(tb, os.WriteFile(s.CAFile, authority.PEM(), 0o600))
	s.WriteEnv(tb, "LOCAL_DOMAIN=local.test", "REDIS_URL="+s.RedisURL, "DATABASE_URL="+s.DatabaseURL, "ALLOWED_PRIVATE_ADDRESSES=127.0.0.0/8",
		"ACTIVE_RECORD_ENCRYPTION_PRIMARY_KEY="+secrets.PrimaryKey, "ACTIVE_RECORD_ENCRYPTION_DETERMINISTIC_KEY="+secrets.DeterministicKey,
		"ACTIVE_RECORD_ENCRYPTION_KEY_DERIVATION_SALT="+secrets.KeyDerivationSalt)
	s.SetBudget(tb, Budget)
	version := filepath.Join(s.Dir, "lib", "mastodon")
	must(tb, os.MkdirAll(version, 0o700))
	must(tb, os.WriteFile(filepath.Join(version, "version.rb"), []byte("MAJOR = 4\nMINOR = 7\nPATCH = 0\n"), 0o600))
	return s
}

// SetBudget stores how many database connections all workers of this server have together, and that nobody has any yet.
func (s *Server) SetBudget(tb testing.TB, connections int) {
	tb.Helper()
	s.setBudget(tb, "", connections)
}

func (s *Server) setBudget(tb testing.TB, namespace string, connections int) {
	tb.Helper()
	_, err := dbpool.NewLedger(s.Redis, namespace, "local.test").SetBudget(tb.Context(), dbpool.Budget{Connections: connections, MinPerHost: 2, SetBy: "test"},
		dbpool.SetOptions{NewCluster: true})
	must(tb, err)
}

// WriteEnv writes .env.production anew.
func (s *Server) WriteEnv(tb testing.TB, lines ...string) {
	tb.Helper()
	must(tb, os.WriteFile(s.EnvFile, []byte(strings.Join(lines, "\n")+"\n"), 0o600))
	for _, line := range lines {
		if namespace, ok := strings.CutPrefix(line, "REDIS_NAMESPACE="); ok { // there, the budget is another one
			s.setBudget(tb, namespace, Budget)
		}
	}
}

// Delivery is the payload of a new job that delivers to a host, as Mastodon's Sidekiq writes it, and its jid.
func (s *Server) Delivery(tb testing.TB, host string) (payload, jid string) {
	tb.Helper()
	s.serial++
	author := &s.Data.Accounts[s.serial%len(s.Data.Accounts)]
	activity, err := json.Marshal(map[string]any{
		"@context": "https://www.w3.org/ns/activitystreams", "type": "Create", "actor": author.URI,
		"id": fmt.Sprintf("%s/statuses/%d/activity", author.URI, s.serial), "content": "<p>ü \"quoted\" \u2028</p>",
	})
	must(tb, err)
	d := s.jobs.New(mastodondata.NewBody(activity), author.ID, s.Fedi.InboxURL(host), `{"synchronize_followers":true}`)
	now := time.Now()
	return string(s.jobs.AppendPayload(nil, &d, now, now)), d.JID
}

// Push puts payloads on a queue as they are, the first to be run first.
func (s *Server) Push(tb testing.TB, queue string, payloads ...string) {
	tb.Helper()
	values := make([]any, len(payloads))
	for i := range payloads {
		values[i] = payloads[i]
	}
	pipe := s.Redis.Pipeline()
	pipe.SAdd(tb.Context(), "queues", queue)
	pipe.LPush(tb.Context(), "queue:"+queue, values...)
	_, err := pipe.Exec(tb.Context())
	must(tb, err)
}

// Queue is what waits on a queue, the next to be run first.
func (s *Server) Queue(tb testing.TB, queue string) []string {
	tb.Helper()
	list, err := s.Redis.LRange(tb.Context(), "queue:"+queue, 0, -1).Result()
	must(tb, err)
	slices.Reverse(list)
	return list
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}
