package dbpool

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// ErrManagerClosed says that the Manager has ended, and with it every connection.
var ErrManagerClosed = errors.New("the manager of database connections has ended")

// gate lets this process's pools have no more connections than its lease. Two numbers are bounded by the lease: what is in use (or
// reserved for children), which Acquire waits for; and what is open, idle ones included, which a dial waits for after idle ones of
// other pools were told to close.
type gate struct {
	mu       sync.Mutex
	h        holder
	term     *term
	confirm  *term // nil until the ledger gives us the confirmation
	pools    []*Pool
	roles    map[string]*role
	inUse    int
	waiting  list.List     // of *waiter, for one connection each: first come, first served
	families list.List     // of *waiter, for child processes; the same
	change   chan struct{} // closed and made anew when a dial may find room
	dialing  int           // dials that wait for room
	peak     [2]int        // demand at most, in this and the last period
	peakAt   time.Duration
	closing  map[*conn]struct{} // wait for their servers to close
	settled  []string           // ended epochs of ours of which nothing is open any more
	doubt    bool               // a connection could not be shown to be closed: this epoch must end
	ended    bool
	children uint64         // reservations ever made
	lent     []*Reservation // of this term, not given back, the oldest first

	over    atomic.Bool // more is open than the lease has: a connection that is given back is closed
	hurry   atomic.Bool // closing: do not wait for servers
	linger  lingerers
	kick    chan struct{} // demand has outgrown the lease
	evicted chan struct{} // idle connections should be closed
}

// role is what the pools of one role do. Guarded by gate.mu.
type role struct {
	limit           int // of its pools together
	inUse, waiting  int
	reserved        int
	acquired        uint64
	waited, refused uint64
	waitTime        time.Duration
}

type waiter struct {
	role  *role
	n     int  // connections
	child bool // for a child process: open all at once
	ready chan struct{}
	done  bool

	wish  Wish // of a child: n is Most, until the lease turns out to be too small for it
	since time.Time
}

// needs is how large the lease must be for w alone.
func (w *waiter) needs() int {
	if w.child {
		return w.n + 1
	}
	return w.n
}

// demand is how large the lease should be for w alone.
func (w *waiter) demand() int {
	if w.child {
		return max(w.n, w.wish.Most) + 1
	}
	return w.n
}

const peakPeriod = 3 * time.Second

func newGate(h holder) *gate {
	g := &gate{h: h, roles: map[string]*role{}, closing: map[*conn]struct{}{}, change: make(chan struct{}), kick: make(chan struct{}, 1), evicted: make(chan struct{}, 1)}
	g.h.begin(newEpoch())
	g.term = newTerm(g.h.epoch, false)
	return g
}

func (g *gate) role(name string) *role {
	r := g.roles[name]
	if r == nil {
		r = &role{}
		g.roles[name] = r
	}
	return r
}

// admits tells whether w's connections can be used now. The lock is held.
func (g *gate) admits(w *waiter, now instant) bool {
	if w.child {
		// One more than they need stays ours, to work with and to ask PostgreSQL whether they are gone.
		return g.h.mayOpen(now, w.n) && max(g.inUse, 1)+g.h.reserved+w.n <= g.h.childLimit()
	}
	room := g.h.limit() - g.h.reserved
	if c := g.family(); c != nil {
		room = max(1, room-c.n) // so that it comes about
	}
	return g.h.fresh(now) && g.inUse+w.n <= room
}

// family is the child process that could start now if others used fewer connections; nil if there is none. One for which the lease is too
// small holds up nobody. The lock is held.
func (g *gate) family() *waiter {
	e := g.families.Front()
	if e == nil {
		return nil
	}
	if w, _ := e.Value.(*waiter); w.needs()+g.h.reserved <= g.h.childLimit() {
		return w
	}
	return nil
}

// enter books w's connections. The lock is held.
func (g *gate) enter(w *waiter) {
	if w.child {
		g.h.reserved += w.n
		g.term.reserved += w.n
		w.role.reserved += w.n
	} else {
		g.inUse += w.n
		w.role.inUse += w.n
	}
	w.role.acquired++
	g.note(time.Since(started))
}

// acquire waits until w's connections are there.
func (g *gate) acquire(ctx context.Context, w *waiter) error {
	now := time.Now()
	g.mu.Lock()
	if g.ended {
		g.mu.Unlock()
		return ErrManagerClosed
	}
	queue := &g.waiting
	if w.child {
		queue = &g.families
	}
	if queue.Len() == 0 && g.admits(w, instantOf(now)) {
		g.enter(w)
		g.mu.Unlock()
		return nil
	}
	if err := ctx.Err(); err != nil {
		w.role.refused++
		g.mu.Unlock()
		return err
	}
	w.ready, w.since = make(chan struct{}), now
	e := queue.PushBack(w)
	w.role.waiting += w.demand()
	g.note(now.Sub(started))
	g.wake()
	if w.child {
		g.evict() // children need room that idle connections may have
	}
	g.mu.Unlock()
	select {
	case <-w.ready:
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	waited := time.Since(now)
	w.role.waitTime += waited
	w.role.waited++
	if w.done {
		return nil
	}
	w.role.waiting -= w.demand()
	w.role.refused++
	if g.ended {
		return ErrManagerClosed
	}
	queue.Remove(e)
	if w.child {
		g.serve(instantOf(time.Now())) // who was held up by it
	}
	return ctx.Err()
}

// wake tells the Manager that demand has outgrown the lease.
func (g *gate) wake() {
	select {
	case g.kick <- struct{}{}:
	default:
	}
}

// evict has the Manager close idle connections.
func (g *gate) evict() {
	select {
	case g.evicted <- struct{}{}:
	default:
	}
}

// release gives one connection's use back. It must be idle again, or closed.
func (g *gate) release(r *role) {
	g.mu.Lock()
	g.inUse--
	r.inUse--
	if g.waiting.Len()+g.families.Len() > 0 {
		g.serve(instantOf(time.Now()))
	}
	g.mu.Unlock()
}

// serve lets waiters in, each kind in its order. The lock is held.
func (g *gate) serve(now instant) {
	for _, queue := range []*list.List{&g.families, &g.waiting} {
		for e := queue.Front(); e != nil; e = queue.Front() {
			w, _ := e.Value.(*waiter)
			if !g.admits(w, now) {
				break
			}
			queue.Remove(e)
			w.role.waiting -= w.demand()
			w.done = true
			g.enter(w)
			close(w.ready)
		}
	}
}

// moved is to be called when the lease or what is open has changed. The lock is held.
func (g *gate) moved() {
	now := instantOf(time.Now())
	over := g.h.open+g.h.reserved > g.h.limit()
	g.over.Store(over)
	if over || g.dialing > 0 {
		g.evict()
	}
	if g.h.spare() > 0 {
		g.wake()
	}
	g.serve(now)
	close(g.change)
	g.change = make(chan struct{})
}

// note keeps the highest demand of the last few seconds. The lock is held.
func (g *gate) note(now time.Duration) {
	if now-g.peakAt >= peakPeriod {
		g.peak[1], g.peak[0] = g.peak[0], 0
		if now-g.peakAt >= 2*peakPeriod {
			g.peak[1] = 0
		}
		g.peakAt = now
	}
	n := 0
	for _, r := range g.roles {
		use := r.inUse + r.waiting
		if r.limit > 0 {
			use = min(use, r.limit)
		}
		if r.reserved > 0 {
			use += r.reserved + 1
		}
		n += use
	}
	g.peak[0] = max(g.peak[0], n)
}

// demand is the highest of the last few seconds. The lock is held.
func (g *gate) demand() int {
	g.note(time.Since(started))
	return min(max(g.peak[0], g.peak[1]), maxConnections)
}

// valid tells whether sockets may be opened and logged in under t.
func (g *gate) valid(t *term) bool {
	now := instantOf(time.Now())
	g.mu.Lock()
	defer g.mu.Unlock()
	if t.confirm {
		return t == g.confirm && !t.ended && g.h.confirms && g.h.fresh(now)
	}
	return t == g.term && !t.ended && g.h.fresh(now)
}

// take waits for room for one more socket.
func (g *gate) take(ctx context.Context, t *term) error {
	for {
		now := instantOf(time.Now())
		g.mu.Lock()
		if t.ended || g.ended {
			g.mu.Unlock()
			return errLeaseOver
		}
		if t.confirm {
			defer g.mu.Unlock()
			if t != g.confirm || !g.h.mayConfirm(now) {
				return errLeaseOver
			}
			g.h.confirmOpen++
			t.open++
			return nil
		}
		if g.h.mayOpen(now, 1) {
			g.h.open++
			t.open++
			g.mu.Unlock()
			return nil
		}
		g.dialing++
		change := g.change
		g.evict()
		g.mu.Unlock()
		var err error
		select {
		case <-change:
		case <-ctx.Done():
			err = errNoRoom
		}
		g.mu.Lock()
		g.dialing--
		g.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// opened books a socket; false when its lease ended meanwhile.
func (g *gate) opened(c *conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	c.term.conns[c] = struct{}{}
	return !c.term.ended && !g.ended
}

// undialled: a dial has failed, and nothing is open.
func (g *gate) undialled(t *term) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.less(t)
}

// closed: a socket is closed, and by the server too if that is proven.
func (g *gate) closed(c *conn, proven bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(c.term.conns, c)
	delete(g.closing, c)
	if !proven {
		// Stays in open. PostgreSQL must show that it is gone, which it does for epochs that have ended.
		if c.term == g.term || c.term == g.confirm {
			g.doubt = true
			g.wake()
		}
		return
	}
	g.less(c.term)
}

// less counts one socket less. The lock is held.
func (g *gate) less(t *term) {
	t.open--
	switch t {
	case g.term:
		g.h.open--
		g.moved()
	case g.confirm:
		g.h.confirmOpen--
	default:
		g.settle(t)
	}
}

// settle notes that nothing of an ended epoch is open any more. The lock is held.
func (g *gate) settle(t *term) {
	if t.ended && t.open == 0 && t.reserved == 0 {
		g.settled = append(g.settled, t.epoch)
		g.wake()
	}
}

// unreserve gives a child's connections back, under the epoch they were reserved in.
func (g *gate) unreserve(t *term, r *role, n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	t.reserved -= n
	r.reserved -= n
	if t == g.term {
		g.h.reserved -= n
		g.moved()
		return
	}
	g.settle(t)
}

// end ends a term: its sockets are cut, and whoever runs children under it is told. The lock is held.
func (g *gate) end(t *term) {
	if t == nil || t.ended {
		return
	}
	t.ended = true
	g.lose(t)
	for c := range t.conns {
		c.cut()
	}
	g.settle(t)
}

// lose tells whoever runs children under a term that they must end. The lock is held.
func (g *gate) lose(t *term) {
	close(t.lost)
	t.lost = make(chan struct{})
}

// rotate begins another epoch. The lock is held.
func (g *gate) rotate() {
	old := g.term
	g.end(g.confirm)
	g.confirm = nil
	g.h.begin(newEpoch())
	g.term = newTerm(g.h.epoch, false)
	g.doubt = false
	g.lent = nil
	g.end(old)
	g.moved()
}

// stopLingering waits until the servers have closed what is being closed, but not for longer than limit.
func (g *gate) stopLingering(limit time.Duration) {
	g.linger.stop(limit, func() {
		g.hurry.Store(true)
		g.mu.Lock()
		defer g.mu.Unlock()
		for c := range g.closing {
			_ = c.SetReadDeadline(time.Unix(1, 0))
		}
	})
}
