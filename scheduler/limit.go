package scheduler

import "math"

const (
	full      = 0.97  // of the processors in use: no more to be had
	stillFull = 0.985 // of the processors in use with fewer slots: nothing was lost
	nearly    = 0.8   // of the processors in use: they are about to be what binds
	shows     = 0.01  // of the processors: a step up that lets so many more be used lets more be done

	firstSlots  = 4
	hunt        = 2.0  // factor of a step while the lane is far from its limit
	huntFast    = 4.0  // the same when demand and cost say that it is very far
	try         = 1.25 // factor of a step near it
	tryMost     = 1.4  // the same where counting is so noisy that less would show nothing
	retreat     = 0.85 // factor of a step down; squared after one that cost nothing, and so on, to
	retreatMost = 0.6
	leapSpan    = 0.7  // seconds between two steps of a hunt that nothing speaks against
	freely      = 32   // slots up to which a hunt goes on while next to nothing has ended
	shortMemory = 4.0  // seconds over which it is seen how much of the processors a full lane leaves idle
	nowAndThen  = 0.03 // of the processors idle: more, and processors are not what binds
	rarely      = 0.01 // less, and they are all in use, all the time
	leaps       = 3    // of them before one has to be confirmed

	leastGain    = 0.15 // of what a step would bring if throughput followed: less, and it is taken back
	leastLoss    = 0.10 // of what a step down would cost if throughput followed: less, and it is kept
	inflation    = 1.3  // of the run time without more throughput: the step is taken back at once
	noise        = 0.07 // relative: with more than this a step down shows nothing
	longestWatch = 10.0 // seconds

	firstPause   = 2.0 // seconds after a step that was taken back until the next, doubling to
	eagerPause   = 8.0 // a lane that pauses no longer than this may still try great steps
	longestPause = 60.0
	pausePer     = 8.0  // times as long as a step takes
	trialCost    = 0.02 // of the throughput at most, for trying less
	afterBrake   = 1.0  // seconds without growth after pressure

	brake       = 0.8  // factor for pressure that says only that there is some
	strongest   = 0.5  // factor of one step at most
	overBrake   = 1.5  // what is over the target is taken back and a half more, for what others could not take shows nowhere
	blindBrake  = 2.5  // the same while every processor is in use: what others want beyond that shows nowhere
	makeWay     = 0.9  // factor of a step for the sake of another lane
	minorShare  = 0.1  // of the processors that are ours
	stillShare  = 0.25 // the same for a lane that has room left: what it could use more of nobody knows
	lull        = 10.0 // seconds without a cut until a lane without enough work has its first limit back
	fillSpan    = 0.8  // seconds in which the slots of a step up have to be filled, where there is something to fill them with
	brakeEvery  = 0.5  // seconds between two brakes of the first kind
	changed     = 0.25 // of throughput, or of the processors in use: what was found out before holds no more
	demandFull  = 0.5  // share of the time
	peakBuckets = 6
	peakSpan    = 10.0 // seconds of a bucket
	idleFactor  = 2.0  // of the greatest load of the last minute: what a lane without enough work keeps
	idleSlack   = 1.5
	idleShrink  = 0.9
	blindFactor = 4.0 // of the first limit: how far a lane grows of which nothing ever ends
)

// stage is what a lane is at.
type stage uint8

const (
	watching stage = iota // measures what the present limit does
	tryingUp
	tryingDown
)

// laneControl is the controller of one lane. It grows by trying: a greater limit stays only if more gets done, by more than the noise of
// counting. So a limit cannot drift upwards where more brings nothing, whatever the latency does. And it tries less now and then: where
// nothing is lost, less stays.
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
	ref     watch   // what was measured under the limit before
	base    watch   // what was measured under the present limit before and after trials that were taken back
	short   float64 // lately, the share of the processors that were not in use, though the lane was full
	refAt   float64 // the limit it was measured under

	upAt, downAt       float64 // clock from which the next step may be tried
	upPause, downPause float64 // seconds
	leapt              int     // steps of a hunt that are not confirmed
	factor             float64 // of the next step down
	streak             float64 // steps up that were kept, one after the other: each is greater than the last
	kept               stage   // direction of the last step that was kept
	brakedAt, cutAt    float64
	holdTill           float64
	blindAt            float64
	elastic            float64 // last measured: relative change of throughput over relative change of the limit; Unknown
	peaks              [peakBuckets]float64
	peakAt             float64
	rate               float64 // jobs a second, lately
	fair               float64 // cores that it may claim while lanes compete; Unknown
	hungry             bool    // has less
	share              float64 // cores that a running job uses when it gets them as soon as it wants them; 0: not known
	use                float64 // cores that a running job gets, lately; 0: not known
	bounded            int     // slots for which others leave processors; 0: no bound
	bound              Bound
	why                string
}

func newLaneControl(cfg LaneConfig) *laneControl {
	return &laneControl{cfg: cfg, hunting: true, elastic: Unknown, bound: ByStart, upPause: firstPause, downPause: firstPause, downAt: firstPause, factor: retreat, brakedAt: -brakeEvery, cutAt: -lull}
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
		if l.stage == tryingUp && m.clock < max(l.settle, l.began+fillSpan) { // what is to fill the new slots is being fetched
			return
		}
		l.idle(c, m, v, ceiling)
		if l.bound = ByDemand; v.Held.By != "" {
			l.bound = v.Held.By
		}
		return
	}
	if l.stage != tryingDown {
		l.short += (m.idleShare(v) - l.short) * min(1, m.dt/shortMemory)
	}
	if m.clock < l.settle {
		return
	}
	if n := float64(l.bounded); n > 0 && n < ceiling {
		ceiling, by = n, ByOthers
	}
	l.watch.add(m, v)
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
	l.stage, l.watch, l.ref, l.base, l.leapt = watching, watch{}, watch{}, watch{}, 0
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
	if l.stage == tryingUp { // what was used of the step stays: taken back in full, the lane would be full again at once, and try again for ever
		l.to(min(max(l.from, math.Ceil(v.Running)), l.limit), "not enough to do to see what more brings")
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
	if start := min(l.first, ceiling); l.limit < start && m.clock >= l.holdTill && m.clock-l.cutAt >= lull && m.scarce() == "" && (m.spare < 0 || m.spare > (1-full)*m.host.Cores) {
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
	if minor && m.over > 0.01*h.Cores {
		l.holdTill = m.clock + afterBrake
	} else if m.over > 0.01*h.Cores && h.Ours > 0 && l.share <= 0 { // else yield knows better
		f := overBrake
		if h.Busy >= stillFull*h.Cores {
			f = blindBrake
		}
		press(1-f*m.over/h.Ours, ByOthers)
	} else if m.over > 0.01*h.Cores && h.Ours < 0 {
		press(m.target/h.Busy, ByCPU)
	}
	if m.clock-l.brakedAt >= brakeEvery {
		switch {
		case h.MemoryAvailable >= 0 && m.keep > 0 && h.MemoryAvailable < m.keep, h.MemoryPressure > highMemory:
			press(brake, ByMemory)
		case minor:
		case h.Throttled > highThrottled:
			press(max(brake, 1-h.Throttled), ByQuota)
		case m.hungry > 0 && !l.hungry && l.fair > 0 && v.CPU > l.fair && m.saturated(v):
			press(max(makeWay, l.fair/v.CPU), ByLanes)
		case l.share <= 0 && h.Pressure > highPressure && m.others > activeOthers && h.Ours > m.quarter:
			press(brake, ByPressure)
		}
	}
	if bound == "" {
		return false
	}
	l.bound = bound
	if bound != ByOthers && bound != ByCPU {
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
	l.upPause, l.downPause = firstPause, firstPause
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
