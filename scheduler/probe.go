package scheduler

import "math"

// watch is what was measured while the limit stayed the same.
type watch struct {
	span  float64 // seconds
	done  float64
	work  float64 // Σ of Lane.Work, else of Done
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
		w.work += v.Done
	}
	w.wall += v.Wall * v.Done
	if v.CPU < 0 {
		w.blind = true
	} else {
		w.cpu += v.CPU * m.dt
	}
	w.busy += max(0, m.host.Busy) * m.dt
}

// rate is the throughput, in average jobs a second. With too few ends to count, the processor time that they take
// shows that they get on.
func (w *watch) rate(o *watch) float64 {
	if w.span <= 0 {
		return 0
	}
	if min(w.done, o.done) < fewEnds && !w.blind && !o.blind {
		return w.cpu / w.span
	}
	return w.work / w.span
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
	closeSpan = 1.0
	spanWalls = 2.0
	lastSpan  = 4.0 // seconds, unless the noise asks for more
)

// span is how long a step has to be watched.
func (l *laneControl) span(v *Lane) float64 {
	wall := l.wall(v)
	if wall == 0 { // nothing has ended yet
		return lastSpan
	}
	least := leastSpan
	if !l.hunting { // small steps show less
		least = closeSpan
	}
	return min(max(least, spanWalls*wall), lastSpan)
}

// patience is how long it is watched at most, while counting leaves it in doubt.
func (l *laneControl) patience(v *Lane) float64 { return min(longestWatch, max(3, 4*l.span(v))) }

// wall is how long a job takes, as far as is known.
func (l *laneControl) wall(v *Lane) float64 {
	if w := l.ref.meanWall(); w > 0 {
		return w
	}
	if w := l.watch.meanWall(); w > 0 {
		return w
	}
	return v.Wall
}

// settling is how long a step takes to work its way through.
func (l *laneControl) settling() float64 { return min(max(0.2, l.ref.meanWall()), lastSpan/2) }

// beginStep changes the limit and begins to watch what that does.
func (l *laneControl) beginStep(c *Controller, m *moment, to float64, s stage, why string) {
	l.from, l.refAt, l.ref = l.limit, l.limit, l.watch
	l.to(to, why)
	l.stage, l.watch = s, watch{}
	l.began = m.clock
	l.settle = m.clock + l.settling()
	c.probing = l
}

// endStep goes on from the limit that a step has come to.
func (l *laneControl) endStep(c *Controller, m *moment, limit float64, why string) {
	if limit == l.limit { // kept: what was measured is the new measure
		l.ref, l.refAt = l.watch, limit
		if l.kept != watching && l.kept != l.stage { // to and fro: it is there
			l.upPause, l.downPause = min(2*l.upPause, longestPause), min(2*l.downPause, longestPause)
			l.upAt, l.downAt = max(l.upAt, m.clock+l.upPause), max(l.downAt, m.clock+l.downPause)
		}
		l.kept = l.stage
	} else {
		l.settle = m.clock + l.settling()
		l.watch = watch{}
	}
	l.to(limit, why)
	l.stage, l.leapt = watching, 0
	if c.probing == l {
		c.probing = nil
	}
}

// pause is how long to leave a step alone that was taken back: trying shall cost little compared to what it takes from the rest.
func (l *laneControl) pause(m *moment, p *float64) float64 {
	wait := max(*p, min(pausePer*(m.clock-l.began), longestPause))
	*p = min(2*wait, longestPause)
	return m.clock + wait
}

// consider decides whether to try something, when the present limit has been watched for long enough.
func (l *laneControl) consider(c *Controller, m *moment, v *Lane, ceiling float64, by Bound) {
	if l.watch.span < l.span(v) {
		return
	}
	saturated := m.saturated(v) && !l.hungry
	l.surprise(m)
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
	// Perhaps less does it too.
	if l.bound != scarce && m.clock >= l.downAt && l.slots() > l.cfg.Min {
		l.shrinking(c, m, saturated)
	}
}

// surprise: what the same limit does has changed, so what was found out about it holds no more.
func (l *laneControl) surprise(m *moment) {
	if l.ref.span == 0 || l.refAt != l.limit {
		return
	}
	was, is := l.ref.rate(&l.watch), l.watch.rate(&l.ref)
	off := math.Abs(is-was) / max(was, 1e-9)
	wallWas, wallIs := l.ref.meanWall(), l.watch.meanWall()
	slower := wallWas > 0 && wallIs > 0 && math.Abs(math.Log(wallIs/wallWas)) > math.Log(1+2*changed)
	idler := m.host.Busy >= 0 && l.ref.busy/l.ref.span-l.watch.busy/l.watch.span > changed*m.host.Cores
	if off > max(changed, 3*doubt(&l.ref, &l.watch)) || slower && l.watch.done >= fewEnds || idler {
		l.upPause, l.downPause = firstPause, firstPause
		l.downAt = m.clock
		l.upAt = m.clock
		l.ref = watch{}
	}
}

// growing tries more.
func (l *laneControl) growing(c *Controller, m *moment, v *Lane, ceiling float64) {
	d := doubt(&l.watch, &l.watch)
	if l.watch.done == 0 && l.watch.span < longestWatch/2 && !l.hunting {
		return
	}
	if math.IsInf(d, 1) && !l.hunting { // hardly anything ends, and nobody says what it does
		if l.limit < blindFactor*l.first && m.clock-l.blindAt > longestWatch {
			l.blindAt = m.clock
			l.to(min(ceiling, math.Ceil(l.limit*try)), "nothing ends, processors are idle")
			l.watch = watch{}
		}
		return
	}
	factor := max(min(hunt, math.Pow(try, 1+l.streak)), min(tryMost, 1+4*d))
	if l.hunting {
		factor = l.huntFactor(v)
	}
	if to := l.aim(m, v, factor, ceiling); to > l.limit {
		l.beginStep(c, m, to, tryingUp, "trying more")
	}
}

func (l *laneControl) huntFactor(v *Lane) float64 {
	if need := l.need(v); need > hunt*l.limit {
		return min(huntFast, need/l.limit)
	}
	return hunt
}

// aim is how far a step up goes: no further than there are processors, and a little.
func (l *laneControl) aim(m *moment, v *Lane, factor, ceiling float64) float64 {
	to := max(l.limit*factor, l.limit+1)
	w := &l.watch
	if cpu := w.cpu / max(w.span, 1e-9); !w.blind && cpu > 0 && m.target > 0 && !l.hungry {
		spare := max(0, m.target-w.busy/w.span)
		if v.Cores > 0 {
			spare = min(spare, max(0, v.Cores-cpu))
		}
		to = min(to, max(l.limit+1, 1.1*l.limit*(1+spare/cpu)))
	}
	return min(to, ceiling)
}

// need is how many slots it takes, by Little's law, to serve what comes in and to work off what waits within the goal.
func (l *laneControl) need(v *Lane) float64 {
	wall := l.wall(v)
	if wall <= 0 {
		return 0
	}
	return (max(v.Arrivals, 0) + max(v.Backlog, 0)/v.Goal.Seconds()) * wall
}

// judgeUp keeps a greater limit if it has brought something.
func (l *laneControl) judgeUp(c *Controller, m *moment, v *Lane, ceiling float64) {
	was, is := l.ref.rate(&l.watch), l.watch.rate(&l.ref)
	d := doubt(&l.ref, &l.watch)
	step := l.limit/l.from - 1
	gain := is/max(was, 1e-9) - 1
	slower := l.watch.done >= fewEnds && l.watch.meanWall() > inflation*l.ref.meanWall()
	inflated := slower && gain < leastGain*step && l.watch.span >= leastSpan
	if !inflated {
		if l.leap(m, v, slower, ceiling) {
			return
		}
		// While too little ends, or in doubt, it looks on.
		few := l.watch.done < fewEnds && l.watch.span < l.patience(v)
		if l.watch.span < l.span(v) || few || math.Abs(gain-leastGain*step) < 2*d && l.watch.span < l.patience(v) {
			return
		}
	}
	l.elastic = min(max(gain/max(step, 1e-9), 0), 1)
	used := l.near(m, v) && l.used() > shows*l.cores(m, v)
	// A hunt gets the benefit of the doubt: taken back too early it would go on in small steps and pauses.
	unseen := l.hunting && min(l.watch.done, l.ref.done) < fewEnds && !slower && l.limit <= 2*blindFactor*l.first
	doubtful := l.hunting && gain > max(0, leastGain*step-d)
	if !inflated && (gain > max(leastGain*step, 2*d) || used && gain > leastGain/3*step || unseen || doubtful) {
		l.upAt = m.clock
		l.downAt = m.clock + l.downPause
		l.factor = retreat
		if l.streak++; l.elastic < 0.5 { // near the end of the gain
			l.streak = 0
		}
		l.endStep(c, m, l.limit, "")
		return
	}
	if l.hunting {
		l.hunting = false // the next is a small step, at once
	} else {
		l.upAt = l.pause(m, &l.upPause)
	}
	l.streak = 0
	l.endStep(c, m, l.from, "more brought nothing")
}

// leap goes on with a hunt before the last step is confirmed, if nothing speaks against it: jobs that take seconds would make it last for
// minutes. What was measured before the first leap remains the measure of all.
func (l *laneControl) leap(m *moment, v *Lane, slower bool, ceiling float64) bool {
	if !l.hunting || slower || l.leapt >= leaps || l.span(v) < leapSpan || l.watch.span < leapSpan || m.saturated(v) || m.scarce() != "" {
		return false
	}
	if to := l.aim(m, v, l.huntFactor(v), ceiling); to > l.limit*try {
		l.leapt++
		l.to(to, "trying more")
		l.watch = watch{}
		l.settle = m.clock + 0.2
		return true
	}
	return false
}

// cores is what the lane could use at most.
func (l *laneControl) cores(m *moment, v *Lane) float64 {
	if v.Cores > 0 {
		return v.Cores
	}
	return max(m.host.Cores, 1)
}

// near tells whether processors are about to be what binds: then their use shows more clearly than a count what a step has done.
func (l *laneControl) near(m *moment, v *Lane) bool {
	if l.ref.span <= 0 || l.watch.span <= 0 || l.ref.blind || l.watch.blind {
		return false
	}
	if v.Cores > 0 {
		return max(l.watch.cpu/l.watch.span, l.ref.cpu/l.ref.span) > nearly*v.Cores
	}
	return m.host.Busy >= 0 && max(l.watch.busy/l.watch.span, l.ref.busy/l.ref.span) > nearly*m.target
}

// used is how many more cores the lane uses than before the step.
func (l *laneControl) used() float64 { return l.watch.cpu/l.watch.span - l.ref.cpu/l.ref.span }

// shrinking tries less.
func (l *laneControl) shrinking(c *Controller, m *moment, saturated bool) {
	if !saturated && doubt(&l.watch, &l.watch) > noise {
		return
	}
	if to := min(l.limit*l.factor, l.limit-1); to >= float64(l.cfg.Min) {
		l.beginStep(c, m, to, tryingDown, "trying less")
	}
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
	busy := m.host.Busy >= 0 && l.watch.busy >= stillFull*m.target*l.watch.span || v.Cores > 0 && !l.watch.blind && l.watch.cpu >= stillFull*v.Cores*l.watch.span
	unused := l.near(m, v) && l.used() < -1.5*shows*l.cores(m, v)
	if !busy && !unused && math.Abs(loss-leastLoss*step) < d && l.watch.span < l.patience(v) {
		return
	}
	if busy && loss < step/2 || !unused && loss < leastLoss*step {
		l.elastic, l.streak = 0, 0
		l.downAt = m.clock
		l.hunting = false
		l.factor = max(retreatMost, l.factor*retreat)
		l.endStep(c, m, l.limit, "")
		return
	}
	l.factor, l.streak = retreat, 0
	l.elastic = min(max(loss/max(step, 1e-9), 0), 1)
	l.downAt = l.pause(m, &l.downPause)
	l.endStep(c, m, l.from, "less cost something")
}
