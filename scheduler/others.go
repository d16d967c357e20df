package scheduler

import "math"

const (
	workingOthers = 0.30 // of the host's processors: others that use less are, as a rule, Redis and Postgres at work for our own jobs
	otherOthers   = 0.45 // and from this on the processors are theirs as far as they want them
	othersRise    = 0.35 // seconds in which a steep rise of what others use is taken for real: they come first
	othersFall    = 1.0  // seconds for a steep fall
	othersSteep   = 0.10 // of the host's processors, or
	steepCores    = 0.4  // if that is less
	othersMore    = 3.0  // seconds for a rise that is not steep
	othersLess    = 4.0  // seconds for such a fall
	busyMemory    = 2.0  // seconds
	shareMemory   = 15.0 // seconds: which classes run now changes from second to second
	useMemory     = 3.0  // seconds
	fullMemory    = 1.0  // seconds
	pressMemory   = 3.0  // seconds
	leastShare    = 0.01 // cores that a running job uses; lanes with less are not bounded by processors
	stick         = 0.7  // slots, or
	stickShare    = 0.30 // of the bound, by which it has to differ before it moves
	mostBound     = 1e6
	trimRate      = 0.05 // a second
	leastTrim     = 0.3
)

// watchOthers follows what other processes use, in cores. They come first, so a steep rise counts at once: at the second look that says so, for a
// single one may be wrong.
func (c *Controller) watchOthers(h *Host, dt float64) {
	if c.pressed < 0 || h.Pressure < 0 {
		c.pressed = h.Pressure
	}
	c.pressed += (h.Pressure - c.pressed) * min(1, dt/pressMemory)
	if h.Busy < 0 || h.Ours < 0 {
		c.others, c.ours, c.busy, c.cores = Unknown, Unknown, h.Busy, h.Cores
		return
	}
	use := max(0, h.Busy-h.Ours)
	if c.others < 0 {
		c.others, c.busy, c.ours, c.cores = use, h.Busy, h.Ours, h.Cores
	}
	steep := max(othersSteep*h.Cores, steepCores)
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
	if rises && c.rising {
		c.steepAt = c.clock
	}
	c.rising, c.falling = rises, falls
	c.others += (use - c.others) * (1 - math.Exp(-dt/span))
	weight := 1 - math.Exp(-dt/busyMemory)
	c.busy += (h.Busy - c.busy) * weight
	c.ours += (h.Ours - c.ours) * weight
	c.cores += (h.Cores - c.cores) * weight
}

// learn follows how much of the processors the lane uses and whether it wants more, how much a running job gets, and how much it would use if it
// got it as soon as it wants it. That the executor has to know (Lane.Want): what is used while processors are short says too little.
func (l *laneControl) learn(m *moment, v *Lane) {
	l.weight = v.Weight
	l.cores = v.Cores
	if l.fullness < 0 {
		l.fullness = v.Full
	}
	l.fullness += (v.Full - l.fullness) * min(1, m.dt/fullMemory)
	if v.CPU < 0 {
		l.used = Unknown
	} else if l.used < 0 {
		l.used = v.CPU
	} else {
		l.used += (v.CPU - l.used) * min(1, m.dt/useMemory)
	}
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

// wanting: it has more to do than it may.
func (l *laneControl) wanting() bool { return l.fullness >= demandFull }

// stuck: it could not use more of the processors. It is bounded, or has just shown that more brings nothing.
func (l *laneControl) stuck(m *moment) bool {
	return m.clock < max(l.upAt, l.sated) || l.bounded > 0 && float64(l.bounded) <= l.limit || l.cores > 0 && l.used >= full*l.cores
}

// yield bounds every lane of which it is known what its jobs want by the processors that others leave: so many jobs that, each with what it
// would use if it did not have to wait, the target is kept. Unlike a cut by trial and error it knows where to stop, which matters where a slot is half of a small host; and what a lane
// was found to need comes back as soon as the others are done. The less of the host others use, the more the bound gives way.
func (c *Controller) yield(m *moment, views []Lane) {
	active := 0.0
	if c.others >= 0 {
		active = min(max((c.others/c.cores-workingOthers)/(otherOthers-workingOthers), 0), 1)
	}
	if active <= 0 {
		for _, l := range c.lanes {
			l.bounded = 0
		}
		return
	}
	// What the hypervisor takes comes and goes within a second: by a single look there would be next to no host, and then all of it again.
	quarter := c.cfg.MinShare * c.cores
	left, lanes := max(c.cfg.TargetCPU*c.cores-c.others, quarter), 0.0
	used := 0.0
	for i, l := range c.lanes {
		if used += max(0, l.used); l.used >= 0 && views[i].Running >= 0.5 {
			lanes++
		}
	}
	for i, l := range c.lanes {
		v := &views[i]
		if l.share < leastShare || l.used < 0 {
			l.bounded = 0
			continue
		}
		of := func(cores float64) float64 { return max(cores-(used-l.used), cores/max(lanes, 1)) }
		l.trimBy(m, c.busy, v)
		mine := of(left) / (l.share * l.trim) / active
		if l.use > 0 { // beside many others a job gets less than it wants: then it takes more of them to have what is ours
			mine = max(mine, math.Ceil(of(quarter)/l.use))
		}
		if v.Full < demandFull && mine > v.Running+1 { // it binds nothing, and would only move to and fro
			continue
		}
		l.boundBy(min(mine, mostBound))
	}
}

// trimBy corrects what jobs are said to want by what comes of it: while they were many they met at the processors, and seemed to want more.
func (l *laneControl) trimBy(m *moment, busy float64, v *Lane) {
	if l.bounded == 0 {
		l.trim = 1
	}
	switch idle := m.target - busy; {
	case v.Full < demandFull:
	case idle > 2*band*m.host.Cores:
		l.trim = max(leastTrim, l.trim*(1-trimRate*m.dt))
	case idle < -slack*m.host.Cores:
		l.trim = min(1, l.trim*(1+trimRate*m.dt))
	}
}

// boundBy moves the bound only when it is clearly another.
func (l *laneControl) boundBy(to float64) {
	if l.bounded == 0 || math.Abs(to-float64(l.bounded)) > max(stick, stickShare*float64(l.bounded)) {
		l.bounded = max(l.cfg.Min, int(to+0.5))
	}
}
