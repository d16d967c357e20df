package world_test

import (
	"testing"
	"time"

	"github.com/queueville/queueville/loadtest/world"
)

func base() world.Config {
	return world.Config{
		Seed: 1, Length: 24 * time.Hour,
		Server: world.Server{Users: 20_000, Active: 3_000, MedianFollowers: 22, Tail: 1.35, MostFollowers: 30_000, Streaming: 0.08, Night: 0.7},
		Fedi: world.Fediverse{Instances: 12_000, Tail: 1.25, Tempers: []world.Share{
			{Temper: world.Medium, Of: 0.2},
			{Temper: world.Slow, Of: 0.03},
			{Temper: world.Flaky, Of: 0.02},
			{Temper: world.Limiting, Of: 0.01},
			{Temper: world.Rejecting, Of: 0.02},
			{Temper: world.Broken, Of: 0.01},
			{Temper: world.Refused, Of: 0.02},
			{Temper: world.Dark, Of: 0.015},
			{Temper: world.Hanging, Of: 0.005},
		}},
		Traffic: world.Traffic{
			Posts: 0.6, Boosts: 0.5, Likes: 3, Follows: 0.4, Deletes: 0.06, Edits: 0.03, Replies: 0.5, Media: 0.2,
			Inbound: 50, LocalFollowers: 4.5, SignUps: 20, SignUpFollows: 15,
		},
	}
}

// expand counts jobs by class: everything that is pushed, and everything that follows from it.
func expand(t *testing.T, c world.Config) (counts map[string]int, total int) {
	t.Helper()
	w, err := world.New(c)
	if err != nil {
		t.Fatal(err)
	}
	counts = map[string]int{}
	seen := &world.Seen{}
	ids := map[uint64]bool{}
	var pending []world.Push
	take := func(p world.Push) {
		counts[world.ClassTable[p.Job.Class].Name]++
		total++
		if ids[p.Job.ID] {
			t.Fatalf("job number %d twice", p.Job.ID)
		}
		ids[p.Job.ID] = true
		w.Spawn(&p.Job, p.Job.Created, seen, func(child world.Push) { pending = append(pending, child) })
	}
	stream := w.Stream()
	last := time.Duration(-1)
	for {
		at, ok := stream.Next(take)
		if !ok {
			return counts, total
		}
		if at < last {
			t.Fatalf("an event at %v after one at %v", at, last)
		}
		last = at
		for len(pending) > 0 {
			p := pending[len(pending)-1]
			pending = pending[:len(pending)-1]
			take(p)
		}
	}
}

// TestMix compares an ordinary day with the mix that spec/mastodon.md gives for a medium server, per 1,000 jobs. Those ranges are estimates
// themselves, so they are taken with a third more to either side.
func TestMix(t *testing.T) {
	counts, total := expand(t, base())
	if total < 500_000 || total > 3_000_000 {
		t.Errorf("%d jobs a day, want about a million", total)
	}
	for name, want := range map[string][2]float64{
		"FeedInsertWorker":              {300, 450},
		"ActivityPub::DeliveryWorker":   {150, 300},
		"ActivityPub::ProcessingWorker": {120, 200},
		"DistributionWorker":            {40, 70},
		"LinkCrawlWorker":               {40, 70},
		"PushUpdateWorker":              {20, 60},
		"LocalNotificationWorker":       {20, 40},
		"Web::PushNotificationWorker":   {10, 20},
	} {
		got := float64(counts[name]) * 1000 / float64(total)
		t.Logf("%-32s %6.1f of 1,000, expected %v", name, got, want)
		if got < want[0]*0.66 || got > want[1]*1.34 {
			t.Errorf("%s: %.1f of 1,000 jobs, want %v", name, got, want)
		}
	}
}

// TestReach: how many instances a post reaches, by spec/mastodon.md §4.1's rules of thumb.
func TestReach(t *testing.T) {
	c := base()
	c.Server.MostFollowers = 200_000
	c.Fedi.Instances = 15_000
	for _, want := range []struct{ followers, least, most int }{{1000, 200, 500}, {10_000, 1300, 3500}, {100_000, 4000, 10_000}} {
		c.Server.MedianFollowers, c.Server.Tail = float64(want.followers), 10 // nearly everybody has as many
		w, err := world.New(c)
		if err != nil {
			t.Fatal(err)
		}
		n, again := 0, 0
		w.Reach(int32(c.Server.Active/2), &world.Seen{}, func(int32) { n++ })
		w.Reach(int32(c.Server.Active/2), &world.Seen{}, func(int32) { again++ })
		t.Logf("%d followers: %d instances", w.Followers(int32(c.Server.Active/2)), n)
		if n < want.least || n > want.most || n != again {
			t.Errorf("%d followers reach %d instances, then %d; want %d to %d, always the same", want.followers, n, again, want.least, want.most)
		}
	}
}

// TestEventsAddOnly: an event changes nothing of what happens besides.
func TestEventsAddOnly(t *testing.T) {
	c := base()
	c.Length = 2 * time.Hour
	plain, _ := expand(t, c)
	c.Events = []world.Event{{Kind: world.FollowWave, At: time.Hour, For: 10 * time.Minute, Rate: 5}}
	with, _ := expand(t, c)
	if more := with["ActivityPub::ProcessingWorker"] - plain["ActivityPub::ProcessingWorker"]; more < 2500 || more > 3500 {
		t.Errorf("%d more received activities, want about 3,000", more)
	}
	for _, name := range []string{"FeedInsertWorker", "DistributionWorker", "ThreadResolveWorker"} {
		if with[name] != plain[name] {
			t.Errorf("%s: %d with a follow wave, %d without", name, with[name], plain[name])
		}
	}
}

func TestAttempt(t *testing.T) {
	c := base()
	c.Fedi.Tempers = []world.Share{{Temper: world.Refused, Of: 0.5}}
	c.Events = []world.Event{{Kind: world.Turn, At: time.Hour, For: time.Hour, Of: 1, Temper: world.Dark}}
	w, err := world.New(c)
	if err != nil {
		t.Fatal(err)
	}
	up, refused := 0, 0
	for dest := range int32(1000) {
		job := world.Job{ID: uint64(dest) + 1, Class: world.Delivery, Dest: dest}
		before, during := w.Attempt(&job, 0, 1), w.Attempt(&job, 90*time.Minute, 1)
		if before != w.Attempt(&job, 0, 1) {
			t.Fatal("the same request gets two answers")
		}
		switch before.Verdict {
		case world.Accepted:
			up++
		case world.NoPath:
			refused++
		default:
			t.Errorf("verdict %d before", before.Verdict)
		}
		if during.Verdict != world.TimedOut || during.Took < 5*time.Second {
			t.Errorf("a dark instance answers %+v", during)
		}
	}
	if up < 400 || refused < 400 {
		t.Errorf("%d up, %d refused; want half each", up, refused)
	}
}

func TestDelay(t *testing.T) {
	for _, class := range []world.ClassID{world.FeedInsert, world.Delivery, world.ThreadResolve} {
		for count := range 10 {
			for seed := range uint64(200) {
				d := world.NewDice(seed, 1)
				n4 := float64(count * count * count * count)
				got := world.ClassTable[class].Delay(count, &d).Seconds()
				low, high := n4+15, n4+15+float64(10*(count+1))
				switch class {
				case world.Delivery:
					high += 0.5 * n4
				case world.ThreadResolve:
					low, high = 15+10*n4, 15+20*n4+float64(10*(count+1))
				default:
				}
				if got < low-1 || got > high {
					t.Fatalf("%s: delay %v after failure %d, want %v to %v", world.ClassTable[class].Name, got, count, low, high)
				}
			}
		}
	}
}

func TestConfigProblems(t *testing.T) {
	if _, err := world.New(world.Config{}); err == nil {
		t.Error("an empty configuration makes a world")
	}
}
