package scheduler

import "time"

// PaceStep is the distance of two places of a Pace without better knowledge: about what two connections to an ordinary server get through.
const PaceStep = 150 * time.Millisecond

const (
	leastHold = 5 * time.Second
	mostHold  = time.Hour // a line that is longer begins again from the front
)

// Pace spreads the times at which the put-off jobs of one destination come back, at about the rate at which they can be served, so that neither
// a backlog nor a host that is back causes a rush, and a job is not taken out and put back in vain. The zero value is an empty line. It may be
// forgotten once Next has passed.
type Pace struct {
	Next time.Time     // the next free place
	Step time.Duration // distance of two places; 0 means PaceStep
}

// Due gives the next place that is not before until, at least 5 s from now and at most an hour beyond that. spread draws from 0 to 1.
func (p *Pace) Due(now, until time.Time, spread func() float64) time.Time {
	if p.Step <= 0 {
		p.Step = PaceStep
	}
	earliest := now.Add(leastHold)
	if until.After(earliest) {
		earliest = until
	}
	if p.Next.Before(earliest) || p.Next.After(earliest.Add(mostHold)) {
		p.Next = earliest
	}
	at := p.Next
	p.Next = at.Add(p.Step)
	return at.Add(time.Duration(spread() * float64(p.Step+time.Second)))
}

// heapOf is about how far two polls of the sets are apart: what is put off comes back in heaps of so much time.
const heapOf = 5 * time.Second

// LineRoom is how many jobs may wait for one destination before others are put off, in a window of so many jobs of which inHand are taken; least is
// what every destination has. While half of the window is free, nobody is in anybody's way: one may have the other half. While a quarter is free, one that
// gets through a job in so short a time (step; 0: not known) has room for what it gets through until the next poll, or most of each heap would
// be put off again.
func LineRoom(least, window, inHand int, step time.Duration) int {
	switch {
	case inHand < window/2:
		return max(least, window/2)
	case step <= 0 || inHand >= window*3/4:
		return least
	}
	return max(least, min(window/2, int(heapOf/step)))
}
