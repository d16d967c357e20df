package activitypub

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	// maxResponseBytes is how much of an answer is read; with more the connection is given up.
	maxResponseBytes = 1 << 20
	// ioBufferBytes is the size of a connection's two buffers. Requests of 4 kB go out in two writes, answers are a few hundred bytes; two
	// thousand connections keep 4 kB instead of net/http's 8.
	ioBufferBytes = 2 << 10
	// maxHeaderBytes bounds the head of an answer.
	maxHeaderBytes = 64 << 10
)

// newTransport makes the connection pool. proxied says that a proxy connects for us: then the proxy's own address is what is
// dialled, and the guard is off.
func newTransport(c *Config, d *dialer, proxy *url.URL) *http.Transport {
	tlsConfig := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		RootCAs:            c.RootCAs,
		ClientSessionCache: tls.NewLRUClientSessionCache(c.TLSSessions),
		NextProtos:         []string{"h2", "http/1.1"},
	}
	t := &http.Transport{
		DialContext:            d.DialContext,
		TLSClientConfig:        tlsConfig,
		TLSHandshakeTimeout:    c.TLSTimeout,
		MaxIdleConns:           c.MaxIdleConns,
		MaxIdleConnsPerHost:    c.HostLimit,
		MaxConnsPerHost:        c.HostLimit, // otherwise a dial that lost the race against a freed connection leaves one more
		IdleConnTimeout:        c.IdleTimeout,
		ResponseHeaderTimeout:  c.HeaderTimeout,
		MaxResponseHeaderBytes: maxHeaderBytes,
		ReadBufferSize:         ioBufferBytes,
		WriteBufferSize:        ioBufferBytes,
		DisableCompression:     true, // we say Accept-Encoding ourselves and throw the answer away
		ForceAttemptHTTP2:      true,
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerConnection: 256 << 10,
			MaxReceiveBufferPerStream:     64 << 10,
			SendPingTimeout:               15 * time.Second,
			PingTimeout:                   5 * time.Second,
			WriteByteTimeout:              c.WriteTimeout,
		},
	}
	if proxy != nil {
		t.Proxy = http.ProxyURL(proxy)
		return t
	}
	// A handshake of our own instead of the transport's: so its errors have a type.
	t.DialTLSContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		return dialTLS(ctx, d, tlsConfig, c.TLSTimeout, network, address)
	}
	return t
}

// tlsError is a failed handshake.
type tlsError struct{ err error }

func (e *tlsError) Error() string { return "TLS: " + e.err.Error() }
func (e *tlsError) Unwrap() error { return e.err }

func dialTLS(ctx context.Context, d *dialer, base *tls.Config, limit time.Duration, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	raw, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	config := base.Clone()
	config.ServerName = host
	conn := tls.Client(raw, config)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, &tlsError{err}
	}
	return conn, nil
}

// hidden says whether a host is a hidden service, which only a proxy of its own kind can reach.
func hidden(host string) bool {
	return strings.HasSuffix(host, ".onion") || strings.HasSuffix(host, ".i2p")
}
