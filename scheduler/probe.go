package scheduler

import "math"

// watch is what was measured while the limit stayed the same.
type watch struct {
	since   float64 // clock at its beginning
	span    float64 // seconds
	done    float64
	telling float64 // Σ of Lane.Telling
	work    float64 // Σ of Lane.Work, else of Done
	wall    float64 // seconds, summed over jobs
	long    float64 // seconds, summed over work
	cpu     float64 // core-seconds; only if known all the time
	squares float64 // cores squared, summed over seconds: how much the use of processors swings
	blind   bool    // CPU was not known
	busy    float64 // host's cores, summed over seconds
}

// halve makes what was measured count for less.
func (w *watch) halve() {
	for _, p := range []*float64{&w.span, &w.done, &w.telling, &w.work, &w.wall, &w.long, &w.cpu, &w.squares, &w.busy} {
		*p /= 2
	}
}

func (w *watch) add(m *moment, v *Lane) {
	if w.span == 0 {
		w.since = m.clock
	}
	w.span += m.dt
	w.done += v.Done
	work := v.Work
	if work <= 0 {
		work = v.Done
	}
	w.work += work
	w.telling += v.Telling
	w.wall += v.Wall * v.Done
	w.long += v.Long * work
	if v.CPU < 0 {
		w.blind = true
	} else {
		w.cpu += v.CPU * m.dt
		w.squares += v.CPU * v.CPU * m.dt
	}
	w.busy += max(0, m.host.Busy) * m.dt
}

// meanWall is how long a job takes, of the average mix.
func (w *watch) meanWall() float64 {
	if w.work <= 0 {
		return 0
	}
	return w.wall / w.work
}

// meanLong is after how long what a job is worth has come in.
func (w *watch) meanLong() float64 {
	if w.work <= 0 {
		return 0
	}
	return w.long / w.work
}

// unsure is the relative standard error of the use of processors, by how it swings from look to look; looks within a job's time are not
// independent.
func (w *watch) unsure() float64 {
	mean, long := w.cpu/w.span, w.meanLong()
	if mean <= 0 || long <= 0 {
		return math.Inf(1)
	}
	swing := math.Sqrt(max(0, w.squares/w.span-mean*mean)) / mean
	return max(leastSwing, swing) / math.Sqrt(w.span/max(0.25, 2*long))
}

// counted is the relative standard error of comparing what two watches counted, as if ends came at random; those of a busy lane come more
// evenly.
func counted(a, b *watch) float64 {
	if min(a.telling, b.telling) < 1 {
		return math.Inf(1)
	}
	return math.Sqrt(1/(a.telling+0.5) + 1/(b.telling+0.5))
}

// gain is how much more was done in the second watch than in the first, relatively, and its standard error. It counts what has ended, in average
// jobs. With too few to count, the processor time that they take shows that they get on.
func gain(a, b *watch) (more, doubt float64) {
	if a.span <= 0 || b.span <= 0 {
		return 0, math.Inf(1)
	}
	was, is := a.work/a.span, b.work/b.span
	doubt = counted(a, b)
	if min(a.done, b.done) < fewEnds && !a.blind && !b.blind {
		if d := math.Hypot(a.unsure(), b.unsure()); d < doubt {
			was, is, doubt = a.cpu/a.span, b.cpu/b.span, d
		}
	}
	return is/max(was, 1e-9) - 1, doubt
}

// doubt is the relative standard error of a comparison of this watch with another that is as long.
func (w *watch) doubt() float64 {
	_, d := gain(w, w)
	return d
}

const (
	fewEnds      = 20
	leastTelling = 6
	leastSwing   = 0.15 // of the use of processors, about
	leastSpan    = 0.45 // seconds: ends that come in waves need two of them, and sensors need a moment
	closeSpan    = 1.0
	spanWalls    = 2.0
	busyWalls    = 4.0
	clearSpan    = 3.0 // seconds until the use of processors is known to a hundredth
	lastSpan     = 4.0 // seconds, unless the noise asks for more
)

// span is how long a step has to be watched.
func (l *laneControl) span(v *Lane) float64 {
	long := l.long(v)
	if long == 0 { // nothing has ended yet
		return lastSpan
	}
	least := leastSpan
	if !l.hunting { // small steps show less
		least = closeSpan
	}
	return min(max(least, spanWalls*long), lastSpan)
}

// patience is how long it is watched at most, while counting leaves it in doubt.
func (l *laneControl) patience(v *Lane) float64 { return min(longestWatch, max(3, 4*l.span(v))) }

// long is after how long what a job is worth comes in, as far as is known: of a few, the short ones end first.
func (l *laneControl) long(v *Lane) float64 {
	if w := max(l.ref.meanLong(), l.watch.meanLong()); w > 0 {
		return w
	}
	return v.Long
}

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
func (l *laneControl) settling() float64 { return min(max(0.2, l.ref.meanLong()), lastSpan/2) }

// beginStep changes the limit and begins to watch what that does.
func (l *laneControl) beginStep(c *Controller, m *moment, to float64, s stage, why string) {
	l.from, l.refAt, l.ref = l.limit, l.limit, l.watch
	if l.base.span > l.ref.span {
		l.ref = l.base
	}
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
		l.base = l.watch
	} else {
		if limit != l.from {
			l.base = watch{}
		}
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
	saturated := m.saturated(v) && !l.hungry && (l.short < nowAndThen || m.others > quietOthers)
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
	off, d := gain(&l.ref, &l.watch)
	off = math.Abs(off)
	wallWas, wallIs := l.ref.meanWall(), l.watch.meanWall()
	slower := wallWas > 0 && wallIs > 0 && math.Abs(math.Log(wallIs/wallWas)) > math.Log(1+2*changed)+2*counted(&l.ref, &l.watch)
	idler := m.host.Busy >= 0 && l.watch.span >= 2*l.watch.meanLong() && l.ref.busy/l.ref.span-l.watch.busy/l.watch.span > changed*m.host.Cores
	if off > max(changed, 3*d) || slower && l.watch.done >= fewEnds || idler {
		l.upPause, l.downPause = firstPause, firstPause
		l.downAt = m.clock
		l.upAt = m.clock
		l.ref = watch{}
		l.base = l.watch
	}
}

// growing tries more.
func (l *laneControl) growing(c *Controller, m *moment, v *Lane, ceiling float64) {
	d := l.watch.doubt()
	if l.watch.done == 0 && l.watch.span < longestWatch/2 && !l.hunting {
		return
	}
	if l.base.span > l.watch.span {
		d = l.base.doubt()
	}
	if math.IsInf(d, 1) && !l.hunting { // hardly anything ends, and nobody says what it does
		if l.limit < blindFactor*l.first && m.clock-l.blindAt > longestWatch {
			l.blindAt = m.clock
			l.to(min(ceiling, math.Ceil(l.limit*try)), "nothing ends, processors are idle")
			l.watch = watch{}
		}
		return
	}
	// A step that counting could not show would be in vain; a great one is not repeated for ever.
	most := tryMost
	if l.upPause <= eagerPause {
		most = hunt
	}
	if !l.hunting && 1+4*d > most && l.base.span < longestWatch {
		return
	}
	factor := max(min(hunt, math.Pow(try, 1+l.streak)), min(most, 1+4*d))
	if l.hunting {
		factor = l.huntFactor(v)
	}
	if to := l.aim(m, v, factor, ceiling); to >= l.limit+0.5 {
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
		spare := max(0, m.target-w.busy/w.span, m.quarter-m.host.Ours)
		if v.Cores > 0 {
			spare = min(spare, max(0, v.Cores-cpu))
		}
		to = min(to, max(l.limit+1, 1.1*l.limit*(1+spare/cpu)))
		if m.others > activeOthers && !m.poor { // no further than they leave, or it would be taken back
			to = min(to, math.Floor(l.limit*(1+spare/cpu)))
		}
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

// judgeUp keeps a greater limit if it has brought something. How many jobs it takes to tell goes by the step: eight times as much shows with a few, a
// quarter more only with hundreds. What cannot be told counts for nothing, in either direction.
func (l *laneControl) judgeUp(c *Controller, m *moment, v *Lane, ceiling float64) {
	more, d := gain(&l.ref, &l.watch)
	step := l.limit/l.from - 1
	// The first jobs to end are short ones, and of which classes are short nothing is known yet.
	credible := min(l.ref.telling, l.watch.telling) >= leastTelling && l.ref.span >= l.long(v) && l.ref.since-l.born >= 2*l.long(v)
	slower := credible && l.watch.done >= fewEnds && l.watch.meanWall() > (inflation+d)*l.ref.meanWall()
	inflated := slower && more < leastGain*step && l.watch.span >= max(leastSpan, l.long(v))
	if !inflated && l.leap(m, v, slower, ceiling) {
		return
	}
	told := math.Log(max(1+more, 1e-9)) // relative errors are of factors
	shown := more > leastGain*step && told > 2*d && l.watch.span >= min(l.span(v), max(leastSpan, l.long(v)))
	if !inflated && !shown && l.watch.span < l.span(v) {
		return
	}
	used := l.near(m, v) && l.used() > shows*l.cores(m, v) && more > leastGain/3*step
	vain := inflated || credible && told+2*d < math.Log(1+step/2) || d < leastGain*step/2 && more < leastGain*step
	if !shown && !used && !vain && l.watch.span < l.patience(v) {
		return
	}
	l.elastic = min(max(more/max(step, 1e-9), 0), 1)
	// A hunt gets the benefit of the doubt, up to a point.
	doubtful := l.hunting && !vain && !slower && (more > leastGain*step || !credible) && l.limit <= max(2*blindFactor*l.first, freely)
	if !inflated && (shown || used || doubtful) {
		l.upAt = m.clock
		l.downAt = m.clock + l.downPause
		l.factor = retreat
		if l.streak++; l.elastic < 0.5 { // near the end of the gain
			l.streak = 0
		}
		l.endStep(c, m, l.limit, "")
		return
	}
	back := l.from
	switch {
	case !vain:
		l.upAt = m.clock + min(l.upPause, m.clock-l.began)
		l.upPause = min(1.5*l.upPause, longestPause)
	case l.hunting: // the next is a small step, at once, from what the jobs that were done take by Little's law
		l.hunting = false
		back = min(max(back, l.from*(1+more-d)), l.limit/try)
	default:
		l.upAt = l.pause(m, &l.upPause)
	}
	l.streak = 0
	l.endStep(c, m, max(back, l.from), "more brought nothing")
}

// leap goes on with a hunt before the last step is confirmed, if nothing speaks against it: jobs that take seconds would make it last for
// minutes. What was measured before the first leap remains the measure of all.
func (l *laneControl) leap(m *moment, v *Lane, slower bool, ceiling float64) bool {
	if !l.hunting || slower || l.watch.span < leapSpan || m.saturated(v) || m.scarce() != "" {
		return false
	}
	few := l.ref.telling < fewEnds && l.limit*hunt <= freely
	if (l.leapt >= leaps || l.span(v) < leapSpan) && !few {
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
	if !saturated && l.watch.doubt() > noise {
		return
	}
	to := min(l.limit*l.factor, l.limit-1)
	if !l.watch.blind { // fewer jobs than they use processors cannot use as much
		to = max(to, math.Ceil(l.watch.cpu/l.watch.span-0.1))
	}
	if to >= float64(l.cfg.Min) && to <= l.limit-0.5 {
		l.beginStep(c, m, to, tryingDown, "trying less")
	}
}

// judgeDown keeps a lower limit if it has cost nothing.
func (l *laneControl) judgeDown(c *Controller, m *moment, v *Lane) {
	more, d := gain(&l.ref, &l.watch)
	loss, step := -more, 1-l.limit/l.from
	missed := l.ref.span > 0 && !l.ref.blind && l.used() < -step/2*l.ref.cpu/l.ref.span && l.near(m, v) && l.watch.span >= 2*m.dt // at once, where a slot is half of everything
	if l.watch.span < l.span(v) && !missed {
		return
	}
	busy := m.host.Busy >= 0 && l.watch.busy >= stillFull*m.target*l.watch.span || v.Cores > 0 && !l.watch.blind && l.watch.cpu >= stillFull*v.Cores*l.watch.span
	near, allowed := l.near(m, v), 1.5*shows
	if l.watch.span >= clearSpan {
		allowed = shows
	}
	unused := near && l.used() < -allowed*l.cores(m, v)
	if near && !busy && !unused && l.watch.span < clearSpan {
		return
	}
	if busy && l.short > rarely && l.watch.span < min(longestWatch, busyWalls*l.long(v)) { // jobs that compute may have met by chance
		return
	}
	if !busy && !unused && math.Abs(loss-leastLoss*step) < d && l.watch.span < l.patience(v) {
		return
	}
	steady := l.short <= rarely // then processors say it, and counting is only noise
	if busy && (steady && !unused && loss < step/2+d || loss < step/2) || !unused && loss < leastLoss*step && d < step {
		l.elastic, l.streak = 0, 0
		l.downAt = m.clock
		l.hunting = false
		l.factor = max(retreatMost, l.factor*retreat)
		l.endStep(c, m, l.limit, "")
		return
	}
	l.factor, l.streak = retreat, 0
	l.elastic = min(max(loss/max(step, 1e-9), 0), 1)
	l.downAt = max(l.pause(m, &l.downPause), m.clock+min(longestPause, step*(m.clock-l.began)/trialCost))
	l.endStep(c, m, l.from, "less cost something")
}
