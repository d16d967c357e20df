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

func TestLineRoom(t *testing.T) {
	for name, c := range map[string]struct {
		least, window, inHand int
		step                  time.Duration
		want                  int
	}{
		"nothing else is there":       {128, 1024, 511, 0, 512},
		"nothing is known":            {128, 1024, 512, 0, 128},
		"an ordinary one":             {128, 1024, 512, PaceStep, 128},
		"a quick one has a heap":      {128, 1024, 600, 12500 * time.Microsecond, 400},
		"but not all of the window":   {128, 1024, 600, time.Millisecond, 512},
		"nor what others need":        {128, 1024, 768, time.Millisecond, 128},
		"a window smaller than least": {32, 40, 0, time.Millisecond, 32},
	} {
		if got := LineRoom(c.least, c.window, c.inHand, c.step); got != c.want {
			t.Errorf("%s: LineRoom = %d, want %d", name, got, c.want)
		}
	}
}
