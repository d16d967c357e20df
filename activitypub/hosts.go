package activitypub

import (
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// idleHealthy and idleBroken are how long an unused state is remembered.
	idleHealthy = 10 * time.Minute
	idleBroken  = 24 * time.Hour
)

// Verdict is the answer to "may a request to this host start now?".
type Verdict uint8

const (
	// Start means: yes, and a slot is taken; give it back with Release.
	Start Verdict = iota + 1
	// Full means: the host has as many requests in flight as it may; ask again when one ends.
	Full
	// Held means: not before Until.
	Held
	// Later means: the host has come back lately and takes no more right now; ask again at Until, which is a moment away.
	Later
)

// Admission is what Hosts.Acquire answers.
type Admission struct {
	Verdict Verdict
	// Until is when the next try is possible, for Held and Later; many jobs should not come back at that very moment, so add jitter to Held.
	Until time.Time
	// Reason is why it is Held: a FailureKind's name, "retry-after", or "local outage"; for Later "reopening".
	Reason string
	// Probe marks the one request that tests whether a broken host works again.
	Probe bool
}

// Hosts keeps a state per destination: a limit for requests in flight that grows with success and halves under strain, and a
// circuit breaker. It never blocks, and it is bounded: idle healthy states go after ten minutes, broken ones after a day, and when it
// is full the longest unused healthy one goes first, so that a flood of made-up names cannot wash out what is known of broken hosts.
type Hosts struct {
	mu      sync.Mutex
	entries map[string]*hostEntry
	healthy hostList      // most recently used first
	broken  hostList      // open, held or failing ones, most recently used first
	most    int           // bound for entries
	limit   int           // bound for a host's limit
	start   int           // a new host's limit
	outage  *outage       // while it is us, hardly anything starts
	backoff time.Duration // the first one of a host that broke; 0: firstBackoff
}

// hostEntry is the state of one destination.
type hostEntry struct {
	name       string
	prev, next *hostEntry
	in         *hostList
	used       time.Time // last Acquire or observe
	Host

	delivered, refused uint64
}

func newHosts(most, limit, start int, o *outage) *Hosts {
	return &Hosts{entries: make(map[string]*hostEntry), most: most, limit: limit, start: start, outage: o}
}

// Acquire says whether a request to dest may start now and, if so, takes a slot of the host.
func (h *Hosts) Acquire(dest string, now time.Time) Admission {
	h.mu.Lock()
	defer h.mu.Unlock()
	e := h.entry(dest, now)
	a := e.Admit(now)
	if a.Verdict != Start {
		return a
	}
	if until, held := h.outage.holds(now); held {
		return Admission{Verdict: Held, Until: until, Reason: "local outage"}
	}
	e.Take(a, now)
	return a
}

// Release gives back the slot of an Acquire that answered Start.
func (h *Hosts) Release(dest string, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e, ok := h.entries[dest]
	if !ok || e.inFlight == 0 {
		return
	}
	e.Release()
	e.used = now
}

// observe takes in how a request ended that started at the given time. Deliver calls it before its caller calls Release.
func (h *Hosts) observe(dest string, started, now time.Time, kind FailureKind, retryAfter time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e := h.entry(dest, now)
	switch kind {
	case KindNone:
		e.delivered++
	case KindPrivate, KindLocal:
		return
	default:
		e.refused++
	}
	e.Observe(started, now, kind, retryAfter, rand.Float64)
	h.file(e)
}

// Pace is about how long there should be between the starts of requests to dest that were put off; 0 if nothing is known of it.
func (h *Hosts) Pace(dest string) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	e, ok := h.entries[dest]
	if !ok {
		return 0
	}
	return e.Pace()
}

// failing says whether dest failed last time, so that one more failure is no news.
func (h *Hosts) failing(dest string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	e, ok := h.entries[dest]
	return ok && e.Failing()
}

// entry returns the state of dest, making it if need be, and marks it used.
func (h *Hosts) entry(dest string, now time.Time) *hostEntry {
	e, ok := h.entries[dest]
	if !ok {
		if len(h.entries) >= h.most {
			h.evict()
		}
		e = &hostEntry{name: dest, Host: NewHost(h.start, h.limit)}
		e.first = h.backoff
		h.entries[dest] = e
	}
	e.used = now
	h.file(e)
	return e
}

// file puts e at the front of the list it belongs to.
func (h *Hosts) file(e *hostEntry) {
	list := &h.healthy
	if e.Troubled(e.used) {
		list = &h.broken
	}
	if e.in == list && list.first == e {
		return
	}
	if e.in != nil {
		e.in.remove(e)
	}
	list.push(e)
}

// evict drops the longest unused entry that has nothing in flight: a healthy one if there is one. In-flight entries at the end
// move to the front on the way, so each call is cheap over time; there are never more of them than the caller runs at once.
func (h *Hosts) evict() {
	for _, list := range []*hostList{&h.healthy, &h.broken} {
		for range list.len {
			e := list.last
			list.remove(e)
			if e.inFlight == 0 {
				delete(h.entries, e.name)
				return
			}
			list.push(e)
		}
	}
}

// sweep drops states that were not used for long.
func (h *Hosts) sweep(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for list, idle := range map[*hostList]time.Duration{&h.healthy: idleHealthy, &h.broken: idleBroken} {
		for e := list.last; e != nil; {
			prev := e.prev
			if e.inFlight == 0 && now.Sub(e.used) > idle {
				list.remove(e)
				delete(h.entries, e.name)
			}
			e = prev
		}
	}
}

// hostList is a doubly linked list through the entries themselves; container/list would cost an allocation for each.
type hostList struct {
	first, last *hostEntry
	len         int
}

func (l *hostList) push(e *hostEntry) {
	e.in, e.prev, e.next = l, nil, l.first
	if l.first != nil {
		l.first.prev = e
	} else {
		l.last = e
	}
	l.first = e
	l.len++
}

func (l *hostList) remove(e *hostEntry) {
	if e.prev != nil {
		e.prev.next = e.next
	} else {
		l.first = e.next
	}
	if e.next != nil {
		e.next.prev = e.prev
	} else {
		l.last = e.prev
	}
	e.in, e.prev, e.next = nil, nil, nil
	l.len--
}
