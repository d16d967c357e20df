package activitypub

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// sweepEvery is the time between two sweeps of the caches.
const sweepEvery = 30 * time.Second

// Deliverer delivers. It may be used by many goroutines at once. Make one with New, and keep Run running beside it.
type Deliverer struct {
	config    Config
	release   release
	web       string   // https://<WEB_DOMAIN>
	userAgent []string // one element, shared by all requests
	exchange  time.Duration

	hosts       *Hosts
	outage      *outage
	tracker     *tracker
	unavailable *unavailable
	keys        *keyStore
	given       *givenKeys
	digests     *followerDigests
	knocks      *knocks
	direct      *http.Transport // everything, unless
	hiddenWay   *http.Transport // hidden services have a proxy of their own
}

// New checks c, fills its defaults and returns every problem at once. It connects to nothing and starts nothing.
func New(c Config) (*Deliverer, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	rel, err := parseRelease(c.Version)
	if err != nil {
		return nil, fmt.Errorf("activitypub: Version: %w", err)
	}
	web := "https://" + c.WebDomain
	o := newOutage(c.Logger)
	d := &Deliverer{
		config:    c,
		release:   rel,
		web:       web,
		userAgent: []string{fmt.Sprintf("Mastodon/%s (http.rb/%s; +%s/)", c.Version, rel.httpRB(), web)},
		exchange:  c.DNSTimeout + c.ConnectTimeout + c.TLSTimeout + c.ResponseTimeout,

		hosts:       newHosts(c.MaxHosts, c.HostLimit, c.HostStart, o),
		outage:      o,
		unavailable: &unavailable{db: c.DB},
		keys: &keyStore{
			db: c.DB, signer: c.Signer, decrypt: newDecrypter(c.EncryptionPrimaryKey, c.EncryptionKeyDerivationSalt),
			web: web, entries: make(map[int64]*keyEntry),
		},
		given:   &givenKeys{signer: c.Signer, keys: make(map[[32]byte]givenKey)},
		digests: &followerDigests{db: c.DB, owners: make(map[int64]*digestLoad)},
		knocks:  &knocks{until: make(map[string]time.Time)},
	}
	d.tracker = &tracker{
		base: c.BaseRedis, basePrefix: c.BasePrefix, cache: c.CacheRedis, cacheKey: c.CachePrefix + "unavailable_domains",
		db: c.DB, unavailable: d.unavailable, log: c.Logger,
		pending: make(map[string]trackEvent), rows: make(map[string]bool),
	}
	d.hosts.backoff = c.FirstBackoff
	d.direct = newTransport(&c, d.dialer(c.HTTPProxy != nil), c.HTTPProxy)
	d.hiddenWay = d.direct
	if c.HiddenProxy != nil {
		d.hiddenWay = newTransport(&c, d.dialer(true), c.HiddenProxy)
	}
	return d, nil
}

func (d *Deliverer) dialer(proxied bool) *dialer {
	return &dialer{
		guard:    guard{allowed: d.config.AllowedPrivate, off: proxied},
		resolver: d.config.Resolver,
		dns:      d.config.DNSTimeout, connect: d.config.ConnectTimeout, write: d.config.WriteTimeout,
		stagger: 100 * time.Millisecond,
		dialIP:  (&net.Dialer{KeepAlive: 15 * time.Second}).DialContext,
	}
}

func (d *Deliverer) transport(host string) *http.Transport {
	if hidden(host) {
		return d.hiddenWay
	}
	return d.direct
}

// Run writes the failure tracker at least once a second, keeps the copy of unavailable_domains and sweeps the caches, until ctx ends; then
// it writes what is left. Stop delivering before ending it. It returns nil.
func (d *Deliverer) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	if !d.config.DryRun {
		wg.Go(func() { d.tracker.run(ctx) })
	}
	wg.Go(func() { d.refreshLoop(ctx) })
	wg.Go(func() { d.sweepLoop(ctx) })
	wg.Wait()
	d.direct.CloseIdleConnections()
	d.hiddenWay.CloseIdleConnections()
	return nil
}

func (d *Deliverer) refreshLoop(ctx context.Context) {
	// Twice as often as promised, so that deliveries never find it stale and look themselves.
	ticker := time.NewTicker(unavailableRefresh / 2)
	defer ticker.Stop()
	for {
		// An error needs no word here: Postgres's absence is reported where it hurts, by the deliveries that are deferred.
		_ = d.unavailable.refresh(ctx)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func (d *Deliverer) sweepLoop(ctx context.Context) {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			now := time.Now()
			d.hosts.sweep(now)
			d.keys.sweep(now)
			d.knocks.sweep(now)
			d.digests.sweep()
		case <-ctx.Done():
			return
		}
	}
}

// Flush writes what the failure tracker has pending. What could not be written stays pending.
func (d *Deliverer) Flush(ctx context.Context) error {
	if d.config.DryRun {
		return nil
	}
	return d.tracker.flush(ctx)
}

// Hosts returns the states of the destinations.
func (d *Deliverer) Hosts() *Hosts { return d.hosts }

// LocalOutage says whether deliveries are deferred because most hosts fail at once, since when, and how they fail.
func (d *Deliverer) LocalOutage() (on bool, since time.Time, reason string) {
	on, since, reason, _ = d.outage.state()
	return on, since, reason
}

// Stats are counters and gauges for metrics.
type Stats struct {
	// TrackerPending is how many hosts have events that are not written yet.
	TrackerPending int
	// TrackerDropped counts events lost because too many waited; TrackerFailures counts failed writes.
	TrackerDropped, TrackerFailures uint64
	// LocalOutages counts the times that it was us.
	LocalOutages uint64
	// CachedKeys is how many accounts' keys are in memory.
	CachedKeys int
}

// Stats returns the current numbers.
func (d *Deliverer) Stats() Stats {
	var s Stats
	s.TrackerPending, s.TrackerDropped, s.TrackerFailures = d.tracker.stats()
	_, _, _, s.LocalOutages = d.outage.state()
	d.keys.mu.Lock()
	s.CachedKeys = len(d.keys.entries)
	d.keys.mu.Unlock()
	return s
}

// keyErrorClass is what Ruby would call a key that cannot be used.
func keyErrorClass(err error) string {
	if errors.Is(err, errDecrypt) || errors.Is(err, errEncryptionKeys) {
		return classDecryption
	}
	return classKey
}
