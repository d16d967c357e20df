package scheduler

import "math"

const (
	fewEnds      = 20
	leastTelling = 6
	leastSwing   = 0.15 // of the use of processors, about
	leastSpan    = 0.45 // seconds: ends that come in waves need two of them, and sensors need a moment
	closeSpan    = 1.0
	spanWalls    = 2.0
	lastSpan     = 4.0  // seconds, unless the noise asks for more
	longestWatch = 10.0 // seconds
	computing    = 0.25 // of the processors it could have: a lane that uses so much shows by them how it gets on
)

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
	spare   float64 // the host's cores not in use below the target, summed over seconds
	own     float64 // the same of the lane's own Cores
}

// halve makes what was measured count for less.
func (w *watch) halve() {
	for _, p := range []*float64{&w.span, &w.done, &w.telling, &w.work, &w.wall, &w.long, &w.cpu, &w.squares, &w.spare, &w.own} {
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
		w.own += (v.Cores - v.CPU) * m.dt
	}
	w.spare += m.spare * m.dt
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

// cores is how many the lane used.
func (w *watch) cores() float64 {
	if w.span <= 0 || w.blind {
		return 0
	}
	return w.cpu / w.span
}

// idle is how many cores nobody used, below the target; it may be negative.
func (w *watch) idle() float64 { return w.spare / max(w.span, 1e-9) }

// unsure is the relative standard error of the use of processors, by how it swings from look to look; looks within a job's time are not
// independent. Jobs that hardly compute take what they do in bursts, when they begin.
func (w *watch) unsure(computes bool) float64 {
	mean := w.cores()
	if mean <= 0 {
		return math.Inf(1)
	}
	swing := math.Sqrt(max(0, w.squares/w.span-mean*mean)) / mean
	if long := w.meanLong(); !computes {
		if long <= 0 {
			return math.Inf(1)
		}
		return max(leastSwing, swing) / math.Sqrt(w.span/max(leastSpan, 2*long))
	}
	return max(leastSwing/3, swing) / math.Sqrt(w.span/max(leastSpan, w.meanLong()))
}

// counted is the relative standard error of comparing what two watches counted, as if ends came at random; those of a busy lane come more
// evenly.
func counted(a, b *watch) float64 {
	if min(a.telling, b.telling) < 1 {
		return math.Inf(1)
	}
	return math.Sqrt(1/(a.telling+0.5) + 1/(b.telling+0.5))
}

// counts is the relative standard error of a comparison with another that is as long.
func (w *watch) counts() float64 {
	_, d := gain(w, w, false)
	return d
}

// gain is how much more was done in the second watch than in the first, relatively, and its standard error. It counts what has ended, in average
// jobs. Of a lane that computes, and where there is too little to count, the processor time that its jobs take shows more clearly that they get on.
func gain(a, b *watch, computes bool) (more, doubt float64) {
	if a.span <= 0 || b.span <= 0 {
		return 0, math.Inf(1)
	}
	was, is := a.work/a.span, b.work/b.span
	doubt = counted(a, b)
	if (computes || min(a.done, b.done) < fewEnds) && !a.blind && !b.blind {
		if d := math.Hypot(a.unsure(computes), b.unsure(computes)); d < doubt {
			was, is, doubt = a.cores(), b.cores(), d
		}
	}
	return is/max(was, 1e-9) - 1, doubt
}

// looks are the last looks at a lane, as many as fit into lastSpan seconds at four a second.
type looks struct {
	list [16]struct{ span, spare, cpu float64 } // seconds, core-seconds
	next int
}

func (r *looks) add(m *moment, v *Lane) {
	at := &r.list[r.next]
	at.span, at.spare, at.cpu = m.dt, m.spare*m.dt, v.CPU*m.dt
	r.next = (r.next + 1) % len(r.list)
}

// last is the mean of idle cores and of cores in use by the lane over at least so many seconds; none if there were not so many, or were not known.
func (r *looks) last(span float64) (idle, cores float64, ok bool) {
	var sum, spare, cpu float64
	for i := range r.list {
		at := &r.list[(r.next+len(r.list)-1-i)%len(r.list)]
		if at.span <= 0 || at.cpu < 0 {
			break
		}
		sum, spare, cpu = sum+at.span, spare+at.spare, cpu+at.cpu
		if sum >= span {
			return spare / sum, cpu / sum, true
		}
	}
	return 0, 0, false
}
