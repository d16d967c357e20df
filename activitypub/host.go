package activitypub

import (
	"time"

	"github.com/queueville/queueville/internal/comeback"
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
	// dampedHold is the Retry-After from which on the host is opened gently: by then much may have been held back for it.
	dampedHold = 10 * time.Second
	// ordinaryRate is what two connections to an ordinary server get through, requests a second; of a host that was never seen at work no
	// more is assumed.
	ordinaryRate = 6.7
	// easyLimit is how many requests at once any server that answers may get; whoever gets more has to answer well (Host.grow).
	easyLimit = 8
	// quickAnswer is within what a server answers on average that gets more, in seconds, and these are how much slower than with few requests
	// at once it may become: to get more, and to keep what it has.
	quickAnswer      = 1
	asQuick, tooSlow = 1.5, 2
	// turnedFor is how long a host counts as limited after it was last Full or had to wait.
	turnedFor = 10 * time.Second
)

// Host is what is known of one destination, and the rules by which a request to it may start (docs/adr/0004, 0013): a limit that grows with
// success, beyond a few only while answers are quick, and halves under strain, a circuit breaker, the patience it asked for, and a rate that is damped while it comes back. It is data: no lock, no clock, no chance of its own, so that
// Hosts and the simulator of load tests decide by the same code. Make it with NewHost.
type Host struct {
	inFlight, limit, most int

	failures  int         // counted failures since the last success
	failedAt  time.Time   // when the last counted failure was seen; what started before it belongs to it
	kind      FailureKind // of the last failure
	openUntil time.Time   // zero: closed
	opened    time.Time   // when the breaker opened that is or was open
	backoff   time.Duration
	first     time.Duration // the first backoff; 0: firstBackoff
	recovered time.Time
	probing   bool
	probeAt   time.Time
	holdUntil time.Time // from Retry-After
	damped    bool      // open gently when holdUntil has passed

	peak   comeback.Peak    // answers a second, when it was well
	took   float32          // seconds that an answer took, lately; 0: there was none
	usual  float32          // the same, with few requests at once
	good   int32            // deliveries since the limit was last looked at
	full   bool             // a request has had to wait for the limit since
	damper *comeback.Damper // while it comes back; nil: its rate is not limited
	turned int64            // Unix nanoseconds: when a request last had to wait for its limit or rate
}

// NewHost is a destination of which nothing is known: so many requests at once at first, and at most.
func NewHost(start, most int) Host { return Host{limit: start, most: most} }

// Admit says whether a request may start now. It takes no slot.
func (e *Host) Admit(now time.Time) Admission {
	if !e.holdUntil.IsZero() {
		if now.Before(e.holdUntil) {
			return Admission{Verdict: Held, Until: e.holdUntil, Reason: "retry-after"}
		}
		e.holdUntil = time.Time{}
		if e.damped {
			e.reopen(now)
		}
	}
	if e.openUntil.IsZero() {
		if e.inFlight >= e.limit {
			e.turned, e.full = now.UnixNano(), true
			return Admission{Verdict: Full}
		}
		if e.damper == nil {
			return Admission{Verdict: Start}
		}
		if wait := e.damper.Wait(now); wait > 0 {
			e.turned = now.UnixNano()
			return Admission{Verdict: Later, Until: now.Add(wait), Reason: "reopening"}
		}
		if e.damper.Over() {
			e.damper = nil
		}
		return Admission{Verdict: Start}
	}
	// One request at a time goes through when the back-off of a broken host has passed.
	held := Admission{Verdict: Held, Until: e.openUntil, Reason: e.kind.String()}
	if now.Before(e.openUntil) {
		return held
	}
	if e.probing && now.Sub(e.probeAt) < probeLimit {
		held.Until = later(e.probeAt.Add(afterProbe), now.Add(afterProbe/3))
		return held
	}
	return Admission{Verdict: Start, Probe: true}
}

// Take takes the slot that Admit offered. Give it back with Release.
func (e *Host) Take(a Admission, now time.Time) {
	if a.Probe {
		e.probing, e.probeAt = true, now
	}
	if e.damper != nil {
		e.damper.Take()
	}
	e.inFlight++
}

// reopen begins to let requests through gently. How much a host can take is known from how much it took, or from how long one answer took: what
// one request after the other gets through it has shown to be able to do, even if it never had to.
func (e *Host) reopen(now time.Time) {
	one := ordinaryRate
	if e.took > 0 {
		one = min(one, 1/float64(e.took))
	}
	damper := comeback.Reopen(now, max(e.peak.Rate(), one))
	e.damper, e.damped = &damper, false
}

// Pace is about how long there should be between the starts of requests that were put off: what the host got through when it was well, or gets
// through as it answers now, but not more than a hundred a second, for they come back in heaps (scheduler.LineRoom).
func (e *Host) Pace() time.Duration {
	rate := e.peak.Rate()
	if rate == 0 {
		rate = ordinaryRate
	}
	if e.took > 0 && !e.Failing() && e.damper == nil && e.holdUntil.IsZero() {
		rate = max(rate, float64(e.limit)/float64(e.took)) // of the first seconds of a flood little has been counted
	}
	return min(max(time.Duration(float64(time.Second)/rate), shortestPace), longestPace)
}

const (
	shortestPace = 10 * time.Millisecond
	longestPace  = 2 * time.Second
)

// Release gives a slot back.
func (e *Host) Release() {
	if e.inFlight == 0 {
		return
	}
	e.inFlight--
	if e.inFlight == 0 {
		// A probe that reported nothing (given back, or it was us) leaves the way free for the next.
		e.probing = false
	}
}

// Observe takes in how a request ended that started at the given time. It comes before Release. spread draws from 0 to 1.
func (e *Host) Observe(started, now time.Time, kind FailureKind, retryAfter time.Duration, spread func() float64) {
	switch kind {
	case KindNone:
		e.alive(started, now, true)
	case Kind4xx:
		e.alive(started, now, false)
	case KindPrivate, KindLocal:
	default:
		e.kind = kind
		e.failed(started, now, retryAfter, spread)
	}
}

// alive notes an answer from a working host. Only a delivery raises the limit.
func (e *Host) alive(started, now time.Time, delivered bool) {
	e.failures = 0
	if !e.openUntil.IsZero() {
		// Start over gently: whoever was held comes back at about the same time, and a host that just recovered is easily pushed over.
		e.openUntil, e.probing, e.limit, e.recovered = time.Time{}, false, 1, now
		if !started.Before(e.opened) { // else it was under way when the host broke, and the host was hardly away
			e.reopen(now)
		}
		e.peak.Add(now)
		return
	}
	e.peak.Add(now)
	if d := float32(now.Sub(started).Seconds()); d > 0 {
		if e.took == 0 {
			e.took = d
		}
		e.took += (d - e.took) / 16
	}
	if delivered {
		e.grow()
	}
	if e.backoff > 0 && now.Sub(e.recovered) > relapse {
		e.backoff = 0
	}
}

// grow raises the limit after a delivery: by one up to easyLimit. Beyond that it is looked at once a round trip, and raised by an eighth where more
// was wanted and the host answers quickly, and as quickly as with few requests at once. One whose answers become slower has had enough long before
// it says so; it gets an eighth less.
func (e *Host) grow() {
	if e.limit <= easyLimit {
		e.usual += (e.took - e.usual) / 64
	}
	if e.usual == 0 || e.took < e.usual {
		e.usual = e.took
	}
	if e.limit < min(easyLimit, e.most) {
		e.limit++
		return
	}
	if e.good++; int(e.good) < e.limit {
		return
	}
	step, full := max(1, e.limit/8), e.full
	e.good, e.full = 0, false
	switch {
	case e.took > tooSlow*e.usual:
		e.limit = max(min(easyLimit, e.most), e.limit-step)
	case full && e.took <= quickAnswer && e.took <= asQuick*e.usual:
		e.limit = min(e.limit+step, e.most)
	}
}

func (e *Host) failed(started, now time.Time, retryAfter time.Duration, spread func() float64) {
	if retryAfter > 0 {
		e.holdUntil = later(e.holdUntil, now.Add(min(retryAfter, maxHold)))
		e.damped = e.damped || retryAfter >= dampedHold
	}
	if !e.openUntil.IsZero() {
		if e.probing && !started.Before(e.probeAt) {
			e.open(now, spread)
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
		e.open(now, spread)
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
func (e *Host) open(now time.Time, spread func() float64) {
	first := e.first
	if first == 0 {
		first = firstBackoff
	}
	e.backoff = min(max(2*e.backoff, first), maxBackoff)
	if e.openUntil.IsZero() {
		e.opened = now
	}
	e.openUntil = now.Add(time.Duration(float64(e.backoff) * (0.9 + 0.2*spread())))
	e.probing, e.failedAt, e.damper = false, now, nil
}

// InFlight is the number of slots taken.
func (e *Host) InFlight() int { return e.inFlight }

// Down says that the breaker is open: only probes start.
func (e *Host) Down() bool { return !e.openUntil.IsZero() }

// Failing says that it failed last time.
func (e *Host) Failing() bool { return e.failures > 0 || e.Down() }

// Reopening says that the host came back lately and its rate is damped.
func (e *Host) Reopening() bool { return e.damper != nil }

// Troubled says that something is known that must not be forgotten soon: failures, an open breaker, a back-off, a wish for patience, a return.
func (e *Host) Troubled(now time.Time) bool {
	return e.Failing() || e.backoff > 0 || e.damper != nil || now.Before(e.holdUntil)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
