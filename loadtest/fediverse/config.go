package fediverse

import (
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// Bounds that hold whatever a Config says.
const (
	// MaxHosts is the most instances of one fediverse: each costs a listener, and addresses are numbered in three octets.
	MaxHosts = 20_000
	// maxLatency bounds how long a receiver thinks, and hangs when told to hang: no test outlasts it by much.
	maxLatency = 2 * time.Minute
	// maxResponseBytes bounds the body of one answer.
	maxResponseBytes = 64 << 20
)

// ErrConfig is wrapped by every complaint about a Config.
var ErrConfig = errors.New("fediverse configuration")

// Keys finds the public key of an account by the key id that a signature names.
type Keys interface {
	// PublicKey returns the key of keyID, false when no account has such a key. Safe for concurrent use.
	PublicKey(keyID string) (*rsa.PublicKey, bool)
}

// KeyMap is the Keys of a fixed set of accounts: key id → public key. It must not be changed once in use.
type KeyMap map[string]*rsa.PublicKey

// PublicKey implements Keys.
func (m KeyMap) PublicKey(keyID string) (*rsa.PublicKey, bool) {
	key, ok := m[keyID]

	return key, ok
}

// Authority issues the receivers' certificates.
type Authority interface {
	// Leaf returns a server certificate for name, valid between the two times.
	Leaf(name string, notBefore, notAfter time.Time) (tls.Certificate, error)
	// Pool returns the roots to be trusted by whoever talks to the receivers.
	Pool() *x509.CertPool
}

// Config describes a fediverse.
type Config struct {
	Hosts     []Host    // the instances; names must differ
	Keys      Keys      // who may sign
	Authority Authority // who issues certificates
	Seed      uint64    // decides latencies and failures

	// ClockSkew is how far a signature's date may be from now. 0 means 12 h, Mastodon's own limit.
	ClockSkew time.Duration
	// MaxBodyBytes is the largest activity taken; larger ones get 413. 0 means 1 MiB, Mastodon's own limit.
	MaxBodyBytes int64
	// LedgerEntries bounds how many different deliveries are remembered (about 50 bytes each); later ones are counted, not
	// remembered. 0 means 2^20.
	LedgerEntries int
	// Log gets what the receivers refuse for its signature or digest, at debug level. Nil means nowhere.
	Log *slog.Logger
	// Port is what all instances listen on; 0 finds one that is free.
	Port uint16
	// Live, if not nil, decides of every host that accepts connections what it does with each of them, and with each request.
	Live Live
}

// Host is one instance.
type Host struct {
	Name  string `json:"name"`  // under .test, lower case, e.g. quick-017.fedi.test
	Class string `json:"class"` // label that counts are summed by, e.g. quick
	Behaviour
}

// Naming is what happens when a name is looked up.
type Naming string

// The ways a name resolves.
const (
	NameFound    Naming = ""         // an A record
	NameMissing  Naming = "nxdomain" // NXDOMAIN
	NameServfail Naming = "servfail" // SERVFAIL
	NameTimeout  Naming = "timeout"  // no answer
)

// Connecting is what happens when somebody connects.
type Connecting string

// The ways a host takes connections.
const (
	ConnectAccept    Connecting = ""          // accepted and served
	ConnectRefuse    Connecting = "refuse"    // nothing listens: refused by the kernel
	ConnectSilent    Connecting = "silent"    // accepted, then never a byte: the TLS handshake times out
	ConnectBlackhole Connecting = "blackhole" // SYNs are dropped: the connect times out (on Linux; elsewhere as silent)
)

// Certificate is which certificate a host shows.
type Certificate string

// The certificates a host can show.
const (
	CertificateValid     Certificate = ""           // for its name, valid now
	CertificateExpired   Certificate = "expired"    // for its name, expired yesterday
	CertificateWrongName Certificate = "wrong_name" // valid, for another name
)

// Behaviour is how one host acts. The zero value resolves, accepts, verifies and answers 202 at once.
type Behaviour struct {
	Naming      Naming      `json:"naming,omitempty"`
	Connecting  Connecting  `json:"connecting,omitempty"`
	Certificate Certificate `json:"certificate,omitempty"`
	HTTP1Only   bool        `json:"http1_only,omitempty"` // HTTP/2 is not offered

	// A request takes between LatencyMin and LatencyMax before it is answered, drawn per attempt.
	LatencyMin time.Duration `json:"latency_min_ns,omitempty"`
	LatencyMax time.Duration `json:"latency_max_ns,omitempty"`
	// Hang: the request is read and never answered, until the client leaves (or two minutes have passed).
	Hang bool `json:"hang,omitempty"`

	// WantRFC9421: a cavage signature is answered 401, however right it is; an RFC 9421 signature is taken.
	WantRFC9421 bool `json:"want_rfc9421,omitempty"`
	// PerSecond, if above 0, is how many requests a second are taken (with as many in a burst); others get 429 and RetryAfter.
	PerSecond float64 `json:"per_second,omitempty"`
	// RetryAfter, if above 0, is sent in whole seconds with every 429 and 503.
	RetryAfter time.Duration `json:"retry_after_ns,omitempty"`

	// Status is the answer to a good request; 0 means 202.
	Status int `json:"status,omitempty"`
	// FailShare (0 to 1) of attempts are answered FailStatus instead; FailStatus 0 means 503.
	FailShare  float64 `json:"fail_share,omitempty"`
	FailStatus int     `json:"fail_status,omitempty"`
	// Location is sent with a Status of 3xx.
	Location string `json:"location,omitempty"`
	// ResponseBytes is the size of the answer's body, at most 64 MiB.
	ResponseBytes int64 `json:"response_bytes,omitempty"`
}

// serves says whether requests can reach the host's handler.
func (b *Behaviour) serves() bool { return b.Connecting == ConnectAccept }

// validate returns every problem of the configuration.
func (c *Config) validate() error {
	var problems []error
	complain := func(format string, args ...any) {
		problems = append(problems, fmt.Errorf("%w: "+format, append([]any{ErrConfig}, args...)...))
	}
	if len(c.Hosts) == 0 || len(c.Hosts) > MaxHosts {
		complain("%d hosts, want 1 to %d", len(c.Hosts), MaxHosts)
	}
	if c.Keys == nil {
		complain("no keys")
	}
	if c.Authority == nil {
		complain("no certificate authority")
	}
	seen := make(map[string]bool, len(c.Hosts))
	for i := range c.Hosts {
		host := &c.Hosts[i]
		switch {
		case !strings.HasSuffix(host.Name, ".test") || host.Name != strings.ToLower(host.Name):
			// .test is reserved (RFC 6761): a synthetic name that leaks can reach nobody.
			complain("host %q: want a lower-case name under .test", host.Name)
		case seen[host.Name]:
			complain("host %q: twice", host.Name)
		}
		seen[host.Name] = true
		if err := host.check(); err != nil {
			complain("host %q: %w", host.Name, err)
		}
	}

	return errors.Join(problems...)
}

// check says what is out of bounds in a behaviour.
func (b *Behaviour) check() error {
	var problems []error
	if b.LatencyMin < 0 || b.LatencyMax > maxLatency || b.LatencyMin > b.LatencyMax {
		problems = append(problems, fmt.Errorf("latency %v to %v, want 0 to %v, ascending", b.LatencyMin, b.LatencyMax, maxLatency))
	}
	if b.FailShare < 0 || b.FailShare > 1 || b.PerSecond < 0 {
		problems = append(problems, fmt.Errorf("fail share %v, want 0 to 1; %v per second, want 0 or more", b.FailShare, b.PerSecond))
	}
	for _, status := range []int{b.Status, b.FailStatus} {
		if status != 0 && (status < 200 || status > 599) {
			problems = append(problems, fmt.Errorf("status %d, want 200 to 599", status))
		}
	}
	if b.ResponseBytes < 0 || b.ResponseBytes > maxResponseBytes {
		problems = append(problems, fmt.Errorf("response of %d bytes, want 0 to %d", b.ResponseBytes, maxResponseBytes))
	}
	switch b.Naming {
	case NameFound, NameMissing, NameServfail, NameTimeout:
	default:
		problems = append(problems, fmt.Errorf("naming %q", b.Naming))
	}
	switch b.Connecting {
	case ConnectAccept, ConnectRefuse, ConnectSilent, ConnectBlackhole:
	default:
		problems = append(problems, fmt.Errorf("connecting %q", b.Connecting))
	}
	switch b.Certificate {
	case CertificateValid, CertificateExpired, CertificateWrongName:
	default:
		problems = append(problems, fmt.Errorf("certificate %q", b.Certificate))
	}

	return errors.Join(problems...)
}
