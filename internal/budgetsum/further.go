package budgetsum

import (
	"fmt"
	"slices"
)

// behindPooler writes what is between the pooler and PostgreSQL, and says what is not promised there.
func (m *maker) behindPooler() {
	server := m.in.Server
	m.Promises = append(m.Promises,
		"Behind PgBouncer the budget counts client connections to it, not connections to PostgreSQL: those are the pools' to bound.",
		"That connections of an ended lease are gone cannot be confirmed through PgBouncer, so no backend is ended, and a host that was frozen "+
			"past its lease may hold its old connections for a moment beside the new ones.",
		"Only the PgBouncer at "+server.Address+" is counted. If every machine has one of its own, each has a sum of its own.")
	if m.in.Unknown {
		m.warn("pgbouncer", "add Mastodon's role to stats_users in pgbouncer.ini, or set the budget yourself",
			"what it allows is not known, so no budget can be found")
	}
	available := m.limits(server)
	pools, sessions := 0, classify(server.Sessions, "")
	if p := m.in.Pooler; p != nil {
		pools = p.ServersAtMost()
		open := p.ServersOpen()
		m.row(Row{Kind: RowLess, Key: "pools", Label: "PgBouncer's pools", CanHold: &pools, Open: &open, Origin: "SHOW DATABASES; pools not used yet come on top"})
		waiting := 0
		for _, pool := range p.Pools {
			waiting += pool.Waiting
			m.row(Row{Kind: RowPart, Key: "pool", Label: "pool", Host: pool.Database, Name: pool.Role, CanHold: &pool.Size, Open: &pool.Open, Origin: poolOrigin(pool)})
		}
		if pools > available {
			m.warn("default_pool_size", "make the pools smaller, or raise max_connections",
				"PgBouncer's pools can open %d connections, and PostgreSQL has %d for everybody", pools, available)
		}
		if waiting > 0 {
			m.warn("pgbouncer", "more clients do not help here; are queries slow, or the pools too small?", "%d clients wait for a server connection now", waiting)
		}
	}
	direct := m.others(sessions, false)
	if sessions.queueville > 0 {
		m.row(Row{Kind: RowNote, Key: "queueville", Label: "Queueville, not through PgBouncer", Open: &sessions.queueville, Origin: "measured"})
	}
	left := available - pools - direct
	if m.in.Pooler != nil {
		m.row(Row{Kind: RowTotal, Key: "left", Label: "left over", CanHold: &left, Origin: "for migrations, tootctl, backups"})
	}
	m.end(serverTitle("behind it: PostgreSQL", server))
}

func poolOrigin(p Pool) string {
	s := "with its reserve"
	if p.Limit > 0 {
		s += fmt.Sprintf(", max_db_connections %d", p.Limit)
	}
	return s
}

// replicaHolders: Rails opens a second pool of the same size, to the replica; streaming does not.
func replicaHolders(list []Holder) []Holder {
	out := slices.Clone(list)
	out = slices.DeleteFunc(out, func(h Holder) bool { return h.Role == RoleStreaming || h.Role == RoleOther })
	for i := range out {
		out[i].Origin = "second pool, for the replica: " + out[i].Origin
	}
	return out
}

// replica writes the sum of a read replica's server, which Queueville's budget does not cover.
func (m *maker) replica() {
	r := m.in.Replica
	available := m.limits(r)
	before := m.Holders
	m.Holders = replicaHolders(m.in.Holders)
	sortHolders(m.Holders)
	in := m.in
	m.in.Server = r
	seen := classify(r.Sessions, r.Role)
	canHold := m.mastodon(seen) + m.others(seen, false)
	m.in, m.Holders = in, before
	left := available - canHold
	m.row(Row{Kind: RowTotal, Key: "left", Label: "left over", CanHold: &left, Open: &seen.queueville, Origin: "no budget here: it is for the primary"})
	m.end(serverTitle("read replica: PostgreSQL", r))
	if left < 0 {
		m.warn("replica", "make pools fewer, or raise max_connections of the replica", "Rails' pools for the read replica can hold %d connections, %d more than it has", canHold, -left)
	}
}

// judgeStored warns when the stored budget and the sum contradict each other.
func (m *maker) judgeStored() {
	st := m.in.Stored
	if st == nil {
		if m.in.Ledger != nil && m.Found != nil {
			m.warn("budget", "queueville budget set --found", "none is stored, so nothing is granted")
		}
		return
	}
	if st.MinPerHost > 0 {
		reserve := 2
		if m.in.Ledger != nil {
			reserve = max(reserve, m.in.Ledger.Reserve)
		}
		fit := max(0, st.Connections-reserve) / st.MinPerHost
		m.HostsFit = &fit
		if n := m.liveHosts(); n > fit {
			m.warn("budget", "store a larger budget or a smaller minimum", "%d hosts are live and %d fit with their minimum of %d: the others wait with none", n, fit, st.MinPerHost)
		}
	}
	if m.Spare != nil && *m.Spare < 0 {
		m.warn("budget", fmt.Sprintf("store %d or less, or make the pools of others fewer", *m.Found), "the stored %d is %d more than was found to be free", st.Connections, -*m.Spare)
	}
	if m.in.Ledger != nil && m.in.Ledger.Recovering {
		m.warn("budget", "a running worker does so by itself; queueville budget set --new-cluster when none has been running for two minutes",
			"nothing is granted yet: the book of leases is new or was lost, and a worker must first see in PostgreSQL what is still open")
	}
}

func (m *maker) liveHosts() int {
	hosts := map[string]bool{}
	for _, l := range m.in.Ledger.leases() {
		if l.State == "live" {
			hosts[l.Host] = true
		}
	}
	return len(hosts)
}

func (l *Ledger) leases() []Lease {
	if l == nil {
		return nil
	}
	return l.Leases
}
