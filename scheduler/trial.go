package scheduler

import "math"

const (
	hunt     = 2.0  // factor of a step up at most
	huntFast = 4.0  // the same when demand and cost say that the lane is very far from what it needs
	try      = 1.25 // factor of a step up that is repeated after it brought nothing
	tryMost  = 1.4  // the same where counting is so noisy that less would show nothing
	trust    = 1.5  // times the limit that was last shown to be of use: so far a lane that computes grows by what is idle
	leaps    = 3    // doublings before one has to be confirmed, as long as nothing has ever brought nothing
	leapSpan = 0.7  // seconds between two of them
	freely   = 32   // slots up to which that goes on while next to nothing has ended

	band  = 0.03 // of the processors idle: less is not worth growing for
	hasty = 0.10 // the same by seconds watched: short looks err

	retreat     = 0.85 // factor of a step down; squared after one that cost nothing, and so on, to
	retreatMost = 0.6
	calm        = 0.015 // of the processors: with so many idle after a step down, nothing was lost
	clearSpan   = 3.0   // seconds until the use of processors is known to a hundredth

	leastGain  = 0.15 // of what a step would bring if throughput followed: less, and it is taken back
	leastLoss  = 0.10 // of what a step down would cost if throughput followed: less, and it is kept
	leastUse   = 0.33 // the same for the use of processors, where they are all in use
	littleLoss = 0.01 // of the throughput, since the first step down of a series, where it is known to
	precise    = 0.04 // relative
	inflation  = 1.3  // of the run time without more throughput: the step is taken back at once
	noise      = 0.07 // relative: with more than this a step down shows nothing
	changed    = 0.25 // of throughput: what was found out before holds no more

	othersLook   = 0.75 // seconds for which jobs have to be others than before, at least
	firstPause   = 2.0  // seconds after a step that was taken back until the next, doubling to
	longestPause = 60.0
	enjoyed      = 10.0 // seconds for which what has just been found to be of use is not tried without, while processors are idle
	eagerPause   = 8.0  // a lane that pauses no longer than this may still try great steps
	pausePer     = 8.0  // times as long as a step takes
	trialCost    = 0.02 // of the throughput at most, for trying less
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

// room is how many more cores the lane may use by what was watched: idle ones, or those of its part. open: they are worth growing for; shut: they are
// not; neither: it has not been watched for long enough. Where nobody knows, room is Unknown, and open.
func (l *laneControl) room(c *Controller, m *moment, v *Lane, w *watch) (room float64, open, shut bool) {
	room, open = Unknown, true
	need := max(band, hasty/max(w.span, 1e-9))
	if m.target > 0 {
		idle := w.idle()
		open, shut = idle > need*m.host.Cores, idle <= band*m.host.Cores
		room = max(0, idle) / max(1, float64(c.full))
		if l.hungry {
			room, open, shut = max(room, l.fair-l.used), true, false
		}
		if m.poor {
			room, open, shut = max(room, m.quarter-c.ours), true, false
		}
	}
	if v.Cores > 0 && !w.blind && w.span > 0 {
		left := w.own / w.span
		open, shut = open && left > need*v.Cores, shut || left <= band*v.Cores
		if left = max(0, left); room < 0 || left < room {
			room = left
		}
	}
	return room, open, shut
}

// computes: the lane uses so much of the processors that could be its own that its use shows how it gets on.
func (l *laneControl) computes(m *moment, v *Lane, w *watch) bool {
	of := v.Cores
	if m.target > 0 {
		if left := m.target - max(0, m.others)*m.host.Cores; of <= 0 || left < of {
			of = left
		}
	}
	return of > 0 && !w.blind && w.cores() > computing*of
}

// consider decides whether to try something, when the present limit has been watched for long enough.
func (l *laneControl) consider(c *Controller, m *moment, v *Lane, ceiling float64, by Bound) {
	if l.watch.span < l.span(v) {
		return
	}
	l.surprise(m, v)
	if l.watch.span > longestWatch {
		l.ref, l.refAt, l.watch = l.watch, l.limit, watch{}
		return
	}
	room, open, shut := l.room(c, m, v, &l.watch)
	scarce := m.scarce()
	switch {
	case shut && m.others > quietOthers:
		l.bound = ByOthers
	case shut:
		l.bound = ByCPU
	case l.limit >= ceiling:
		l.bound = by
	case scarce != "":
		l.bound = scarce
	case m.clock < l.upAt:
		l.bound = ByGain
	case !open:
		return
	default:
		l.bound = ByStart
	}
	if m.clock < l.holdTill {
		return
	}
	if l.bound == ByStart {
		if c.probing == nil || c.probing == l || open && c.probing.stage == tryingUp {
			l.growing(c, m, v, room, ceiling)
		}
		return
	}
	// Perhaps less does it too.
	if c.probing == nil && l.bound != scarce && m.clock >= l.downAt && (shut || m.clock >= l.grownAt+enjoyed) && l.slots() > l.cfg.Min {
		l.shrinking(c, m, v, shut)
	}
}

// surprise: what the same limit does has changed, so what was found out about it holds no more.
func (l *laneControl) surprise(m *moment, v *Lane) {
	if l.ref.span == 0 || l.refAt != l.limit {
		return
	}
	off, d := gain(&l.ref, &l.watch, l.computes(m, v, &l.ref))
	off = math.Abs(off)
	wallWas, wallIs := l.ref.meanWall(), l.watch.meanWall()
	slower := wallWas > 0 && wallIs > 0 && math.Abs(math.Log(wallIs/wallWas)) > math.Log(1+2*changed)+2*counted(&l.ref, &l.watch)
	idler := m.target > 0 && l.watch.span >= 2*l.watch.meanLong() && l.watch.idle()-l.ref.idle() > changed*m.host.Cores
	if off > max(changed, 3*d) || slower && l.watch.done >= fewEnds || idler {
		l.upPause, l.downPause = firstPause, firstPause
		l.downAt, l.upAt = m.clock, m.clock
		l.ref = watch{}
		l.base = l.watch
	}
}

// otherwise looks whether the lane's jobs are others than before: they computed, and the processors that they used are idle now, or the other way
// round. Then what was found out holds no more, and it begins as at first, from the present limit. Whoever else has come to use less is no reason for
// that: then the lane is where it was, with more room.
func (l *laneControl) otherwise(c *Controller, m *moment) bool {
	if m.target < 0 || l.ref.span == 0 || l.ref.blind {
		return false
	}
	idle, cores, ok := l.looks.last(min(max(othersLook, spanWalls*l.ref.meanLong()), lastSpan-2*m.dt))
	idler, fewer, much := idle-l.ref.idle(), l.ref.cores()-cores, changed*m.host.Cores
	less := min(idler, fewer) > much && l.stage != tryingDown // which uses less of them, too
	more := max(idler, fewer) < -much && l.stage == watching && l.refAt == l.limit
	if !ok || !less && !more {
		return false
	}
	l.forget(c, m)
	l.hunting = less
	l.upPause, l.downPause = firstPause, firstPause
	l.upAt, l.downAt = m.clock, m.clock+firstPause
	return true
}

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
			l.downPause = min(2*l.downPause, longestPause)
			l.downAt = max(l.downAt, m.clock+l.downPause)
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

// growing tries more: by what is idle, where processors are about to bind, else by as much as can be shown to be of use.
func (l *laneControl) growing(c *Controller, m *moment, v *Lane, room, ceiling float64) {
	if l.watch.done == 0 && l.watch.span < longestWatch/2 && !l.hunting {
		return
	}
	seen := &l.watch
	if l.base.span > seen.span {
		seen = &l.base
	}
	computes := l.computes(m, v, seen)
	_, d := gain(seen, seen, computes)
	if math.IsInf(d, 1) && !l.hunting { // hardly anything ends, and nobody says what it does
		if l.limit < blindFactor*l.first && m.clock-l.blindAt > longestWatch {
			l.blindAt = m.clock
			l.to(min(ceiling, math.Ceil(l.limit*try)), "nothing ends, processors are idle")
			l.watch = watch{}
		}
		return
	}
	factor := l.huntFactor(v)
	if !l.hunting && !computes { // a step that counting could not show would be in vain; a great one is not repeated for ever
		most := tryMost
		if l.upPause <= eagerPause {
			most = hunt
		}
		if 1+4*d > most && l.base.span < longestWatch {
			return
		}
		factor = max(try, min(most, 1+4*d))
	}
	if to := l.aim(m, factor, room, ceiling); to >= l.limit+0.5 {
		l.beginStep(c, m, to, tryingUp, "trying more")
	}
}

func (l *laneControl) huntFactor(v *Lane) float64 {
	if need := l.need(v); need > hunt*l.limit && l.hunting {
		return min(huntFast, need/l.limit)
	}
	return hunt
}

// aim is how far a step up goes: no further than there are processors.
func (l *laneControl) aim(m *moment, factor, room, ceiling float64) float64 {
	to := max(l.limit*factor, l.limit+1)
	if used := l.watch.cores(); used > 0 && room >= 0 {
		fit := l.limit * (1 + room/used)
		to = min(to, max(l.limit+1, fit))
		if m.others > activeOthers && !m.poor && !l.hungry { // more than they leave would be taken back
			to = min(to, math.Floor(fit))
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

// judgeUp keeps a greater limit if it has brought something, or if no processor is left idle. How many jobs it takes to tell goes by the step: eight
// times as much shows with a few, a quarter more only with hundreds. What cannot be told counts for nothing, in either direction.
func (l *laneControl) judgeUp(c *Controller, m *moment, v *Lane, ceiling float64) {
	computes := l.computes(m, v, &l.watch)
	more, d := gain(&l.ref, &l.watch, computes)
	step := l.limit/l.from - 1
	if byEnds, doubt := gain(&l.ref, &l.watch, false); computes && byEnds > more && doubt < precise { // each of more jobs may take less of the processors
		more, d = byEnds, doubt
	}
	room, open, shut := l.room(c, m, v, &l.watch)
	// The first jobs to end are short ones, and of which classes are short nothing is known yet.
	credible := min(l.ref.telling, l.watch.telling) >= leastTelling && l.ref.span >= l.long(v) && l.ref.since-l.born >= 2*l.long(v)
	slower := credible && l.watch.done >= fewEnds && l.watch.meanWall() > (inflation+d)*l.ref.meanWall()
	inflated := slower && more < leastGain*step && l.watch.span >= max(closeSpan, l.long(v)) && !shut
	if !inflated && open && l.leap(m, v, slower, computes, room, ceiling) {
		return
	}
	told := math.Log(max(1+more, 1e-9)) // relative errors are of factors
	shown := more > leastGain*step && told > 2*d && l.watch.span >= min(l.span(v), max(leastSpan, l.long(v)))
	if !inflated && !shown && l.watch.span < l.span(v) {
		return
	}
	// Ends come in waves, so a second is the least that shows that there are no more of them. What is tried with processors idle costs nothing meanwhile.
	vain := !shut && l.watch.span >= closeSpan && (inflated || credible && told+2*d < math.Log(1+step/2) || told+2*d < math.Log(1+leastGain*step))
	if !shown && !shut && !vain && l.watch.span < l.patience(v) {
		return
	}
	l.elastic = min(max(more/max(step, 1e-9), 0), 1)
	// A hunt gets the benefit of the doubt, up to a point.
	doubtful := l.hunting && !vain && !slower && (more > leastGain*step || !credible) && l.limit <= max(2*blindFactor*l.first, freely)
	if shown && !inflated || shut || doubtful {
		l.upAt, l.grownAt = m.clock, m.clock
		l.downAt = m.clock + l.downPause
		l.factor = retreat
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
	l.endStep(c, m, max(back, l.from), "more brought nothing")
}

// leap goes on with a step before it is confirmed, if nothing speaks against it: jobs that take seconds would make a hunt last for minutes, and of the
// last few processors that are idle counting does not show what using them brings. What was measured before the first leap remains the measure of all.
func (l *laneControl) leap(m *moment, v *Lane, slower, computes bool, room, ceiling float64) bool {
	if slower || m.scarce() != "" || l.watch.span < leapSpan {
		return false
	}
	factor := l.huntFactor(v)
	if l.hunting {
		if computes && l.watch.span < l.long(v) { // of jobs that began together all may be waiting
			return false
		}
		few := l.ref.telling < fewEnds && l.limit*hunt <= freely
		if (l.leapt >= leaps || l.span(v) < leapSpan) && !few {
			return false
		}
	} else if factor = trust * l.from / l.limit; !computes || l.watch.span < l.span(v) {
		return false
	}
	to := l.aim(m, factor, room, ceiling)
	if l.hunting && to <= l.limit*try || to < l.limit+0.5 || !l.hunting && to > trust*l.from {
		return false
	}
	l.leapt++
	l.to(to, "trying more")
	l.watch = watch{}
	l.settle = m.clock + max(0.2, min(l.settling(), 1))
	return true
}

// shrinking tries less.
func (l *laneControl) shrinking(c *Controller, m *moment, v *Lane, shut bool) {
	if l.watch.since < l.grownAt { // it is of the time in which the slots of the last step were being filled, too
		l.watch, l.base = watch{}, watch{}
		return
	}
	if !shut && l.watch.counts() > noise {
		return
	}
	to := min(l.limit*l.factor, l.limit-1)
	// Fewer jobs than they use processors cannot use as much.
	to = max(to, math.Ceil(l.watch.cores()-0.1))
	if to >= float64(l.cfg.Min) && to <= l.limit-0.5 {
		l.beginStep(c, m, to, tryingDown, "trying less")
		if l.factor == retreat { // the first of a series
			l.top = l.ref
		}
		l.tight, l.idleBefore = shut, m.idleShare(v, &l.ref)
	}
}

// idleShare is the share of the processors that the lane might use which was idle.
func (m *moment) idleShare(v *Lane, w *watch) float64 {
	idle := w.idle() / max(m.host.Cores, 1)
	if v.Cores > 0 && w.span > 0 {
		idle = max(idle, w.own/w.span/v.Cores)
	}
	return idle
}

// judgeDown keeps a lower limit if it has cost nothing: of processors that were all in use, none is idle and the lane uses no fewer; else, as much ends
// as before.
func (l *laneControl) judgeDown(c *Controller, m *moment, v *Lane) {
	more, d := gain(&l.ref, &l.watch, false)
	loss, step := -more, 1-l.limit/l.from
	told := -math.Log(max(1+more, 1e-9))
	if !l.tight {
		if l.watch.span < l.span(v) || math.Abs(loss-leastLoss*step) < d && l.watch.span < l.patience(v) {
			return
		}
		l.endDown(c, m, loss < leastLoss*step && d < step, loss/max(step, 1e-9))
		return
	}
	used, span := l.watch.cores()/max(l.ref.cores(), 1e-9), l.watch.span
	idle := m.idleShare(v, &l.watch)
	lost := idle > band+hasty/span || used < 1-step || told-2*d > step
	switch {
	case told < -2*d && span >= l.span(v): // more got done with less
		l.endDown(c, m, true, 0)
	case span < 2*m.dt || !lost && span < closeSpan:
	case lost:
		l.endDown(c, m, false, 1)
	case span < clearSpan && idle > calm/3:
	case span < min(longestWatch, 4*l.long(v)) && !(idle < calm/3 && l.idleBefore < calm/3 && span > 2*closeSpan): // those that compute may have met by chance
	default:
		keep := idle < calm && used > 1-leastUse*step && told-d < step/2
		if more, d := gain(&l.top, &l.watch, false); d < precise { // processors that are all in use may still get less done, a little with each step
			keep = keep && more > -littleLoss
		}
		l.endDown(c, m, keep, 0)
	}
}

func (l *laneControl) endDown(c *Controller, m *moment, keep bool, elastic float64) {
	if keep {
		l.elastic = 0
		l.downAt = m.clock
		l.hunting = false
		l.factor = max(retreatMost, l.factor*retreat)
		l.endStep(c, m, l.limit, "")
		return
	}
	l.factor = retreat
	l.elastic = min(max(elastic, 0), 1)
	step := 1 - l.limit/l.from
	l.downAt = max(l.pause(m, &l.downPause), m.clock+min(longestPause, step*(m.clock-l.began)/trialCost))
	l.endStep(c, m, l.from, "less cost something")
}
