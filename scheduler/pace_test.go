package scheduler

import (
	"testing"
	"time"
)

// TestPace: places are apart, never in the next seconds, never before the time that was asked for, and never more than an hour beyond it.
func TestPace(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	var p Pace
	last := time.Time{}
	for i := range 100 {
		at := p.Due(now, now.Add(time.Minute), func() float64 { return 0 })
		if i > 0 && at.Sub(last) != PaceStep || at.Before(now.Add(time.Minute)) {
			t.Fatalf("place %d is at %v, the one before at %v", i, at.Sub(now), last.Sub(now))
		}
		last = at
	}
	for range int(mostHold/PaceStep) + 10 {
		last = p.Due(now, now, func() float64 { return 1 })
		if d := last.Sub(now); d < leastHold || d > leastHold+mostHold+2*time.Second {
			t.Fatalf("a place in %v", d)
		}
	}
}
