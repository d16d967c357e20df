package scheduler

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func yes[K any](K) bool { return true }

func TestTurnsShareByCost(t *testing.T) {
	t.Parallel()
	turns := NewTurns[string](1)
	price := map[string]float64{"fast": 0.2, "slow": 2, "slower": 10}
	used, starts := map[string]float64{}, map[string]int{}
	for k := range price {
		turns.Join(k)
		turns.Join(k)
	}
	for range 20_000 {
		k, ok := turns.Next(func(k string) float64 { return price[k] }, yes[string])
		if !ok {
			t.Fatal("nobody's turn")
		}
		used[k] += price[k]
		starts[k]++
	}
	for k := range price {
		near(t, k, used[k]/(used["fast"]+used["slow"]+used["slower"]), 1.0/3, 0.02)
	}
	if starts["fast"] < 9*starts["slow"] {
		t.Errorf("starts: %v", starts)
	}
}

func TestTurnsPassOverWhoIsNotReady(t *testing.T) {
	t.Parallel()
	turns := NewTurns[int](1)
	for k := range 5 {
		turns.Join(k)
	}
	one := func(int) float64 { return 1 }
	for range 50 {
		if k, ok := turns.Next(one, func(k int) bool { return k == 3 }); !ok || k != 3 {
			t.Fatalf("Next = %d, %v, want 3", k, ok)
		}
	}
	if _, ok := turns.Next(one, func(int) bool { return false }); ok {
		t.Error("somebody's turn although nobody is ready")
	}
	turns.Leave(3)
	seen := map[int]bool{}
	for range 4 {
		k, _ := turns.Next(one, yes[int])
		seen[k] = true
	}
	if len(seen) != 4 || seen[3] {
		t.Errorf("turns of %v", seen)
	}
}

// Next ends, names only who is in and ready, and forgets nobody.
func TestTurnsProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		turns, in := NewTurns[int](rapid.Float64().Draw(t, "quantum")), map[int]bool{}
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			k := rapid.IntRange(0, 9).Draw(t, "destination")
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0:
				turns.Join(k)
				in[k] = true
			case 1:
				turns.Leave(k)
				delete(in, k)
			default:
				mask := rapid.IntRange(0, 1023).Draw(t, "ready")
				anybody := false
				for d := range in {
					anybody = anybody || mask>>d&1 == 1
				}
				got, ok := turns.Next(func(int) float64 { return strange(t, "cost") }, func(d int) bool { return mask>>d&1 == 1 })
				if ok != anybody || ok && (!in[got] || mask>>got&1 == 0) {
					t.Fatalf("Next = %d, %v; in %v, ready %b", got, ok, in, mask)
				}
			}
			if turns.Len() != len(in) || len(turns.ring) > 200 {
				t.Fatalf("%d take turns, want %d; ring of %d", turns.Len(), len(in), len(turns.ring))
			}
		}
	})
}

// A host that comes back after an hour gets no more than twice what it took before, in any second, however many jobs were held for it.
func TestReopeningStormsNobody(t *testing.T) {
	t.Parallel()
	for _, before := range []float64{2, 20, 500} {
		var peak RatePeak
		now := t0
		for range int(before * 120) {
			now = now.Add(time.Duration(float64(time.Second) / before))
			peak.Add(now)
		}
		near(t, "rate before", peak.Rate(), before, 0.1)
		now = now.Add(time.Hour)
		r := Reopen(now, peak.Rate())
		var starts []time.Time
		for range 60_000 { // one minute, a thousand askers a second
			now = now.Add(time.Millisecond)
			if ok, wait := r.Allow(now); ok {
				starts = append(starts, now)
			} else if wait <= 0 {
				t.Fatal("no wait was named")
			}
		}
		most, first := 0, 0
		for i := range starts {
			for starts[i].Sub(starts[first]) >= time.Second {
				first++
			}
			most = max(most, i-first+1)
		}
		if limit := 2*before + 1; float64(most) > limit {
			t.Errorf("%.0f/s before: %d in one second, want at most %.0f", before, most, limit)
		}
		if late := r.Rate(now); late < before {
			t.Errorf("%.0f/s before, but %.1f/s a minute later", before, late)
		}
		if ok, _ := r.Allow(now.Add(time.Hour)); !ok || !math.IsInf(r.Rate(now.Add(time.Hour)), 1) {
			t.Error("it never ends")
		}
	}
}

func TestReopeningWithNonsense(t *testing.T) {
	t.Parallel()
	for _, before := range []float64{math.NaN(), math.Inf(1), -1, 0} {
		r := Reopen(t0, before)
		if rate := r.Rate(t0); rate <= 0 || rate > 1 {
			t.Errorf("rate %v after %v", rate, before)
		}
		if ok, _ := r.Allow(t0.Add(-time.Hour)); !ok {
			t.Error("the first request waits")
		}
		if ok, wait := r.Allow(t0.Add(-time.Hour)); ok || wait > 10*time.Second {
			t.Errorf("the second: %v, %v", ok, wait)
		}
	}
	var none Reopening
	if ok, _ := none.Allow(t0); !ok {
		t.Error("the zero value holds something back")
	}
}

func TestRetryBudgetIsAShareOfTheStarts(t *testing.T) {
	t.Parallel()
	b := NewRetryBudget(0.2)
	rnd := rand.New(rand.NewPCG(1, 2))
	tries, retries := 0, 0
	now := t0
	for range 100_000 { // a thousand starts a second, more retries wait than anything else
		now = now.Add(time.Millisecond)
		if rnd.Float64() < 0.7 && b.Allow(now, true) {
			retries++
		} else {
			tries++
			b.Tried()
		}
	}
	if share := float64(retries) / float64(tries+retries); share > 0.205 || share < 0.18 {
		t.Errorf("retries took %.1f %% of the starts", 100*share)
	}
	alone := 0
	for range 100 {
		if b.Allow(now, false) {
			alone++
		}
	}
	if alone != 100 {
		t.Errorf("%d of 100 retries started although nobody else wanted the slots", alone)
	}
	floor := 0
	for range 600 { // nothing new for a minute
		now = now.Add(100 * time.Millisecond)
		if b.Allow(now, true) {
			floor++
		}
	}
	if floor < 10 || floor > 40 {
		t.Errorf("%d retries in a minute without anything new", floor)
	}
}

func BenchmarkTurns(b *testing.B) {
	turns := NewTurns[int](1)
	for k := range 1000 {
		turns.Join(k)
	}
	b.ReportAllocs()
	for b.Loop() {
		turns.Next(func(k int) float64 { return 0.5 + float64(k%3) }, yes[int])
	}
}
