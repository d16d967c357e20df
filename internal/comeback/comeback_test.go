package comeback

import (
	"math"
	"testing"
	"time"
	"unsafe"
)

var t0 = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

// steadyFor lets so many requests a second be answered for a minute.
func steadyFor(p *Peak, now time.Time, rate float64) time.Time {
	for range int(rate * 60) {
		now = now.Add(time.Duration(float64(time.Second) / rate))
		p.Add(now)
	}
	return now
}

// mostInASecond asks a thousand times a second for so long, and returns the most starts in any one second.
func mostInASecond(t *testing.T, d *Damper, now time.Time, length time.Duration) (most int, end time.Time) {
	t.Helper()
	var starts []time.Time
	first := 0
	for end = now.Add(length); now.Before(end); now = now.Add(time.Millisecond) {
		ok, wait := d.Allow(now)
		if !ok {
			if wait <= 0 {
				t.Fatal("no wait was named")
			}
			continue
		}
		starts = append(starts, now)
		for now.Sub(starts[first]) >= time.Second {
			first++
		}
		most = max(most, len(starts)-first)
	}
	return most, end
}

// A destination that comes back after an hour gets no more than twice what it took before, in any second, however many jobs were held for it.
func TestNobodyIsStormed(t *testing.T) {
	t.Parallel()
	for _, before := range []float64{2, 20, 500} {
		var peak Peak
		now := steadyFor(&peak, t0, before)
		if got := peak.Rate(); math.Abs(got-before) > 0.1*before {
			t.Errorf("rate %v, want %v", got, before)
		}
		now = now.Add(time.Hour)
		d := Reopen(now, peak.Rate())
		most, now := mostInASecond(t, &d, now, 11*time.Minute-30*time.Second)
		if limit := 2*before + 1; float64(most) > limit {
			t.Errorf("%.0f/s before: %d in one second, want at most %.0f", before, most, limit)
		}
		if late := d.Rate(now); late < before {
			t.Errorf("%.0f/s before, but %.1f/s ten minutes later", before, late)
		}
	}
}

// It has no end by the clock that would let all the rest go at once: the rate grows slowly as long as it holds something back.
func TestNoStormAtTheEnd(t *testing.T) {
	t.Parallel()
	d := Reopen(t0, 20)
	now, last := t0.Add(steady-time.Second), 0
	d.since = t0
	for range 8 {
		var most int
		most, now = mostInASecond(t, &d, now, time.Minute)
		if last > 0 && float64(most) > 1.6*float64(last) {
			t.Fatalf("%d in a second, %d in one of the minute before", most, last)
		}
		last = most
	}
	if last < 80 || d.Over() {
		t.Errorf("%d in a second after eight more minutes, over: %v", last, d.Over())
	}
	if ok, _ := d.Allow(now.Add(over)); !ok || !d.Over() || !math.IsInf(d.Rate(now.Add(over)), 1) {
		t.Error("it never ends")
	}
}

func TestNonsense(t *testing.T) {
	t.Parallel()
	for _, before := range []float64{math.NaN(), math.Inf(1), -1, 0} {
		d := Reopen(t0, before)
		if rate := d.Rate(t0); rate <= 0 || rate > 1 {
			t.Errorf("rate %v after %v", rate, before)
		}
		if ok, _ := d.Allow(t0.Add(-time.Hour)); !ok {
			t.Error("the first request waits")
		}
		if ok, wait := d.Allow(t0.Add(-time.Hour)); ok || wait > 10*time.Second {
			t.Errorf("the second: %v, %v", ok, wait)
		}
	}
	var none Damper
	if ok, _ := none.Allow(t0); !ok || !none.Over() || !math.IsInf(none.Rate(t0), 1) {
		t.Error("the zero value holds something back")
	}
	var p Peak
	if p.Rate() != 0 {
		t.Errorf("nothing came, at %v/s", p.Rate())
	}
	for _, at := range []time.Duration{0, -time.Hour, 1000 * time.Hour, time.Minute} {
		p.Add(t0.Add(at))
		if r := p.Rate(); !(r > 0 && r <= 1) {
			t.Errorf("rate %v at %v", r, at)
		}
	}
}

// What was before an outage is remembered, and each further silence counts it half.
func TestPeakForgetsSlowly(t *testing.T) {
	t.Parallel()
	var p Peak
	now := steadyFor(&p, t0, 100)
	for _, want := range []float64{50, 25} {
		now = now.Add(time.Hour)
		p.Add(now)
		if got := p.Rate(); math.Abs(got-want) > 0.1*want {
			t.Errorf("rate %v, want %v", got, want)
		}
	}
	if size := unsafe.Sizeof(p); size > 48 {
		t.Errorf("%d bytes for each destination", size)
	}
}

func BenchmarkPeak(b *testing.B) {
	var p Peak
	now := t0
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(time.Millisecond)
		p.Add(now)
	}
}
