package ruby

import (
	"math"
	"time"

	"github.com/queueville/queueville/internal/placement"
)

const (
	guessWeight  = 0.5  // of one more look at a class of which no run has ended
	maxClasses   = 4096 // classes remembered; class names come from payloads
	histLowest   = time.Millisecond
	histBuckets  = 64   // half powers of two from histLowest: up to 50 days
	histHalve    = 4096 // runs after which the old ones count half
	longestQuiet = 24 * time.Hour
)

// cost is what runs of one class have cost.
type cost struct {
	placement.Share
	last time.Time

	hist  [histBuckets]float32
	total float32
}

// costs remembers what classes cost.
type costs struct {
	classes map[string]*cost
}

func newCosts() *costs { return &costs{classes: map[string]*cost{}} }

// share is the CPU share of a class.
func (c *costs) share(class string) float64 {
	if k := c.classes[class]; k != nil {
		return k.Of
	}
	return unknownShare
}

// known reports whether a run of the class has ended.
func (c *costs) known(class string) bool {
	k := c.classes[class]
	return k != nil && k.Runs > 0
}

// guess takes in what the share of a class seems to be of which no run has ended.
func (c *costs) guess(class string, share float64, now time.Time) {
	k := c.get(class, now)
	if k.Of == 0 {
		k.Of = unknownShare
	}
	k.Of += guessWeight * (share - k.Of)
	k.last = now
}

// get is the class's cost, made if it was not there.
func (c *costs) get(class string, now time.Time) *cost {
	k := c.classes[class]
	if k == nil {
		if len(c.classes) >= maxClasses {
			c.evict(now)
		}
		k = &cost{}
		c.classes[class] = k
	}
	return k
}

// around is what went on beside a run: see placement.Around.
type around struct {
	jobs, used, host, crowd float64
	delayed                 time.Duration
	stolen                  float64
}

// note takes in one run.
func (c *costs) note(class string, wall, cpu time.Duration, a around, now time.Time) {
	k := c.get(class, now)
	k.last = now
	k.Note(wall, cpu, placement.Around{Jobs: a.jobs, Used: a.used, Host: a.host, Crowd: a.crowd, Delayed: a.delayed, Stolen: a.stolen})
	k.hist[bucket(wall)]++
	if k.total++; k.total >= histHalve {
		k.total = 0
		for i := range k.hist {
			k.hist[i] /= 2
			k.total += k.hist[i]
		}
	}
}

func bucket(d time.Duration) int {
	if d <= histLowest {
		return 0
	}
	return min(histBuckets-1, int(math.Ceil(2*math.Log2(float64(d)/float64(histLowest)))))
}

// p99 is an upper bound, at most 42 % too high, of the 99th percentile of a class's run times; 0 with fewer than minRuns runs.
func (c *costs) p99(class string, minRuns int) time.Duration {
	k := c.classes[class]
	if k == nil || k.Runs < uint64(max(minRuns, 1)) {
		return 0
	}
	left := k.total / 100
	for i := histBuckets - 1; i > 0; i-- {
		if left -= k.hist[i]; left < 0 {
			return time.Duration(float64(histLowest) * math.Pow(2, float64(i)/2))
		}
	}
	return histLowest
}

// limit is how long a job of the class may run before it is stuck.
func (c *costs) limit(class string, p StuckPolicy) time.Duration {
	if p.Ceiling < 0 {
		return math.MaxInt64
	}
	usual := c.p99(class, p.MinRuns)
	if usual == 0 {
		return p.Ceiling
	}
	return min(p.Ceiling, max(p.Floor, time.Duration(p.Factor*float64(usual))))
}

// evict makes room: the classes unused for a day go, or the one unused longest.
func (c *costs) evict(now time.Time) {
	oldest, when := "", now
	for name, k := range c.classes {
		if now.Sub(k.last) > longestQuiet {
			delete(c.classes, name)
			continue
		}
		if oldest == "" || k.last.Before(when) {
			oldest, when = name, k.last
		}
	}
	if len(c.classes) >= maxClasses {
		delete(c.classes, oldest)
	}
}
