package activitypub

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// HostState is what is known of one destination, for status pages and metrics.
type HostState struct {
	// Host is host[:port].
	Host string
	// State is "ok", "failing" (some failures, still tried), "reopening" (it came back lately), "held" (it asked for patience) or "down"
	// (only probes).
	State string
	// Bound is what keeps it from getting more requests now: "down" and "retry-after" until HeldUntil, "reopening" by Rate, "limit" by Limit;
	// "" when nothing did in the last ten seconds.
	Bound string
	// Rate is how many requests a second it may get while it is reopening; 0 when its rate is not limited.
	Rate float64
	// Peak is the most requests a second that it answered in its last good minute; 0 when nothing is known.
	Peak float64
	// AnswerSeconds is how long its answers took lately, so that one more request at once would give its reciprocal a second; 0: not known.
	AnswerSeconds float64
	// InFlight and Limit are the requests under way and how many there may be.
	InFlight, Limit int
	// Failures is how many counted failures came in a row.
	Failures int
	// LastError is the kind of the last failure, KindNone for never.
	LastError FailureKind
	// HeldUntil is when the host may be tried next; zero for now.
	HeldUntil time.Time
	// Delivered and Failed count requests since this state was made.
	Delivered, Failed uint64
}

// HostCounts sums up Hosts for gauges.
type HostCounts struct {
	// Known is how many destinations have a state.
	Known int
	// Down is how many are broken, Holding how many asked for patience, and Failing how many failed last time and are still tried.
	Down, Holding, Failing int
	// Reopening is how many came back lately, and Limited how many could have got more requests in the last ten seconds but for their limit.
	Reopening, Limited int
	// InFlight is the number of slots taken.
	InFlight int
}

// Snapshot returns the n destinations that matter most at now: broken ones first, then those with the most in flight and the most traffic.
func (h *Hosts) Snapshot(now time.Time, n int) []HostState {
	h.mu.Lock()
	states := make([]HostState, 0, len(h.entries))
	for _, e := range h.entries {
		states = append(states, e.state(now))
	}
	h.mu.Unlock()
	rank := map[string]int{"down": 0, "held": 1, "reopening": 2, "failing": 3, "ok": 4}
	slices.SortFunc(states, func(a, b HostState) int {
		return cmp.Or(
			cmp.Compare(rank[a.State], rank[b.State]),
			cmp.Compare(b.InFlight, a.InFlight),
			cmp.Compare(b.Delivered+b.Failed, a.Delivered+a.Failed),
			cmp.Compare(a.Host, b.Host))
	})
	return slices.Clip(states[:min(max(n, 0), len(states))])
}

// Bound returns at most n destinations that could have got more requests lately but for something of ours or theirs: those first that came back,
// then those at their limit, those that asked for patience and those that are down; of each the busiest first.
func (h *Hosts) Bound(now time.Time, n int) []HostState {
	var states []HostState
	h.mu.Lock()
	for _, e := range h.entries {
		if e.bound(now) != "" {
			states = append(states, e.state(now))
		}
	}
	h.mu.Unlock()
	rank := map[string]int{boundReopening: 0, boundLimit: 1, boundPatience: 2, boundDown: 3}
	slices.SortFunc(states, func(a, b HostState) int {
		return cmp.Or(
			cmp.Compare(rank[a.Bound], rank[b.Bound]),
			cmp.Compare(b.InFlight, a.InFlight),
			cmp.Compare(b.Peak, a.Peak),
			cmp.Compare(b.Delivered+b.Failed, a.Delivered+a.Failed),
			cmp.Compare(a.Host, b.Host))
	})
	return slices.Clip(states[:min(max(n, 0), len(states))])
}

// Counts sums up the states as they are at now.
func (h *Hosts) Counts(now time.Time) HostCounts {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := HostCounts{Known: len(h.entries)}
	for _, e := range h.entries {
		c.InFlight += e.inFlight
		if e.bound(now) == boundLimit {
			c.Limited++
		}
	}
	for e := h.broken.first; e != nil; e = e.next {
		switch e.state(now).State {
		case "down":
			c.Down++
		case "held":
			c.Holding++
		case "reopening":
			c.Reopening++
		case "failing":
			c.Failing++
		}
	}
	return c
}

func (e *hostEntry) state(now time.Time) HostState {
	s := HostState{
		Host: e.name, State: "ok", InFlight: e.inFlight, Limit: e.limit, Failures: e.failures, LastError: e.kind, Delivered: e.delivered,
		Failed: e.refused, Bound: e.bound(now), Peak: e.peak.Rate(), AnswerSeconds: float64(e.took),
	}
	if e.damper != nil {
		if rate := e.damper.Rate(now); !math.IsInf(rate, 1) {
			s.Rate = rate
		}
	}
	switch {
	case !e.openUntil.IsZero():
		s.State, s.HeldUntil = "down", later(e.openUntil, e.holdUntil)
	case now.Before(e.holdUntil):
		s.State, s.HeldUntil = "held", e.holdUntil
	case s.Rate > 0:
		s.State = "reopening"
	case e.failures > 0:
		s.State = "failing"
	}
	return s
}

// What binds a destination, for HostState.
const (
	boundDown      = "down"
	boundPatience  = "retry-after"
	boundReopening = "reopening"
	boundLimit     = "limit"
)

// bound names what keeps the host from getting more requests.
func (e *hostEntry) bound(now time.Time) string {
	switch {
	case !e.openUntil.IsZero():
		return boundDown
	case now.Before(e.holdUntil):
		return boundPatience
	case now.UnixNano()-e.turned > int64(turnedFor):
		return "" // nothing has had to wait
	case e.inFlight < e.limit && e.damper != nil:
		return boundReopening
	}
	return boundLimit
}
