package dbpool

import (
	"maps"
	"slices"
	"time"
)

// witness remembers since when leases are known to have ended, and judges them when PostgreSQL has been asked. Every process has one and
// keeps it up to date with each reply, so that another confirmer does not begin to wait anew. It has no clock, no lock and no network.
//
// Only its own monotonic clock counts: Redis's may jump. From the moment an ended lease was seen, its holder can go on for a lease's
// length at most, by its own clocks, and a log-in that was under way when the holder froze for PostgreSQL's authentication_timeout.
// What is not to be seen in pg_stat_activity after that can never appear.
type witness struct {
	ttl       time.Duration
	login     time.Duration // authentication_timeout
	gone      time.Duration // after a process was seen to be gone: for what it had sent last
	slack     time.Duration
	bounded   bool   // PostgreSQL ends sessions that are idle (idle_session_timeout, 14 and later)
	known     string // generation
	since     time.Duration
	ended     map[string]sighting
	strangers map[string]int // epochs in PostgreSQL and not in the ledger → looks in a row
}

type sighting struct {
	at   time.Duration
	gone bool
	over bool // gone, and its children, too
}

// backends are the connections of one epoch in pg_stat_activity.
type backends struct {
	host  string
	count int
}

// note takes the leases of a reply that came at the monotonic time now.
func (w *witness) note(now time.Duration, r *Reply) {
	if r.Generation != w.known {
		w.known, w.since = r.Generation, now
	}
	ended := make(map[string]sighting, len(w.ended))
	for i := range r.Leases {
		l := &r.Leases[i]
		if l.State == Live {
			continue
		}
		over := l.Gone && l.Reserved == 0
		s, ok := w.ended[l.Epoch]
		if !ok || l.Gone && !s.gone || over && !s.over {
			// That a process is gone is known since now; what it sent before is still under way for a moment.
			s = sighting{at: now, gone: l.Gone, over: over}
		}
		ended[l.Epoch] = s
	}
	w.ended = ended
}

// wait is how long after the first sighting a lease that is not to be seen in PostgreSQL is really over.
func (w *witness) wait(l *Lease) time.Duration {
	if l.Gone && l.Reserved == 0 {
		return w.gone
	}
	return w.ttl + w.login + w.slack // also for child processes, which may outlive their parent but not its lease, see Reservation.Left
}

// early tells that PostgreSQL must not be asked yet. When Redis has forgotten, it has also forgotten which confirmations were at work: any
// number of those that froze may be connected. PostgreSQL ends their sessions (idle_session_timeout), before anything could be judged.
func (w *witness) early(now time.Duration, r *Reply) bool {
	return r.Recovering && (r.Generation != w.known || !w.settled(now))
}

// settled tells that whatever an earlier generation had granted has either been claimed or is over.
func (w *witness) settled(now time.Duration) bool {
	return now-w.since >= max(w.ttl+w.login, confirmIdle)+w.slack
}

// look judges: r is the last reply, and visible what a query has found that began at the monotonic time asked, after r had come. end
// names the ended epochs whose connections should be ended.
func (w *witness) look(asked time.Duration, r *Reply, visible map[string]backends) (list []Judgement, end []string) {
	known := make(map[string]*Lease, len(r.Leases))
	for i := range r.Leases {
		known[r.Leases[i].Epoch] = &r.Leases[i]
	}
	strangers := map[string]int{}
	settled := w.settled(asked)
	for _, epoch := range slices.Sorted(maps.Keys(visible)) {
		if l, ok := known[epoch]; ok {
			// Of a live one only an older replica can know less: its holder may have frozen before it could say what it has.
			if (l.State != Live || r.Recovering) && visible[epoch].count > l.Granted {
				list = append(list, Judgement{What: JudgeSeen, Epoch: epoch, Count: visible[epoch].count, Host: visible[epoch].host})
			}
			continue
		}
		strangers[epoch] = w.strangers[epoch] + 1
		// A lease that was given back while the query ran is not one; what is still there at the next look is.
		if r.Recovering && settled || !r.Recovering && strangers[epoch] > 1 {
			list = append(list, Judgement{What: JudgeSeen, Epoch: epoch, Count: visible[epoch].count, Host: visible[epoch].host})
		}
	}
	w.strangers = strangers
	if r.Recovering && settled {
		list = append(list, Judgement{What: JudgeDone})
	}
	for i := range r.Leases {
		l := &r.Leases[i]
		s, ok := w.ended[l.Epoch]
		if !ok || l.Pooled {
			continue
		}
		n := visible[l.Epoch].count
		if n > 0 && asked-s.at >= w.overdue(l) {
			end = append(end, l.Epoch)
		}
		if asked-s.at >= w.wait(l) && n < l.Granted {
			list = append(list, Judgement{What: JudgeLeft, Epoch: l.Epoch, Count: n})
		}
	}
	return append(list, Judgement{What: JudgeLook}), end
}

// blind judges what cannot be looked at: leases of hosts behind PgBouncer are over when their time is, and nothing shows it. Such a
// host judges all leases when no other kind of host is left.
func (w *witness) blind(now time.Duration, r *Reply, all bool) []Judgement {
	var list []Judgement
	for i := range r.Leases {
		l := &r.Leases[i]
		all = all && (l.Pooled || l.Confirmation || l.State != Live)
	}
	for i := range r.Leases {
		l := &r.Leases[i]
		if s, ok := w.ended[l.Epoch]; ok && (l.Pooled || all) && now-s.at >= w.wait(l) {
			list = append(list, Judgement{What: JudgeLeft, Epoch: l.Epoch})
		}
	}
	if all {
		if r.Recovering && w.settled(now) {
			list = append(list, Judgement{What: JudgeDone})
		}
		list = append(list, Judgement{What: JudgeLook})
	}
	return list
}

// unblock judges the confirmations that froze or crashed, when so many did that nobody can confirm any more. Where the server bounds their
// sessions they are over without being looked at; elsewhere they are forgotten after ten minutes (lua/begin.lua).
func (w *witness) unblock(now time.Duration, r *Reply) []Judgement {
	held := 0
	var list []Judgement
	for i := range r.Leases {
		l := &r.Leases[i]
		if !l.Confirmation {
			continue
		}
		if l.State == Live {
			return nil
		}
		held += l.Granted
		wait := w.ttl + w.login + confirmIdle + w.slack
		if l.Gone {
			wait = w.gone + w.slack // its socket was closed between two queries, or in one of milliseconds
		}
		if s, ok := w.ended[l.Epoch]; ok && now-s.at >= wait {
			list = append(list, Judgement{What: JudgeLeft, Epoch: l.Epoch})
		}
	}
	if !w.bounded || held < reserve(max(1, r.Slots)) {
		return nil
	}
	return list
}

// needed tells whether there is anything to confirm.
func needed(r *Reply) bool {
	return r.Recovering || slices.ContainsFunc(r.Leases, func(l Lease) bool { return l.State != Live })
}

// overdue is when connections of an ended lease are ended: its holder, if it runs at all, has closed them by itself before.
func (w *witness) overdue(l *Lease) time.Duration {
	if l.Gone {
		return 0
	}
	return w.ttl
}
