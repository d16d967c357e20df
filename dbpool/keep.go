package dbpool

import (
	"context"
	"log/slog"
	"slices"
	"time"
)

// keep calls the ledger: to renew every few seconds, sooner when demand has outgrown the lease or something can be given back.
func (m *Manager) keep(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.gate.kick:
		case <-timer.C:
		}
		wait := time.Until(m.due())
		if wait <= 0 {
			m.call(ctx)
			wait = time.Until(m.due())
		}
		timer.Reset(max(wait, time.Millisecond))
	}
}

// due is when the ledger is called next.
func (m *Manager) due() time.Time {
	g := m.gate
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	h := &g.h
	starving := !h.recovering && h.fresh(instantOf(now)) && g.demand() > h.limit()
	switch {
	case !starving:
		m.pressed = time.Time{}
	case m.pressed.IsZero():
		m.pressed = now
	}
	every := restEvery
	switch {
	case m.called.IsZero():
		return now
	case m.failing, m.reply != nil && m.reply.Verdict != VerdictOK:
		every = pressEvery
	case h.reserved > h.announced && h.registered, len(g.settled) > 0 || g.doubt || h.spare() > 0 || !h.registered || h.granted == 0 && h.target > 0 && h.number == 1:
		every = spareEvery
	case (starving || h.limit() == 0) && hurry(m.reply):
		every = hurryEvery
	case starving && now.Sub(m.pressed) < firstFor:
		every = firstEvery
	case starving, h.recovering, h.confirms:
		every = pressEvery
	case h.granted > h.budget.MinPerHost:
		every = holdEvery
	}
	return m.called.Add(min(every, m.cfg.TTL/4))
}

// call makes one call and takes its reply.
func (m *Manager) call(ctx context.Context) {
	g := m.gate
	sent := time.Now()
	g.mu.Lock()
	m.called = sent
	if m.reply != nil && g.h.registered && g.h.fresh(instantOf(sent)) {
		g.h.aim(m.reply, g.demand())
	}
	if g.h.confirm == "" {
		g.h.confirm, m.dropping = newEpoch(), false
	}
	if g.doubt {
		g.h.target = 0
	}
	c := g.h.next(instantOf(sent), g.demand(), m.mayWantToConfirm(sent))
	c.Leave = g.doubt
	m.calls++
	settled := g.settled
	g.over.Store(g.h.open+g.h.reserved > g.h.limit())
	g.mu.Unlock()

	callCtx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r, err := m.ledger.sync(callCtx, &c)
	if err != nil {
		m.failed(ctx, "redis", err)
		g.mu.Lock()
		m.reply, m.failing = nil, true // nothing is confirmed by what may be old
		g.mu.Unlock()
		return
	}
	m.take(ctx, sent, &c, r)
	m.tell(ctx, r, settled)
}

// mayWantToConfirm: the ledger decides whether anything is to be confirmed. The lock is held.
func (m *Manager) mayWantToConfirm(now time.Time) bool {
	if m.dropping || now.Before(m.noConfirm) || m.reply != nil && m.witness.early(now.Sub(started), m.reply) {
		return false
	}
	if m.cfg.Pooled && m.reply != nil {
		for i := range m.reply.Leases { // who can look goes first
			if l := &m.reply.Leases[i]; l.State == Live && !l.Pooled && !l.Confirmation {
				return false
			}
		}
	}
	return true
}

// take enters a reply.
func (m *Manager) take(ctx context.Context, sent time.Time, c *Call, r *Reply) {
	g := m.gate
	g.mu.Lock()
	m.failing = false
	before, was := g.h.limit(), g.h.generation
	lost := false
	switch {
	case r.Verdict == VerdictCluster || r.Verdict == VerdictFull:
		m.reply = r
	case !g.h.accept(instantOf(sent), c, r), c.Leave:
		lost = true
		g.rotate()
		m.reply = nil
	default:
		m.reply = r
		m.witness.note(time.Since(started), r)
		switch {
		case g.h.confirm == "":
			g.end(g.confirm)
			g.confirm = nil
		case g.h.confirms && g.confirm == nil:
			g.confirm = newTerm(g.h.confirm, true)
		}
		g.moved()
	}
	after := g.h.limit()
	pools := g.pools
	g.mu.Unlock()
	switch r.Verdict {
	case VerdictCluster:
		m.failed(ctx, "redis", ErrCluster)
	case VerdictFull:
		m.log.WarnContext(ctx, "too many hosts share the connection budget", slog.Int("hosts", maxHosts))
	default:
	}
	if lost {
		for _, p := range pools {
			p.pool.Reset()
		}
		reason := "expired"
		switch {
		case c.Leave:
			reason = "a connection could not be shown to be closed"
		case r.Generation != was:
			reason = "redis forgot"
		}
		m.cfg.Observer.LeaseLost(reason)
		m.log.WarnContext(ctx, "lease of database connections was lost, all are closed", slog.String("reason", reason))
	}
	if before != after {
		m.cfg.Observer.Leased(before, after)
		m.log.DebugContext(ctx, "database connections leased", slog.Int("from", before), slog.Int("to", after))
	}
}

// tell tells the ledger what this process knows for sure: its own old epochs that are closed, and neighbours that are gone.
func (m *Manager) tell(ctx context.Context, r *Reply, settled []string) {
	if r.Verdict == VerdictCluster {
		return
	}
	list := make([]Judgement, 0, len(settled))
	for _, epoch := range settled {
		list = append(list, Judgement{What: JudgeLeft, Epoch: epoch})
	}
	if now := time.Now(); now.Sub(m.neighbours) > restEvery || hurry(r) {
		m.neighbours = now
		list = append(list, goneNeighbours(r.Leases, m.gate.h.process)...)
	}
	if r.Verdict == VerdictOK && !m.cfg.Pooled {
		m.gate.mu.Lock()
		list = append(list, m.witness.unblock(time.Since(started), r)...)
		m.gate.mu.Unlock()
	}
	if len(list) == 0 {
		return
	}
	callCtx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	ok, err := m.ledger.judge(callCtx, r.Generation, list)
	if err != nil {
		m.failed(ctx, "redis", err)
		return
	}
	if ok {
		m.gate.mu.Lock()
		m.gate.settled = m.gate.settled[len(settled):]
		m.gate.mu.Unlock()
	}
}

// hurry tells that the process of a lease has just ended: what it had comes back as soon as its children and its connections are seen to be gone.
func hurry(r *Reply) bool {
	return r != nil && slices.ContainsFunc(r.Leases, func(l Lease) bool {
		return l.Gone && !l.Confirmation && millisOf(r.Now).Sub(l.Since) < hurryFor
	})
}

func (m *Manager) failed(ctx context.Context, what string, err error) {
	if ctx.Err() != nil {
		return
	}
	m.cfg.Observer.Failed(what, err)
	m.log.WarnContext(ctx, "lease of database connections", slog.String("with", what), slog.Any("err", err))
}

// watch closes idle connections that others need, and everything when the lease is in doubt.
func (m *Manager) watch(ctx context.Context) {
	g := m.gate
	tick := time.NewTicker(min(watchEvery, m.cfg.TTL/20))
	defer tick.Stop()
	doubtful := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.evicted:
			m.evict(ctx)
			continue
		case <-tick.C:
		}
		now := instantOf(time.Now())
		g.mu.Lock()
		stale := g.h.held && !g.h.fresh(now)
		cut := stale && g.h.renewed.since(now) >= m.cfg.TTL-g.h.margin()/2
		if cut {
			for c := range g.term.conns {
				c.cut()
			}
			if g.confirm != nil {
				for c := range g.confirm.conns {
					c.cut()
				}
			}
			if len(g.lent) > 0 {
				g.lent = nil
				g.lose(g.term)
			}
		}
		m.recall(now)
		m.compromise(now)
		pools := g.pools
		g.mu.Unlock()
		if stale && !doubtful {
			// Idle ones at once; those in use have until half of what is left.
			for _, p := range pools {
				p.pool.Reset()
			}
			m.cfg.Observer.LeaseLost("not renewed in time")
			m.log.WarnContext(ctx, "lease of database connections was not renewed in time, work waits")
		}
		doubtful = stale
		m.evict(ctx)
	}
}

// evict closes idle connections that are more than the lease, or in the way of a dial or a child.
func (m *Manager) evict(ctx context.Context) {
	g := m.gate
	g.mu.Lock()
	n := g.h.open + g.h.reserved + g.dialing - g.h.limit()
	if w := g.family(); w != nil {
		n += w.n
	}
	pools := g.pools
	g.mu.Unlock()
	for _, p := range pools {
		if n <= 0 {
			return
		}
		if p.pool.Stat().IdleConns() > 0 {
			n -= p.closeIdle(ctx, n)
		}
	}
}
