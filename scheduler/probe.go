package scheduler

import "math"

// watch is what was measured while the limit stayed the same.
type watch struct {
	span  float64 // seconds
	done  float64
	work  float64 // Σ of Lane.Work, or of Done
	wall  float64 // seconds, summed over jobs
	cpu   float64 // core-seconds; only if known all the time
	blind bool    // CPU was not known
	busy  float64 // host's cores, summed over seconds
}

func (w *watch) add(m *moment, v *Lane) {
	w.span += m.dt
	w.done += v.Done
	if v.Work > 0 {
		w.work += v.Work
	} else {
		w.work += v.Done * max(v.Wall, 1e-6)
	}
	w.wall += v.Wall * v.Done
	if v.CPU < 0 {
		w.blind = true
	} else {
		w.cpu += v.CPU * m.dt
	}
	w.busy += max(0, m.host.Busy) * m.dt
}

// rate is the throughput: jobs, or ordinary seconds of jobs, a second. With too few ends to count, the processor time that they take
// shows that they get on.
func (w *watch) rate(o *watch) float64 {
	if w.span <= 0 {
		return 0
	}
	if min(w.done, o.done) < fewEnds && !w.blind && !o.blind {
		return w.cpu / w.span
	}
	if w.work > 0 && o.work > 0 && w.done > 0 {
		return w.work / w.span
	}
	return w.done / w.span
}

func (w *watch) meanWall() float64 {
	if w.done <= 0 {
		return 0
	}
	return w.wall / w.done
}

// doubt is the relative standard error of comparing two watches, if ends come at random; those of a busy lane come more evenly.
func doubt(a, b *watch) float64 {
	if min(a.done, b.done) < fewEnds {
		if a.blind || b.blind {
			return math.Inf(1)
		}
		return 0.05 // processor time is measured, not counted
	}
	return math.Sqrt(1/a.done + 1/b.done)
}

const (
	fewEnds   = 20
	leastSpan = 0.45 // seconds: ends that come in waves need two of them, and sensors need a moment
	spanWalls = 2.0
	lastSpan  = 4.0 // seconds, unless the noise asks for more
)

// span is how long a step has to be watched.
func (l *laneControl) span(v *Lane) float64 {
	wall := v.Wall
	if w := l.ref.meanWall(); w > 0 {
		wall = w
	}
	return min(max(leastSpan, spanWalls*wall), lastSpan)
}

// beginStep changes the limit and begins to watch what that does.
func (l *laneControl) beginStep(c *Controller, m *moment, to float64, s stage, why string) {
	l.from, l.refAt, l.ref = l.limit, l.limit, l.watch
	l.to(to, why)
	l.stage, l.watch = s, watch{}
	l.settle = m.clock + min(max(0.2, l.ref.meanWall()), lastSpan/2)
	c.probing = l
}

// endStep goes on from the limit that a step has come to.
func (l *laneControl) endStep(c *Controller, m *moment, limit float64, why string) {
	if limit == l.limit { // kept: what was measured is the new measure
		l.ref, l.refAt = l.watch, limit
	} else {
		l.settle = m.clock + min(max(0.2, l.ref.meanWall()), lastSpan/2)
		l.watch = watch{}
	}
	l.to(limit, why)
	l.stage = watching
	if c.probing == l {
		c.probing = nil
	}
}

// consider decides whether to try something, when the present limit has been watched for long enough.
func (l *laneControl) consider(c *Controller, m *moment, v *Lane, ceiling float64, by Bound) {
	if l.watch.span < l.span(v) {
		return
	}
	saturated := m.saturated(v)
	l.surprise(m, saturated)
	if l.watch.span > longestWatch {
		l.ref, l.refAt, l.watch = l.watch, l.limit, watch{}
		return
	}
	scarce := m.scarce()
	switch {
	case saturated && m.others > quietOthers:
		l.bound = ByOthers
	case saturated:
		l.bound = ByCPU
	case l.limit >= ceiling:
		l.bound = by
	case scarce != "":
		l.bound = scarce
	case m.clock < l.upAt:
		l.bound = ByGain
	default:
		l.bound = ByStart
	}
	if c.probing != nil && c.probing != l || m.clock < l.holdTill {
		return
	}
	if l.bound == ByStart {
		l.growing(c, m, v, ceiling)
		return
	}
	// At a bound from outside that leaves processors idle nothing is gained by less. Where it does not, perhaps less does it too.
	if (saturated || l.bound == ByGain) && m.clock >= l.downAt && l.slots() > l.cfg.Min {
		l.shrinking(c, m, saturated)
	}
}

// surprise: what the same limit does has changed, so what was found out about it holds no more.
func (l *laneControl) surprise(m *moment, saturated bool) {
	if l.ref.span == 0 || l.refAt != l.limit {
		return
	}
	was, is := l.ref.rate(&l.watch), l.watch.rate(&l.ref)
	off := math.Abs(is-was) / max(was, 1e-9)
	wallWas, wallIs := l.ref.meanWall(), l.watch.meanWall()
	slower := wallWas > 0 && wallIs > 0 && math.Abs(math.Log(wallIs/wallWas)) > math.Log(1+2*changed)
	idler := m.host.Busy >= 0 && l.ref.busy/l.ref.span-l.watch.busy/l.watch.span > changed/2*m.host.Cores
	if off > max(changed, 3*doubt(&l.ref, &l.watch)) || slower && l.watch.done >= fewEnds || idler {
		l.upPause, l.downPause = firstPause, firstPause
		l.downAt = m.clock
		l.upAt = m.clock
		l.hunting = !saturated
		l.ref = watch{}
	}
}

// growing tries more.
func (l *laneControl) growing(c *Controller, m *moment, v *Lane, ceiling float64) {
	d := doubt(&l.watch, &l.watch)
	if math.IsInf(d, 1) { // nothing ends, and nobody says what it does
		if l.limit < blindFactor*l.first && m.clock-l.blindAt > longestWatch {
			l.blindAt = m.clock
			l.to(min(ceiling, math.Ceil(l.limit*try)), "nothing ends, processors are idle")
			l.watch = watch{}
		}
		return
	}
	factor := max(try, 1+min(1, 4*d))
	if l.hunting {
		factor = hunt
		if need := l.need(v); need > hunt*l.limit {
			factor = min(huntFast, need/l.limit)
		}
	}
	to := max(l.limit*factor, l.limit+1)
	if per := v.CPU / max(v.Running, 1); m.spare >= 0 && v.CPU > 0 && per > 0 { // no further than there are processors, and a little
		to = min(to, max(l.limit+1, 1.1*(l.limit+m.spare/per)))
	}
	if to = min(to, ceiling); to <= l.limit {
		return
	}
	l.beginStep(c, m, to, tryingUp, "trying more")
}

// need is how many slots it takes, by Little's law, to serve what comes in and to work off what waits within the goal.
func (l *laneControl) need(v *Lane) float64 {
	if v.Wall <= 0 {
		return 0
	}
	return (max(v.Arrivals, 0) + max(v.Backlog, 0)/v.Goal.Seconds()) * v.Wall
}

// judgeUp keeps a greater limit if it has brought something.
func (l *laneControl) judgeUp(c *Controller, m *moment, v *Lane) {
	was, is := l.ref.rate(&l.watch), l.watch.rate(&l.ref)
	d := doubt(&l.ref, &l.watch)
	step := l.limit/l.from - 1
	gain := is/max(was, 1e-9) - 1
	inflated := l.watch.done >= fewEnds && l.watch.meanWall() > inflation*l.ref.meanWall() && gain < leastGain*step && l.watch.span >= leastSpan
	if !inflated {
		if l.watch.span < l.span(v) {
			return
		}
		// In doubt it looks on.
		if math.Abs(gain-leastGain*step) < 2*d && l.watch.span < min(longestWatch, 4*l.span(v)) {
			return
		}
	}
	l.elastic = min(max(gain/max(step, 1e-9), 0), 1)
	if !inflated && gain > max(leastGain*step, 2*d) {
		l.upPause, l.upAt = firstPause, m.clock
		l.downAt = m.clock + l.downPause
		l.endStep(c, m, l.limit, "")
		return
	}
	if l.hunting {
		l.hunting = false // the next is a small step, at once
	} else {
		l.upAt = m.clock + l.upPause
		l.upPause = min(2*l.upPause, longestPause)
	}
	l.endStep(c, m, l.from, "more brought nothing")
}

// shrinking tries less.
func (l *laneControl) shrinking(c *Controller, m *moment, saturated bool) {
	if !saturated && doubt(&l.watch, &l.watch) > noise {
		return
	}
	factor := retreat
	if l.elastic == 0 && l.downPause <= firstPause {
		factor = retreatFast
	}
	to := min(l.limit*factor, l.limit-1)
	if to < float64(l.cfg.Min) {
		return
	}
	l.beginStep(c, m, to, tryingDown, "trying less")
}

// judgeDown keeps a lower limit if it has cost nothing.
func (l *laneControl) judgeDown(c *Controller, m *moment, v *Lane) {
	if l.watch.span < l.span(v) {
		return
	}
	was, is := l.ref.rate(&l.watch), l.watch.rate(&l.ref)
	d := doubt(&l.ref, &l.watch)
	step := 1 - l.limit/l.from
	loss := 1 - is/max(was, 1e-9)
	busy := m.host.Busy >= 0 && l.watch.busy >= full*m.target*l.watch.span || v.Cores > 0 && !l.watch.blind && l.watch.cpu >= full*v.Cores*l.watch.span
	if !busy && math.Abs(loss-leastLoss*step) < d && l.watch.span < min(longestWatch, 4*l.span(v)) {
		return
	}
	if busy || loss < leastLoss*step {
		l.elastic = 0
		l.downPause, l.downAt = firstPause, m.clock
		l.hunting = false
		l.endStep(c, m, l.limit, "")
		return
	}
	l.elastic = min(loss/max(step, 1e-9), 1)
	l.downAt = m.clock + l.downPause
	l.downPause = min(2*l.downPause, longestPause)
	l.endStep(c, m, l.from, "less cost something")
}
