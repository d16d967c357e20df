package mastodonenv

import (
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/idna"
)

// Config is what Queueville needs of a Mastodon server's configuration. Copies share its slices and pointers; nobody writes to it.
type Config struct {
	Redis   Redis // delivery failures, feeds, locks
	Sidekiq Redis // queues; equal to Redis unless set apart
	Cache   Redis // Rails' cache store; equal to Redis unless set apart
	// Namespace is REDIS_NAMESPACE: keys on Redis and Sidekiq begin with it and a colon, those on Cache with "<namespace>_cache:".
	// "" is none, and the only thing that Mastodon 4.4 and later accept.
	Namespace string

	Postgres           Postgres
	Replica            *Postgres // nil without a read replica
	PreparedStatements bool      // false behind PgBouncer in transaction mode

	LocalDomain      string   // the domain of account names; lower case, ASCII (punycode), with its port if it has one
	WebDomain        string   // the host of all URLs; LocalDomain unless set apart
	AlternateDomains []string // further hosts that are this server

	AllowedPrivateAddresses []netip.Prefix // may be connected to although they are private
	HTTPProxy               *url.URL       // for all requests; nil for none. May hold a password: do not print it
	HTTPHiddenProxy         *url.URL       // for .onion and .i2p; nil: HTTPProxy
	AllowHiddenServices     bool           // .onion and .i2p may be connected to
	MaxRequestPoolSize      int            // connections to other servers, per Ruby process; 512 unless set

	Encryption Encryption

	DisableFollowersSynchronization bool
	ReadyFilename                   string   // name of a file in Mastodon's tmp/ that says Sidekiq is ready; "" for none
	ExperimentalFeatures            []string // e.g. "fasp"
	Version                         Version  // of Mastodon; zero when unknown
}

// Encryption holds what decrypts Active Record's encrypted columns. All empty when Mastodon has none (before 4.3).
type Encryption struct {
	PrimaryKey, DeterministicKey, KeyDerivationSalt Secret
}

// Complete tells whether all three are set.
func (e Encryption) Complete() bool {
	return e.PrimaryKey != "" && e.DeterministicKey != "" && e.KeyDerivationSalt != ""
}

// String describes the configuration without its secrets.
func (c *Config) String() string {
	return fmt.Sprintf("domain %s, redis %s, sidekiq %s, cache %s, postgres %s", c.LocalDomain, c.Redis, c.Sidekiq, c.Cache, c.Postgres)
}

// LogValue describes the configuration without its secrets.
func (c *Config) LogValue() slog.Value {
	attrs := []slog.Attr{
		slog.String("local_domain", c.LocalDomain), slog.String("web_domain", c.WebDomain),
		slog.String("redis", c.Redis.String()), slog.String("sidekiq_redis", c.Sidekiq.String()),
		slog.String("cache_redis", c.Cache.String()), slog.String("postgres", c.Postgres.String()),
		slog.Bool("prepared_statements", c.PreparedStatements), slog.Bool("encryption_keys", c.Encryption.Complete()),
		slog.String("mastodon_version", c.Version.String()),
	}
	if c.Namespace != "" {
		attrs = append(attrs, slog.String("redis_namespace", c.Namespace))
	}
	return slog.GroupValue(attrs...)
}

// reader collects problems while a Config is made of an Env.
type reader struct {
	env      *Env
	problems []Problem
}

// Config makes the configuration and returns every problem with it. The Config is never nil, but with a problem of severity error it is
// not to be run with.
func (e *Env) Config() (*Config, []Problem) {
	r := &reader{env: e}
	c := &Config{Version: e.version, MaxRequestPoolSize: 512}
	r.checkRailsEnv()
	r.readRedis(c)
	r.readPostgres(c)
	r.readDomains(c)
	r.readNetwork(c)
	r.readEncryption(c)
	c.DisableFollowersSynchronization = r.text("DISABLE_FOLLOWERS_SYNCHRONIZATION") == "true"
	c.ReadyFilename = r.readyFilename()
	c.ExperimentalFeatures = list(r.text("EXPERIMENTAL_FEATURES"))
	return c, r.problems
}

func (r *reader) errorf(name, hint, format string, args ...any) {
	r.problems = append(r.problems, r.env.problem(SeverityError, name, hint, format, args...))
}

func (r *reader) warnf(name, hint, format string, args ...any) {
	r.problems = append(r.problems, r.env.problem(SeverityWarning, name, hint, format, args...))
}

// text returns a variable that is no secret; "" when it is not set. Quotes that docker-compose has handed over as part of the value are
// taken off, with a warning, once per variable.
func (r *reader) text(name string) string {
	v, ok := r.env.values[name]
	if !ok {
		return ""
	}
	if n := len(v); n >= 2 && (v[0] == '"' || v[0] == '\'') && v[n-1] == v[0] {
		r.warnf(name, "write it without: docker-compose and systemd differ from dotenv here", "the value has quotes around it, which are ignored")
		v = v[1 : n-1]
		r.env.values[name] = v
	}
	if t := strings.TrimSpace(v); t != v {
		r.warnf(name, "remove it", "there is white space around the value, which is ignored")
		v = t
		r.env.values[name] = v
	}
	return v
}

// secret returns a variable as it is: quotes and spaces may belong to a password.
func (r *reader) secret(name string) Secret {
	v := r.env.values[name]
	if n := len(v); n >= 2 && (v[0] == '"' || v[0] == '\'') && v[n-1] == v[0] {
		r.warnf(name, "write it without, unless they are part of it", "the value has quotes around it, and they count")
	}
	return Secret(v)
}

func (r *reader) isSet(name string) bool { return r.env.values[name] != "" }

// number reads a whole number from low to high; fallback when it is not set or wrong.
func (r *reader) number(name string, fallback, low, high int) int {
	v := r.text(name)
	if v == "" {
		return fallback
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < low || n > high {
		r.errorf(name, fmt.Sprintf("write a whole number from %d to %d", low, high), "%q is not a number in range", shorten(v))
		return fallback
	}
	return n
}

func (r *reader) checkRailsEnv() {
	if v := r.text("RAILS_ENV"); v != "" && v != "production" {
		r.errorf("RAILS_ENV", "set it to production, or leave it out", "%q is not production, and what Mastodon reads then differs", shorten(v))
	}
}

func (r *reader) readDomains(c *Config) {
	c.LocalDomain = r.domain("LOCAL_DOMAIN")
	if c.LocalDomain == "" && !r.isSet("LOCAL_DOMAIN") {
		r.errorf("LOCAL_DOMAIN", "set it to the domain of this server's account names", "is not set")
	}
	if c.WebDomain = r.domain("WEB_DOMAIN"); c.WebDomain == "" {
		c.WebDomain = c.LocalDomain
	}
	for _, d := range list(r.text("ALTERNATE_DOMAINS")) {
		if host, ok := normalizeDomain(d); ok {
			c.AlternateDomains = append(c.AlternateDomains, host)
		} else {
			r.errorf("ALTERNATE_DOMAINS", "write domains with commas between them", "%q is not a domain", shorten(d))
		}
	}
}

func (r *reader) domain(name string) string {
	v := r.text(name)
	if v == "" {
		return ""
	}
	host, ok := normalizeDomain(v)
	if !ok {
		r.errorf(name, "write the bare domain, without https:// and without a path", "%q is not a domain", shorten(v))
	}
	return host
}

// normalizeDomain gives host[:port] in lower case and punycode.
func normalizeDomain(s string) (string, bool) {
	host, port, hasPort := strings.Cut(s, ":")
	if n, err := strconv.Atoi(port); hasPort && (err != nil || n < 1 || n > 65535) {
		return "", false
	}
	ascii, err := idna.Lookup.ToASCII(strings.TrimSuffix(host, "."))
	if err != nil || ascii == "" || len(ascii) > 253 || strings.ContainsAny(ascii, "/@ \t?#%\\[]") {
		return "", false
	}
	ascii = strings.ToLower(ascii)
	if hasPort {
		ascii += ":" + port
	}
	return ascii, true
}

func (r *reader) readEncryption(c *Config) {
	const prefix = "ACTIVE_RECORD_ENCRYPTION_"
	names := []string{prefix + "PRIMARY_KEY", prefix + "DETERMINISTIC_KEY", prefix + "KEY_DERIVATION_SALT"}
	c.Encryption = Encryption{PrimaryKey: r.secret(names[0]), DeterministicKey: r.secret(names[1]), KeyDerivationSalt: r.secret(names[2])}
	var missing []string
	for _, name := range names {
		if !r.isSet(name) {
			missing = append(missing, name)
		}
	}
	switch {
	case len(missing) == 0:
	case len(missing) == len(names) && !c.Version.AtLeast(4, 3):
		if !c.Version.Known() {
			r.warnf(prefix+"*", "set them as Mastodon has them; before 4.3 there are none", "not set, so keys that are encrypted in the database cannot be read")
		}
	default:
		for _, name := range missing {
			r.errorf(name, "copy it from the environment that Mastodon runs with", "is not set; Mastodon does not start without it since 4.3")
		}
	}
}

func (r *reader) readyFilename() string {
	v := r.text("MASTODON_SIDEKIQ_READY_FILENAME")
	if strings.ContainsAny(v, "/\\\x00") || v == ".." || v == "." || len(v) > 255 {
		r.errorf("MASTODON_SIDEKIQ_READY_FILENAME", "write a bare file name; it is made in Mastodon's tmp directory", "%q is not a file name", shorten(v))
		return ""
	}
	return v
}

// list splits at commas and drops what is empty.
func list(s string) []string {
	var out []string
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}

// shorten keeps a value that is no secret fit for a message.
func shorten(s string) string {
	if len(s) > 60 {
		return strings.ToValidUTF8(s[:60], "") + "…"
	}
	return s
}

// names returns the variables with a prefix that are set to something, in order.
func (r *reader) names(prefix string) []string {
	var out []string
	for name, v := range r.env.values {
		if v != "" && strings.HasPrefix(name, prefix) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}
