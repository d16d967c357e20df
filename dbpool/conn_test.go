package dbpool

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// stub is a socket whose reads end as told.
type stub struct {
	net.Conn
	errs []error
}

func (s *stub) Read([]byte) (int, error) {
	err := s.errs[0]
	s.errs = s.errs[1:]
	return 0, err
}
func (*stub) Write(b []byte) (int, error)     { return len(b), nil }
func (*stub) Close() error                    { return nil }
func (*stub) SetReadDeadline(time.Time) error { return nil }
func (*stub) SetDeadline(time.Time) error     { return nil }

func TestOnlyTheServersEndProvesThatAConnectionIsClosed(t *testing.T) {
	tests := map[string]struct {
		errs   []error
		proven bool
	}{
		"the end":                       {[]error{io.EOF}, true},
		"data, a deadline of pgx', end": {[]error{nil, os.ErrDeadlineExceeded, io.EOF}, true},
		"reset":                         {[]error{&net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}}, true},
		"keep-alive gave up":            {[]error{&net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ETIMEDOUT)}}, false},
		"no route":                      {[]error{&net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.EHOSTUNREACH)}}, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			g := newGate(holder{ttl: time.Minute, slots: 1})
			now := instantOf(time.Now())
			g.h.held, g.h.renewed, g.h.granted, g.h.target = true, now, 3, 3
			if err := g.take(t.Context(), g.term); err != nil {
				t.Fatal(err)
			}
			c := &conn{Conn: &stub{errs: test.errs}, gate: g, term: g.term, dialer: &dialer{gate: g, term: g.term}}
			if !g.opened(c) {
				t.Fatal("not opened")
			}
			_ = c.Close()
			_ = c.Close()
			g.linger.wg.Wait()
			open := 1
			if test.proven {
				open = 0
			}
			if g.h.open != open || g.doubt == test.proven {
				t.Errorf("open = %d, doubt = %v", g.h.open, g.doubt)
			}
		})
	}
}

// Nothing of a log-in is sent once the lease is in doubt; what is logged in may go on until it is cut.
func TestLogInEndsWithTheLease(t *testing.T) {
	g := newGate(holder{ttl: time.Minute, slots: 1})
	g.h.held, g.h.renewed, g.h.granted, g.h.target = true, instantOf(time.Now()), 1, 1
	c := &conn{Conn: &stub{}, gate: g, term: g.term}
	if _, err := c.Write([]byte("x")); err != nil {
		t.Errorf("Write under a lease: %v", err)
	}
	g.h.renewed.wall -= 50 * time.Second // the wall clock alone says so
	if _, err := c.Write([]byte("x")); !errors.Is(err, errLeaseOver) {
		t.Errorf("Write after it: %v, want errLeaseOver", err)
	}
	c.admitted.Store(true)
	if _, err := c.Write([]byte("x")); err != nil {
		t.Errorf("Write of one that is logged in: %v", err)
	}
	g.rotate()
	if err := g.take(t.Context(), c.term); !errors.Is(err, errLeaseOver) {
		t.Errorf("a socket for an epoch that is over: %v", err)
	}
}

// Leases behind PgBouncer, which nobody can see, are over when their time is; those that can be seen wait for who can see, as long
// as there is somebody.
func TestWitnessOfWhatCannotBeSeen(t *testing.T) {
	w := witness{ttl: 10 * time.Second, login: 20 * time.Second, slack: time.Second, gone: time.Second}
	r := &Reply{Generation: "g", Leases: []Lease{
		{Epoch: "pooled", State: Unconfirmed, Pooled: true, Granted: 3},
		{Epoch: "direct", State: Unconfirmed, Granted: 3},
		{Epoch: "alive", State: Live, Granted: 3},
	}}
	w.note(0, r)
	if list := w.blind(30*time.Second, r, true); len(list) != 0 {
		t.Errorf("too early: %v", list)
	}
	if list := w.blind(31*time.Second, r, true); len(list) != 1 || list[0].Epoch != "pooled" {
		t.Errorf("beside a host that sees: %v", list)
	}
	r.Leases[2].Pooled = true
	if list := w.blind(31*time.Second, r, true); len(list) != 3 || list[2].What != JudgeLook {
		t.Errorf("with nobody who sees: %v", list)
	}
}
