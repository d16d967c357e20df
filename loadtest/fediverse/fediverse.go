package fediverse

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sort"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const (
	defaultSkew     = 12 * time.Hour
	defaultMaxBody  = 1 << 20
	defaultLedger   = 1 << 20
	portAttempts    = 50
	hostsPerSubnet  = 250 // 127.b.c.1 to 127.b.c.250
	headerTimeout   = 10 * time.Second
	readTimeout     = 30 * time.Second
	idleTimeout     = 2 * time.Minute
	maxHeaderBytes  = 16 << 10
	silentConnLimit = 4096 // connections that all silent hosts together keep open
)

// Fediverse is a running set of instances. All methods are safe for concurrent use.
type Fediverse struct {
	cfg    Config
	port   uint16
	hosts  []*instance
	byAddr map[netip.Addr]*instance
	byName map[string]*instance
	ledger *ledger
	verify verifier
	names  *nameServer

	servers   [2]*http.Server // with and without HTTP/2
	listeners []net.Listener
	holes     []*blackhole

	stop     chan struct{} // closed by Close: ends waits in handlers
	stopOnce sync.Once
	gate     sync.RWMutex // guards stopped: no handler may join wg once Close waits for it
	stopped  bool
	closeErr error
	wg       sync.WaitGroup // accept loops and handlers

	silentMu sync.Mutex
	silent   []net.Conn // kept open, unanswered
}

// instance is one host at work.
type instance struct {
	Host
	number   int // index into Config.Hosts
	address  netip.Addr
	hash     uint64 // of seed and name
	counters counters
	limiter  limiter

	leafOnce sync.Once
	leaf     *tls.Certificate
	leafErr  error
}

// Start binds all addresses and serves. Every problem of cfg is returned at once, wrapped in ErrConfig. ctx bounds the start only;
// end the fediverse with Close.
func Start(ctx context.Context, cfg Config) (*Fediverse, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.ClockSkew == 0 {
		cfg.ClockSkew = defaultSkew
	}
	if cfg.MaxBodyBytes == 0 {
		cfg.MaxBodyBytes = defaultMaxBody
	}
	if cfg.LedgerEntries == 0 {
		cfg.LedgerEntries = defaultLedger
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	f := &Fediverse{
		cfg:    cfg,
		byAddr: make(map[netip.Addr]*instance, len(cfg.Hosts)),
		byName: make(map[string]*instance, len(cfg.Hosts)),
		ledger: newLedger(cfg.LedgerEntries, time.Now()),
		stop:   make(chan struct{}),
	}
	f.number()
	if err := f.listen(ctx); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	f.verify = verifier{keys: cfg.Keys, skew: cfg.ClockSkew, port: strconv.Itoa(int(f.port))}
	names, err := startNames(ctx, f.records())
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	f.names = names

	return f, nil
}

// number makes the instances and gives each its address: 127.64.0.1 to 127.64.0.250, then 127.64.1.1 and so on.
func (f *Fediverse) number() {
	for i, host := range f.cfg.Hosts {
		in := &instance{
			Host:    host,
			number:  i,
			address: addressOf(i),
			hash:    hashName(f.cfg.Seed, host.Name),
		}
		in.limiter.perSecond = host.PerSecond
		f.hosts = append(f.hosts, in)
		f.byAddr[in.address] = in
		f.byName[host.Name] = in
	}
}

func addressOf(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{127, 64, byte(i / hostsPerSubnet), byte(i%hostsPerSubnet) + 1})
}

// Address is the address of host number i (of Config.Hosts), for clients that do not ask the name server.
func Address(i int) string { return addressOf(i).String() }

// records is what the name server knows.
func (f *Fediverse) records() map[string]nameRecord {
	records := make(map[string]nameRecord, len(f.hosts))
	for _, in := range f.hosts {
		records[in.Name] = nameRecord{address: in.address, naming: in.Naming}
	}

	return records
}

// listen finds a port that is free on every address, binds it, and starts to serve.
func (f *Fediverse) listen(ctx context.Context) error {
	for _, in := range f.hosts {
		if in.Naming == NameFound && in.Connecting == ConnectAccept {
			f.servers[0] = f.newServer(true)
			f.servers[1] = f.newServer(false)

			break
		}
	}
	var err error
	for range portAttempts {
		var bound []net.Listener
		if bound, err = f.bind(ctx); err == nil {
			f.serve(bound)

			return nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) || ctx.Err() != nil || f.cfg.Port != 0 {
			break
		}
	}

	return fmt.Errorf("listen on %d loopback addresses: %w", len(f.hosts), err)
}

// bind takes one port on all addresses that listen, or nothing. The listeners are in the order of the hosts, nil where none is.
func (f *Fediverse) bind(ctx context.Context) ([]net.Listener, error) {
	var config net.ListenConfig
	bound := make([]net.Listener, len(f.hosts))
	release := func(cause error) error {
		for _, l := range bound {
			if l != nil {
				cause = errors.Join(cause, l.Close())
			}
		}
		for _, hole := range f.holes {
			cause = errors.Join(cause, hole.close())
		}
		f.holes = nil

		return cause
	}
	// The port is taken where nobody else would be given one: the kernel hands out ports for 127.0.0.1 and 0.0.0.0 mostly.
	probe, err := config.Listen(ctx, "tcp4", netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 64, 255, 254}), f.cfg.Port).String())
	if err != nil {
		return nil, fmt.Errorf("find a port: %w", err)
	}
	f.port = netip.MustParseAddrPort(probe.Addr().String()).Port()
	defer func() { _ = probe.Close() }()
	for i, in := range f.hosts {
		if in.Naming != NameFound || in.Connecting == ConnectRefuse {
			continue
		}
		at := netip.AddrPortFrom(in.address, f.port)
		if in.Connecting == ConnectBlackhole {
			hole, err := openBlackhole(at)
			if err == nil {
				f.holes = append(f.holes, hole)

				continue
			}
			if !errors.Is(err, errors.ErrUnsupported) {
				return nil, release(err)
			}
		}
		listener, err := config.Listen(ctx, "tcp4", at.String())
		if err != nil {
			return nil, release(err)
		}
		bound[i] = listener
	}

	return bound, nil
}

// serve starts a goroutine for each listener.
func (f *Fediverse) serve(bound []net.Listener) {
	for i, listener := range bound {
		if listener == nil {
			continue
		}
		f.listeners = append(f.listeners, listener)
		in := f.hosts[i]
		if !in.serves() {
			f.wg.Go(func() { f.acceptSilently(in, listener) })

			continue
		}
		if f.cfg.Live != nil {
			listener = &liveListener{Listener: listener, f: f, host: i}
		}
		server := f.servers[0]
		if in.HTTP1Only {
			server = f.servers[1]
		}
		f.wg.Go(func() {
			_ = server.ServeTLS(listener, "", "") // ends with ErrServerClosed or the listener's close
		})
	}
}

// newServer makes a server for hosts with or without HTTP/2.
func (f *Fediverse) newServer(withHTTP2 bool) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(withHTTP2)

	return &http.Server{
		Handler:           http.HandlerFunc(f.receive),
		TLSConfig:         &tls.Config{GetCertificate: f.certificate, MinVersion: tls.VersionTLS12},
		Protocols:         &protocols,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(f.cfg.Log.Handler(), slog.LevelDebug), // clients that refuse our certificates
		ConnState: func(conn net.Conn, state http.ConnState) {
			if state == http.StateNew {
				if in := f.at(conn.LocalAddr()); in != nil {
					in.counters.connections.Add(1)
				}
			}
		},
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, instanceKey{}, f.at(conn.LocalAddr()))
		},
	}
}

// instanceKey is the context key of the instance that a connection belongs to.
type instanceKey struct{}

// at returns the instance at a local address: the address and not the Host header decides, for that one is the client's to write.
func (f *Fediverse) at(local net.Addr) *instance {
	address, ok := local.(*net.TCPAddr)
	if !ok {
		return nil
	}

	return f.byAddr[address.AddrPort().Addr().Unmap()]
}

// certificate issues a host's certificate at its first handshake.
func (f *Fediverse) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	in := f.at(hello.Conn.LocalAddr())
	if in == nil {
		return nil, fmt.Errorf("%w: no host at %s", ErrConfig, hello.Conn.LocalAddr())
	}
	in.leafOnce.Do(func() {
		name, now := in.Name, time.Now()
		notBefore, notAfter := now.Add(-time.Hour), now.Add(30*24*time.Hour)
		switch in.Certificate {
		case CertificateExpired:
			notBefore, notAfter = now.Add(-90*24*time.Hour), now.Add(-24*time.Hour)
		case CertificateWrongName:
			name = "wrong-name.fedi.test"
		case CertificateValid:
		}
		leaf, err := f.cfg.Authority.Leaf(name, notBefore, notAfter)
		if err != nil {
			in.leafErr = fmt.Errorf("issue a certificate for %s: %w", in.Name, err)

			return
		}
		in.leaf = &leaf
	})

	return in.leaf, in.leafErr
}

// acceptSilently takes connections and says nothing on them.
func (f *Fediverse) acceptSilently(in *instance, listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		in.counters.connections.Add(1)
		f.keepSilent(conn)
	}
}

// keepSilent keeps a connection that is never answered.
func (f *Fediverse) keepSilent(conn net.Conn) {
	f.silentMu.Lock()
	defer f.silentMu.Unlock()
	if len(f.silent) >= silentConnLimit { // the oldest has been waited for long enough
		_ = f.silent[0].Close()
		f.silent = f.silent[1:]
	}
	f.silent = append(f.silent, conn)
}

// Port is the TCP port that all instances listen on.
func (f *Fediverse) Port() int { return int(f.port) }

// Origin returns the scheme and authority of a host: https://quick-017.fedi.test:38211.
func (f *Fediverse) Origin(name string) string {
	return "https://" + net.JoinHostPort(name, strconv.Itoa(int(f.port)))
}

// InboxURL returns the shared inbox of a host.
func (f *Fediverse) InboxURL(name string) string { return f.Origin(name) + "/inbox" }

// Resolver returns a resolver that knows the fediverse's names and no others.
func (f *Fediverse) Resolver() *net.Resolver { return f.names.resolver() }

// NameServer returns the address of the name server (UDP and TCP), for programs that are told of one.
func (f *Fediverse) NameServer() string { return f.names.addr() }

// RootCAs returns the certificates that a client has to trust.
func (f *Fediverse) RootCAs() *x509.CertPool { return f.cfg.Authority.Pool() }

// Lookup returns what the receivers know of a delivery: false if no attempt with a right signature arrived.
func (f *Fediverse) Lookup(key Key) (Delivery, bool) { return f.ledger.lookup(key) }

// Forgotten returns how many attempts the ledger had no room for; above 0 Lookup's no means nothing.
func (f *Fediverse) Forgotten() uint64 { return f.ledger.missed.Load() }

// HostCounts returns every host's counts, in the order of Config.Hosts.
func (f *Fediverse) HostCounts() []HostCounts {
	list := make([]HostCounts, len(f.hosts))
	for i, in := range f.hosts {
		list[i] = HostCounts{Name: in.Name, Class: in.Class, Counts: in.counters.snapshot()}
	}

	return list
}

// ClassCounts returns the counts of each class.
func (f *Fediverse) ClassCounts() map[string]Counts {
	classes := make(map[string]Counts)
	for _, in := range f.hosts {
		sum, one := classes[in.Class], in.counters.snapshot()
		sum.Add(&one)
		classes[in.Class] = sum
	}

	return classes
}

// Total returns the counts of all hosts together.
func (f *Fediverse) Total() Counts {
	var sum Counts
	for _, in := range f.hosts {
		one := in.counters.snapshot()
		sum.Add(&one)
	}

	return sum
}

// Accepted returns how many deliveries were answered 2xx. It is cheap: one addition a host.
func (f *Fediverse) Accepted() uint64 {
	var sum uint64
	for _, in := range f.hosts {
		sum += in.counters.accepted.Load()
	}

	return sum
}

// Classes returns the names of all classes, sorted.
func (f *Fediverse) Classes() []string {
	seen := make(map[string]bool)
	var names []string
	for _, in := range f.hosts {
		if !seen[in.Class] {
			seen[in.Class] = true
			names = append(names, in.Class)
		}
	}
	sort.Strings(names)

	return names
}

// Close ends all connections, frees all addresses and waits for every goroutine. Calling it again does nothing.
func (f *Fediverse) Close() error {
	f.stopOnce.Do(func() {
		f.gate.Lock()
		f.stopped = true
		f.gate.Unlock()
		close(f.stop)
		var problems []error
		for _, server := range f.servers {
			if server != nil {
				problems = append(problems, server.Close())
			}
		}
		for _, listener := range f.listeners {
			if err := listener.Close(); !errors.Is(err, net.ErrClosed) { // a server has closed its own
				problems = append(problems, err)
			}
		}
		for _, hole := range f.holes {
			problems = append(problems, hole.close())
		}
		if f.names != nil {
			problems = append(problems, f.names.close())
		}
		f.wg.Wait()
		f.silentMu.Lock()
		for _, conn := range f.silent {
			_ = conn.Close() // nothing was written that could be lost
		}
		f.silent = nil
		f.silentMu.Unlock()
		f.closeErr = errors.Join(problems...)
	})

	return f.closeErr
}
