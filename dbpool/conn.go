package dbpool

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// errLeaseOver ends what was begun under a lease that is in doubt or over.
var errLeaseOver = errors.New("the lease of connections is over")

// errNoRoom says that a pool's connection could not be opened in time within the lease; the wait begins anew.
var errNoRoom = errors.New("no connection left in the lease")

// term is an epoch's sockets. Guarded by gate.mu.
type term struct {
	epoch    string
	confirm  bool // of a confirmation
	conns    map[*conn]struct{}
	open     int // conns and dials under way
	reserved int
	ended    bool
	lost     chan struct{} // closed when children under it must end, and then made anew
}

func newTerm(epoch string, confirm bool) *term {
	return &term{epoch: epoch, confirm: confirm, conns: map[*conn]struct{}{}, lost: make(chan struct{})}
}

// conn is one socket to PostgreSQL. It counts against the lease from before it is dialled until the server has closed its side: only
// then the backend has gone (a backend's socket closes with its process) and another may be opened.
type conn struct {
	net.Conn
	gate     *gate
	term     *term
	dialer   *dialer
	admitted atomic.Bool // the log-in is over
	closing  atomic.Bool
}

// Write sends nothing of a log-in when the lease is over: the process may have been frozen since the last look. What is frozen inside a
// write ends with PostgreSQL's authentication_timeout, which confirmations wait for.
func (c *conn) Write(b []byte) (int, error) {
	if !c.admitted.Load() && !c.gate.valid(c.term) {
		return 0, errLeaseOver
	}
	return c.Conn.Write(b)
}

// Close sends the server our end and leaves a goroutine that waits for its.
func (c *conn) Close() error {
	if c.closing.Swap(true) {
		return nil
	}
	if !c.gate.linger.start(c.linger) {
		return c.Conn.Close() // the process ends; nobody counts any more
	}
	return nil
}

// cut ends the connection under whoever uses it.
func (c *conn) cut() {
	_ = c.SetDeadline(time.Unix(1, 0)) // wakes a read or write that waits
	_ = c.Close()
}

// linger waits until the server has closed. TCP keep-alive bounds it when the server's machine is gone: that proves nothing, so the
// connection stays counted, under an epoch that ends.
func (c *conn) linger() {
	c.gate.mu.Lock()
	c.gate.closing[c] = struct{}{}
	c.gate.mu.Unlock()
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
	var buf [4096]byte
	proven := false
	for {
		_ = c.SetReadDeadline(time.Time{})
		if c.gate.hurry.Load() {
			break // the process ends: the kernel closes what is left, and PostgreSQL will show it
		}
		_, err := c.Read(buf[:])
		if err == nil {
			continue
		}
		if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() && !errors.Is(err, syscall.ETIMEDOUT) {
			continue // a deadline that pgx had set, or hurry
		}
		proven = errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
		break
	}
	_ = c.Conn.Close()
	c.gate.closed(c, proven)
}

// dialer opens the sockets of one pgx connection under one epoch.
type dialer struct {
	gate  *gate
	term  *term
	ready atomic.Bool // logged in: what is dialled now are requests to cancel, which are no backends
}

// dial waits for room in the lease first.
func (d *dialer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	nd := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 6}}
	if d.ready.Load() {
		return nd.DialContext(ctx, network, addr)
	}
	if err := d.gate.take(ctx, d.term); err != nil {
		return nil, err
	}
	nc, err := nd.DialContext(ctx, network, addr)
	if err != nil {
		d.gate.undialled(d.term)
		return nil, err
	}
	c := &conn{Conn: nc, gate: d.gate, term: d.term, dialer: d}
	if !d.gate.opened(c) {
		_ = c.Close()
		return nil, errLeaseOver
	}
	return c, nil
}

// connOf is the socket below a connection; nil for one that is not ours.
func connOf(pc *pgx.Conn) *conn {
	nc := pc.PgConn().Conn()
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	c, _ := nc.(*conn)
	return c
}

// admit ends a connection's log-in, if its lease still lives.
func admit(pc *pgx.Conn) error {
	c := connOf(pc)
	if c == nil || !c.gate.valid(c.term) {
		return errLeaseOver
	}
	c.admitted.Store(true)
	c.dialer.ready.Store(true)
	return nil
}

// lingerers are the goroutines that wait for servers to close.
type lingerers struct {
	mu   sync.Mutex
	wg   sync.WaitGroup
	over bool
}

func (l *lingerers) start(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return false
	}
	l.wg.Go(f)
	return true
}
