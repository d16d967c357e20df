package scheduler

import "math"

const (
	workingOthers = 0.15 // of the host's processors: others that use less are, as a rule, Redis and Postgres at work for our own jobs
	otherOthers   = 0.40 // and from this on the processors are theirs as far as they want them
	othersRise    = 0.35 // seconds in which a steep rise of what others use is taken for real: they come first
	othersFall    = 1.0  // seconds for a steep fall
	othersSteep   = 0.10 // of the host's processors
	othersMemory  = 2.0  // seconds for all else
	shareMemory   = 2.0  // seconds
	leastShare    = 0.01 // cores that a running job uses; lanes with less are not bounded by processors
	stick         = 0.7  // slots, or
	stickShare    = 0.25 // of the bound, by which it has to differ before it moves
	mostBound     = 1e6
)

// watchOthers follows what other processes use, in cores. They come first, so a steep rise counts at once.
func (c *Controller) watchOthers(h *Host, dt float64) float64 {
	if h.Busy < 0 || h.Ours < 0 {
		c.others = Unknown
		return Unknown
	}
	use := max(0, h.Busy-h.Ours)
	span := othersMemory
	switch steep := othersSteep * h.Cores; {
	case use > c.others+steep:
		span = othersRise
	case use < c.others-steep:
		span = othersFall
	}
	if c.others < 0 {
		c.others = use
	}
	c.others += (use - c.others) * (1 - math.Exp(-dt/span))
	return c.others
}

// learnShare learns how much of a processor a running job of a lane uses when it gets it as soon as it wants it. The executor has to know
// (Lane.Want): what is used while processors are short says too little.
func (l *laneControl) learnShare(m *moment, v *Lane) {
	if v.Running < 0.5 || v.Want < 0 {
		return
	}
	share := v.Want / v.Running
	if l.share <= 0 {
		l.share = share
	}
	l.share += (share - l.share) * min(1, m.dt/shareMemory)
}

// yield bounds every lane of which it is known what its jobs want by the processors that others leave: so many jobs that, each with what it would use if it did not have to wait, the
// target is kept. Unlike a cut by trial and error it knows where to stop, which matters where a slot is half of a small host; and what a lane
// was found to need comes back as soon as the others are done. The less of the host others use, the more the bound gives way.
func (c *Controller) yield(m *moment, views []Lane) {
	active := 0.0
	if others := c.watchOthers(&m.host, m.dt); others >= 0 {
		active = min(max((others/m.host.Cores-workingOthers)/(otherOthers-workingOthers), 0), 1)
	}
	if active <= 0 {
		for _, l := range c.lanes {
			l.bounded = 0
		}
		return
	}
	left, lanes := max(c.cfg.TargetCPU*m.host.Cores-c.others, c.cfg.MinShare*m.host.Cores), 0.0
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
		mine := max(left-(used-v.CPU), left/max(lanes, 1)) / l.share / active
		l.boundBy(min(mine, mostBound))
	}
}

// boundBy moves the bound only when it is clearly another.
func (l *laneControl) boundBy(to float64) {
	if l.bounded == 0 || math.Abs(to-float64(l.bounded)) > max(stick, stickShare*float64(l.bounded)) {
		l.bounded = max(l.cfg.Min, int(to+0.5))
	}
}
