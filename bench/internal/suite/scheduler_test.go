package suite

import (
	"math"
	"slices"
	"testing"

	"github.com/queueville/queueville/bench/internal/web"
)

// ramp is a record of 100 jobs a second, and of less before the given second.
func ramp(until, less, end float64) *record {
	r := &record{}
	done := 0.0
	for at := 0.0; at <= end; at += 0.25 {
		r.sights = append(r.sights, sight{at: at, done: done})
		if at < until {
			done += 0.25 * less
		} else {
			done += 25
		}
	}
	return r
}

func TestRecordRate(t *testing.T) {
	t.Parallel()
	r := ramp(4, 50, 10)
	for name, tc := range map[string]struct{ from, to, want float64 }{
		"before":                 {0, 4, 50},
		"after":                  {5, 10, 100},
		"across":                 {3, 5, 75},
		"between two looks":      {6.1, 6.2, 100},
		"longer than the record": {8, 20, 100},
		"nothing":                {5, 5, 0},
	} {
		if got := r.rate(tc.from, tc.to); math.Abs(got-tc.want) > 0.01 {
			t.Errorf("%s: rate(%v, %v) = %v, want %v", name, tc.from, tc.to, got, tc.want)
		}
	}
}

func TestRecordSettled(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		r    *record
		want float64
	}{
		"at once":                     {ramp(0, 0, 20), 0},
		"from the fourth second":      {ramp(4, 50, 20), 3.6}, // a fifth of two seconds may be at half the rate
		"never: as long as it waited": {ramp(20, 50, 20), 15},
	} {
		if got := tc.r.settled(0, 15, 100); math.Abs(got-tc.want) > 0.11 {
			t.Errorf("%s: settled = %v, want %v", name, got, tc.want)
		}
	}
}

func TestRecordSteady(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		r    *record
		want float64
	}{
		"as much all the time": {ramp(0, 0, 20), 100},
		"grows to the end":     {ramp(16, 50, 20), 50 + 50*4.0/7}, // of seven seconds the last four
		"falls":                {ramp(10, 300, 20), 300},
	} {
		if got := tc.r.steady(0, 20, 7); math.Abs(got-tc.want) > 0.5 {
			t.Errorf("%s: steady = %v, want %v", name, got, tc.want)
		}
	}
}

func TestEvenSpeed(t *testing.T) {
	t.Parallel()
	tr := &tried{rounds: []float64{100, 80, 90}, yards: []float64{0.001, 0.00125, 0}} // the machine was slower by a fifth; then nobody looked
	if got := tr.evens(&sweepLoad{computes: true}, 0.001); !slices.Equal(got, []float64{100, 100, 90}) {
		t.Errorf("evens = %v", got)
	}
	if got := tr.evens(&sweepLoad{}, 0.001); !slices.Equal(got, tr.rounds) {
		t.Errorf("evens of jobs that wait = %v", got)
	}
	var y yardstick
	if err := y.time(3, func(int) {}); err != nil {
		t.Fatal(err)
	}
	if n, s := y.read(); n != 3 || s <= 0 || s > 1 {
		t.Errorf("%d jobs in %v s", n, s)
	}
	r := &record{sights: []sight{{at: 1, made: 10, making: 1}, {at: 2, made: 20, making: 2}, {at: 3, made: 40, making: 3}, {at: 4, made: 40, making: 3}}}
	for _, tc := range []struct{ from, to, want float64 }{{0, 4, 2.0 / 30}, {0, 2, 0.1}, {2, 4, 0}, {5, 6, 0}} {
		if got := r.yard(tc.from, tc.to); math.Abs(got-tc.want) > 1e-9 {
			t.Errorf("yard(%v, %v) = %v, want %v", tc.from, tc.to, got, tc.want)
		}
	}
}

func TestRecordLimit(t *testing.T) {
	t.Parallel()
	r := &record{changes: []change{{at: -1, lane: "a", to: 10}, {at: 0, lane: "b", to: 1}, {at: 5, lane: "a", to: 30}, {at: 10, lane: "a", to: 10}}}
	for name, tc := range map[string]struct {
		lane               string
		from, to, mean, cv float64
	}{
		"steady":               {"a", 0, 5, 10, 0},
		"half the time thrice": {"a", 0, 10, 20, 0.5},
		"another lane":         {"b", 0, 10, 1, 0},
		"no such lane":         {"c", 0, 10, 0, 0},
	} {
		mean, cv := r.limit(tc.lane, tc.from, tc.to)
		if math.Abs(mean-tc.mean) > 1e-9 || math.Abs(cv-tc.cv) > 1e-9 {
			t.Errorf("%s: limit = %v ± %v, want %v ± %v", name, mean, cv, tc.mean, tc.cv)
		}
	}
	if got := r.lanes(); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("lanes = %v", got)
	}
}

func TestWithin(t *testing.T) {
	t.Parallel()
	list := []waited{
		{wait: 1, started: true, goal: 5, queue: "default"},
		{wait: 6, started: true, goal: 5, queue: "default"},
		{wait: 4, started: false, goal: 5, queue: "default"}, // may still start in time
		{wait: 9, started: false, goal: 5, queue: "default"},
		{wait: 99, started: true, goal: 5, queue: "pull"},
	}
	if share, p99 := within(list, "default"); math.Abs(share-100.0/3) > 1e-9 || p99 != 9 {
		t.Errorf("within = %v %%, p99 %v, want a third, 9", share, p99)
	}
}

func TestPercentile(t *testing.T) {
	t.Parallel()
	var list []web.Visit
	for i := range 100 {
		list = append(list, web.Visit{Took: float64(100 - i)})
	}
	if got := percentile(list, 99); got != 100 {
		t.Errorf("p99 = %v", got)
	}
	if got := percentile(list, 50); got != 51 {
		t.Errorf("p50 = %v", got)
	}
}
