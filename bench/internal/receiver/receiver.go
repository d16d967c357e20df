// Package receiver is the far side of the delivery suites: many inboxes on addresses of their own in 127.0.0.0/8, in one process that is
// not the contender's, as light as net/http allows, so that what is measured is the sender. It reads each request to its end, waits as long
// as it is told, answers 202, and verifies the digest and the signature of one request in Sample with code that is not the signer's.
//
// loadtest/fediverse is the thorough one, which verifies everything and can misbehave in many ways; its checks cost more than a delivery.
package receiver

import (
	"context"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/queueville/queueville/internal/synthca"
)

// Config says which inboxes there are. It travels to the receivers' process as JSON.
type Config struct {
	Hosts   int               `json:"hosts"`   // inboxes that answer, each at an address of its own, all at one port
	Dead    int               `json:"dead"`    // addresses that accept connections and never say a word
	TLS     bool              `json:"tls"`     // https
	HTTP2   bool              `json:"http2"`   // offer HTTP/2 with TLS
	Latency time.Duration     `json:"latency"` // before each answer
	Gather  int               `json:"gather"`  // once Warm have been answered, let so many requests come together before Latency begins
	Warm    int64             `json:"warm"`    // see Gather
	Sample  int               `json:"sample"`  // verify one request in so many
	Keys    map[string]string `json:"keys"`    // key id → public key, PEM
	CAFile  string            `json:"ca_file"` // where the authority's certificate is written
}

// Ready is what the process prints, as one line of JSON, once it listens.
type Ready struct {
	Control string   `json:"control"` // URL of the counts
	Inboxes []string `json:"inboxes"`
	Dead    []string `json:"dead"`
}

// Counts are what has been received so far.
type Counts struct {
	Received int64 `json:"received"`
	Ruby     int64 `json:"ruby"`     // of these, by the Ruby contender
	Verified int64 `json:"verified"` // signatures and digests that were checked and right
	Bad      int64 `json:"bad"`      // that were wrong
	InFlight int64 `json:"in_flight"`
	Peak     int64 `json:"peak"` // most in flight at once
	Conns    int64 `json:"conns"`
	Opened   int64 `json:"opened"` // connections ever accepted
}

// RubyAgent is in the User-Agent of the Ruby contender.
const RubyAgent = "bench-ruby"

// server is the whole process.
type server struct {
	cfg  Config
	keys map[string]*rsa.PublicKey

	wave  wave
	waits waits

	received, ruby, verified, bad, inFlight, peak, conns, opened atomic.Int64
}

const maxBody = 1 << 20

// Run serves until ctx ends. It prints Ready to out.
func Run(ctx context.Context, cfg Config, out io.Writer) error {
	s := &server{cfg: cfg, keys: map[string]*rsa.PublicKey{}}
	for id, text := range cfg.Keys {
		block, _ := pem.Decode([]byte(text))
		if block == nil {
			return fmt.Errorf("key %s is not PEM", id)
		}
		public, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return fmt.Errorf("read key %s: %w", id, err)
		}
		key, ok := public.(*rsa.PublicKey)
		if !ok {
			return fmt.Errorf("key %s is not RSA", id)
		}
		s.keys[id] = key
	}
	web := &http.Server{
		Handler: s, ReadHeaderTimeout: time.Minute, IdleTimeout: 5 * time.Minute, ErrorLog: log.New(io.Discard, "", 0), ConnState: s.count,
		Protocols: new(http.Protocols),
	}
	web.Protocols.SetHTTP1(true)
	web.Protocols.SetHTTP2(cfg.HTTP2)
	ready, listeners, holes, err := s.listen(ctx)
	if err != nil {
		return err
	}
	control, err := new(net.ListenConfig).Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen for control: %w", err)
	}
	ready.Control = "http://" + control.Addr().String()
	asked := http.NewServeMux()
	asked.HandleFunc("/", s.counts)
	asked.HandleFunc("/waits", s.waits.serve)
	counts := &http.Server{Handler: asked, ReadHeaderTimeout: time.Minute}

	var wg sync.WaitGroup
	wg.Go(func() { _ = counts.Serve(control) })
	for _, l := range listeners {
		wg.Go(func() { _ = web.Serve(l) })
	}
	for _, l := range holes {
		wg.Go(func() { swallow(l) })
	}
	if err := json.NewEncoder(out).Encode(ready); err != nil {
		return fmt.Errorf("say ready: %w", err)
	}
	<-ctx.Done()
	closeErr := errors.Join(web.Close(), counts.Close())
	for _, l := range holes {
		closeErr = errors.Join(closeErr, l.Close())
	}
	wg.Wait()
	return closeErr
}

// listen opens all addresses at one port, which is the first one's choice.
func (s *server) listen(ctx context.Context) (ready Ready, listeners, holes []net.Listener, err error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	var ca *synthca.CA
	scheme := "http"
	if s.cfg.TLS {
		scheme = "https"
		if ca, err = synthca.New(); err != nil {
			return ready, nil, nil, err
		}
		if err := os.WriteFile(s.cfg.CAFile, ca.PEM(), 0o600); err != nil {
			return ready, nil, nil, fmt.Errorf("write authority: %w", err)
		}
	}
	port := uint16(0)
	for i := range s.cfg.Hosts + s.cfg.Dead {
		addr := netip.AddrFrom4([4]byte{127, 40, byte(i >> 8), byte(i&0xff + 1)}) //nolint:gosec // as many as fit
		if i&0xff == 0xff {
			addr = netip.AddrFrom4([4]byte{127, 41, byte(i >> 8), 1}) //nolint:gosec // no address ends in 256
		}
		l, err := new(net.ListenConfig).Listen(ctx, "tcp4", netip.AddrPortFrom(addr, port).String())
		if err != nil {
			return ready, nil, nil, fmt.Errorf("listen: %w", err)
		}
		tcp, ok := l.Addr().(*net.TCPAddr)
		if !ok {
			return ready, nil, nil, errors.New("listener is not TCP")
		}
		port = uint16(tcp.Port) //nolint:gosec // it is a port
		inbox := scheme + "://" + l.Addr().String() + "/inbox"
		if i >= s.cfg.Hosts {
			holes = append(holes, l)
			ready.Dead = append(ready.Dead, inbox)
			continue
		}
		if s.cfg.TLS {
			leaf, err := ca.LeafFor(addr.String())
			if err != nil {
				return ready, nil, nil, err
			}
			own := config.Clone()
			own.Certificates = []tls.Certificate{leaf}
			own.NextProtos = []string{"http/1.1"}
			if s.cfg.HTTP2 {
				own.NextProtos = []string{"h2", "http/1.1"}
			}
			l = tls.NewListener(l, own)
		}
		listeners = append(listeners, l)
		ready.Inboxes = append(ready.Inboxes, inbox)
	}
	return ready, listeners, holes, nil
}

// swallow accepts connections and keeps them, silent, until the listener is closed.
func swallow(l net.Listener) {
	var kept []net.Conn
	for {
		c, err := l.Accept()
		if err != nil {
			break
		}
		kept = append(kept, c)
	}
	for _, c := range kept {
		_ = c.Close()
	}
}

func (s *server) count(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		s.conns.Add(1)
		s.opened.Add(1)
	case http.StateClosed, http.StateHijacked:
		s.conns.Add(-1)
	case http.StateActive, http.StateIdle:
	}
}

func (s *server) counts(w http.ResponseWriter, _ *http.Request) {
	_ = json.NewEncoder(w).Encode(Counts{
		Received: s.received.Load(), Ruby: s.ruby.Load(), Verified: s.verified.Load(), Bad: s.bad.Load(), InFlight: s.inFlight.Load(),
		Peak: s.peak.Load(), Conns: s.conns.Load(), Opened: s.opened.Load(),
	})
}

var buffers = sync.Pool{New: func() any { return new([16 << 10]byte) }}

// ServeHTTP is an inbox.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.waits.note(r.URL.Path, time.Now())
	flying := s.inFlight.Add(1)
	defer s.inFlight.Add(-1)
	for peak := s.peak.Load(); flying > peak && !s.peak.CompareAndSwap(peak, flying); peak = s.peak.Load() {
	}
	n := s.received.Load()
	if s.cfg.Sample > 0 && n%int64(s.cfg.Sample) == 0 {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err == nil {
			err = verify(r, body, s.keys)
		}
		if err != nil {
			s.bad.Add(1)
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		s.verified.Add(1)
	} else {
		buffer, ok := buffers.Get().(*[16 << 10]byte)
		for err := error(nil); ok && err == nil; {
			_, err = r.Body.Read(buffer[:])
		}
		buffers.Put(buffer)
	}
	if s.cfg.Gather > 0 && n >= s.cfg.Warm {
		s.wave.join(r.Context(), s.cfg.Gather)
	}
	if s.cfg.Latency > 0 {
		timer := time.NewTimer(s.cfg.Latency)
		select {
		case <-timer.C:
		case <-r.Context().Done():
			timer.Stop()
			return
		}
	}
	if strings.Contains(r.UserAgent(), RubyAgent) {
		s.ruby.Add(1)
	}
	s.received.Add(1)
	w.WriteHeader(http.StatusAccepted)
}
