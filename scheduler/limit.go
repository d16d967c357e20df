package scheduler

import "math"

const (
	full = 0.97 // of the processors in use: no more to be had

	firstSlots  = 4
	blindFactor = 4.0 // of the first limit: how far a lane grows of which nothing ever ends

	afterBrake  = 1.0  // seconds without growth after pressure
	brake       = 0.8  // factor for pressure that says only that there is some
	strongest   = 0.5  // factor of one step at most
	overBrake   = 1.5  // what is over the target is taken back and a half more, for what others could not take shows nowhere
	blindBrake  = 2.5  // the same while every processor is in use: what others want beyond that shows nowhere
	makeWay     = 0.8  // factor of a step for the sake of another lane, at most
	wayEvery    = 2.0  // seconds between two of them, so that the last one shows
	minorShare  = 0.1  // of the processors that are ours
	stillShare  = 0.25 // the same for a lane that has room left: what it could use more of nobody knows
	lull        = 10.0 // seconds without a cut until a lane without enough work has its first limit back
	fillSpan    = 0.8  // seconds in which the slots of a step up have to be filled, where there is something to fill them with
	brakeEvery  = 0.5  // seconds between two brakes of the first kind
	demandFull  = 0.5  // share of the time
	peakBuckets = 6
	peakSpan    = 10.0 // seconds of a bucket
	idleFactor  = 2.0  // of the greatest load of the last minute: what a lane without enough work keeps
	idleSlack   = 1.5
	idleShrink  = 0.9
)

// stage is what a lane is at.
type stage uint8

const (
	watching stage = iota // measures what the present limit does
	tryingUp
	tryingDown
)

// laneControl is the controller of one lane. It grows while processors are idle; a greater limit stays only if none is idle any more, or if more
// gets done, by more than the noise of counting. So a limit cannot drift upwards where more brings nothing, whatever the latency does. And it tries
// less now and then: where nothing is lost, less stays.
type laneControl struct {
	cfg   LaneConfig
	limit float64
	first float64 // the limit it began with
	born  float64 // clock

	stage   stage
	hunting bool    // far from its limit, as far as is known
	from    float64 // limit before the step that is tried
	began   float64 // clock at which the step was begun
	settle  float64 // clock until which the step works its way through
	watch   watch   // what is measured under the present limit
	looks   looks   // the last ones of these
	ref     watch   // what was measured under the limit before
	base    watch   // what was measured under the present limit before and after trials that were taken back
	tight   bool    // when less was tried, all processors were in use

	top        watch   // what was measured before the first of several steps down
	idleBefore float64 // share of the processors that were idle then
	refAt      float64 // the limit it was measured under

	upAt, downAt       float64 // clock from which the next step may be tried
	grownAt            float64 // clock at which a step up was last kept
	upPause, downPause float64 // seconds
	leapt              int     // steps that are not confirmed
	factor             float64 // of the next step down
	kept               stage   // direction of the last step that was kept
	brakedAt, cutAt    float64
	overAt, wayAt      float64
	sated              float64 // clock until which it claims no more of the processors
	holdTill           float64
	blindAt            float64
	elastic            float64 // last measured: relative change of throughput over relative change of the limit; Unknown
	peaks              [peakBuckets]float64
	peakAt             float64
	rate               float64 // jobs a second, lately
	fair               float64 // cores that it may claim while lanes compete; Unknown
	hungry             bool    // has less
	used               float64 // cores that it uses, lately; Unknown
	cores, weight      float64 // of the last view
	fullness           float64 // share of the time in which it was full, lately; Unknown
	share              float64 // cores that a running job uses when it gets them as soon as it wants them; 0: not known
	use                float64 // cores that a running job gets, lately; 0: not known
	trim               float64 // of share: what it turned out to be
	bounded            int     // slots for which others leave processors; 0: no bound
	bound              Bound
	why                string
}

func newLaneControl(cfg LaneConfig) *laneControl {
	return &laneControl{cfg: cfg, hunting: true, elastic: Unknown, bound: ByStart, upPause: firstPause, downPause: firstPause, downAt: firstPause, factor: retreat, brakedAt: -brakeEvery, overAt: -afterBrake, wayAt: -wayEvery, grownAt: -enjoyed, cutAt: -lull, used: Unknown, fullness: Unknown, weight: 1}
}

// slots is how many jobs may run at once: the limit, or what others leave if that is less.
func (l *laneControl) slots() int {
	n := max(l.cfg.Min, int(l.limit+0.5))
	if l.bounded > 0 {
		n = min(n, l.bounded)
	}
	return n
}

// begin sets the first limit: Little's law if demand and run time are known, else a few slots.
func (l *laneControl) begin(m *moment, v *Lane) {
	l.first = float64(l.cfg.Start)
	if l.first == 0 {
		l.first = max(firstSlots, 2*max(m.host.Cores, 1))
		if v.Arrivals > 0 && v.Wall > 0 {
			l.first = max(l.first, v.Arrivals*v.Wall)
		}
	}
	l.first = min(max(l.first, float64(l.cfg.Min)), float64(l.cfg.Max))
	l.limit, l.born = l.first, m.clock
}

// step takes one look. Later rules see what earlier ones have done.
func (l *laneControl) step(c *Controller, m *moment, v *Lane) {
	l.why = ""
	if l.limit == 0 {
		l.begin(m, v)
		l.why = "to begin with"
	}
	ceiling, by := l.ceiling(v)
	if l.limit > ceiling {
		l.to(ceiling, "bounded by "+string(by))
		l.forget(c, m)
	}
	if !m.usable {
		l.forget(c, m)
		return
	}
	l.rate += (v.Done/m.dt - l.rate) * min(1, m.dt/2)
	l.peak(m, v)
	if l.pressed(c, m, v) {
		return
	}
	if l.bounded > 0 && float64(l.bounded) < l.limit && v.Full >= demandFull {
		l.forget(c, m)
		l.bound = ByOthers
		return
	}
	if v.Full < demandFull {
		if l.wanting() || l.stage == tryingUp && m.clock < max(l.settle, l.began+fillSpan) { // what is to fill the slots is being fetched
			return
		}
		l.idle(c, m, v, ceiling)
		if l.bound = ByDemand; v.Held.By != "" {
			l.bound = v.Held.By
		}
		return
	}
	if m.clock < l.settle {
		return
	}
	if n := float64(l.bounded); n > 0 && n < ceiling {
		ceiling, by = n, ByOthers
	}
	l.watch.add(m, v)
	l.looks.add(m, v)
	if l.otherwise(c, m) {
		return
	}
	switch l.stage {
	case watching:
		if l.base.add(m, v); l.base.span > 2*longestWatch {
			l.base.halve()
		}
		l.consider(c, m, v, ceiling, by)
	case tryingUp:
		l.judgeUp(c, m, v, ceiling)
	case tryingDown:
		l.judgeDown(c, m, v)
	}
}

// ceiling is the lowest bound from outside.
func (l *laneControl) ceiling(v *Lane) (float64, Bound) {
	lowest, by := float64(l.cfg.Max), ByMost
	for _, k := range v.Caps {
		if n := known(k.Slots); n != Unknown && n < lowest {
			lowest, by = math.Floor(n), k.By
		}
	}
	return max(lowest, float64(l.cfg.Min)), by
}

// to sets the limit within its bounds.
func (l *laneControl) to(limit float64, why string) {
	limit = min(max(limit, float64(l.cfg.Min)), float64(l.cfg.Max))
	if limit != l.limit {
		l.limit, l.why = limit, why
	}
}

// forget drops what was measured and what is being tried.
func (l *laneControl) forget(c *Controller, m *moment) {
	if c.probing == l {
		c.probing = nil
	}
	l.stage, l.watch, l.ref, l.base, l.leapt, l.factor, l.looks = watching, watch{}, watch{}, watch{}, 0, retreat, looks{}
	l.settle = m.clock
}

// peak remembers the greatest load of the last minute.
func (l *laneControl) peak(m *moment, v *Lane) {
	if m.clock-l.peakAt >= peakSpan {
		l.peakAt = m.clock
		copy(l.peaks[1:], l.peaks[:])
		l.peaks[0] = 0
	}
	l.peaks[0] = max(l.peaks[0], v.Running)
}

// idle is for a lane that has fewer jobs than it may run. It does not grow, for nothing would show whether that is good, gives up what is far
// beyond its use, and has its first limit back when nothing is short.
func (l *laneControl) idle(c *Controller, m *moment, v *Lane, ceiling float64) {
	if l.stage == tryingUp { // what was used of the step stays, and some more: without, the lane would be full again at once, and try again for ever
		l.to(min(max(l.from, math.Ceil(idleSlack*max(v.Running, l.peaks[0]))), l.limit), "not enough to do to see what more brings")
		l.upAt = max(l.upAt, m.clock+firstPause)
	}
	if l.stage != watching || l.watch.span > 0 {
		l.forget(c, m)
	}
	top := 0.0
	for _, p := range l.peaks {
		top = max(top, p)
	}
	if keep := max(l.first, idleFactor*top+1); l.limit > idleSlack*keep {
		l.to(max(keep, l.limit*math.Pow(idleShrink, m.dt)), "far more than was used within a minute")
		l.hunting = true
	}
	// What was cut when something was short, and is not any more, need not be found anew by the next burst.
	if start := min(l.first, ceiling); l.limit < start && m.clock >= l.holdTill && m.clock-l.cutAt >= lull && m.scarce() == "" && (m.target < 0 || m.spare > (1-full)*m.host.Cores) {
		l.to(start, "nothing is short")
		l.hunting = true
	}
}

// pressed shrinks at once when the host is short of something. Of processors that others use, yield takes care where it can.
func (l *laneControl) pressed(c *Controller, m *moment, v *Lane) bool {
	factor, bound := 1.0, Bound("")
	h := &m.host
	if v.Running < 0.5 && v.Full < demandFull { // there is nothing to be had
		return false
	}
	press := func(f float64, b Bound) {
		if f < factor {
			factor, bound = f, b
		}
	}
	// A lane that uses next to none of what is ours would give up much for nothing: it only does not grow.
	least := minorShare
	if v.Full < demandFull {
		least = stillShare
	}
	minor := v.CPU >= 0 && h.Ours > 0 && v.CPU < least*h.Ours
	switch {
	case m.over <= 0:
	case minor, v.Full < demandFull && !m.steep: // it is not the limit that lets it use so much
		l.holdTill = m.clock + afterBrake
	case h.Ours < 0:
		press(m.target/h.Busy, ByCPU)
	case l.bounded > 0: // yield knows better
	case m.steep && l.share <= 0 && m.clock-l.overAt >= brakeEvery, m.clock-l.overAt >= afterBrake:
		f := overBrake
		if h.Busy >= full*h.Cores {
			f = blindBrake
		}
		press(1-f*m.over/max(c.ours, h.Ours), ByOthers)
	}
	if m.clock-l.brakedAt >= brakeEvery {
		switch {
		case h.MemoryAvailable >= 0 && m.keep > 0 && h.MemoryAvailable < m.keep, h.MemoryPressure > highMemory:
			press(brake, ByMemory)
		case minor:
		case h.Throttled > highThrottled:
			press(max(brake, 1-h.Throttled), ByQuota)
		case m.hungry > 0 && l.fair > 0 && l.used > greedy*l.fair && m.clock-l.wayAt >= max(wayEvery, 2*l.long(v)) && c.busy >= full*m.target:
			press(max(makeWay, math.Sqrt(l.fair/l.used)), ByLanes)
		case l.bounded == 0 && c.pressed > highPressure && c.busy < openly*m.target && m.others > activeOthers && h.Ours > m.quarter:
			press(brake, ByPressure) // somebody waits all the time though processors are idle. While they are all in use somebody always does
		}
	}
	if bound == "" {
		return false
	}
	l.bound = bound
	switch bound {
	case ByOthers, ByCPU:
		l.overAt = m.clock
	case ByLanes:
		l.wayAt = m.clock
	default:
		l.brakedAt = m.clock
	}
	l.holdTill = m.clock + afterBrake
	factor = max(factor, strongest)
	if bound != ByMemory && bound != ByQuota && h.Ours > 0 { // what is ours in any case stays
		factor = max(factor, min(1, m.quarter/h.Ours))
	}
	// What is not running cannot be taken away: the cut begins at what is, or has been where there was not always enough to do.
	running := max(v.Running, 1)
	if v.Full < demandFull {
		running = max(running, l.peaks[0], l.peaks[1])
	}
	l.cutAt = m.clock
	l.to(min(l.limit, running)*factor, "less for "+string(bound))
	l.forget(c, m)
	l.upPause = firstPause
	l.downAt = max(l.downAt, m.clock+l.downPause)
	return true
}

// scarce: memory or the quota forbid growth, though they do not ask for less.
func (m *moment) scarce() Bound {
	switch h := &m.host; {
	case h.MemoryAvailable >= 0 && m.keep > 0 && h.MemoryAvailable < 2*m.keep:
		return ByMemory
	case h.Throttled > highThrottled/2:
		return ByQuota
	}
	return ""
}
