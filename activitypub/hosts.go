package activitypub

import (
	"math/rand/v2"
	"sync"
	"time"
)

const (
	firstBackoff = time.Minute // a host that just broke is probed after this
	maxBackoff   = time.Hour   // and this is the longest it waits between probes
	maxHold      = time.Hour   // bound for Retry-After
	// relapse is how long after a recovery a new failure counts as the same trouble and keeps the back-off.
	relapse = 10 * time.Minute
	// probeLimit is when a probe that never reported is given up; a request ends after 45 s.
	probeLimit = 2 * time.Minute
	// afterProbe is how long others wait while a probe is out.
	afterProbe = 30 * time.Second
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
)

// Admission is what Hosts.Acquire answers.
type Admission struct {
	Verdict Verdict
	// Until is when the next try is possible, for Held; many jobs should not come back at that very moment, so add jitter.
	Until time.Time
	// Reason is why it is Held: a FailureKind's name, "retry-after", or "local outage".
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
	healthy hostList // most recently used first
	broken  hostList // open, held or failing ones, most recently used first
	most    int      // bound for entries
	limit   int      // bound for a host's limit
	start   int      // a new host's limit
	outage  *outage  // while it is us, hardly anything starts
}

// hostEntry is the state of one destination.
type hostEntry struct {
	name       string
	prev, next *hostEntry
	in         *hostList
	used       time.Time // last Acquire or observe

	inFlight, limit int
	failures        int         // counted failures since the last success
	failedAt        time.Time   // when the last counted failure was seen; what started before it belongs to it
	kind            FailureKind // of the last failure
	openUntil       time.Time   // zero: closed
	backoff         time.Duration
	recovered       time.Time
	probing         bool
	probeAt         time.Time
	holdUntil       time.Time // from Retry-After

	delivered, failed uint64
}

func newHosts(most, limit, start int, o *outage) *Hosts {
	return &Hosts{entries: make(map[string]*hostEntry), most: most, limit: limit, start: start, outage: o}
}

// Acquire says whether a request to dest may start now and, if so, takes a slot of the host.
func (h *Hosts) Acquire(dest string, now time.Time) Admission {
	h.mu.Lock()
	defer h.mu.Unlock()
	e := h.entry(dest, now)
	if now.Before(e.holdUntil) {
		return Admission{Verdict: Held, Until: e.holdUntil, Reason: "retry-after"}
	}
	if !e.openUntil.IsZero() {
		return h.acquireOpen(e, now)
	}
	if e.inFlight >= e.limit {
		return Admission{Verdict: Full}
	}
	if until, held := h.outage.holds(now); held {
		return Admission{Verdict: Held, Until: until, Reason: "local outage"}
	}
	e.inFlight++
	return Admission{Verdict: Start}
}

// acquireOpen lets one request through when the back-off of a broken host has passed.
func (h *Hosts) acquireOpen(e *hostEntry, now time.Time) Admission {
	held := Admission{Verdict: Held, Until: e.openUntil, Reason: e.kind.String()}
	if now.Before(e.openUntil) {
		return held
	}
	if e.probing && now.Sub(e.probeAt) < probeLimit {
		held.Until = later(e.probeAt.Add(afterProbe), now.Add(afterProbe/3))
		return held
	}
	if until, outage := h.outage.holds(now); outage {
		return Admission{Verdict: Held, Until: until, Reason: "local outage"}
	}
	e.probing, e.probeAt = true, now
	e.inFlight++
	return Admission{Verdict: Start, Probe: true}
}

// Release gives back the slot of an Acquire that answered Start.
func (h *Hosts) Release(dest string, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e, ok := h.entries[dest]
	if !ok || e.inFlight == 0 {
		return
	}
	e.inFlight--
	e.used = now
	if e.inFlight == 0 {
		// A probe that reported nothing (given back, or it was us) leaves the way free for the next.
		e.probing = false
	}
}

// observe takes in how a request ended that started at the given time. Deliver calls it before its caller calls Release.
func (h *Hosts) observe(dest string, started, now time.Time, kind FailureKind, retryAfter time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e := h.entry(dest, now)
	switch kind {
	case KindNone:
		e.delivered++
		h.alive(e, now, true)
	case Kind4xx:
		e.failed++
		h.alive(e, now, false)
	case KindPrivate, KindLocal:
		return
	default:
		e.failed++
		e.kind = kind
		h.failed(e, started, now, retryAfter)
	}
	h.file(e)
}

// alive notes an answer from a working host. Only a delivery raises the limit.
func (h *Hosts) alive(e *hostEntry, now time.Time, delivered bool) {
	e.failures = 0
	if !e.openUntil.IsZero() {
		// Start over gently: whoever was held comes back at jittered times, and a host that just recovered is easily pushed over.
		e.openUntil, e.probing, e.limit, e.recovered = time.Time{}, false, 1, now
		return
	}
	if delivered {
		e.limit = min(e.limit+1, h.limit)
	}
	if e.backoff > 0 && now.Sub(e.recovered) > relapse {
		e.backoff = 0
	}
}

func (h *Hosts) failed(e *hostEntry, started, now time.Time, retryAfter time.Duration) {
	if retryAfter > 0 {
		e.holdUntil = later(e.holdUntil, now.Add(min(retryAfter, maxHold)))
	}
	if !e.openUntil.IsZero() {
		if e.probing && !started.Before(e.probeAt) {
			h.open(e, now)
		}
		return
	}
	if started.Before(e.failedAt) {
		return // in flight when the last failure was counted: one outage, not two
	}
	e.failedAt = now
	if e.kind == KindTimeout || e.kind == Kind429 || e.kind == Kind5xx {
		e.limit = max(1, e.limit/2)
	}
	if retryAfter > 0 {
		return // the host is alive and said when; that is enough
	}
	e.failures++
	if e.failures >= opensAfter(e.kind) {
		h.open(e, now)
	}
}

// opensAfter is how many failures in a row break a host. A time-out costs a slot for 10 s or more, so fewer of them do.
func opensAfter(kind FailureKind) int {
	switch kind {
	case KindTimeout:
		return 2
	case KindDNS, KindRefused, KindTLS, KindNetwork:
		return 3
	default:
		return 5
	}
}

// open breaks a host, or keeps it broken after a failed probe: 60 s, doubling to 1 h, spread by a tenth.
func (h *Hosts) open(e *hostEntry, now time.Time) {
	e.backoff = min(max(2*e.backoff, firstBackoff), maxBackoff)
	e.openUntil = now.Add(time.Duration(float64(e.backoff) * (0.9 + 0.2*rand.Float64())))
	e.probing, e.failedAt = false, now
}

// failing says whether dest failed last time, so that one more failure is no news.
func (h *Hosts) failing(dest string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	e, ok := h.entries[dest]
	return ok && (e.failures > 0 || !e.openUntil.IsZero())
}

// entry returns the state of dest, making it if need be, and marks it used.
func (h *Hosts) entry(dest string, now time.Time) *hostEntry {
	e, ok := h.entries[dest]
	if !ok {
		if len(h.entries) >= h.most {
			h.evict()
		}
		e = &hostEntry{name: dest, limit: h.start}
		h.entries[dest] = e
	}
	e.used = now
	h.file(e)
	return e
}

// file puts e at the front of the list it belongs to.
func (h *Hosts) file(e *hostEntry) {
	list := &h.healthy
	if e.failures > 0 || !e.openUntil.IsZero() || e.backoff > 0 || e.used.Before(e.holdUntil) {
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

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
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
