package activitypub

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/redis/go-redis/v9"
)

// DB is what deliveries need of Postgres; *pgxpool.Pool is one. Statements work in every query mode of pgx, so also through
// PgBouncer in transaction mode.
type DB interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// Config is all that a Deliverer needs. New fills the defaults.
type Config struct {
	// Version of the Mastodon beside us, e.g. "4.7.0": it stands in the User-Agent and decides the order of signed headers,
	// whether refused requests are signed again by RFC 9421 (4.7+), and whether an unsalvageable answer clears the failure
	// tracker (before 4.6). Required.
	Version string
	// LocalDomain is LOCAL_DOMAIN; required unless WebDomain is set.
	LocalDomain string
	// WebDomain is WEB_DOMAIN, the host of all local URIs, with port if it has one. Default: LocalDomain.
	WebDomain string

	// DB is Mastodon's database. Required.
	DB DB
	// BaseRedis is Mastodon's base Redis, where the failure tracker lives. Required.
	BaseRedis redis.UniversalClient
	// BasePrefix stands before every key on BaseRedis: "" or "<REDIS_NAMESPACE>:" (Mastodon up to 4.3).
	BasePrefix string
	// CacheRedis is Mastodon's cache Redis. Default: BaseRedis.
	CacheRedis redis.UniversalClient
	// CachePrefix stands before every key on CacheRedis. Default: "cache:"; with a namespace "<ns>_cache:".
	CachePrefix string

	// AllowedPrivate are private addresses that may be connected to all the same (ALLOWED_PRIVATE_ADDRESSES).
	AllowedPrivate []netip.Prefix
	// HTTPProxy is http_proxy: every request goes through it, and it decides which addresses are reachable. nil: none.
	HTTPProxy *url.URL
	// HiddenProxy is http_hidden_proxy, for hosts under .onion and .i2p. nil: HTTPProxy.
	HiddenProxy *url.URL
	// AllowHidden is ALLOW_ACCESS_TO_HIDDEN_SERVICE; without it hosts under .onion and .i2p are refused.
	AllowHidden bool
	// DisableFollowersSync is DISABLE_FOLLOWERS_SYNCHRONIZATION.
	DisableFollowersSync bool

	// EncryptionPrimaryKey and EncryptionKeyDerivationSalt are ACTIVE_RECORD_ENCRYPTION_PRIMARY_KEY and _KEY_DERIVATION_SALT, needed
	// for the keypairs of Mastodon 4.7+. Empty: encrypted keys cannot be used. Secret.
	EncryptionPrimaryKey, EncryptionKeyDerivationSalt string

	// RootCAs verify the hosts' certificates. nil: the system's.
	RootCAs *x509.CertPool
	// Resolver finds addresses. nil: Go's own resolver with the system's configuration.
	Resolver Resolver

	// MaxIdleConns bounds the connections kept open between requests. Default 512, Mastodon's MAX_REQUEST_POOL_SIZE.
	MaxIdleConns int
	// IdleTimeout is how long a connection is kept unused. Default 30 s.
	IdleTimeout time.Duration
	// TLSSessions bounds the remembered TLS sessions, which make the next handshake with a host cheap. Default 1,024.
	TLSSessions int
	// DNSTimeout, ConnectTimeout, TLSTimeout limit the steps of connecting. Default 5 s each.
	DNSTimeout, ConnectTimeout, TLSTimeout time.Duration
	// WriteTimeout limits each write. Default 10 s.
	WriteTimeout time.Duration
	// HeaderTimeout limits the wait for the answer's first line once the request is sent. Default 10 s.
	HeaderTimeout time.Duration
	// ResponseTimeout limits the whole answer. Default 30 s; with the steps of connecting it bounds one exchange.
	ResponseTimeout time.Duration

	// Signer signs. nil: NewSigner's.
	Signer Signer
	// Logger gets what a person should know: an outage of ours, tracker events that could not be written. nil: nothing is logged.
	Logger *slog.Logger

	// HostLimit is how many requests a host may have in flight at most. More than 8 only one has that answers quickly. Default 64.
	HostLimit int
	// HostStart is how many it may have at first. Default 2.
	HostStart int
	// FirstBackoff is how long a host that just broke is left alone before one request tries it again; it doubles with each that fails, to an
	// hour. Default 1 min.
	FirstBackoff time.Duration
	// MaxHosts bounds the remembered hosts. Default 20,000.
	MaxHosts int

	// DryRun makes Deliver do everything up to sending: it signs, connects to no one, tracks nothing, and calls all of it Delivered.
	DryRun bool
}

// withDefaults returns c with its defaults filled in, and every problem.
func (c Config) withDefaults() (Config, error) {
	var problems []error
	require := func(ok bool, problem string) {
		if !ok {
			problems = append(problems, errors.New(problem))
		}
	}
	if c.WebDomain == "" {
		c.WebDomain = c.LocalDomain
	}
	require(c.WebDomain != "", "activitypub: LocalDomain and WebDomain are both empty")
	require(c.DB != nil, "activitypub: DB is missing")
	require(c.BaseRedis != nil, "activitypub: BaseRedis is missing")
	if _, err := parseRelease(c.Version); err != nil {
		problems = append(problems, fmt.Errorf("activitypub: Version: %w", err))
	}
	if c.CacheRedis == nil {
		c.CacheRedis = c.BaseRedis
	}
	if c.CachePrefix == "" {
		c.CachePrefix = "cache:"
	}
	if c.Resolver == nil {
		// Go's resolver, not libc's: it holds no thread while it waits.
		c.Resolver = &net.Resolver{PreferGo: true}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Signer == nil {
		c.Signer, _ = NewSigner()
	}
	for _, d := range []struct {
		name  string
		value *time.Duration
		def   time.Duration
	}{
		{"IdleTimeout", &c.IdleTimeout, 30 * time.Second},
		{"DNSTimeout", &c.DNSTimeout, 5 * time.Second},
		{"ConnectTimeout", &c.ConnectTimeout, 5 * time.Second},
		{"TLSTimeout", &c.TLSTimeout, 5 * time.Second},
		{"WriteTimeout", &c.WriteTimeout, 10 * time.Second},
		{"HeaderTimeout", &c.HeaderTimeout, 10 * time.Second},
		{"ResponseTimeout", &c.ResponseTimeout, 30 * time.Second},
		{"FirstBackoff", &c.FirstBackoff, firstBackoff},
	} {
		require(*d.value >= 0, "activitypub: "+d.name+" is negative")
		if *d.value == 0 {
			*d.value = d.def
		}
	}
	for _, n := range []struct {
		name  string
		value *int
		def   int
	}{
		{"MaxIdleConns", &c.MaxIdleConns, 512},
		{"TLSSessions", &c.TLSSessions, 1024},
		{"HostLimit", &c.HostLimit, 64},
		{"HostStart", &c.HostStart, 2},
		{"MaxHosts", &c.MaxHosts, 20_000},
	} {
		require(*n.value >= 0, "activitypub: "+n.name+" is negative")
		if *n.value == 0 {
			*n.value = n.def
		}
	}
	c.HostStart = min(c.HostStart, c.HostLimit)
	return c, errors.Join(problems...)
}
