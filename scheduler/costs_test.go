package scheduler

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var t0 = time.Unix(1_700_000_000, 0)

func at(s float64) time.Time { return t0.Add(time.Duration(s * float64(time.Second))) }

func near(t *testing.T, what string, got, want, share float64) {
	t.Helper()
	if math.Abs(got-want) > share*math.Abs(want) {
		t.Errorf("%s = %.4g, want %.4g ± %.0f %%", what, got, want, share*100)
	}
}

func TestCostsMeansAndRates(t *testing.T) {
	t.Parallel()
	c := NewCosts(CostsConfig{})
	for i := range 6000 { // 100/s for a minute
		now := at(float64(i) / 100)
		c.Arrived(now, "A", 2)
		c.Observe(now, Run{Class: "A", Wall: 40 * time.Millisecond, CPU: 10 * time.Millisecond, DB: -1, Failed: i%4 == 0})
	}
	k := c.Of(at(60), "A")
	near(t, "wall", k.Wall, 0.04, 0.001)
	near(t, "cpu", k.CPU, 0.01, 0.001)
	near(t, "db", k.DB, 0, 0)
	near(t, "failures", k.FailureShare, 0.25, 0.02)
	near(t, "rate", k.Rate, 100, 0.02)
	near(t, "arrivals", k.Arrivals, 200, 0.02)
	if k.Runs != 6000 || k.Failures != 1500 {
		t.Errorf("runs, failures = %d, %d", k.Runs, k.Failures)
	}
	near(t, "rate after a minute of nothing", c.Of(at(120), "A").Rate, 100.0/16, 0.1)
}

func TestCostsFollowAStepWithinSeconds(t *testing.T) {
	t.Parallel()
	c := NewCosts(CostsConfig{HalfLife: 5 * time.Second})
	for i := range 10000 {
		wall := 10 * time.Millisecond
		if i >= 6000 {
			wall = 50 * time.Millisecond
		}
		c.Observe(at(float64(i)/200), Run{Class: "A", Wall: wall})
	}
	near(t, "wall 20 s after the step", c.Of(at(50), "A").Wall, 0.05, 0.1)
}

func TestCostsOfOneJobAnHour(t *testing.T) {
	t.Parallel()
	c := NewCosts(CostsConfig{})
	for i := range 48 {
		wall := time.Second
		if i%2 == 1 {
			wall = 3 * time.Second
		}
		c.Observe(at(float64(i)*3600), Run{Class: "Backup", Wall: wall})
	}
	// Not just the last run, which took 3 s.
	near(t, "wall", c.Of(at(48*3600), "Backup").Wall, 2, 0.1)
}

func TestCostsEvictTheLeastUsedAndKeepTheSum(t *testing.T) {
	t.Parallel()
	c := NewCosts(CostsConfig{MaxClasses: 100})
	for i := range 100_000 {
		now := at(float64(i) / 1000)
		c.Observe(now, Run{Class: fmt.Sprintf("Hostile%d", i), Wall: time.Second})
		c.Observe(now, Run{Class: "FeedInsertWorker", Wall: 5 * time.Millisecond})
	}
	c.Observe(at(100), Run{Class: strings.Repeat("x", 10_000)})
	now := at(100)
	list := c.Snapshot(now)
	if len(list) != 101 {
		t.Fatalf("%d entries, want 100 and other", len(list))
	}
	var sum uint64
	for _, k := range list {
		sum += k.Runs
	}
	if sum != 200_001 || c.Observed() != sum {
		t.Errorf("runs add up to %d, observed %d, want 200001", sum, c.Observed())
	}
	k := c.Of(now, "FeedInsertWorker")
	if k.Runs != 100_000 {
		t.Errorf("a class in use was evicted: %d runs", k.Runs)
	}
	near(t, "wall of a name without an entry", c.Of(now, "Never").Wall, 1, 0.01)
	if list[100].Class != OtherClass {
		t.Errorf("the last is %q", list[100].Class)
	}
}

func TestCostsNewClassesComeInWhenOldOnesAreOutOfUse(t *testing.T) {
	t.Parallel()
	c := NewCosts(CostsConfig{MaxClasses: 50})
	for i := range 50 {
		c.Observe(at(0), Run{Class: fmt.Sprint("Old", i)})
	}
	for i := range 50 {
		c.Observe(at(3600), Run{Class: fmt.Sprint("New", i)})
	}
	if got := c.Of(at(3600), "New49").Runs; got != 1 {
		t.Errorf("runs of the last new class = %d, want 1", got)
	}
}

func TestCostsNothingKnown(t *testing.T) {
	t.Parallel()
	c := NewCosts(CostsConfig{})
	if k := c.Of(at(0), "A"); k.Weight != 0 || k.Class != "A" || k.Rate != 0 {
		t.Errorf("Of = %+v", k)
	}
	if list := c.Snapshot(at(0)); len(list) != 0 {
		t.Errorf("Snapshot = %v", list)
	}
}

// Whatever comes, numbers stay finite, shares within 0 and 1, means within what was seen.
func TestCostsProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		c := NewCosts(CostsConfig{MaxClasses: rapid.IntRange(1, 5).Draw(t, "max"), HalfLife: time.Duration(rapid.Int64Range(1, int64(time.Hour)).Draw(t, "half-life"))})
		now := t0
		n := uint64(0)
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.Int64Range(int64(-48*time.Hour), int64(48*time.Hour)).Draw(t, "jump")))
			class := rapid.SampledFrom([]string{"", "A", "B", "C", "D", "E", "F", OtherClass}).Draw(t, "class")
			if rapid.Bool().Draw(t, "arrived") {
				c.Arrived(now, class, rapid.IntRange(-1, 1<<40).Draw(t, "jobs"))
				continue
			}
			n++
			c.Observe(now, Run{
				Class: class, Wall: time.Duration(rapid.Int64().Draw(t, "wall")), CPU: time.Duration(rapid.Int64().Draw(t, "cpu")), DB: time.Duration(rapid.Int64().Draw(t, "db")),
				Failed: rapid.Bool().Draw(t, "failed"),
			})
		}
		var sum uint64
		for _, k := range c.Snapshot(now) {
			sum += k.Runs
			for _, v := range []float64{k.Wall, k.CPU, k.DB, k.Rate, k.Arrivals, k.Weight, k.FailureShare} {
				if math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
					t.Fatalf("%+v", k)
				}
			}
			if k.FailureShare > 1 || max(k.Wall, k.CPU, k.DB) > maxSample*1.0001 {
				t.Fatalf("%+v", k)
			}
		}
		if sum != n {
			t.Fatalf("%d runs, want %d", sum, n)
		}
	})
}

func BenchmarkCostsObserve(b *testing.B) {
	for _, classes := range []int{1, 60, 100_000} {
		names := make([]string, classes)
		for i := range names {
			names[i] = fmt.Sprintf("Some::Namespace::Class%dWorker", i)
		}
		b.Run(fmt.Sprintf("classes=%d", classes), func(b *testing.B) {
			c := NewCosts(CostsConfig{})
			b.ReportAllocs()
			i := 0
			now := t0
			for b.Loop() {
				now = now.Add(20 * time.Microsecond)
				c.Observe(now, Run{Class: names[i], Wall: 20 * time.Millisecond, CPU: 5 * time.Millisecond, DB: time.Millisecond})
				if i++; i == classes {
					i = 0
				}
			}
		})
	}
}
