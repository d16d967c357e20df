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
