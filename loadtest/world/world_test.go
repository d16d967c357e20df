package world_test

import (
	"testing"
	"time"

	"github.com/queueville/queueville/loadtest/world"
)

func base() world.Config {
	return world.Config{
		Seed: 1, Length: 24 * time.Hour,
		Server: world.Server{Users: 20_000, Active: 3_000, MedianFollowers: 40, Tail: 1.3, MostFollowers: 40_000, Streaming: 0.08},
		Fedi: world.Fediverse{Instances: 12_000, Tail: 1.1, Tempers: []world.Share{
			{Temper: world.Medium, Of: 0.2}, {Temper: world.Slow, Of: 0.04}, {Temper: world.Flaky, Of: 0.02}, {Temper: world.Limiting, Of: 0.01},
			{Temper: world.Rejecting, Of: 0.02}, {Temper: world.Refused, Of: 0.02}, {Temper: world.Dark, Of: 0.02}, {Temper: world.Hanging, Of: 0.01},
		}},
		Traffic: world.Traffic{Posts: 1.2, Boosts: 1.0, Likes: 4, Follows: 0.4, Deletes: 0.08, Edits: 0.05, Replies: 0.5, Media: 0.2, Inbound: 45, LocalFollowers: 6, SignUps: 20, SignUpFollows: 15},
	}
}

// run counts jobs by class: everything that is pushed and everything that follows from it.
func run(t *testing.T, c world.Config) (counts [world.Classes]int, total int) {
	t.Helper()
	w, err := world.New(c)
	if err != nil {
		t.Fatal(err)
	}
	stream, seen := w.Stream(), &world.Seen{}
	var take func(p world.Push)
	take = func(p world.Push) {
		counts[p.Job.Class]++
		total++
		w.Spawn(&p.Job, p.Job.Created, seen, func(child world.Push) { pending = append(pending, child) })
	}
	for {
		if _, ok := stream.Next(take); !ok {
			return counts, total
		}
		for len(pending) > 0 {
			p := pending[len(pending)-1]
			pending = pending[:len(pending)-1]
			take(p)
		}
	}
}

var pending []world.Push

func TestMix(t *testing.T) {
	counts, total := run(t, base())
	by := map[string]int{}
	for class, n := range counts {
		by[world.ClassTable[class].Name] += n
	}
	for name, n := range by {
		t.Logf("%-45s %8d %6.1f", name, n, float64(n)*1000/float64(total))
	}
	t.Logf("total %d", total)
	w, _ := world.New(base())
	for _, f := range []int32{0, 10, 100, 1000, 1500, 2999} {
		n := 0
		w.Reach(f, &world.Seen{}, func(int32) { n++ })
		t.Logf("rank %d followers %d instances %d", f, w.Followers(f), n)
	}
}
