package dbpool

import (
	"fmt"
	"time"
)

// RoleStats is what the pools and children of one role do. Sums since the start.
type RoleStats struct {
	InUse    int           // connections acquired and not released
	Waiting  int           // connections waited for
	Open     int           // sockets of pools, idle ones included
	Reserved int           // for child processes
	Acquired uint64        // times
	Waited   uint64        // times that one had to wait for the lease
	WaitTime time.Duration // by those
	Refused  uint64        // times that the wait ended without one
}

// Stats is what a Manager does.
type Stats struct {
	Leased     int    // connections the ledger counts for this process
	Limit      int    // of these, what it may open now; 0 while the lease is in doubt
	Share      int    // what it should have by all hosts' demand
	Demand     int    // most that could be used in the last seconds
	Open       int    // sockets, closing ones included, and dials under way
	Budget     Budget // of the cluster
	Recovering bool   // Redis may have forgotten: nothing is granted
	Confirms   bool   // this process confirms for the cluster
	Reason     string // why the share is none; "" otherwise
	Calls      uint64 // of the ledger
	Roles      map[string]RoleStats
}

// Why says why n connections cannot be had now, for people; "" when nothing is known to be in the way.
func (m *Manager) Why(n int) string {
	now := instantOf(time.Now())
	g := m.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	h := &g.h
	switch {
	case g.ended:
		return ErrManagerClosed.Error()
	case m.reply != nil && m.reply.Verdict == VerdictCluster:
		return ErrCluster.Error()
	case m.failing || h.held && !h.fresh(now):
		return "redis does not answer, so the lease of connections is in doubt"
	case !h.registered:
		return "the lease of connections is being taken"
	case h.budget.Connections == 0:
		return ErrNoBudget.Error()
	case h.reason != "":
		return h.reason
	case h.limit()-h.reserved < n:
		return fmt.Sprintf("needs %d, and has %d, of these %d for processes that run; the budget leases out %d", n, h.limit(), h.reserved, h.budget.Leasable(h.slots))
	}
	return ""
}

// Stats reads the counters.
func (m *Manager) Stats() Stats {
	now := instantOf(time.Now())
	g := m.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	s := Stats{
		Leased: g.h.granted, Share: g.h.share, Demand: g.demand(), Open: g.h.open, Budget: g.h.budget, Recovering: g.h.recovering,
		Confirms: g.h.confirms, Reason: g.h.reason, Calls: m.calls, Roles: make(map[string]RoleStats, len(g.roles)),
	}
	if g.h.fresh(now) {
		s.Limit = g.h.limit()
	}
	open := map[*role]int{}
	for _, p := range g.pools {
		open[p.role] += int(p.pool.Stat().TotalConns())
	}
	for name, r := range g.roles {
		s.Roles[name] = RoleStats{
			InUse: r.inUse, Waiting: r.waiting, Open: open[r], Reserved: r.reserved, Acquired: r.acquired, Waited: r.waited,
			WaitTime: r.waitTime, Refused: r.refused,
		}
	}
	return s
}
