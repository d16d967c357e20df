package scheduler_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/queueville/queueville/scheduler"
)

func TestParseQueueFlag(t *testing.T) {
	tests := map[string]struct {
		want scheduler.Queue
		bad  bool
	}{
		"default":         {scheduler.Queue{Name: "default"}, false},
		"default,8":       {scheduler.Queue{Name: "default", Weight: 8}, false},
		"default,0":       {scheduler.Queue{Name: "default"}, false},
		"a:b.c-d_e":       {scheduler.Queue{Name: "a:b.c-d_e"}, false},
		"":                {bad: true},
		",1":              {bad: true},
		"a b":             {bad: true},
		"default,":        {bad: true},
		"default,x":       {bad: true},
		"default,-1":      {bad: true},
		"default,1.5":     {bad: true},
		"default,1,2":     {bad: true},
		"default,9999999": {bad: true},
	}
	for in, test := range tests {
		t.Run(in, func(t *testing.T) {
			got, err := scheduler.ParseQueueFlag(in)
			if got != test.want || (err != nil) != test.bad {
				t.Errorf("ParseQueueFlag(%q) = %v, %v, want %v, bad %v", in, got, err, test.want, test.bad)
			}
		})
	}
}

// Conformance 24: of strict queues all jobs of the first come before any of the second.
func TestStrictOrder(t *testing.T) {
	in := []scheduler.Queue{{Name: "a"}, {Name: "b"}, {Name: "a"}, {Name: "c"}}
	for range 100 {
		if got := scheduler.Order(in, nil); !slices.Equal(got, []string{"a", "b", "c"}) {
			t.Fatalf("Order(%v) = %v, want a b c", in, got)
		}
	}
	if got := scheduler.Order(nil, nil); len(got) != 0 {
		t.Errorf("Order(nil) = %v", got)
	}
}

// Conformance 25: with weights 3:1 the heavier queue comes first in 70–80 % of 1,000 fetches.
func TestWeightedShare(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // no secret
	first := 0
	for range 1000 {
		got := scheduler.Order([]scheduler.Queue{{Name: "heavy", Weight: 3}, {Name: "light", Weight: 1}}, rnd)
		if len(got) != 2 {
			t.Fatalf("Order = %v, want both queues", got)
		}
		if got[0] == "heavy" {
			first++
		}
	}
	if first < 700 || first > 800 {
		t.Errorf("heavy was first in %d of 1000, want 700–800", first)
	}
}

// sidekiqOrder is the rule as the specification words it.
func sidekiqOrder(queues []scheduler.Queue, rnd *rand.Rand) []string {
	var all []string
	for _, q := range queues {
		for range max(q.Weight, 1) {
			all = append(all, q.Name)
		}
	}
	rnd.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return scheduler.Strict(all)
}

// Drawing without repetition has the distribution of Sidekiq's repeating, shuffling and dropping, for every whole order.
func TestWeightedIsSidekiqsDistribution(t *testing.T) {
	const n = 40_000
	queues := []scheduler.Queue{{Name: "a", Weight: 4}, {Name: "b", Weight: 2}, {Name: "c"}, {Name: "a", Weight: 1}}
	rnd := rand.New(rand.NewPCG(3, 4)) //nolint:gosec // no secret
	ours, theirs := map[string]int{}, map[string]int{}
	for range n {
		ours[strings.Join(scheduler.Weighted(queues, rnd), "")]++
		theirs[strings.Join(sidekiqOrder(queues, rnd), "")]++
	}
	if len(ours) != 6 || len(theirs) != 6 {
		t.Fatalf("orders seen: %v and %v, want six", ours, theirs)
	}
	for order, count := range theirs {
		if diff := math.Abs(float64(ours[order]-count)) / n; diff > 0.015 {
			t.Errorf("order %s: %d, Sidekiq %d of %d", order, ours[order], count, n)
		}
	}
}

func ExampleParseQueueFlag() {
	q, err := scheduler.ParseQueueFlag("default,8")
	fmt.Println(q.Name, q.Weight, err)
	// Output: default 8 <nil>
}

func ExampleOrder() {
	fmt.Println(scheduler.Order([]scheduler.Queue{{Name: "critical"}, {Name: "default"}}, nil))
	// Output: [critical default]
}
