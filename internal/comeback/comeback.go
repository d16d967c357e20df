// Package comeback damps how a destination is used again that was away. Whatever was held back for it meanwhile, perhaps for hours, must not
// fall on it in the minute in which it answers again. It is pure: time is passed in, nothing is started and nothing is remembered beyond the
// two small values, Peak for what a destination took when it was well, and Damper for its return.
//
// It is a package of its own because two need it that may not know each other: activitypub, which keeps the states of destinations, and
// scheduler, which names it for simulators and plant models.
package comeback

import (
	"math"
	"time"
)

const (
	first  = 0.1             // of what it took before: the rate with which a destination begins
	double = 2 * time.Second // in which that doubles
	most   = 1.5             // times what it took before; twice is promised, and a window of a second may hold two bursts
	steady = 10 * time.Minute
	// After the steady minutes it goes on growing, doubling in this time, and is over once nothing was held back for so long. An end by the
	// clock would be the storm, only later.
	loosen = 2 * time.Minute
	over   = time.Minute
	least  = 0.5 // a second: also a destination that took next to nothing gets on
	burst  = 0.25
)

// Damper holds back requests to a destination that has come back: its rate begins with a tenth of what it took before, doubles every two
// seconds, stays within one and a half of it for ten minutes, and then grows slowly until it holds nothing back any more. The zero value
// holds nothing back.
type Damper struct {
	before float64 // requests a second
	tokens float64
	since  time.Time
	last   time.Time // tokens were counted up
	held   time.Time // something was held back
}

// Reopen begins at the given time, with the rate that the destination took before it was away, in requests a second.
func Reopen(now time.Time, before float64) Damper {
	if !(before > 0) || math.IsInf(before, 0) {
		before = 0
	}
	return Damper{before: max(before, least), tokens: 1, since: now, last: now, held: now}
}

// Rate is how many requests a second may start now; infinite when it is over.
func (d *Damper) Rate(now time.Time) float64 {
	if d.before == 0 {
		return math.Inf(1)
	}
	age := max(now.Sub(d.since), 0)
	if age >= steady {
		if now.Sub(d.held) >= over {
			return math.Inf(1)
		}
		return d.before * most * math.Exp2(float64(age-steady)/float64(loosen))
	}
	return max(least, d.before*min(first*math.Exp2(float64(age)/float64(double)), most))
}

// Wait is after what time to ask again; 0 when a request may start now. Count it with Take.
func (d *Damper) Wait(now time.Time) time.Duration {
	if d.before == 0 {
		return 0
	}
	if now.Before(d.since) { // the clock went back
		d.since, d.last, d.held = now, now, now
	}
	rate := d.Rate(now)
	if math.IsInf(rate, 1) {
		*d = Damper{}
		return 0
	}
	if passed := now.Sub(d.last); passed > 0 {
		d.tokens = min(d.tokens+passed.Seconds()*rate, max(1, rate*burst))
		d.last = now
	}
	if d.tokens < 1 {
		d.held = now
		return max(time.Millisecond, time.Duration((1-d.tokens)/rate*float64(time.Second)))
	}
	return 0
}

// Take counts a request that starts.
func (d *Damper) Take() {
	if d.before > 0 {
		d.tokens--
	}
}

// Allow is Wait and Take in one: whether a request may start now, which is counted then, and otherwise after what time to ask again.
func (d *Damper) Allow(now time.Time) (ok bool, wait time.Duration) {
	if wait = d.Wait(now); wait > 0 {
		return false, wait
	}
	d.Take()
	return true, 0
}

// Over is true for the zero value, and once nothing is held back any more.
func (d *Damper) Over() bool { return d.before == 0 }

const (
	slot      = 10 * time.Second
	shortSlot = 5 * time.Second // a rate of less time than this would be a burst
)

// Peak remembers the greatest rate of a destination in its last good minute, for Reopen: a count for each ten seconds. The zero value knows
// nothing. It is kept for every destination, so it is small.
type Peak struct {
	at, last int64 // Unix nanoseconds: of the present count, and of its last request
	count    int32
	recent   [6]float32 // a second
}

// Add counts one request that was answered.
func (p *Peak) Add(now time.Time) {
	p.last = now.UnixNano()
	switch d := time.Duration(p.last - p.at); {
	case d >= 0 && d < slot:
	case d < 0:
		p.at = p.last
	default:
		p.turn(d)
	}
	if p.count < math.MaxInt32 {
		p.count++
	}
}

// turn begins a new count, so long after the present one began.
func (p *Peak) turn(d time.Duration) {
	if p.at == 0 {
		p.at = p.last
		return
	}
	if d >= slot*time.Duration(len(p.recent)) {
		// What was long ago says something as well, but less: an outage must not make it forget all.
		best := float32(p.Rate() / 2)
		*p = Peak{at: p.last, last: p.last}
		p.recent[0] = best
		return
	}
	for ; d >= slot; d -= slot {
		copy(p.recent[1:], p.recent[:])
		p.recent[0] = float32(p.count) / float32(slot.Seconds())
		p.count = 0
		p.at += int64(slot)
	}
}

// Rate is the greatest rate of the last minute in which there was any, in requests a second.
func (p *Peak) Rate() float64 {
	best := float64(p.count) / min(max(time.Duration(p.last-p.at), shortSlot), slot).Seconds()
	for _, r := range p.recent {
		best = max(best, float64(r))
	}
	return best
}
