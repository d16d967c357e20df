package ruby

import (
	"math"
	"time"
)

const (
	unknownShare = 0.5  // the CPU share of a class of which nothing is known: two at once in a process
	shareWeight  = 0.2  // of one more run in the moving averages
	processFull  = 0.85 // CPU use of a process above which its jobs wait for each other
	hostFull     = 0.85 // CPU use of the host above which everybody waits for it
	hostStretch  = 4    // by how much, and more where many are
	surelyLight  = 0.05 // a class with less is light even if all its doubts count against it
	guessWeight  = 0.5  // of one more look at a class of which no run has ended
	firstRuns    = 5    // runs of which the averages are plain means
	maxClasses   = 4096 // classes remembered; class names come from payloads
	histLowest   = time.Millisecond
	histBuckets  = 64   // half powers of two from histLowest: up to 50 days
	histHalve    = 4096 // runs after which the old ones count half
	longestQuiet = 24 * time.Hour
)

// cost is what runs of one class have cost.
type cost struct {
	share float64 // CPU time / wall time of a run that had processor and process to itself, 0 to 1
	cpu   float64 // seconds
	wait  float64 // seconds for which it would wait even then
	runs  uint64
	last  time.Time

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
		return k.share
	}
	return unknownShare
}

// known reports whether a run of the class has ended.
func (c *costs) known(class string) bool {
	k := c.classes[class]
	return k != nil && k.runs > 0
}

// guess takes in what the share of a class seems to be of which no run has ended.
func (c *costs) guess(class string, share float64, now time.Time) {
	k := c.get(class, now)
	if k.share == 0 {
		k.share = unknownShare
	}
	k.share += guessWeight * (share - k.share)
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

// around is what went on beside a run. A computing job's wall time says little: Ruby runs one thread of a process at a time, and the host one on
// each processor, so most of what looks like waiting may be waiting for them.
type around struct {
	jobs  float64 // in its process, itself included
	used  float64 // CPU use of its process: 1 is all that Ruby can
	host  float64 // CPU use of the host: 1 is all of it
	crowd float64 // jobs of all processes, for each of the host's processors
}

// waited is how long a run of that CPU time would wait if it had process and processor to itself. Where there was time to spare that follows
// from what the others used. Where there was none nobody can know: then sure is false, and it is the least that is likely.
func (a around) waited(wall, cpu float64) (wait float64, sure bool) {
	if wall <= 0 {
		return 0, true
	}
	sure = a.host <= hostFull
	var stretch float64
	switch {
	case !sure:
		stretch = math.Max(hostStretch*a.jobs, 2*a.crowd)
	case a.used > processFull:
		stretch = math.Max(1, a.jobs)
	default:
		stretch = 1 / (1 - math.Max(0, a.used-cpu/wall))
	}
	wait = math.Max(0, wall-cpu*stretch)
	return wait, sure || wait > cpu/surelyLight
}

// note takes in one run. What is not sure only makes a class heavier: a mistake the other way would feed itself. Computing jobs that seem to wait
// would get company, and then seem to wait still more.
func (c *costs) note(class string, wall, cpu time.Duration, a around, now time.Time) {
	k := c.get(class, now)
	k.last = now
	k.runs++
	w := math.Max(shareWeight, 1/float64(k.runs))
	if k.runs > firstRuns {
		w = shareWeight
	}
	busy, took := cpu.Seconds(), wall.Seconds()
	waited, sure := a.waited(took, busy)
	switch {
	case sure:
	case k.runs == 1:
		waited = math.Min(waited, busy) // unknownShare
	default:
		waited = math.Min(waited, k.wait)
	}
	k.wait += w * (waited - k.wait)
	k.cpu += w * (busy - k.cpu)
	k.share = 1
	if k.cpu+k.wait > 0 {
		k.share = k.cpu / (k.cpu + k.wait)
	}

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
	if k == nil || k.runs < uint64(max(minRuns, 1)) {
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
