package activitypub

import (
	"testing"
	"time"
)

// server is a destination in virtual time: it serves so many requests at once, each for so long.
type server struct {
	slots  int
	serves time.Duration
	ends   []time.Time // of the requests under way
}

// arrive gives the time at which a request that comes now is answered.
func (s *server) arrive(now time.Time) time.Time {
	kept := s.ends[:0]
	for _, e := range s.ends {
		if e.After(now) {
			kept = append(kept, e)
		}
	}
	s.ends = kept
	start := now
	if n := len(s.ends) - s.slots; n >= 0 {
		start = s.ends[n] // ends are in order: all take the same time
	}
	end := start.Add(s.serves)
	s.ends = append(s.ends, end)
	return end
}

// flood asks for requests to dest for as long as there are any, step by step, and returns when each one started.
func flood(h *Hosts, s *server, dest string, now *time.Time, length time.Duration, most int) (starts []time.Time) {
	type flight struct{ started, ends time.Time }
	var out []flight
	for end := now.Add(length); now.Before(end); *now = now.Add(time.Millisecond) {
		for len(out) > 0 && !out[0].ends.After(*now) {
			h.observe(dest, out[0].started, *now, KindNone, 0)
			h.Release(dest, *now)
			out = out[1:]
		}
		for len(starts) < most && h.Acquire(dest, *now).Verdict == Start {
			starts = append(starts, *now)
			out = append(out, flight{*now, s.arrive(*now)})
		}
	}
	for _, f := range out {
		h.observe(dest, f.started, *now, KindNone, 0)
		h.Release(dest, *now)
	}
	return starts
}

// mostInASecond is the most of them in any one second.
func mostInASecond(starts []time.Time) int {
	most, first := 0, 0
	for i, at := range starts {
		for at.Sub(starts[first]) >= time.Second {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

// A host that answers again after an hour, with more waiting for it than it gets through in minutes, gets at most twice what it could take
// before in any second; and within half a minute it gets what it can take.
func TestNoStormAfterAnHour(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		server
		capacity float64
	}{
		"a small one":                 {server{slots: 1, serves: 200 * time.Millisecond}, 5},
		"an ordinary one":             {server{slots: 2, serves: 50 * time.Millisecond}, 40},
		"a big one, bound by our own": {server{slots: 1000, serves: 40 * time.Millisecond}, 200},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := testHosts(100)
			now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
			before := mostInASecond(flood(h, &c.server, "a", &now, time.Minute, 1e6))
			if float64(before) < 0.8*c.capacity || float64(before) > 1.3*c.capacity+4 {
				t.Fatalf("%d a second before, want about %.0f", before, c.capacity)
			}
			h.run(&now, "a", 20, KindRefused, 0)
			for end := now.Add(time.Hour); now.Before(end); now = now.Add(10 * time.Second) {
				h.run(&now, "a", 1, KindRefused, 0)
			}
			for h.Acquire("a", now).Verdict != Start { // the first probe that is answered
				now = now.Add(time.Second)
			}
			h.observe("a", now, now, KindNone, 0)
			h.Release("a", now)
			quick := server{slots: 1000, serves: time.Millisecond} // nothing but us holds back
			starts := flood(h, &quick, "a", &now, 10*time.Minute, 1e6)
			if most := mostInASecond(starts); most > 2*before {
				t.Errorf("%d in one second, %d before", most, before)
			}
			if s := h.Snapshot(now, 1)[0]; s.State != "reopening" || s.Bound != boundReopening || s.Rate <= 0 || h.Counts(now).Reopening != 1 {
				t.Errorf("Snapshot = %+v", s)
			}
			early := 0
			for _, at := range starts {
				if d := at.Sub(starts[0]); d > 29*time.Second && d < 30*time.Second {
					early++
				}
			}
			if float64(early) < 0.9*c.capacity {
				t.Errorf("%d a second after half a minute, it could take %.0f", early, c.capacity)
			}
		})
	}
}

// A host that asked for ten minutes' patience is opened as gently as one that was down; one that asked for a second goes on as before.
func TestPatienceEndsGently(t *testing.T) {
	t.Parallel()
	for patience, want := range map[time.Duration]bool{time.Second: false, 10 * time.Minute: true} {
		h := testHosts(100)
		now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
		flood(h, &server{slots: 4, serves: 50 * time.Millisecond}, "a", &now, time.Minute, 1e6)
		h.run(&now, "a", 1, Kind429, patience)
		if s := h.Snapshot(now, 1)[0]; s.Bound != boundPatience && want {
			t.Errorf("Snapshot = %+v", s)
		}
		now = now.Add(patience)
		if a := h.Acquire("a", now); a.Verdict != Start {
			t.Fatalf("after %v: %+v", patience, a)
		}
		if a := h.Acquire("a", now); (a.Verdict == Later) != want || want && (!a.Until.After(now) || a.Reason != "reopening") {
			t.Errorf("the second after %v: %+v", patience, a)
		}
	}
}

// A host that was never seen at work is taken for an ordinary one, not for one that takes nothing.
func TestReopeningOfAStranger(t *testing.T) {
	t.Parallel()
	h := testHosts(100)
	now := time.Now()
	h.run(&now, "a", 3, KindRefused, 0)
	now = now.Add(2 * time.Minute)
	h.run(&now, "a", 1, KindNone, 0)
	starts := flood(h, &server{slots: 8, serves: 10 * time.Millisecond}, "a", &now, time.Minute, 1e6)
	if n := mostInASecond(starts); n < 8 || n > 14 {
		t.Errorf("%d in one second", n)
	}
	if got := h.Pace("a"); got < shortestPace || got > longestPace || h.Pace("nobody") != 0 {
		t.Errorf("Pace = %v, of nobody %v", got, h.Pace("nobody"))
	}
}

func TestLimitIsNamed(t *testing.T) {
	t.Parallel()
	h := testHosts(100)
	now := time.Now()
	for range 3 {
		h.Acquire("a", now)
	}
	if s := h.Snapshot(now, 1)[0]; s.Bound != boundLimit || s.InFlight != 2 || h.Counts(now).Limited != 1 {
		t.Errorf("Snapshot = %+v", s)
	}
	if s := h.entries["a"].bound(now.Add(turnedFor + time.Second)); s != "" {
		t.Errorf("bound = %q after nothing has had to wait", s)
	}
}

// An answer that was under way when the breaker opened shows that the host was hardly away: nothing was held back for it, so nothing is damped.
func TestNoReopeningOfWhatWasHardlyAway(t *testing.T) {
	t.Parallel()
	h := testHosts(100)
	now := time.Now()
	h.run(&now, "a", 8, KindNone, 0)
	slow := now
	h.Acquire("a", now)
	now = now.Add(time.Millisecond)
	h.run(&now, "a", 3, KindRefused, 0)
	if h.Counts(now).Down != 1 {
		t.Fatalf("Counts = %+v", h.Counts(now))
	}
	h.observe("a", slow, now, KindNone, 0)
	h.Release("a", now)
	if c := h.Counts(now); c.Down+c.Reopening != 0 || h.limitOf("a") != 1 {
		t.Errorf("Counts = %+v, limit %d", c, h.limitOf("a"))
	}
}
