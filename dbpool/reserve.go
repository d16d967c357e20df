package dbpool

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// Reservation is the connections that a child process may open.
type Reservation struct {
	Connections int

	m        *Manager
	term     *term
	role     *role
	name     string
	lost     <-chan struct{}
	recalled chan struct{}
	done     chan struct{}
}

// recallAfter, of a lease, is how long more must be reserved than our share before children are asked to end: shares settle first.
func (m *Manager) recallAfter() time.Duration { return m.cfg.TTL * 5 / 12 }

// Wish is how many connections a child process would like to have.
type Wish struct {
	Most  int // as many if the lease comes to have them soon
	Least int // not fewer; 0 is Most
	Unit  int // in such steps, e.g. 2 where each thread may need one on two servers; 0 is 1. It divides Most and Least
}

// Reserve is ReserveUpTo for n connections and no fewer.
func (m *Manager) Reserve(ctx context.Context, n int, roleName string) (*Reservation, error) {
	return m.ReserveUpTo(ctx, Wish{Most: n}, roleName)
}

// ReserveUpTo waits for connections for a child process, e.g. Ruby's, which then may open so many (Reservation.Connections). It gets fewer than
// it would like when the lease has settled and is too small for all of them. Start the child with PGAPPNAME set to
// ApplicationName, let it open connections only while Left says so, end it when Lost is closed, and call Release when it is gone. One
// connection more than n must be in the lease: it is used to see that the child's are gone. While Reserve waits, and the lease is large
// enough, others get fewer connections, so ctx needs a deadline, or should end when the child is not wanted any more.
func (m *Manager) ReserveUpTo(ctx context.Context, wish Wish, roleName string) (*Reservation, error) {
	wish.Least, wish.Unit = cmp.Or(wish.Least, wish.Most), cmp.Or(wish.Unit, 1)
	n := wish.Least
	if n <= 0 || wish.Most < n || wish.Most > maxConnections || wish.Unit < 0 || n%wish.Unit != 0 || wish.Most%wish.Unit != 0 {
		return nil, fmt.Errorf("reserve %d to %d database connections by %d", n, wish.Most, wish.Unit)
	}
	g := m.gate
	g.mu.Lock()
	r := g.role(part(roleName, childRoleBytes))
	all := g.h.budget.Leasable(len(m.servers))
	g.mu.Unlock()
	if all > 0 && n+1 > all {
		return nil, fmt.Errorf("reserve %d database connections: all hosts together have %d, and one more is needed to see that they are closed", n, all)
	}
	for {
		w := &waiter{role: r, n: wish.Most, child: true, wish: wish}
		if err := g.acquire(ctx, w); err != nil {
			return nil, fmt.Errorf("reserve database connections: %w", err)
		}
		g.mu.Lock()
		res := m.newReservation(r, roleName, w.n)
		g.lent = append(g.lent, res)
		g.mu.Unlock()
		switch announced, err := m.announce(ctx, res); {
		case announced:
			return res, nil
		case err != nil:
			res.giveBack()
			return nil, fmt.Errorf("reserve database connections: %w", err)
		}
		res.giveBack() // the lease was lost meanwhile
	}
}

// settleAfter, of a lease, is how long our share must have been the same before a child gets fewer connections than it would like.
func (m *Manager) settleAfter() time.Duration { return m.cfg.TTL / 6 }

// compromise gives the child that waits first what there is, when our share has settled and is too small for what it would like. It does not
// wait for that for long: shares may follow every wave, and others may have children that hold for hours what is ours. The lock is held.
func (m *Manager) compromise(now instant) {
	g := m.gate
	at := time.Now()
	if g.h.share != m.share {
		m.share, m.shareSince = g.h.share, at
	}
	if g.h.recovering || !g.h.fresh(now) {
		m.soundSince = at
	}
	e := g.families.Front()
	if e == nil {
		return
	}
	w, _ := e.Value.(*waiter)
	waited, settled := min(at.Sub(w.since), at.Sub(m.soundSince)), at.Sub(m.shareSince) >= m.settleAfter() && g.h.limit() >= g.h.share
	if w.wish.Least >= w.wish.Most || waited < m.settleAfter() || !settled && waited < 3*m.settleAfter() {
		return
	}
	room := g.h.childLimit() - g.h.reserved - 1 - g.h.share/8 // a share that becomes a little smaller should not end it
	room -= room % w.wish.Unit
	n := min(room, w.wish.Most)
	if n < w.wish.Least {
		n = w.wish.Most // nothing to be had: it waits as before
	}
	if n != w.n {
		w.n = n
		g.evict()
		g.serve(now)
	}
}

// newReservation: the lock is held.
func (m *Manager) newReservation(r *role, roleName string, n int) *Reservation {
	g := m.gate
	g.children++
	res := &Reservation{Connections: n, m: m, term: g.term, role: r, lost: g.term.lost, recalled: make(chan struct{}), done: make(chan struct{})}
	res.name = leaseName(m.ledger.cluster, g.h.host, g.term.epoch, part(roleName, childRoleBytes)+"."+strconv.FormatUint(g.children%10000, 10), m.cfg.Pooled)
	return res
}

// announce waits until the ledger knows that this process has children. Should it be killed, they may live a little longer, and what they
// hold must not be taken for closed when the process is gone. It returns false when the lease was lost first.
func (m *Manager) announce(ctx context.Context, res *Reservation) (bool, error) {
	g := m.gate
	g.wake()
	for {
		g.mu.Lock()
		over, known, change := g.ended, g.h.announced >= g.h.reserved, g.change
		same := res.term == g.term && !res.term.ended
		g.mu.Unlock()
		switch {
		case over:
			return false, ErrManagerClosed
		case !same:
			return false, nil
		case known:
			return true, nil
		}
		select {
		case <-change:
		case <-res.lost:
			return false, nil
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// ApplicationName is PGAPPNAME of the child.
func (r *Reservation) ApplicationName() string { return r.name }

// Lost is closed when the lease is lost or cannot be renewed in time: end the child soon, then Release.
func (r *Reservation) Lost() <-chan struct{} { return r.lost }

// Recalled is closed when this process's share has become too small for the child: let it finish what it does and end, then Release.
func (r *Reservation) Recalled() <-chan struct{} { return r.recalled }

// Left is for how long from now on the child may begin to open connections; 0 when it may not. The child has to know, because it runs on
// while its parent is frozen: give it the moment, by the monotonic and by the wall clock, at which the time is over, again and again. Without
// that, what the child opens late comes on top of what others have got meanwhile.
func (r *Reservation) Left() time.Duration {
	g := r.m.gate
	now := instantOf(time.Now())
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-r.lost:
		return 0
	default:
	}
	if r.term != g.term || r.term.ended {
		return 0
	}
	return g.h.left(now)
}

// Release gives the connections back. The child must be gone; Release waits until PostgreSQL shows that its connections are, too (a query
// may run on for a while without its client). On error they stay counted: call it again, or leave it to the confirmation. Again after
// success, nothing happens.
func (r *Reservation) Release(ctx context.Context) error {
	select {
	case <-r.done:
		return nil
	default:
	}
	if !r.m.cfg.Pooled {
		if err := r.shownGone(ctx); err != nil {
			return fmt.Errorf("release database connections of a child: %w", err)
		}
	}
	r.giveBack()
	return nil
}

// giveBack is Release without a look.
func (r *Reservation) giveBack() {
	close(r.done)
	g := r.m.gate
	g.mu.Lock()
	g.lent = slices.DeleteFunc(g.lent, func(l *Reservation) bool { return l == r })
	g.mu.Unlock()
	g.unreserve(r.term, r.role, r.Connections)
}

func (r *Reservation) shownGone(ctx context.Context) error {
	pools, err := r.m.askers(ctx)
	if err != nil {
		return err
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		left := 0
		for _, p := range pools {
			var n int
			if err := p.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity WHERE application_name = $1`, r.name).Scan(&n); err != nil {
				return err
			}
			left += n
		}
		if left == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// recall asks children to end when our share has been too small for them for a while, the youngest first. The lock is held.
func (m *Manager) recall(now instant) {
	g := m.gate
	kept := 1
	for _, r := range g.lent {
		if !r.isRecalled() {
			kept += r.Connections
		}
	}
	if kept == 1 || kept <= g.h.share || g.h.recovering || !g.h.fresh(now) {
		m.overSince = time.Time{}
		return
	}
	at := time.Now()
	if m.overSince.IsZero() {
		m.overSince = at
	}
	if at.Sub(m.overSince) < m.recallAfter() {
		return
	}
	for _, r := range slices.Backward(g.lent) {
		if kept > g.h.share && !r.isRecalled() {
			close(r.recalled)
			kept -= r.Connections
		}
	}
}

// isRecalled: the lock is held.
func (r *Reservation) isRecalled() bool {
	select {
	case <-r.recalled:
		return true
	default:
		return false
	}
}

// askers are pools to ask every server with.
func (m *Manager) askers(ctx context.Context) ([]*Pool, error) {
	m.asking.Lock()
	defer m.asking.Unlock()
	for _, dsn := range m.servers[len(m.asker):] {
		p, err := m.pool(ctx, Config{Role: "ask", MaxConns: 1, MaxIdleTime: 5 * time.Second}, dsn)
		if err != nil {
			return nil, err
		}
		m.asker = append(m.asker, p)
	}
	return m.asker, nil
}
