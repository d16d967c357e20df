package activitypub

import (
	"cmp"
	"slices"
	"time"
)

// HostState is what is known of one destination, for status pages and metrics.
type HostState struct {
	// Host is host[:port].
	Host string
	// State is "ok", "failing" (some failures, still tried), "held" (it asked for patience) or "down" (only probes).
	State string
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
	// InFlight is the number of slots taken.
	InFlight int
}

// Snapshot returns the n destinations that matter most: broken ones first, then those with the most in flight and the most traffic.
func (h *Hosts) Snapshot(n int) []HostState {
	now := time.Now()
	h.mu.Lock()
	states := make([]HostState, 0, len(h.entries))
	for _, e := range h.entries {
		states = append(states, e.state(now))
	}
	h.mu.Unlock()
	rank := map[string]int{"down": 0, "held": 1, "failing": 2, "ok": 3}
	slices.SortFunc(states, func(a, b HostState) int {
		return cmp.Or(
			cmp.Compare(rank[a.State], rank[b.State]),
			cmp.Compare(b.InFlight, a.InFlight),
			cmp.Compare(b.Delivered+b.Failed, a.Delivered+a.Failed),
			cmp.Compare(a.Host, b.Host))
	})
	return slices.Clip(states[:min(max(n, 0), len(states))])
}

// Counts sums up the states.
func (h *Hosts) Counts() HostCounts {
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	c := HostCounts{Known: len(h.entries)}
	for _, e := range h.entries {
		c.InFlight += e.inFlight
	}
	for e := h.broken.first; e != nil; e = e.next {
		switch e.state(now).State {
		case "down":
			c.Down++
		case "held":
			c.Holding++
		case "failing":
			c.Failing++
		}
	}
	return c
}

func (e *hostEntry) state(now time.Time) HostState {
	s := HostState{
		Host: e.name, State: "ok", InFlight: e.inFlight, Limit: e.limit, Failures: e.failures,
		LastError: e.kind, Delivered: e.delivered, Failed: e.refused,
	}
	switch {
	case !e.openUntil.IsZero():
		s.State, s.HeldUntil = "down", later(e.openUntil, e.holdUntil)
	case now.Before(e.holdUntil):
		s.State, s.HeldUntil = "held", e.holdUntil
	case e.failures > 0:
		s.State = "failing"
	}
	return s
}
