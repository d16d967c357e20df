package simulate

import (
	"fmt"
	"time"

	"github.com/queueville/queueville/dbpool"
)

// ledger is the connection budget: dbpool's own Book and Shares, called as often as the worker's manager calls.
type ledger struct {
	s    *sim
	book dbpool.Book
	next int // epochs
	n    int
}

// lease is one worker's part of it.
type lease struct {
	epoch   string
	number  int64
	granted int
	demand  int
	called  int64
	known   dbpool.Reply
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
	l.book.SetBudget(l.millis(), "run", "generation", cluster, dbpool.Budget{Connections: connections, MinPerHost: least}, dbpool.SetOptions{NewCluster: true}, 1)
}

// join begins a worker's lease.
func (l *ledger) join(w *workerModel) {
	l.next++
	w.lease = lease{epoch: fmt.Sprintf("e%06d", l.next), demand: nativeConns + w.perProcess()}
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
	// Who has what it demands, and demands what it did, asks for what it has: no need to compute everybody's share.
	if a.known.Verdict == dbpool.VerdictOK && (wanting || a.demand != a.granted) {
		want = l.aim(a, a.demand)
	}
	keep := max(held, min(a.granted, want)) // what is not open is given back at once
	a.number++
	reply := l.book.Sync(l.millis(), "run", "generation", cluster, dbpool.Call{
		Generation: "generation", Epoch: a.epoch, Number: a.number, Held: keep, Want: want, Demand: a.demand, TTL: leaseMillis, Host: w.name, Process: "-", Slots: 1,
	})
	if reply.Verdict == dbpool.VerdictOK {
		a.granted = reply.Granted
		a.known = reply
	}
	l.confirm(&reply)
}

// aim is this worker's share, by what all demand: every process computes the same.
func (l *ledger) aim(a *lease, demand int) int {
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
				d = demand
			}
			hosts = append(hosts, dbpool.HostDemand{Name: e.Epoch, Demand: d, Min: a.known.Budget.MinPerHost, Priority: e.Priority, Current: e.Granted})
		}
	}
	for _, g := range dbpool.Shares(l.budget()-doubtful, hosts) {
		if g.Name == a.epoch {
			return g.Connections
		}
	}
	return demand
}

// confirm settles leases that ended without a word, after the wait.
func (l *ledger) confirm(r *dbpool.Reply) {
	var gone []dbpool.Judgement
	for i := range r.Leases {
		e := &r.Leases[i]
		if e.State == dbpool.Unconfirmed && l.millis()-e.Since.UnixMilli() > confirmAfter/int64(time.Millisecond) {
			gone = append(gone, dbpool.Judgement{What: dbpool.JudgeLeft, Epoch: e.Epoch})
		}
	}
	if len(gone) > 0 {
		l.book.Judge(l.millis(), "run", "generation", "generation", gone)
	}
}

// leave ends a lease in order.
func (l *ledger) leave(w *workerModel) {
	if a := &w.lease; a.epoch != "" {
		a.number++
		l.book.Sync(l.millis(), "run", "generation", cluster, dbpool.Call{
			Generation: "generation", Epoch: a.epoch, Number: a.number, Leave: true, TTL: leaseMillis, Host: w.name, Process: "-", Slots: 1,
		})
		a.epoch = ""
	}
}

// crash says nothing: the lease ends by itself, and counts until it is confirmed.
func (l *ledger) crash(w *workerModel) { w.lease.epoch = "" }
