package scheduler

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"sync"
	"time"
)

// OtherClass is the name under which Costs keeps what has no entry of its own. No Ruby class can be named so.
const OtherClass = "(other)"

const (
	defaultHalfLife   = 15 * time.Second
	defaultMaxClasses = 1000
	maxClassName      = 200    // bytes; a longer name counts as other
	evictLook         = 4      // entries looked at to find one to evict: 1,000 of them at every hostile name would cost microseconds
	evictRate         = 1000.0 // a second, and
	evictBurst        = 100.0  // at once: a new entry costs ten times what counting as other does, so names that are all new get no more of them
	evictBelow        = 1.0    // runs remembered: an entry with more is in use and stays

	// leastForget bounds what one run makes the means forget, so that those of a class that runs once an hour rest on about twenty runs and
	// not on the last one.
	leastForget = 0.95
	maxSample   = 1e6 // seconds; longer is a broken clock
)

// Run is the end of one job. A negative CPU or DB means: not measured.
type Run struct {
	Class  string
	Wall   time.Duration
	CPU    time.Duration
	DB     time.Duration
	Failed bool
}

// Cost is what runs of a class cost, as exponentially forgetting means.
type Cost struct {
	Class        string
	Wall         float64 // seconds a run
	CPU          float64 // seconds a run; 0 if never measured
	DB           float64 // seconds a run; 0 if never measured
	CPUKnown     bool    // it was measured
	DBKnown      bool
	FailureShare float64 // 0 to 1
	Arrivals     float64 // a second, lately
	Rate         float64 // runs a second, lately
	Weight       float64 // of how many runs the means are made; 0: nothing is known
	Runs         uint64  // since the start
	Failures     uint64  // since the start
}

// CostsConfig sets up Costs. Zero values mean the defaults.
type CostsConfig struct {
	HalfLife   time.Duration // after which a run counts half; default 15 s, so that a changed cost is seen within seconds
	MaxClasses int           // classes with an entry of their own; default 1,000
}

// Costs remembers what classes cost. Class names come from payloads, so their number is bounded: when all entries are taken, the least
// used of a few makes room if it is out of use, and otherwise the new class counts as OtherClass.
type Costs struct {
	mu       sync.Mutex
	perNano  float64 // ln 2 / half-life
	most     int
	byName   map[string]*classCost
	entries  []*classCost
	hand     int // where the next look for one to evict begins
	other    classCost
	evicts   float64   // evictions that are free
	newest   time.Time // the latest time seen: what an evicted entry is compared at
	observed uint64
}

// classCost is one entry: decayed sums and their weights.
type classCost struct {
	name string

	weight, wall, failed float64
	cpuWeight, cpu       float64
	dbWeight, db         float64

	rateAt         time.Time
	ran, arrived   float64 // decayed by time alone, for rates
	since          time.Time
	runs, failures uint64
}

// NewCosts makes an empty Costs.
func NewCosts(cfg CostsConfig) *Costs {
	if cfg.HalfLife <= 0 {
		cfg.HalfLife = defaultHalfLife
	}
	if cfg.MaxClasses <= 0 {
		cfg.MaxClasses = defaultMaxClasses
	}
	return &Costs{perNano: math.Ln2 / float64(cfg.HalfLife), most: cfg.MaxClasses, byName: make(map[string]*classCost)}
}

// Observe takes in the end of a job at the given time. It costs well under a microsecond (BenchmarkCostsObserve).
func (c *Costs) Observe(now time.Time, r Run) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.observed++
	e := c.entry(r.Class, now)
	f := c.turn(e, now)
	e.ran++
	e.runs++
	// Forget by time, but no single run makes more than a twentieth be forgotten.
	if f < leastForget {
		f = leastForget
	}
	e.weight = e.weight*f + 1
	e.wall = e.wall*f + sample(r.Wall)
	e.failed *= f
	if r.Failed {
		e.failed++
		e.failures++
	}
	if r.CPU >= 0 {
		e.cpuWeight, e.cpu = e.cpuWeight*f+1, e.cpu*f+sample(r.CPU)
	}
	if r.DB >= 0 {
		e.dbWeight, e.db = e.dbWeight*f+1, e.db*f+sample(r.DB)
	}
}

// Arrived counts jobs of a class that have come in.
func (c *Costs) Arrived(now time.Time, class string, jobs int) {
	if jobs <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entry(class, now)
	c.turn(e, now)
	e.arrived += float64(jobs)
}

// Of returns what a class costs. Of one without an entry it tells what OtherClass costs, or, if nothing is known of that either, a Cost
// with Weight 0.
func (c *Costs) Of(now time.Time, class string) Cost {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.byName[class]; ok && e.weight > 0 {
		return c.cost(e, now)
	}
	k := c.cost(&c.other, now)
	k.Class = class
	return k
}

// Snapshot lists every class that has an entry, by name, and OtherClass last if it was ever used.
func (c *Costs) Snapshot(now time.Time) []Cost {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]Cost, 0, len(c.entries)+1)
	for _, e := range c.entries {
		list = append(list, c.cost(e, now))
	}
	slices.SortFunc(list, func(a, b Cost) int { return cmp.Compare(a.Class, b.Class) })
	if c.other.runs > 0 || c.other.arrived > 0 {
		k := c.cost(&c.other, now)
		k.Class = OtherClass
		list = append(list, k)
	}
	return list
}

// mean is the wall time of a run over the mix of the last while, in seconds; 0 if nothing ran. A Meter asks several times a second for each
// lane of each host of a simulated fleet, so unlike Snapshot it makes and sorts no list.
func (c *Costs) mean(now time.Time) float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	rate, wall := 0.0, 0.0
	add := func(e *classCost) {
		if e.ran == 0 || e.weight == 0 {
			return
		}
		r := c.perSecond(e, now) * e.ran
		rate += r
		wall += r * e.wall / e.weight
	}
	for _, e := range c.entries {
		add(e)
	}
	add(&c.other)
	if rate == 0 {
		return 0
	}
	return wall / rate
}

// Observed is how many runs were observed altogether.
func (c *Costs) Observed() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.observed
}

// entry finds or makes the entry of a class. mu is held.
func (c *Costs) entry(class string, now time.Time) *classCost {
	if d := now.Sub(c.newest); d > 0 {
		c.evicts = min(c.evicts+d.Seconds()*evictRate, evictBurst)
		c.newest = now
	}
	if e, ok := c.byName[class]; ok {
		return e
	}
	if class == "" || class == OtherClass || len(class) > maxClassName {
		return &c.other
	}
	if len(c.entries) < c.most {
		e := newClassCost(class, now)
		c.entries = append(c.entries, e)
		c.byName[e.name] = e
		return e
	}
	if c.evicts < 1 {
		return &c.other
	}
	i := c.leastUsed()
	if i < 0 {
		return &c.other
	}
	c.evicts--
	old := c.entries[i]
	delete(c.byName, old.name)
	c.absorb(old, now)
	e := newClassCost(class, now)
	c.entries[i] = e
	c.byName[e.name] = e
	return e
}

func newClassCost(class string, now time.Time) *classCost {
	return &classCost{name: strings.Clone(class), since: now, rateAt: now} // the name may be part of a payload
}

// absorb adds an evicted entry to other, so that the sum over all entries stays what was observed, and a class without an entry is taken
// for one of those that had to go. mu is held.
func (c *Costs) absorb(e *classCost, now time.Time) {
	o := &c.other
	f := max(leastForget, c.turn(o, now))
	o.runs += e.runs
	o.failures += e.failures
	o.weight, o.wall, o.failed = o.weight*f+e.weight, o.wall*f+e.wall, o.failed*f+e.failed
	o.cpuWeight, o.cpu = o.cpuWeight*f+e.cpuWeight, o.cpu*f+e.cpu
	o.dbWeight, o.db = o.dbWeight*f+e.dbWeight, o.db*f+e.db
}

// leastUsed finds, among the next few entries, the one that remembers least, or −1 if they are all in use. mu is held.
func (c *Costs) leastUsed() int {
	best, least := -1, evictBelow
	for range min(evictLook, len(c.entries)) {
		i := c.hand
		c.hand = (c.hand + 1) % len(c.entries)
		e := c.entries[i]
		use := (e.ran + e.arrived) * c.decay(c.newest.Sub(e.rateAt))
		if use < least {
			best, least = i, use
		}
	}
	return best
}

// decay is what is left of one after d; all of it if the clock went back.
func (c *Costs) decay(d time.Duration) float64 {
	if d <= 0 {
		return 1
	}
	return math.Exp(-float64(d) * c.perNano)
}

// turn brings the counters for rates to now and returns the factor for the means. mu is held.
func (c *Costs) turn(e *classCost, now time.Time) float64 {
	if e.since.IsZero() {
		e.since, e.rateAt = now, now
	}
	f := c.decay(now.Sub(e.rateAt))
	e.ran *= f
	e.arrived *= f
	e.rateAt = now // also backwards: what counts is the time between two events
	if now.Before(e.since) {
		e.since = now
	}
	return f
}

// cost reads an entry. mu is held.
func (c *Costs) cost(e *classCost, now time.Time) Cost {
	k := Cost{Class: e.name, Weight: e.weight, Runs: e.runs, Failures: e.failures}
	if e.weight > 0 {
		k.Wall, k.FailureShare = e.wall/e.weight, min(1, e.failed/e.weight)
	}
	if e.cpuWeight > 0 {
		k.CPU, k.CPUKnown = e.cpu/e.cpuWeight, true
	}
	if e.dbWeight > 0 {
		k.DB, k.DBKnown = e.db/e.dbWeight, true
	}
	if !e.since.IsZero() {
		f := c.perSecond(e, now)
		k.Rate, k.Arrivals = e.ran*f, e.arrived*f
	}
	return k
}

// perSecond is what makes a rate of an entry's decayed counts. A count decayed like this stands for half-life/ln 2 seconds, or for fewer while
// the entry is young. mu is held.
func (c *Costs) perSecond(e *classCost, now time.Time) float64 {
	span := (1 - c.decay(max(now.Sub(e.since), time.Second))) / c.perNano / float64(time.Second)
	return c.decay(now.Sub(e.rateAt)) / span
}

// sample is a duration in seconds within sane bounds.
func sample(d time.Duration) float64 { return min(max(d.Seconds(), 0), maxSample) }
