package dbpool

import "time"

// instant is a moment on both clocks. The monotonic one stands still while a machine is suspended, and the wall clock jumps when it is
// set, so time has passed as soon as either says so.
type instant struct{ mono, wall time.Duration }

// started is what monotonic readings count from.
var started = time.Now()

func instantOf(t time.Time) instant {
	return instant{mono: t.Sub(started), wall: time.Duration(t.UnixNano())}
}

// since is how long ago i was at least, by the clock that says more.
func (i instant) since(now instant) time.Duration { return max(now.mono-i.mono, now.wall-i.wall) }

// holder is what one process knows about its lease. It is the protocol's client side without clocks, locks and network: the Manager
// drives it, and so do the property tests. Numbers are connections.
//
// What it may have open is granted, and only while the lease is fresh. granted falls before a call is sent and rises when its reply has
// come, so the ledger never has less on its books than is open, whatever is lost on the way.
type holder struct {
	host, process string
	ttl           time.Duration
	priority      int
	slots         int
	pooled        bool

	epoch      string
	generation string
	number     int64
	renewed    instant // when the last call that was answered was sent
	held       bool    // renewed is set, and the epoch has not ended
	granted    int
	target     int // our share, by the last reply, but not less than floor
	share      int
	reserved   int // for child processes
	announced  int // of these, what the ledger has heard of
	open       int // sockets that are not shown to be closed, and dials under way
	budget     Budget
	recovering bool
	registered bool    // the ledger has answered a call of this epoch
	leases     []Lease // by the last reply
	reason     string  // why the share is none

	confirm     string // the epoch under which this process confirms, or would; "" makes none of its calls ask for it
	confirms    bool   // the ledger has given the confirmation to that epoch
	confirmOpen int    // sockets of it
}

// margin is how long before the lease's end its holder stops by itself: clocks, scheduling and the network are not exact.
func (h *holder) margin() time.Duration { return h.ttl / 4 }

// begin starts an epoch. Nothing of it is open.
func (h *holder) begin(epoch string) {
	h.epoch, h.number, h.granted, h.target, h.share, h.open, h.reserved = epoch, 0, 0, 0, 0, 0, 0
	h.held, h.registered, h.announced = false, false, 0
	h.confirm, h.confirms, h.confirmOpen = "", false, 0
}

// fresh tells whether the lease certainly lives.
func (h *holder) fresh(now instant) bool {
	return h.held && h.renewed.since(now) < h.ttl-h.margin()
}

// limit is how many connections there may be: no more are opened than this, and idle ones above it are closed.
func (h *holder) limit() int { return min(h.granted, h.target) }

// childLimit is limit for what new children may have. When one that was asked to end has gone, its connections are for those that needed them:
// by our share they are not ours any more, although the lease still has them.
func (h *holder) childLimit() int { return min(h.limit(), h.share) }

// mayOpen tells whether one more connection can be opened, or given to a child.
func (h *holder) mayOpen(now instant, n int) bool {
	return h.fresh(now) && h.open+h.reserved+n <= h.limit()
}

// left is for how long connections may still be opened, as far as is known at the given moment.
func (h *holder) left(now instant) time.Duration {
	if !h.held {
		return 0
	}
	return max(0, h.ttl-h.margin()-h.renewed.since(now))
}

// mayConfirm tells whether one more connection to confirm with can be opened.
func (h *holder) mayConfirm(now instant) bool {
	return h.confirms && h.fresh(now) && h.confirmOpen < h.slots
}

// spare is what the next call gives back.
func (h *holder) spare() int { return h.granted - max(h.limit(), h.open+h.reserved) }

// floor is what is kept whatever our share is: what children have, and the one connection to see that it is closed. Without that one they
// could never be shown to be gone.
func (h *holder) floor() int {
	if h.reserved == 0 {
		return 0
	}
	return min(h.granted, h.reserved+1)
}

// next makes the next call. From here on the holder has what the call says. confirm says that it would confirm, or go on doing so.
func (h *holder) next(now instant, demand int, confirm bool) Call {
	h.number++
	doubt := !h.fresh(now)
	if doubt {
		h.target, h.confirms = h.floor(), false // what is not open any more is not ours any more, even if Redis does not remember that
	}
	h.granted = max(h.limit(), h.open+h.reserved)
	c := Call{
		Generation: h.generation, Epoch: h.epoch, Doubt: doubt, Number: h.number, Held: h.granted, Want: max(h.granted, h.target), Reserved: h.reserved,
		Demand: demand, Priority: h.priority, TTL: h.ttl.Milliseconds(), Pooled: h.pooled, Host: h.host, Process: h.process, Slots: h.slots,
		Known: h.budget,
	}
	h.announced = min(h.announced, h.reserved) // the ledger may forget the rest from now on
	if confirm {
		c.Confirm = h.confirm
	} else {
		h.confirms = false // not renewed, so not ours to open anything with
		if h.confirmOpen == 0 && h.confirm != "" {
			c.Confirm, c.Drop = h.confirm, true
		}
	}
	return c
}

// accept takes the reply to call c, which was sent at the given moment. It returns false when the epoch is over: everything must be
// closed and another one begun.
func (h *holder) accept(sent instant, c *Call, r *Reply) bool {
	switch r.Verdict {
	case VerdictEnded:
		h.held = false
		return false
	case VerdictOK:
	default:
		return true // nothing was granted and nothing renewed
	}
	if h.number != c.Number || h.epoch != c.Epoch {
		return true // the answer to an older call
	}
	h.registered, h.held, h.renewed, h.generation, h.recovering = true, true, sent, r.Generation, r.Recovering
	if r.Budget.Serial >= h.budget.Serial {
		h.budget = r.Budget
	}
	h.granted, h.leases, h.announced = r.Granted, r.Leases, c.Reserved
	if c.Confirm == h.confirm {
		lost := h.confirms && !r.Confirms
		h.confirms = r.Confirms
		if c.Drop || lost {
			h.confirm, h.confirms, h.confirmOpen = "", false, 0 // never used again; a socket of a lost one counts there until it is shown gone
		}
	}
	h.aim(r, c.Demand)
	return true
}

// aim computes our share from what all hosts said.
func (h *holder) aim(r *Reply, demand int) {
	if r.Recovering {
		// Others have not yet said what they hold. Nobody grows, so nobody needs to shrink.
		h.target, h.share, h.reason = h.granted, h.granted, "redis may have forgotten: waiting for PostgreSQL to show what is open"
		return
	}
	capacity := r.Budget.Leasable(r.Slots)
	hosts := make([]HostDemand, 0, len(r.Leases))
	mine := -1
	for i := range r.Leases {
		l := &r.Leases[i]
		switch {
		case l.Confirmation:
		case l.State != Live:
			capacity -= l.Granted
		default:
			d := HostDemand{Name: l.Epoch, Demand: max(l.Demand, l.Reserved), Min: r.Budget.MinPerHost, Priority: l.Priority, Current: l.Granted}
			if l.Epoch == h.epoch {
				mine, d.Demand = len(hosts), max(demand, h.reserved)
			}
			hosts = append(hosts, d)
		}
	}
	if mine < 0 {
		h.target, h.share, h.reason = h.floor(), 0, ""
		return
	}
	g := Shares(capacity, hosts)[mine]
	h.target, h.reason, h.share = max(g.Connections, h.floor()), g.Reason, g.Connections
}
