package dbpool

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// Reservation is the connections that a child process may open.
type Reservation struct {
	Connections int

	m    *Manager
	term *term
	role *role
	name string
	done chan struct{}
}

// Reserve waits for n connections for a child process, e.g. Ruby's, whose pool is that large. Start the child with PGAPPNAME set to
// ApplicationName, so that it ends with its parent (Pdeathsig or the unit's control group), end it when Lost is closed, and call Release
// when it is gone. One connection more than n must be in the lease: it is used to see that the child's are gone. ctx needs a deadline: who waits for
// connections later waits behind this.
func (m *Manager) Reserve(ctx context.Context, n int, roleName string) (*Reservation, error) {
	if n <= 0 || n > maxConnections {
		return nil, fmt.Errorf("reserve %d database connections", n)
	}
	g := m.gate
	g.mu.Lock()
	r := g.role(part(roleName, childRoleBytes))
	all := g.h.budget.Leasable(len(m.servers))
	g.mu.Unlock()
	if all > 0 && n+1 > all {
		return nil, fmt.Errorf("reserve %d database connections: all hosts together have %d, and one more is needed to see that they are closed", n, all)
	}
	if err := g.acquire(ctx, &waiter{role: r, n: n, child: true}); err != nil {
		return nil, fmt.Errorf("reserve database connections: %w", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.children++
	res := &Reservation{Connections: n, m: m, term: g.term, role: r, done: make(chan struct{})}
	res.name = leaseName(m.ledger.cluster, g.h.host, g.term.epoch, part(roleName, childRoleBytes)+"."+strconv.FormatUint(g.children%10000, 10), m.cfg.Pooled)
	return res, nil
}

// ApplicationName is PGAPPNAME of the child.
func (r *Reservation) ApplicationName() string { return r.name }

// Lost is closed when the lease is lost: end the child, then Release.
func (r *Reservation) Lost() <-chan struct{} { return r.term.lost }

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
	close(r.done)
	r.m.gate.unreserve(r.term, r.role, r.Connections)
	return nil
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
