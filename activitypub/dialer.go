package activitypub

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"
)

// Resolver finds the addresses of a host; *net.Resolver is one.
type Resolver interface {
	// LookupNetIP returns the addresses of host, as net.Resolver does for the network "ip".
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// perFamily is how many addresses of each family are tried, as in app/lib/request.rb.
const perFamily = 2

// dialer connects to hosts: resolve, keep up to two addresses of each family, drop the private ones, try the rest
// in a staggered race. The check is here, on the very address that is connected to, so that no second DNS answer and no redirect can evade it.
type dialer struct {
	guard      guard
	resolver   Resolver
	dns        time.Duration // limit for resolving
	connect    time.Duration // limit for connecting, all addresses together
	write      time.Duration // limit for each write on the connection
	stagger    time.Duration // head start of each address over the next
	dialIP     func(ctx context.Context, network, address string) (net.Conn, error)
	afterCheck func(netip.AddrPort) // for tests: sees each address before it is connected to; nil otherwise
}

// DialContext connects to host:port.
func (d *dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	portNumber, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	addrs, err := d.candidates(ctx, host)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, d.connect)
	defer cancel()
	conn, err := d.race(ctx, network, addrs, uint16(portNumber))
	if err != nil {
		return nil, err
	}
	return &deadlineConn{Conn: conn, write: d.write}, nil
}

// candidates resolves host and returns the addresses that may be tried, IPv6 first.
func (d *dialer) candidates(ctx context.Context, host string) ([]netip.Addr, error) {
	addrs := []netip.Addr{}
	if literal, err := netip.ParseAddr(host); err == nil {
		addrs = append(addrs, literal)
	} else {
		ctx, cancel := context.WithTimeout(ctx, d.dns)
		defer cancel()
		if addrs, err = d.resolver.LookupNetIP(ctx, "ip", host); err != nil {
			return nil, fmt.Errorf("resolve: %w", err)
		}
	}
	var v4, v6 []netip.Addr
	for _, a := range addrs {
		switch a = a.Unmap(); {
		case a.Is4() && len(v4) < perFamily:
			v4 = append(v4, a)
		case a.Is6() && len(v6) < perFamily:
			v6 = append(v6, a)
		}
	}
	chosen := append(v6, v4...)
	if len(chosen) == 0 {
		return nil, fmt.Errorf("resolve: %w", &net.DNSError{Err: "no address", Name: host, IsNotFound: true})
	}
	public := chosen[:0]
	for _, a := range chosen {
		if d.guard.permits(a) {
			public = append(public, a)
		}
	}
	if len(public) == 0 {
		return nil, errPrivateAddress
	}
	return public, nil
}

// race tries the addresses, each starting when the one before has failed or had its head start; the first connection wins.
func (d *dialer) race(ctx context.Context, network string, addrs []netip.Addr, port uint16) (net.Conn, error) {
	if len(addrs) == 1 {
		return d.dialOne(ctx, network, addrs[0], port)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type attempt struct {
		conn net.Conn
		err  error
	}
	// Every attempt can send without a reader, so none outlives its own dial, which cancel ends.
	results := make(chan attempt, len(addrs))
	started, pending := 0, 0
	start := func() {
		addr := addrs[started]
		started++
		pending++
		go func() {
			conn, err := d.dialOne(ctx, network, addr, port)
			results <- attempt{conn, err}
		}()
	}
	closeLosers := func() {
		for range pending {
			if a := <-results; a.conn != nil {
				_ = a.conn.Close()
			}
		}
	}
	start()
	timer := time.NewTimer(d.stagger)
	defer timer.Stop()
	var firstErr error
	for {
		select {
		case <-timer.C:
			if started < len(addrs) {
				start()
				timer.Reset(d.stagger)
			}
		case a := <-results:
			pending--
			if a.err == nil {
				cancel()
				closeLosers()
				return a.conn, nil
			}
			if firstErr == nil {
				firstErr = a.err
			}
			if started < len(addrs) {
				start()
				timer.Reset(d.stagger)
			} else if pending == 0 {
				return nil, firstErr
			}
		}
	}
}

func (d *dialer) dialOne(ctx context.Context, network string, addr netip.Addr, port uint16) (net.Conn, error) {
	to := netip.AddrPortFrom(addr, port)
	if d.afterCheck != nil {
		d.afterCheck(to)
	}
	return d.dialIP(ctx, network, to.String())
}

// deadlineConn gives every write a deadline: a peer that reads nothing would otherwise hold a request until its overall limit.
// Reads have none here, because the transport reads from idle connections all the time.
type deadlineConn struct {
	net.Conn
	write time.Duration
}

func (c *deadlineConn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.write)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}
