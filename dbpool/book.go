package dbpool

import (
	"maps"
	"slices"
)

// Book is the ledger in Go: what the scripts do, without Redis and without a clock. A test holds the two equal; the protocol's property
// tests and simulators use this one. The zero value is an empty Redis.
type Book struct {
	Generation string
	Run        string // the server's run id when the generation began
	Recovering bool
	Cluster    string
	Budget     Budget
	Slots      int
	Confirmed  int64 // ms
	Leases     map[string]BookLease
}

// BookLease is one row of a Book; times in ms of Redis's clock.
type BookLease struct {
	Kind, State               byte
	Number                    int64
	Granted, Reserved, Demand int
	Priority                  int
	Expires, Since            int64
	Host, Process             string
}

// Rules of the scripts, in ms.
const (
	longestLease     = 60_000
	auditEvery       = 60_000
	confirmerForgets = 600_000
)

// Clone copies a Book, as a replica or a dump does.
func (b *Book) Clone() *Book {
	c := *b
	c.Leases = maps.Clone(b.Leases)
	return &c
}

// begin is lua/begin.lua.
func (b *Book) begin(now int64, run, generation string) {
	if b.Leases == nil {
		b.Leases = map[string]BookLease{}
	}
	if b.Generation == "" || b.Run != run {
		b.Generation, b.Run, b.Recovering = generation, run, true
	}
	for epoch, e := range b.Leases {
		switch {
		case e.State == 'L' && e.Expires <= now:
			if e.Granted == 0 {
				delete(b.Leases, epoch)
				continue
			}
			e.State, e.Since = 'E', now
		case e.State == 'L' && e.Expires > now+longestLease:
			e.Expires = now + longestLease
		case e.Kind == 'c' && e.State != 'L' && (now-e.Since > confirmerForgets || e.Since > now+longestLease):
			delete(b.Leases, epoch)
			continue
		}
		b.Leases[epoch] = e
	}
}

// Held is what all leases of workers, or of confirmations, may have open.
func (b *Book) Held(confirmations bool) int {
	n := 0
	for _, e := range b.Leases {
		if (e.Kind == 'c') == confirmations {
			n += e.Granted
		}
	}
	return n
}

// SetBudget is lua/budget.lua for a budget that passed its checks; false when it is below what live hosts are guaranteed.
func (b *Book) SetBudget(now int64, run, generation, cluster string, budget Budget, o SetOptions, slots int) bool {
	b.begin(now, run, generation)
	live := 0
	for _, e := range b.Leases {
		if e.State == 'L' && e.Kind != 'c' {
			live++
		}
	}
	if b.Cluster != "" && b.Cluster != cluster || o.OnlyIfUnset && b.Budget.Connections > 0 {
		return false
	}
	b.Slots = max(b.Slots, slots)
	if budget.Connections < live*budget.MinPerHost+reserve(b.Slots) {
		return false
	}
	budget.Serial, budget.SetAt = nextSerial(b.Budget.Serial, o.OnlyIfUnset), millisOf(now)
	b.Cluster, b.Budget = cluster, budget
	if o.NewCluster && len(b.Leases) == 0 {
		b.Recovering = false
	}
	return true
}

// nextSerial: whatever a person decides counts more than a budget that was found, also one that was found anew after Redis had forgotten.
func nextSerial(last int64, found bool) int64 {
	if found {
		return last + 1
	}
	return max(last, 1) + 1
}

// Sync is lua/sync.lua.
func (b *Book) Sync(now int64, run, generation, cluster string, c Call) Reply {
	b.begin(now, run, generation)
	if b.Cluster != "" && b.Cluster != cluster {
		return Reply{Verdict: VerdictCluster, Generation: b.Generation, Recovering: b.Recovering, Now: now, Budget: Budget{Reason: b.Cluster}}
	}
	if c.Known.Serial > b.Budget.Serial {
		b.Budget = c.Known
	}
	b.Cluster = cluster
	b.Slots = max(b.Slots, c.Slots)
	verdict := b.admit(now, &c)
	granted := 0
	if verdict == VerdictOK {
		granted = b.book(now, &c)
	}
	confirms := verdict == VerdictOK && c.Confirm != "" && b.confirmer(now, &c)
	return Reply{
		Verdict: verdict, Generation: b.Generation, Recovering: b.Recovering, Now: now, Budget: b.Budget, Slots: b.Slots, Granted: granted,
		Confirms: confirms, Leases: b.list(),
	}
}

// admit decides whether the call may change its lease.
func (b *Book) admit(now int64, c *Call) Verdict {
	e, ok := b.Leases[c.Epoch]
	switch {
	case c.Doubt && !c.Leave && c.Generation != b.Generation && c.Held+c.Reserved > 0:
		if ok && e.State == 'L' {
			e.Granted, e.State, e.Since, e.Number = max(e.Granted, c.Held), 'E', now, max(e.Number, c.Number)
			b.Leases[c.Epoch] = e
		}
		return VerdictEnded
	case !ok && c.Leave:
		return VerdictEnded
	case !ok && c.Held == 0 && c.Reserved == 0:
		count := 0
		for _, l := range b.Leases {
			if l.Kind != 'c' {
				count++
			}
		}
		if count >= maxHosts {
			return VerdictFull
		}
		return VerdictOK
	case !ok && (!b.Recovering || c.Generation == "" || c.Generation == b.Generation):
		return VerdictEnded
	case !ok:
		return VerdictOK // a claim
	case e.State != 'L':
		return VerdictEnded
	case c.Number <= e.Number:
		return VerdictStale
	case b.Recovering && c.Generation != b.Generation:
		return VerdictOK // a claim
	case c.Held > e.Granted:
		e.Granted, e.State, e.Since, e.Number = c.Held, 'E', now, c.Number
		b.Leases[c.Epoch] = e
		return VerdictEnded
	}
	return VerdictOK
}

// book enters an admitted call and returns what its lease has now.
func (b *Book) book(now int64, c *Call) int {
	e, ok := b.Leases[c.Epoch]
	if !ok {
		e = BookLease{Kind: kind(c.Pooled)[0], State: 'L', Since: now, Host: c.Host, Process: c.Process}
	}
	e.Number, e.Granted, e.Reserved, e.Demand, e.Priority = c.Number, c.Held, c.Reserved, c.Demand, c.Priority
	if c.Leave {
		e.State, e.Since, e.Demand = 'E', now, 0
		b.Leases[c.Epoch] = e
		if c.Held == 0 {
			delete(b.Leases, c.Epoch)
		}
		return 0
	}
	e.Expires = now + c.TTL
	b.Leases[c.Epoch] = e
	if !b.Recovering && ok && c.Want > c.Held {
		if free := b.Budget.Connections - reserve(b.Slots) - b.Held(false); free > 0 {
			e.Granted += min(free, c.Want-c.Held)
		}
	}
	b.Leases[c.Epoch] = e
	return e.Granted
}

// confirmer takes, keeps or drops the confirmation, and tells whether the caller has it.
func (b *Book) confirmer(now int64, c *Call) bool {
	l, ok := b.Leases[c.Confirm]
	switch {
	case c.Drop:
		if ok && l.Kind == 'c' {
			delete(b.Leases, c.Confirm)
		}
		return false
	case ok:
		if l.Kind != 'c' || l.State != 'L' {
			return false
		}
		l.Expires = now + c.TTL
		b.Leases[c.Confirm] = l
		return true
	case c.Leave:
		return false
	}
	need := b.Recovering || now-b.Confirmed > auditEvery || b.Confirmed > now+auditEvery
	taken := false
	for _, e := range b.Leases {
		need = need || e.State != 'L'
		taken = taken || e.Kind == 'c' && e.State == 'L'
	}
	if !need || taken || b.Held(true)+c.Slots > reserve(b.Slots) {
		return false
	}
	b.Leases[c.Confirm] = BookLease{Kind: 'c', State: 'L', Granted: c.Slots, Expires: now + c.TTL, Since: now, Host: c.Host, Process: c.Process}
	return true
}

// Judge is lua/judge.lua.
func (b *Book) Judge(now int64, run, fresh, generation string, list []Judgement) bool {
	b.begin(now, run, fresh)
	if generation != b.Generation {
		return false
	}
	for _, j := range list {
		e, ok := b.Leases[j.Epoch]
		switch j.What {
		case JudgeLeft:
			if ok && e.State != 'L' && e.Granted > j.Count {
				e.Granted, e.Reserved = j.Count, min(e.Reserved, j.Count)
				b.Leases[j.Epoch] = e
				if j.Count == 0 {
					delete(b.Leases, j.Epoch)
				}
			}
		case JudgeGone:
			if ok && e.State != 'G' {
				e.State, e.Since = 'G', now
				b.Leases[j.Epoch] = e
				if e.Granted == 0 {
					delete(b.Leases, j.Epoch)
				}
			}
		case JudgeOver:
			if ok && (e.State != 'G' || e.Reserved > 0) {
				e.State, e.Since, e.Reserved = 'G', now, 0
				b.Leases[j.Epoch] = e
				if e.Granted == 0 {
					delete(b.Leases, j.Epoch)
				}
			}
		case JudgeSeen:
			if !ok {
				e = BookLease{Kind: 'w', State: 'E', Since: now, Host: j.Host, Process: "-"}
			}
			if e.Granted < j.Count && (e.State != 'L' || b.Recovering) {
				e.Granted = j.Count
				b.Leases[j.Epoch] = e
			}
		case JudgeDone:
			b.Recovering = false
		case JudgeLook:
			b.Confirmed = now
		}
	}
	return true
}

// list is the leases as a reply has them, sorted by epoch.
func (b *Book) list() []Lease {
	leases := make([]Lease, 0, len(b.Leases))
	for _, epoch := range slices.Sorted(maps.Keys(b.Leases)) {
		leases = append(leases, b.Leases[epoch].lease(epoch))
	}
	return leases
}

func (e BookLease) lease(epoch string) Lease {
	l := Lease{
		Epoch: epoch, Host: e.Host, State: Live, Confirmation: e.Kind == 'c', Pooled: e.Kind == 'p', Gone: e.State == 'G',
		Granted: e.Granted, Reserved: e.Reserved, Demand: e.Demand, Priority: e.Priority, Expires: millisOf(e.Expires), Since: millisOf(e.Since),
		proc: e.Process,
	}
	if e.State != 'L' {
		l.State, l.Expires = Unconfirmed, millisOf(0)
	}
	return l
}
