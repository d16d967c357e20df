package activitypub

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-fed/httpsig"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
	"github.com/yaronf/httpsign"

	"github.com/queueville/queueville/internal/pgtest"
	"github.com/queueville/queueville/internal/redistest"
	"github.com/queueville/queueville/internal/synthca"
	"github.com/queueville/queueville/loadtest/mastodondata"
)

// The keys all tests share; making one takes a good part of a second.
var testKeys = sync.OnceValue(func() []*rsa.PrivateKey {
	keys := make([]*rsa.PrivateKey, 2)
	for i := range keys {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		keys[i] = key
	}
	return keys
})

var testCA = sync.OnceValue(func() *synthca.CA {
	ca, err := synthca.New()
	if err != nil {
		panic(err)
	}
	return ca
})

// bundle is a Mastodon as a delivery sees it, and a Deliverer beside it.
type bundle struct {
	*Deliverer
	tb      testing.TB
	pool    *pgxpool.Pool
	redis   *redis.Client
	data    *mastodondata.Data
	public  map[string]*rsa.PublicKey
	names   nameMap
	secrets mastodondata.Secrets
	version string
}

// nameMap resolves test hosts.
type nameMap struct {
	mu    *sync.Mutex
	addrs map[string][]netip.Addr
}

func (n nameMap) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if addrs, ok := n.addrs[host]; ok {
		return addrs, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

func (n nameMap) set(host string, addrs ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.addrs[host] = nil
	for _, a := range addrs {
		n.addrs[host] = append(n.addrs[host], netip.MustParseAddr(a))
	}
}

var lineOf = map[string]mastodondata.Line{
	"4.3.0": mastodondata.Line43, "4.5.0": mastodondata.Line45, "4.6.0": mastodondata.Line45, "4.7.0": mastodondata.Line47,
}

// setup makes a bundle for a Mastodon version; change may alter the configuration.
func setup(tb testing.TB, version string, change ...func(*Config)) *bundle {
	tb.Helper()
	ctx := tb.Context()
	b := &bundle{tb: tb, version: version, secrets: mastodondata.NewSecrets(), names: nameMap{new(sync.Mutex), map[string][]netip.Addr{}}}
	dsn := pgtest.DB(tb)
	conn, err := pgx.Connect(ctx, dsn)
	must(tb, err)
	cfg := mastodondata.Config{Line: lineOf[version], Domain: "local.test", Secrets: b.secrets, Accounts: 8, Suspended: 1, Keys: testKeys()}
	b.data, err = mastodondata.Plan(cfg)
	must(tb, err)
	must(tb, mastodondata.Write(ctx, conn, cfg, b.data))
	must(tb, conn.Close(ctx))
	b.public = b.data.PublicKeys()
	b.pool, err = pgxpool.New(ctx, dsn)
	must(tb, err)
	tb.Cleanup(b.pool.Close)
	b.redis = redistest.Client(tb)
	c := Config{
		Version: version, LocalDomain: "local.test", DB: b.pool, BaseRedis: b.redis,
		AllowedPrivate: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, RootCAs: testCA().Pool(), Resolver: b.names,
		EncryptionPrimaryKey: b.secrets.PrimaryKey, EncryptionKeyDerivationSalt: b.secrets.KeyDerivationSalt,
	}
	for _, f := range change {
		f(&c)
	}
	b.Deliverer, err = New(c)
	must(tb, err)
	tb.Cleanup(func() {
		b.direct.CloseIdleConnections()
		b.hiddenWay.CloseIdleConnections()
	})
	return b
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func (b *bundle) exec(sql string, args ...any) {
	b.tb.Helper()
	_, err := b.pool.Exec(b.tb.Context(), sql, args...)
	must(b.tb, err)
}

// job is a delivery by the first account.
func (b *bundle) job(inbox string) Delivery {
	return Delivery{Body: `{"type":"Like"}`, AccountID: b.data.Accounts[0].ID, InboxURL: inbox}
}

func (b *bundle) deliver(job Delivery) Result { return b.Deliver(b.tb.Context(), job) }

// tracked returns the failure days of a host.
func (b *bundle) tracked(host string) []string {
	b.tb.Helper()
	must(b.tb, b.Flush(b.tb.Context()))
	days, err := b.redis.SMembers(b.tb.Context(), "exhausted_deliveries:"+host).Result()
	must(b.tb, err)
	return days
}

func (b *bundle) listed(host string) bool {
	b.tb.Helper()
	must(b.tb, b.Flush(b.tb.Context()))
	var n int
	must(b.tb, b.pool.QueryRow(b.tb.Context(), `SELECT count(*) FROM unavailable_domains WHERE domain = $1`, host).Scan(&n))
	return n > 0
}

// received is one request as a receiver got it.
type received struct {
	method, uri, host, proto string
	header                   http.Header
	body                     string
	signed                   error // nil: a valid signature and digest
	rfc9421                  bool
	conn                     string
	resumed                  bool // the TLS session was
}

// receiver is a real HTTPS server on loopback.
type receiver struct {
	b      *bundle
	name   string
	server *http.Server
	addr   string
	scheme string

	mu     sync.Mutex
	got    []received
	answer func(n int, got received, w http.ResponseWriter) // n counts from 0
}

// receiver starts one under a name; answer nil means 202.
func (b *bundle) receiver(name string, answer func(n int, got received, w http.ResponseWriter)) *receiver {
	return b.receiverOn(name, true, answer)
}

func (b *bundle) receiverOn(name string, h2 bool, answer func(n int, got received, w http.ResponseWriter)) *receiver {
	b.tb.Helper()
	listener, err := (&net.ListenConfig{}).Listen(b.tb.Context(), "tcp", "127.0.0.1:0")
	must(b.tb, err)
	cert, err := testCA().LeafFor(name)
	must(b.tb, err)
	r := &receiver{b: b, name: name, addr: listener.Addr().String(), scheme: "https", answer: answer}
	config := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	r.server = &http.Server{Handler: r, TLSConfig: config, ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0)}
	if !h2 {
		r.server.Protocols = new(http.Protocols)
		r.server.Protocols.SetHTTP1(true)
	}
	b.names.set(name, "127.0.0.1")
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := r.server.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
			b.tb.Errorf("receiver: %v", err)
		}
	}()
	b.tb.Cleanup(func() {
		_ = r.server.Close()
		<-done
	})
	return r
}

func (r *receiver) port() string {
	_, port, _ := net.SplitHostPort(r.addr)
	return port
}

func (r *receiver) inbox() string { return r.scheme + "://" + r.name + ":" + r.port() + "/inbox" }

func (r *receiver) dest() string { return r.name + ":" + r.port() }

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return
	}
	got := received{
		method: req.Method, uri: req.RequestURI, host: req.Host, proto: req.Proto, header: req.Header.Clone(), body: string(body),
		conn: req.RemoteAddr, rfc9421: req.Header.Get("Signature-Input") != "",
	}
	got.signed = r.verify(req, body)
	got.resumed = req.TLS != nil && req.TLS.DidResume
	r.mu.Lock()
	n := len(r.got)
	r.got = append(r.got, got)
	r.mu.Unlock()
	if r.answer == nil {
		w.WriteHeader(http.StatusAccepted)
		return
	}
	r.answer(n, got, w)
}

func (r *receiver) requests() []received {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]received(nil), r.got...)
}

// verify checks the signature with code that is not the signer's.
func (r *receiver) verify(req *http.Request, body []byte) error {
	if req.Header.Get("Signature-Input") != "" {
		return r.verifyRFC9421(req, body)
	}
	if req.Method == http.MethodPost {
		sum := sha256.Sum256(body)
		if want := "SHA-256=" + base64.StdEncoding.EncodeToString(sum[:]); req.Header.Get("Digest") != want {
			return fmt.Errorf("digest %q, want %q", req.Header.Get("Digest"), want)
		}
	}
	req.Header.Set("Host", req.Host)
	v, err := httpsig.NewVerifier(req)
	if err != nil {
		return err
	}
	key, ok := r.b.public[v.KeyId()]
	if !ok {
		return fmt.Errorf("unknown key id %s", v.KeyId())
	}
	return v.Verify(key, httpsig.RSA_SHA256)
}

func (r *receiver) verifyRFC9421(req *http.Request, body []byte) error {
	fields := httpsign.Headers("@method", "@target-uri")
	if req.Method == http.MethodPost {
		reader := io.NopCloser(bytes.NewReader(body))
		if err := httpsign.ValidateContentDigestHeader(req.Header.Values("Content-Digest"), &reader, []string{httpsign.DigestSha256}); err != nil {
			return err
		}
		fields = httpsign.Headers("@method", "@target-uri", "content-digest")
	}
	details, err := httpsign.RequestDetails("sig1", req)
	if err != nil {
		return err
	}
	key, ok := r.b.public[details.KeyID]
	if !ok {
		return fmt.Errorf("unknown key id %s", details.KeyID)
	}
	v, err := httpsign.NewRSAVerifier(*key, httpsign.NewVerifyConfig(), fields)
	if err != nil {
		return err
	}
	clone := req.Clone(req.Context())
	path, query, _ := strings.Cut(req.RequestURI, "?")
	clone.URL = &url.URL{Scheme: "https", Host: r.dest(), Path: path, RawQuery: query}
	return httpsign.VerifyRequest("sig1", *v, clone)
}

// status answers always the same.
func status(code int) func(int, received, http.ResponseWriter) {
	return func(_ int, _ received, w http.ResponseWriter) { w.WriteHeader(code) }
}
