package redisconn_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/queueville/queueville/internal/mastodonenv"
	"github.com/queueville/queueville/internal/redisconn"
	"github.com/queueville/queueville/internal/redistest"
	"github.com/queueville/queueville/internal/throwaway"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ping opens a client, sends one PING and closes it.
func ping(t *testing.T, cfg mastodonenv.Redis, opts redisconn.Options) error {
	t.Helper()
	c, err := redisconn.Open(cfg, opts)
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // a test
	return c.Ping(t.Context()).Err()
}

func TestOpenSingle(t *testing.T) {
	addr, db, shared := redistest.DB(t)
	c, err := redisconn.Open(mastodonenv.Redis{Network: "tcp", Addr: addr, DB: db}, redisconn.Options{ClientName: "queueville host/ä", PoolSize: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // a test
	if err := c.Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if got := shared.Get(t.Context(), "k").Val(); got != "v" {
		t.Errorf("written to another database: k = %q", got)
	}
	if name := c.ClientGetName(t.Context()).Val(); name != "queueville-host/-" {
		t.Errorf("client name = %q", name)
	}
	for _, cfg := range []mastodonenv.Redis{{}, {Sentinel: &mastodonenv.Sentinel{Master: "m"}}} {
		if _, err := redisconn.Open(cfg, redisconn.Options{}); err == nil {
			t.Errorf("Open(%v) succeeded", cfg)
		}
	}
}

func TestCommandsEndWithTheirContextAndAreNotRepeated(t *testing.T) {
	s := redistest.Start(t)
	c, err := redisconn.Open(mastodonenv.Redis{Network: "tcp", Addr: s.Addr()}, redisconn.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // a test
	if err := c.Incr(t.Context(), "n").Err(); err != nil {
		t.Fatal(err)
	}
	if err := s.Pause(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	if err := c.Incr(ctx, "n").Err(); err == nil || time.Since(start) > 2*time.Second {
		t.Errorf("INCR on a frozen server: %v after %v, want an error soon", err, time.Since(start))
	}
	if err := s.Resume(); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Get(t.Context(), "n").Int(); err != nil || n > 2 {
		t.Errorf("n = %d, %v: the command was sent more than once", n, err)
	}
}

func TestPasswordAndSocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "q") //nolint:usetesting // a socket's path may have 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	s, err := throwaway.Redis(t.Context(), throwaway.RedisConfig{Password: "geheim", Args: []string{"--unixsocket", socket}})
	redistest.Need(t, err)
	t.Cleanup(func() { _ = s.Stop() })
	tests := map[string]struct {
		cfg mastodonenv.Redis
		ok  bool
	}{
		"tcp":            {mastodonenv.Redis{Network: "tcp", Addr: s.Addr(), Password: "geheim"}, true},
		"user":           {mastodonenv.Redis{Network: "tcp", Addr: s.Addr(), Username: "default", Password: "geheim"}, true},
		"socket":         {mastodonenv.Redis{Network: "unix", Addr: socket, Password: "geheim"}, true},
		"no password":    {mastodonenv.Redis{Network: "tcp", Addr: s.Addr()}, false},
		"wrong password": {mastodonenv.Redis{Network: "tcp", Addr: s.Addr(), Password: "falsch"}, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := ping(t, test.cfg, redisconn.Options{})
			if (err == nil) != test.ok || (err != nil && strings.Contains(err.Error(), "falsch")) {
				t.Errorf("PING: %v, want success %v", err, test.ok)
			}
		})
	}
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	cert, key, roots := certificate(t, dir)
	port, err := throwaway.FreePort(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	redistest.Start(t, "--tls-port", strconv.Itoa(port), "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert, "--tls-auth-clients", "no")
	cfg := mastodonenv.Redis{Network: "tcp", Addr: net.JoinHostPort("localhost", strconv.Itoa(port)), TLS: true}
	if err := ping(t, cfg, redisconn.Options{TLS: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}); err != nil {
		t.Errorf("over TLS: %v", err)
	}
	err = ping(t, cfg, redisconn.Options{})
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); !ok {
		t.Errorf("with a certificate that nobody vouches for: %v, want it refused", err)
	}
}

// certificate writes a self-signed one for localhost.
func certificate(t *testing.T, dir string) (certFile, keyFile string, roots *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile, roots = filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem"), x509.NewCertPool()
	for path, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	roots.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return certFile, keyFile, roots
}

// The master dies, a replica takes over, and the same client goes on with it.
func TestSentinelFailover(t *testing.T) {
	master := redistest.Start(t)
	replica := redistest.Start(t, "--replicaof", "127.0.0.1 "+strconv.Itoa(master.Port()), "--repl-diskless-sync-delay", "0")
	s, err := throwaway.Sentinel(t.Context(), throwaway.SentinelConfig{Master: master.Addr(), Name: "m", Password: "wache"})
	redistest.Need(t, err)
	t.Cleanup(func() { _ = s.Stop() })
	c, err := redisconn.Open(mastodonenv.Redis{
		Network: "tcp", DB: 3, Sentinel: &mastodonenv.Sentinel{Master: "m", Addrs: []string{s.Addr()}, Password: "wache"},
	}, redisconn.Options{DialTimeout: time.Second, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // a test
	if err := c.Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	r := redistest.NewClient(replica.Addr(), 3)
	defer r.Close() //nolint:errcheck // a test
	waitFor(t, "the replica to have k", func() bool { return r.Get(t.Context(), "k").Val() == "v" })
	if problems := redisconn.Check(t.Context(), r, redisconn.CheckOptions{Name: "R"}); len(problems) != 1 || mastodonenv.Errors(problems) == nil {
		t.Errorf("Check of a replica = %v, want one error", problems)
	}
	waitForSentinel(t, s.Addr())
	if err := master.Kill(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "writes to go on", func() bool { return c.Set(t.Context(), "k", "w", 0).Err() == nil })
	if got := r.Get(t.Context(), "k").Val(); got != "w" {
		t.Errorf("the promoted replica has k = %q, want w", got)
	}
}

// waitForSentinel waits until it knows the replica, which it asks the master for every 10 s.
func waitForSentinel(t *testing.T, addr string) {
	t.Helper()
	c := redis.NewSentinelClient(&redis.Options{Addr: addr, Password: "wache"})
	defer c.Close() //nolint:errcheck // a test
	waitFor(t, "Sentinel to know the replica", func() bool {
		list, err := c.Replicas(t.Context(), "m").Result()
		return err == nil && len(list) == 1
	})
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited 30 s for %s", what)
		}
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		args  []string
		cache bool
		want  string // severities, in order
	}{
		"fit":          {nil, false, ""},
		"evicts":       {[]string{"--maxmemory-policy", "allkeys-lru"}, false, "warning"},
		"cache evicts": {[]string{"--maxmemory-policy", "allkeys-lru"}, true, ""},
		"cluster":      {[]string{"--cluster-enabled", "yes"}, false, "error"},
		"all at once":  {[]string{"--cluster-enabled", "yes", "--maxmemory-policy", "volatile-ttl"}, false, "error warning"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := redistest.Start(t, test.args...)
			c := redistest.NewClient(s.Addr(), 0)
			defer c.Close() //nolint:errcheck // a test
			var got []string
			for _, p := range redisconn.Check(t.Context(), c, redisconn.CheckOptions{Name: "SIDEKIQ_REDIS_URL", Cache: test.cache}) {
				got = append(got, string(p.Severity))
				if p.Name != "SIDEKIQ_REDIS_URL" || p.What == "" || p.Hint == "" {
					t.Errorf("problem says too little: %+v", p)
				}
			}
			if strings.Join(got, " ") != test.want {
				t.Errorf("Check = %v, want %q", got, test.want)
			}
		})
	}
}

func TestCheckOfNobody(t *testing.T) {
	port, err := throwaway.FreePort(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := redistest.NewClient(net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), 0)
	defer c.Close() //nolint:errcheck // a test
	if problems := redisconn.Check(t.Context(), c, redisconn.CheckOptions{}); mastodonenv.Errors(problems) == nil {
		t.Errorf("Check = %v, want an error", problems)
	}
}
