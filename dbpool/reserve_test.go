package dbpool_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/queueville/queueville/dbpool"
	"github.com/queueville/queueville/internal/redistest"
)

// reserve reserves n connections for a child.
func (h *host) reserve(t *testing.T, n int) *dbpool.Reservation {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	res, err := h.Reserve(ctx, n, "ruby")
	if err != nil {
		t.Fatalf("%v; %s", err, h.Why(n+1))
	}
	return res
}

func release(t *testing.T, res *dbpool.Reservation) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := res.Release(ctx); err != nil {
		t.Fatal(err)
	}
}

// childConn opens a connection as a child would, under the reservation's name.
func childConn(t *testing.T, r *rig, res *dbpool.Reservation) *pgx.Conn {
	t.Helper()
	cfg, err := pgx.ParseConfig(r.url())
	if err != nil {
		t.Fatal(err)
	}
	cfg.RuntimeParams["application_name"] = res.ApplicationName()
	c, err := pgx.ConnectConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.WithoutCancel(t.Context())) })
	return c
}

// What children may open counts, and comes back when their connections are gone.
func TestReservation(t *testing.T) {
	t.Parallel()
	r := newRig(t, 12, 1)
	w := r.watch(t)
	h := r.host(t, "h", nil)
	p := h.pool(t, "worker", 0)
	res := h.reserve(t, 5)
	if name := res.ApplicationName(); !strings.HasPrefix(name, "queueville/test/h/") || !strings.HasSuffix(name, "/ruby.1") || len(name) > 63 {
		t.Errorf("PGAPPNAME = %q", name)
	}
	if left := res.Left(); left <= 0 || left > r.ttl*3/4 {
		t.Errorf("connections may be opened for %v", left)
	}
	s, err := r.ledger.Snapshot(t.Context())
	if err != nil || !slices.ContainsFunc(s.Leases, func(l dbpool.Lease) bool { return l.Reserved == 5 }) {
		t.Errorf("the child starts before the ledger knows of it: %+v, %v", s.Leases, err)
	}
	l := busy(t, p, 20, "SELECT pg_sleep(0.01)")
	eventually(t, 30*time.Second, "the rest is the pool's", func() bool { return h.Limit() == 10 && h.Stats().Open == 5 })
	if got := h.Stats().Roles["ruby"].Reserved; got != 5 {
		t.Errorf("reserved %d", got)
	}
	l.stop()
	// The child: one of its connections is in a query when its process ends.
	c, err := childConn(t, r, res).PgConn().Hijack() // pgx would ask the server to cancel it
	if err != nil {
		t.Fatal(err)
	}
	c.Frontend.SendQuery(&pgproto3.Query{String: "SELECT pg_sleep(2)"})
	if err := c.Frontend.Flush(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "the child is connected", func() bool {
		var n int
		return p.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND state = 'active'", res.ApplicationName()).Scan(&n) == nil && n == 1
	})
	_ = c.Conn.Close()
	start := time.Now()
	release(t, res)
	if took := time.Since(start); took < 500*time.Millisecond {
		t.Errorf("released after %v although its backend was in a query", took)
	}
	release(t, res) // again: nothing happens
	if got := h.Stats().Roles["ruby"].Reserved; got != 0 {
		t.Errorf("reserved %d after Release", got)
	}
	short, end := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer end()
	if _, err := h.Reserve(short, 11, "ruby"); err == nil {
		t.Error("more was reserved than there is")
	}
	w.check(t, 12)
}

// A child that waits gets its connections although others are busy with them; one that cannot have them holds up nobody.
func TestReserveBesideBusyPools(t *testing.T) {
	t.Parallel()
	r := newRig(t, 12, 1)
	h := r.host(t, "h", nil)
	p := h.pool(t, "worker", 0)
	l := busy(t, p, 30, "SELECT pg_sleep(0.02)")
	eventually(t, 30*time.Second, "all are busy", func() bool { return h.Stats().Open == 10 })
	first := h.reserve(t, 5)
	before := l.done.Load()
	eventually(t, 30*time.Second, "the pool goes on with the rest", func() bool { return l.done.Load() > before+100 })
	ctx, giveUp := context.WithCancel(t.Context())
	defer giveUp()
	waits := make(chan error, 1)
	go func() {
		_, err := h.Reserve(ctx, 7, "ruby") // with the first one's, more than there is
		waits <- err
	}()
	eventually(t, 30*time.Second, "it waits", func() bool { return h.Stats().Roles["ruby"].Waiting > 0 })
	before = l.done.Load()
	eventually(t, 30*time.Second, "nobody is held up", func() bool { return l.done.Load() > before+60 })
	if why := h.Why(8); !strings.Contains(why, "needs 8, and has 10, of these 5 for processes that run") {
		t.Errorf("it waits because %q", why)
	}
	giveUp()
	if err := <-waits; !errors.Is(err, context.Canceled) {
		t.Errorf("more was reserved than there is, or nothing for another reason: %v", err)
	}
	l.stop()
	release(t, first)
}

// When others need connections, or the budget is lowered, children are asked to end, and no more of them than is necessary.
func TestReservationIsRecalled(t *testing.T) {
	t.Parallel()
	r := newRig(t, 22, 1)
	w := r.watch(t)
	h := r.host(t, "h", nil)
	var all []*dbpool.Reservation
	for range 3 {
		all = append(all, h.reserve(t, 5))
	}
	r.setBudget(t, 15, 1) // 13 for two of them and one more
	recalled := func(i int) bool {
		select {
		case <-all[i].Recalled():
			return true
		default:
			return false
		}
	}
	took := eventually(t, 30*time.Second, "the youngest is recalled", func() bool { return recalled(2) })
	if took < r.ttl/3 || recalled(0) || recalled(1) {
		t.Errorf("recalled after %v; the others: %v %v", took, recalled(0), recalled(1))
	}
	again, stop := context.WithTimeout(t.Context(), 2*time.Second)
	defer stop()
	next := make(chan error, 1)
	go func() {
		_, err := h.Reserve(again, 5, "ruby") // as a supervisor does that wants as many processes as before
		next <- err
	}()
	release(t, all[2])
	if err := <-next; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("another child in the place of the one that was recalled: %v", err)
	}
	other := r.host(t, "other", nil)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	waits := make(chan error, 1)
	go func() {
		_, err := other.Reserve(ctx, 5, "ruby")
		waits <- err
	}()
	eventually(t, 30*time.Second, "the second one is recalled for the other host", func() bool { return recalled(1) })
	release(t, all[1])
	if recalled(0) {
		t.Error("the last one was recalled, too")
	}
	if err := <-waits; err != nil {
		t.Errorf("the other host: %v; %s", err, other.Why(6))
	}
	release(t, all[0])
	w.check(t, 22)
}

// Children hear of it before the lease has ended, also when Redis does not answer at all.
func TestReservationIsLost(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client := redistest.NewClient(server.Addr(), 0)
	t.Cleanup(func() { _ = client.Close() })
	r := newRigOn(t, client, 12, 1)
	h := r.host(t, "h", nil)
	res := h.reserve(t, 5)
	select {
	case <-res.Lost():
		t.Fatal("lost at once")
	default:
	}
	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	select {
	case <-res.Lost():
	case <-time.After(r.ttl * 2):
		t.Fatal("nobody was told")
	}
	if took := time.Since(start); took > r.ttl {
		t.Errorf("told after %v with a lease of %v", took, r.ttl)
	}
	if res.Left() != 0 {
		t.Error("connections may be opened all the same")
	}
	if err := server.Resume(); err != nil {
		t.Fatal(err)
	}
	release(t, res)
}

// A child gets all that it would like when it is there, and when shares have settled below that what there is, in its steps; two hosts then have
// equal parts.
func TestReserveUpTo(t *testing.T) {
	t.Parallel()
	r := newRig(t, 22, 1)
	w := r.watch(t)
	a, b := r.host(t, "a", nil), r.host(t, "b", nil)
	reserve := func(h *host, wish dbpool.Wish) *dbpool.Reservation {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		res, err := h.ReserveUpTo(ctx, wish, "ruby")
		if err != nil {
			t.Errorf("%v; %s", err, h.Why(wish.Least+1))
		}
		return res
	}
	wish := dbpool.Wish{Most: 16, Least: 2, Unit: 2}
	res := reserve(a, wish)
	if res == nil || res.Connections != 16 {
		t.Fatalf("with room for all: %+v", res)
	}
	release(t, res)
	r.setBudget(t, 12, 1)
	eventually(t, 30*time.Second, "both know it", func() bool {
		return a.Stats().Budget.Connections == 12 && b.Stats().Budget.Connections == 12 && a.Stats().Leased <= 10
	})
	var have [2]atomic.Int64
	var held [2]*dbpool.Reservation
	settled := make(chan struct{})
	var both sync.WaitGroup
	for i, h := range []*host{a, b} {
		both.Go(func() { // as a supervisor does: who asks first gets more, and gives it back when the other one is known
			for {
				res := reserve(h, wish)
				if res == nil {
					return
				}
				have[i].Store(int64(res.Connections))
				select {
				case <-res.Recalled():
					have[i].Store(0)
					release(t, res)
				case <-settled:
					held[i] = res
					return
				}
			}
		})
	}
	eventually(t, 30*time.Second, "each has four of ten", func() bool { return have[0].Load() == 4 && have[1].Load() == 4 })
	close(settled)
	both.Wait()
	for _, res := range held {
		if res == nil {
			t.Fatal("one lost what it had")
		}
		defer release(t, res)
	}
	none, cancel := context.WithTimeout(t.Context(), r.ttl)
	defer cancel()
	if _, err := a.ReserveUpTo(none, wish, "ruby"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("less than the least: %v", err)
	}
	for _, bad := range []dbpool.Wish{{}, {Most: 2, Least: 3}, {Most: 5, Least: 1, Unit: 2}, {Most: -1}} {
		if _, err := a.ReserveUpTo(none, bad, "ruby"); err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%+v is accepted: %v", bad, err)
		}
	}
	w.check(t, 22)
}
