// Package faultproxy stands between a client and a TCP server in tests and fails on demand: it cuts connections, holds bytes back, refuses,
// and loses the reply to a request that the server has carried out.
//
// Start begins to listen on a free port of 127.0.0.1. There is one goroutine that accepts and two for each connection; Close ends them all.
package faultproxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// chunk is the most that is passed on at once.
const chunk = 64 << 10

// LoseReply decides by what a client has just sent, a piece of at most 64 KiB, whether the reply to it gets lost.
type LoseReply func(request []byte) bool

// Proxy passes bytes between clients and one server. Its methods are safe for concurrent use.
type Proxy struct {
	target   string
	listener net.Listener
	done     sync.WaitGroup
	delay    atomic.Int64 // nanoseconds before each piece of a reply
	refuse   atomic.Bool
	lost     atomic.Int64

	mu     sync.Mutex
	closed bool
	conns  map[*pair]struct{}
	lose   LoseReply
}

// pair is a client's connection and the one to the server that belongs to it.
type pair struct {
	client, server net.Conn
	losing         atomic.Bool // the next reply ends the connection instead of reaching the client
}

func (p *pair) close() {
	_ = p.client.Close()
	_ = p.server.Close()
}

// Start starts a proxy to target, host:port.
func Start(ctx context.Context, target string) (*Proxy, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start fault proxy: %w", err)
	}
	p := &Proxy{target: target, listener: l, conns: make(map[*pair]struct{})}
	p.done.Go(p.accept)
	return p, nil
}

// Addr is where clients connect, host:port.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Close ends the proxy and all connections.
func (p *Proxy) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	err := p.listener.Close()
	p.Cut()
	p.done.Wait()
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close fault proxy: %w", err)
	}
	return nil
}

// Cut closes every connection, whatever is on its way.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.close()
	}
}

// Refuse closes new connections at once, or not any more. Those that exist go on: see Cut.
func (p *Proxy) Refuse(yes bool) { p.refuse.Store(yes) }

// Delay holds every piece of a reply back for d.
func (p *Proxy) Delay(d time.Duration) { p.delay.Store(int64(d)) }

// LoseReplies makes the server carry out every request that lose picks, and then cuts the connection instead of passing the reply on.
// nil ends that.
func (p *Proxy) LoseReplies(lose LoseReply) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lose = lose
}

// Lost is how many replies were lost.
func (p *Proxy) Lost() int { return int(p.lost.Load()) }

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		if p.refuse.Load() {
			_ = client.Close()
			continue
		}
		p.done.Go(func() { p.serve(client) })
	}
}

func (p *Proxy) serve(client net.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var d net.Dialer
	server, err := d.DialContext(ctx, "tcp", p.target)
	if err != nil {
		_ = client.Close()
		return
	}
	c := &pair{client: client, server: server}
	p.mu.Lock()
	if p.closed {
		c.close()
	}
	p.conns[c] = struct{}{}
	p.mu.Unlock()

	var both sync.WaitGroup
	both.Go(func() { p.pass(client, server, func(b []byte) bool { p.look(c, b); return true }) })
	both.Go(func() { p.pass(server, client, func([]byte) bool { return p.reply(c) }) })
	both.Wait()
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
}

// pass copies from src to dst as long as check lets it, then closes both: half a connection is no use here.
func (p *Proxy) pass(src, dst net.Conn, check func([]byte) bool) {
	defer src.Close() //nolint:errcheck // nothing is buffered
	defer dst.Close() //nolint:errcheck // nothing is buffered
	buf := make([]byte, chunk)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if !check(buf[:n]) {
				return
			}
			if _, werr := dst.Write(buf[:n]); werr != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// look marks the connection before the request can be answered.
func (p *Proxy) look(c *pair, request []byte) {
	p.mu.Lock()
	lose := p.lose
	p.mu.Unlock()
	if lose != nil && lose(request) {
		c.losing.Store(true)
	}
}

func (p *Proxy) reply(c *pair) bool {
	if c.losing.Load() {
		p.lost.Add(1)
		return false
	}
	if d := time.Duration(p.delay.Load()); d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		<-t.C
	}
	return true
}
