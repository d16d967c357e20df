package placement

import (
	"math"
	"testing"
	"time"
)

// Where the system says for how long a thread had no processor, what a class waits for is told from what it had to wait for others.
func TestShareWhereDelaysAreKnown(t *testing.T) {
	const ms = time.Millisecond
	cases := map[string]struct {
		wall, cpu time.Duration
		around    Around
		want      float64
	}{
		"computes, by itself":                           {20 * ms, 19 * ms, Around{Jobs: 1, Used: 0.96, Delayed: ms}, 1},
		"computes, on a full host":                      {80 * ms, 13 * ms, Around{Jobs: 1, Used: 0.16, Host: 1, Crowd: 4, Delayed: 66 * ms}, 0.93},
		"computes, where the host looks idle":           {80 * ms, 13 * ms, Around{Jobs: 1, Used: 0.16, Host: 0.6, Crowd: 4, Delayed: 66 * ms}, 0.93},
		"computes, behind others of its process":        {100 * ms, 20 * ms, Around{Jobs: 5, Used: 1, Host: 0.3}, 1},
		"in doubt: behind others and on a full host":    {800 * ms, 20 * ms, Around{Jobs: 5, Used: 0.25, Host: 1, Delayed: 140 * ms}, UnknownShare},
		"computes, and other machines took the time":    {200 * ms, 20 * ms, Around{Jobs: 1, Used: 0.1, Delayed: 20 * ms, Stolen: 0.85}, 1},
		"nobody knows what other machines took from it": {2 * time.Second, 20 * ms, Around{Jobs: 3, Used: 0.1, Delayed: 200 * ms, Stolen: 0.4}, UnknownShare},
		"half and half":                                 {100 * ms, 50 * ms, Around{Jobs: 1, Used: 0.5}, 0.5},
		"waits":                                         {500 * ms, 5 * ms, Around{Jobs: 8, Used: 0.08, Host: 0.2, Delayed: ms}, 0.011},
		"waits, on a full host":                         {600 * ms, 5 * ms, Around{Jobs: 8, Used: 0.06, Host: 1, Crowd: 30, Delayed: 50 * ms}, 0.017},
		"waits, beside one that computes":               {500 * ms, 5 * ms, Around{Jobs: 2, Used: 1, Host: 0.5}, 0.011},
		"waits, while other machines take most":         {155 * ms, 3 * ms, Around{Jobs: 1, Used: 0.03, Delayed: 15 * ms, Stolen: 0.6}, 0.024},
		"waits, and little is left of the process":      {155 * ms, 3 * ms, Around{Jobs: 5, Used: 0.08, Delayed: 5 * ms, Stolen: 0.3}, 0.024},
		"takes no time at all":                          {0, 0, Around{Jobs: 1}, 1},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var k Share
			for range 50 {
				k.Note(c.wall, c.cpu, c.around)
			}
			if math.Abs(k.Of-c.want) > 0.1*c.want+0.01 {
				t.Errorf("share %.3f, want %.3f", k.Of, c.want)
			}
		})
	}
}

// What is in doubt makes no class lighter.
func TestShareKeepsWhatIsSure(t *testing.T) {
	const ms = time.Millisecond
	var k Share
	for range 20 {
		k.Note(50*ms, 40*ms, Around{Jobs: 1, Used: 0.8})
	}
	was := k.Of
	for range 200 {
		k.Note(4*time.Second, 40*ms, Around{Jobs: 20, Used: 0.2, Host: 0.7, Crowd: 80, Delayed: 600 * ms, Stolen: 0.3})
	}
	if k.Of < was {
		t.Errorf("share went from %.2f to %.2f in a crowd", was, k.Of)
	}
}

// What other machines take comes in bursts, so single runs of a class that only computes seem to have waited. They do not make it one that waits.
func TestShareWhereTimeIsStolenInBursts(t *testing.T) {
	const ms = time.Millisecond
	var k Share
	lightest := 1.0
	for i := range 300 {
		wall := 23 * ms
		if i%10 == 9 {
			wall = 123 * ms
		}
		k.Note(wall, 20*ms, Around{Jobs: 1, Used: 20 / float64(wall/ms), Delayed: ms, Stolen: 0.35})
		if i > 0 {
			lightest = min(lightest, k.Of)
		}
	}
	if lightest <= FullLoad/2 {
		t.Errorf("a share of %.2f: two would be started at once", lightest)
	}
}
