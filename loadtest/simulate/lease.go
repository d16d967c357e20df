package simulate

import (
	"fmt"
	"time"

	"github.com/queueville/queueville/dbpool"
)

// ledger is the connection budget: dbpool's own Book and Shares, called as often as the worker's manager calls.
//
// In a fleet of hundreds most calls change nothing. So what the last call that changed something was told is kept for all, and a call that asks for
// nothing else than before only moves the end of its lease.
type ledger struct {
	s    *sim
	book dbpool.Book
	next int // epochs
	n    int

	state   int // number of the book's state
	members int // leases that are to be in it
	settled bool
	known   *dbpool.Reply // of that state, but for the times
	shares  map[string]int
	shared  int // state that shares are of
}

// lease is one worker's part of it.
type lease struct {
	epoch    string
	number   int64
	granted  int
	demand   int
	demanded int
	called   int64
	seen     int // state that is known
	known    *dbpool.Reply
}

const (
	cluster     = "simulated"
	leaseMillis = 12_000
	// How often a manager calls with more than its minimum, and without (docs/dbpool.md, “Cost”).
	holdEvery = int64(2 * time.Second)
	restEvery = int64(3 * time.Second)
	// confirmAfter is the wait before PostgreSQL's word that an ended lease's connections are gone is believed (docs/dbpool.md, “The wait”).
	confirmAfter = int64(74 * time.Second)
)

func newLedger(s *sim) *ledger { return &ledger{s: s} }

func (l *ledger) millis() int64 { return 1_650_000_000_000 + l.s.now/int64(time.Millisecond) }

func (l *ledger) budget() int { return max(0, l.n-2) }

// set stores a budget for so many hosts.
func (l *ledger) set(_ int64, connections, hosts int) {
	least := max(1, min(5, (connections-2)/max(1, hosts)))
	connections = max(connections, hosts*least+2)
	l.n = connections
	l.state, l.settled = l.state+1, false
	l.book.SetBudget(l.millis(), "run", "generation", cluster, dbpool.Budget{Connections: connections, MinPerHost: least}, dbpool.SetOptions{NewCluster: true}, 1)
}

// join begins a worker's lease.
func (l *ledger) join(w *workerModel) {
	l.next++
	w.lease = lease{epoch: fmt.Sprintf("e%06d", l.next), demand: nativeConns + w.perProcess(), seen: -1}
	l.members++
	l.call(w)
}

// call renews, grows or shrinks a lease: every second while it wants more than it has, else every two or three.
func (l *ledger) call(w *workerModel) {
	a := &w.lease
	if a.epoch == "" {
		return
	}
	wanting := a.demand > a.granted
	every := holdEvery
	if a.granted <= l.book.Budget.MinPerHost {
		every = restEvery
	}
	if !wanting && a.called > 0 && l.s.now-a.called < every {
		return
	}
	a.called = l.s.now
	held := min(a.granted, max(w.reserved()+nativeConns, 0))
	want := a.demand
	if l.settled {
		a.seen, a.known = l.state, l.known
	}
	// Who has what it demands, and demands what it did, asks for what it has: no need to compute everybody's share.
	if a.known != nil && (wanting || a.demand != a.granted) {
		want = l.aim(a)
	}
	keep := max(held, min(a.granted, want)) // what is not open is given back at once
	a.number++
	if l.settled && keep == a.granted && want <= keep && a.demand == a.demanded {
		row := l.book.Leases[a.epoch]
		row.Number, row.Expires = a.number, l.millis()+leaseMillis
		l.book.Leases[a.epoch] = row
		return
	}
	before := a.granted
	reply := l.book.Sync(l.millis(), "run", "generation", cluster, dbpool.Call{
		Generation: "generation", Epoch: a.epoch, Number: a.number, Held: keep, Want: want, Demand: a.demand, TTL: leaseMillis, Host: w.name, Process: "-", Slots: 1,
	})
	if reply.Verdict == dbpool.VerdictOK {
		a.granted = reply.Granted
	}
	was := l.settled
	l.settled = l.confirm(&reply) && len(reply.Leases) == l.members
	if l.known == nil || !was || !l.settled || a.granted != before || a.demand != a.demanded {
		l.state++
		l.known = &reply
	}
	a.demanded, a.seen, a.known = a.demand, l.state, l.known
}

// aim is this worker's share, by what all demand: every process computes the same.
func (l *ledger) aim(a *lease) int {
	if a.seen == l.state && l.shared == l.state && a.demand == a.demanded && l.shares != nil {
		return l.shares[a.epoch]
	}
	hosts := make([]dbpool.HostDemand, 0, len(a.known.Leases))
	doubtful := 0
	for i := range a.known.Leases {
		e := &a.known.Leases[i]
		switch {
		case e.Confirmation:
		case e.State != dbpool.Live:
			doubtful += e.Granted
		default:
			d := e.Demand
			if e.Epoch == a.epoch {
				d = a.demand
			}
			hosts = append(hosts, dbpool.HostDemand{Name: e.Epoch, Demand: d, Min: a.known.Budget.MinPerHost, Priority: e.Priority, Current: e.Granted})
		}
	}
	shares := make(map[string]int, len(hosts))
	for _, g := range dbpool.Shares(l.budget()-doubtful, hosts) {
		shares[g.Name] = g.Connections
	}
	if a.seen == l.state && a.demand == a.demanded {
		l.shares, l.shared = shares, l.state
	}
	if n, ok := shares[a.epoch]; ok {
		return n
	}
	return a.demand
}

// confirm settles leases that ended without a word, after the wait. It reports whether there are none.
func (l *ledger) confirm(r *dbpool.Reply) bool {
	var gone []dbpool.Judgement
	all := true
	for i := range r.Leases {
		e := &r.Leases[i]
		if e.State == dbpool.Live {
			continue
		}
		all = false
		if e.State == dbpool.Unconfirmed && l.millis()-e.Since.UnixMilli() > confirmAfter/int64(time.Millisecond) {
			gone = append(gone, dbpool.Judgement{What: dbpool.JudgeLeft, Epoch: e.Epoch})
		}
	}
	if len(gone) > 0 {
		l.book.Judge(l.millis(), "run", "generation", "generation", gone)
	}
	return all
}

// leave ends a lease in order.
func (l *ledger) leave(w *workerModel) {
	if a := &w.lease; a.epoch != "" {
		a.number++
		l.book.Sync(l.millis(), "run", "generation", cluster, dbpool.Call{
			Generation: "generation", Epoch: a.epoch, Number: a.number, Leave: true, TTL: leaseMillis, Host: w.name, Process: "-", Slots: 1,
		})
		a.epoch = ""
		l.members--
		l.settled = false
	}
}

// crash says nothing: the lease ends by itself, and counts until it is confirmed.
func (l *ledger) crash(w *workerModel) {
	if w.lease.epoch != "" {
		w.lease.epoch = ""
		l.members--
		l.settled = false
	}
}
