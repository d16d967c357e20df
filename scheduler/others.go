package scheduler

import "math"

const (
	workingOthers = 0.15 // of the host's processors: others that use less are, as a rule, Redis and Postgres at work for our own jobs
	otherOthers   = 0.40 // and from this on the processors are theirs as far as they want them
	othersRise    = 0.35 // seconds in which a steep rise of what others use is taken for real: they come first
	othersFall    = 1.0  // seconds for a steep fall
	othersSteep   = 0.10 // of the host's processors
	othersMore    = 2.0  // seconds for a rise that is not steep
	othersLess    = 4.0  // seconds for such a fall
	busyMemory    = 1.0  // seconds
	shareMemory   = 10.0 // seconds: which classes run now changes from second to second
	useMemory     = 3.0  // seconds
	leastShare    = 0.01 // cores that a running job uses; lanes with less are not bounded by processors
	stick         = 0.7  // slots, or
	stickShare    = 0.25 // of the bound, by which it has to differ before it moves
	mostBound     = 1e6
)

// watchOthers follows what other processes use, in cores. They come first, so a steep rise counts at once: at the second look that says so, for a
// single one may be wrong.
func (c *Controller) watchOthers(h *Host, dt float64) {
	if h.Busy < 0 || h.Ours < 0 {
		c.others, c.busy, c.ours = Unknown, Unknown, Unknown
		return
	}
	use := max(0, h.Busy-h.Ours)
	if c.others < 0 {
		c.others, c.busy, c.ours = use, h.Busy, h.Ours
	}
	steep := othersSteep * h.Cores
	rises, falls := use > c.others+steep, use < c.others-steep
	span := othersLess
	switch {
	case rises && c.rising:
		span = othersRise
	case use > c.others:
		span = othersMore
	case falls && c.falling:
		span = othersFall
	}
	c.rising, c.falling = rises, falls
	c.others += (use - c.others) * (1 - math.Exp(-dt/span))
	weight := 1 - math.Exp(-dt/busyMemory)
	c.busy += (h.Busy - c.busy) * weight
	c.ours += (h.Ours - c.ours) * weight
}

// learnShare learns how much of a processor a running job gets, and how much of one a running job of a lane uses when it gets it as soon as it wants it. The executor has to know
// (Lane.Want): what is used while processors are short says too little.
func (l *laneControl) learnShare(m *moment, v *Lane) {
	if v.Running < 0.5 {
		return
	}
	if v.CPU >= 0 {
		if l.use <= 0 {
			l.use = v.CPU / v.Running
		}
		l.use += (v.CPU/v.Running - l.use) * min(1, m.dt/useMemory)
	}
	if v.Want < 0 {
		return
	}
	share := v.Want / v.Running
	if l.share <= 0 {
		l.share = share
	}
	l.share += (share - l.share) * min(1, m.dt/shareMemory)
}

// yield bounds every lane of which it is known what its jobs want by the processors that others leave: so many jobs that, each with what it
// would use if it did not have to wait, the target is kept. Unlike a cut by trial and error it knows where to stop, which matters where a slot is half of a small host; and what a lane
// was found to need comes back as soon as the others are done. The less of the host others use, the more the bound gives way.
func (c *Controller) yield(m *moment, views []Lane) {
	active := 0.0
	if c.others >= 0 {
		active = min(max((c.others/m.host.Cores-workingOthers)/(otherOthers-workingOthers), 0), 1)
	}
	if active <= 0 {
		for _, l := range c.lanes {
			l.bounded = 0
		}
		return
	}
	left, lanes := max(c.cfg.TargetCPU*m.host.Cores-c.others, m.quarter), 0.0
	used := 0.0
	for i := range views {
		if v := &views[i]; v.CPU >= 0 {
			used += v.CPU
			if v.Running >= 0.5 {
				lanes++
			}
		}
	}
	for i, l := range c.lanes {
		v := &views[i]
		if l.share < leastShare || v.CPU < 0 {
			l.bounded = 0
			continue
		}
		of := func(cores float64) float64 { return max(cores-(used-v.CPU), cores/max(lanes, 1)) }
		mine := of(left) / l.share / active
		if l.use > 0 { // beside many others a job gets less than it wants: then it takes more of them to have what is ours
			mine = max(mine, math.Ceil(of(m.quarter)/l.use))
		}
		if v.Full < demandFull && mine > v.Running+1 { // it binds nothing, and would only move to and fro
			continue
		}
		l.boundBy(min(mine, mostBound))
	}
}

// boundBy moves the bound only when it is clearly another.
func (l *laneControl) boundBy(to float64) {
	if l.bounded == 0 || math.Abs(to-float64(l.bounded)) > max(stick, stickShare*float64(l.bounded)) {
		l.bounded = max(l.cfg.Min, int(to+0.5))
	}
}
