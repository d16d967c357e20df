package activitypub

import (
	"math/rand/v2"
	"testing"
	"time"
)

// shop is a server that gets so many requests at once through as quickly as one; more of them share that.
type shop struct {
	capacity int
	answers  time.Duration
}

// drive keeps jobs waiting for a host for so long, in virtual time, and returns the most requests at once of the last quarter.
func (s shop) drive(h *Host, wanted int, length time.Duration) (most int) {
	type request struct{ began, ends time.Time }
	rnd := rand.New(rand.NewPCG(1, 2))
	var running []request
	begin := time.Unix(1_700_000_000, 0)
	for now := begin; now.Sub(begin) < length; now = now.Add(time.Millisecond) {
		kept := running[:0]
		for _, r := range running {
			if now.Before(r.ends) {
				kept = append(kept, r)
				continue
			}
			h.Observe(r.began, now, KindNone, 0, rnd.Float64)
			h.Release()
		}
		running = kept
		for len(running) < wanted {
			a := h.Admit(now)
			if a.Verdict != Start {
				break
			}
			h.Take(a, now)
			slower := max(1, float64(len(running)+1)/float64(s.capacity))
			took := time.Duration(float64(s.answers) * slower * (0.5 + rnd.Float64()))
			running = append(running, request{now, now.Add(took)})
		}
		if now.Sub(begin) > length*3/4 {
			most = max(most, len(running))
		}
	}
	return most
}

// A host gets as many requests at once as it answers well, and not more: what it can take is seen in how quick it is.
func TestLimitFollowsAnswers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		server      shop
		wanted      int
		least, most int
	}{
		"a large one gets all there may be":                   {shop{1000, 300 * time.Millisecond}, 1000, 64, 64},
		"one of twenty gets about twenty":                     {shop{20, 100 * time.Millisecond}, 1000, 12, 44},
		"one of four gets hardly more than eight":             {shop{4, 50 * time.Millisecond}, 1000, 8, 14},
		"one that takes long gets eight":                      {shop{1000, 3 * time.Second}, 1000, 8, 8},
		"one for which little waits is not experimented with": {shop{1000, 300 * time.Millisecond}, 6, 6, 6},
	} {
		h := NewHost(2, 64)
		if got := c.server.drive(&h, c.wanted, 2*time.Minute); got < c.least || got > c.most {
			t.Errorf("%s: %d at once, want %d to %d", name, got, c.least, c.most)
		}
		if c.wanted < easyLimit && h.limit > easyLimit {
			t.Errorf("%s: the limit is %d", name, h.limit)
		}
	}
	few := NewHost(2, 4)
	if got := (shop{1000, 100 * time.Millisecond}).drive(&few, 100, time.Minute); got != 4 {
		t.Errorf("with four at most: %d", got)
	}
}

// What a host was given beyond eight it loses when it becomes slow, and half of all when it says that it is too much.
func TestLimitFallsAgain(t *testing.T) {
	t.Parallel()
	h := NewHost(2, 64)
	(shop{1000, 200 * time.Millisecond}).drive(&h, 1000, time.Minute)
	if h.limit != 64 {
		t.Fatalf("the limit is %d", h.limit)
	}
	slow := h
	if got := (shop{8, 200 * time.Millisecond}).drive(&slow, 1000, time.Minute); got > 18 {
		t.Errorf("%d at once at a server that has become slow", got)
	}
	now := time.Unix(1_800_000_000, 0)
	h.Take(Admission{Verdict: Start}, now)
	h.Observe(now, now.Add(time.Second), Kind429, 0, rand.Float64)
	if h.limit != 32 {
		t.Errorf("after a 429 the limit is %d, want half of 64", h.limit)
	}
}

// In the first seconds of a flood hardly anything has been counted: what comes back is spaced by what the limit and the answers allow, not by that.
// One that is in trouble is not credited with it.
func TestPaceOfAFlood(t *testing.T) {
	t.Parallel()
	h := NewHost(2, 64)
	now := time.Unix(1_700_000_000, 0)
	for range 10 {
		h.Take(Admission{Verdict: Start}, now)
		h.Observe(now, now.Add(200*time.Millisecond), KindNone, 0, rand.Float64)
		h.Release()
	}
	if got := h.Pace(); got != 25*time.Millisecond { // eight at once, 0.2 s each
		t.Errorf("Pace = %v, want 25ms", got)
	}
	h.Observe(now, now.Add(time.Second), KindRefused, 0, rand.Float64)
	if got := h.Pace(); got < 100*time.Millisecond {
		t.Errorf("of one that fails: %v", got)
	}
}
