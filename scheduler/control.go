package scheduler

import (
	"errors"
	"fmt"
	"math"
	"time"
)

const (
	defaultTargetCPU = 0.95
	defaultMinShare  = 0.25
	quietOthers      = 0.20 // of the host: others that use less are, as a rule, Redis and Postgres at work for our own jobs, and no reason to leave any idle
	activeOthers     = 0.35 // and from this on the target holds in full
	highPressure     = 0.93
	openly           = 0.93 // of the target in use: processors are idle
	highThrottled    = 0.05
	highMemory       = 0.10 // memory pressure
	memoryShare      = 0.05 // of all memory to keep available, unless configured
	leastMemory      = 256 << 20
	hungry           = 0.85 // of its part of the processors: a lane with less may grow at the cost of the others
	greedy           = 1.10 // a lane with more makes way for them
	nearQuarter      = 0.9  // of the quarter that is ours: with less, we take more of it
	slack            = 0.03 // of the processors beyond the target that nobody is asked to give back: limits stand still between this and what is worth growing for
	sated            = 30.0 // seconds for which a lane that did not use idle processors claims no part of them
	steepSpan        = 1.5  // seconds
	longestStep      = 5.0  // seconds; after a longer one nothing measured is worth anything
	maxLimit         = 1_000_000
)

// LaneConfig bounds a lane.
type LaneConfig struct {
	Name  string
	Min   int // slots at least, also under pressure; default 1
	Max   int // slots at most. Required
	Start int // slots at first; default: twice the cores, at least 4
}

// ControllerConfig sets up a Controller. Zero values mean the defaults.
type ControllerConfig struct {
	Lanes []LaneConfig

	// TargetCPU is the share of the host's (or cgroup's) processors that may be in use, by everybody, when others need them too; default
	// 0.95. While others use less than a fifth of the host there is nobody to leave anything for, and all of it may be used.
	TargetCPU float64
	// MinShare of the processors is ours whatever others use: without it a reindexing would stop all jobs. Default 0.25.
	MinShare float64
	// MemoryKeep are the bytes of available memory below which lanes shrink, and below twice of which they do not grow; default 5 % of all,
	// at least 256 MiB; −1: none.
	MemoryKeep float64
}

// Decision is what a lane may do from now on, and why: the answer to "what limits this?".
type Decision struct {
	Lane  string
	Limit int // slots
	Was   int // before this step

	Bound Bound   // what binds it
	Value float64 // of what binds: busy share, bytes, slots, jobs running …
	Unit  string  // of which one more would help: "slot", "core", "connection", "GiB"; "" if none would
	Gain  float64 // jobs a second that one more Unit would give, about; Unknown

	Why  string // what was done in this step, in a few words; "" for nothing
	Rate float64
	Host Host // what it was decided on
	View Lane
}

// Changed tells whether the limit is another than before: such decisions belong into the journal.
func (d *Decision) Changed() bool { return d.Limit != d.Was }

// Controller sets the limits of the lanes of one host. Step it a few times a second; it adapts to the pace. Its clock is the sum of the
// plausible steps, so jumps of the real one do no harm.
type Controller struct {
	cfg     ControllerConfig
	lanes   []*laneControl
	byName  map[string]*laneControl
	clock   float64 // seconds
	last    time.Time
	started bool
	probing *laneControl // only one lane at a time tries something, or none would know whose effect it sees
	others  float64      // cores that other processes use, lately; Unknown
	rising  bool         // at the last look it was steeply more than that
	falling bool         // or less
	steepAt float64      // clock of the last steep rise
	busy    float64      // cores in use by everybody, lately; Unknown
	ours    float64      // of these by us
	cores   float64      // that there are, lately: less what the hypervisor takes
	pressed float64      // PSI, lately; Unknown
	full    int          // lanes that have more to do than they may
}

// NewController checks the configuration and makes a Controller.
func NewController(cfg ControllerConfig) (*Controller, error) {
	var problems []error
	share := func(p *float64, fallback float64, name string) {
		if *p == 0 {
			*p = fallback
		}
		if !(*p > 0 && *p <= 1) {
			problems = append(problems, fmt.Errorf("%s is a share between 0 and 1, not %v", name, *p))
		}
	}
	share(&cfg.TargetCPU, defaultTargetCPU, "target CPU")
	share(&cfg.MinShare, defaultMinShare, "least share of the CPU")
	if math.IsNaN(cfg.MemoryKeep) || math.IsInf(cfg.MemoryKeep, 0) {
		problems = append(problems, errors.New("memory to keep must be a number"))
	}
	c := &Controller{cfg: cfg, byName: make(map[string]*laneControl), others: Unknown, busy: Unknown, ours: Unknown, pressed: Unknown, steepAt: -longestStep}
	for _, lc := range cfg.Lanes {
		if lc.Min == 0 {
			lc.Min = 1
		}
		if lc.Name == "" || c.byName[lc.Name] != nil {
			problems = append(problems, fmt.Errorf("lane %q: every lane needs a name of its own", lc.Name))
			continue
		}
		if lc.Min < 1 || lc.Max < lc.Min || lc.Max > maxLimit || lc.Start < 0 {
			problems = append(problems, fmt.Errorf("lane %q: 1 ≤ min %d ≤ max %d ≤ %d, start %d", lc.Name, lc.Min, lc.Max, maxLimit, lc.Start))
			continue
		}
		l := newLaneControl(lc)
		c.lanes = append(c.lanes, l)
		c.byName[lc.Name] = l
	}
	return c, errors.Join(problems...)
}

// Step decides. It returns one Decision for each configured lane, in their order; lanes without a view keep their limit. The views have to
// be means since the step before.
func (c *Controller) Step(now time.Time, host Host, views []Lane) []Decision {
	dt := 0.0
	if c.started {
		dt = now.Sub(c.last).Seconds()
	}
	c.last, c.started = now, true
	usable := dt > 0 && dt <= longestStep
	c.clock += min(max(dt, 0), longestStep)

	host = host.clean()
	if usable {
		c.watchOthers(&host, dt)
	}
	m := c.moment(host, dt, usable)
	given := make([]Lane, len(c.lanes))
	seen := make([]bool, len(c.lanes))
	for i, l := range c.lanes {
		given[i] = Lane{Name: l.cfg.Name}.clean()
		for j := range views {
			if views[j].Name == l.cfg.Name {
				given[i], seen[i] = views[j].clean(), true
			}
		}
	}
	decisions := make([]Decision, len(c.lanes))
	c.full = 0
	for i, l := range c.lanes {
		decisions[i].Was = l.slots()
		if seen[i] && usable {
			l.learn(&m, &given[i])
		}
		if l.wanting() {
			c.full++
		}
	}
	c.share(&m)
	if usable {
		c.yield(&m, given)
	}
	for i, l := range c.lanes {
		if seen[i] {
			l.step(c, &m, &given[i])
		}
		decisions[i] = l.decision(&m, &given[i], decisions[i].Was)
	}
	return decisions
}

// share says what part of the processors each of the lanes that compete for them may claim: what others and lanes with enough slots leave,
// by weight. A lane that has clearly less is hungry, and grows although processors are in use; one that has clearly more makes way for it.
func (c *Controller) share(m *moment) {
	left, weights := m.target-max(0, m.others)*m.host.Cores, 0.0
	for _, l := range c.lanes {
		l.fair, l.hungry = Unknown, false
	}
	if m.target < 0 || m.host.Ours < 0 || c.full < 2 {
		return
	}
	for _, l := range c.lanes {
		if l.limit >= float64(l.cfg.Max) && c.busy < openly*m.target { // though there are idle ones it does not use more
			l.sated = m.clock + sated
		}
		if l.wanting() && l.used >= 0 && !l.stuck(m) {
			weights += l.weight
		} else {
			left -= max(0, l.used)
		}
	}
	for _, l := range c.lanes {
		if !l.wanting() || l.used < 0 || l.stuck(m) {
			continue
		}
		l.fair = max(left, 0) * l.weight / weights
		if l.hungry = l.used < hungry*l.fair; l.hungry {
			m.hungry++
		}
	}
}

// Limit is a lane's limit now; 0 for a lane that there is not.
func (c *Controller) Limit(lane string) int {
	if l := c.byName[lane]; l != nil {
		return l.slots()
	}
	return 0
}

// SetMax changes the bounds of a lane, for instance when a person sets another. Nonsense is ignored.
func (c *Controller) SetMax(lane string, least, most int) {
	l := c.byName[lane]
	if l == nil || least < 1 || most < least || most > maxLimit {
		return
	}
	l.cfg.Min, l.cfg.Max = least, most
	l.limit = min(max(l.limit, float64(least)), float64(most))
}

// moment is what one step knows of the host.
type moment struct {
	host    Host
	clock   float64 // seconds
	dt      float64 // seconds since the last step
	usable  bool    // dt is plausible
	others  float64 // share of the host's processors used by others; Unknown
	target  float64 // cores that may be in use; Unknown
	steep   bool    // others have just begun to use more
	over    float64 // cores in use beyond the target, at most what we may be asked to give back; 0 if not known
	spare   float64 // cores not in use below the target, negative beyond it; nothing if not known
	quarter float64 // cores that are ours whatever others use; 0 if it is not known what is ours
	poor    bool    // we have less
	keep    float64 // bytes of memory to keep available
	hungry  int     // lanes that have less than their share of the processors
}

func (c *Controller) moment(h Host, dt float64, usable bool) moment {
	m := moment{host: h, clock: c.clock, dt: dt, usable: usable, others: Unknown, target: Unknown, keep: c.cfg.MemoryKeep}
	if m.keep == 0 && h.MemoryTotal > 0 {
		m.keep = max(leastMemory, memoryShare*h.MemoryTotal)
	}
	if h.Busy < 0 {
		return m
	}
	share := c.cfg.TargetCPU
	if h.Ours >= 0 {
		if m.others = (h.Busy - h.Ours) / h.Cores; c.others >= 0 {
			m.others = c.others / h.Cores
		}
		m.quarter = c.cfg.MinShare * h.Cores
		m.poor = c.ours >= 0 && c.ours < nearQuarter*m.quarter
		active := min(max((m.others-quietOthers)/(activeOthers-quietOthers), 0), 1)
		if m.steep = c.clock-c.steepAt < steepSpan; m.steep { // what they get yet says little of what they want
			active = 1
		}
		share = 1 - active*(1-c.cfg.TargetCPU)
	}
	m.target = share * h.Cores
	m.spare = m.target - h.Busy
	if share < 1 && c.busy >= 0 {
		// A single reading may be wrong. Only those who have just begun to work are not made to wait for more of them.
		if m.over = max(0, c.busy-m.target-slack*h.Cores); m.steep {
			m.over = max(0, h.Busy-m.target)
		}
		if h.Ours >= 0 {
			m.over = min(m.over, max(0, h.Ours-m.quarter))
		}
	}
	return m
}
