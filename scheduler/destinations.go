package scheduler

import (
	"math"
	"time"
)

// Turns is deficit round-robin over destinations: each turn gives a destination a quantum of cost, and it may start jobs while its account
// covers them. A destination whose jobs take ten times as long gets a tenth as many starts, and so the same share of the slots. The caller
// keeps who waits; an account exists only while its destination has something waiting, so it saves nothing up.
type Turns[K comparable] struct {
	quantum  float64
	ring     []K // those with something waiting, next first; head moves
	head     int
	given    bool // the first has got this turn's quantum
	accounts map[K]float64
}

// NewTurns makes Turns with a quantum in the unit of cost, for instance the mean seconds of a job: greater ones mean fewer, longer turns.
func NewTurns[K comparable](quantum float64) *Turns[K] {
	return &Turns[K]{quantum: sane(quantum), accounts: make(map[K]float64)}
}

// Join puts a destination at the end of the ring, unless it is in it.
func (t *Turns[K]) Join(k K) {
	if _, in := t.accounts[k]; !in {
		t.accounts[k] = 0
		t.ring = append(t.ring, k)
	}
}

// Leave takes a destination out: nothing of it waits any more.
func (t *Turns[K]) Leave(k K) { delete(t.accounts, k) }

// Len is how many destinations take turns.
func (t *Turns[K]) Len() int { return len(t.accounts) }

// Next names the destination whose job starts now, and charges it. cost is of its next job; of ready destinations only is one chosen, the
// others keep their places. It is false when none is ready.
func (t *Turns[K]) Next(cost func(K) float64, ready func(K) bool) (K, bool) {
	var none K
	passed, waited := 0, 0
	for passed < len(t.ring)-t.head && len(t.accounts) > 0 {
		k := t.ring[t.head]
		account, in := t.accounts[k]
		switch {
		case !in: // left
			t.drop()
			continue
		case !ready(k):
			passed++
			t.rotate()
			continue
		case !t.given:
			t.given = true
			account += t.quantum
			t.accounts[k] = account
		}
		price := sane(cost(k))
		if account < price && waited < mostWaited {
			waited++
			passed = 0
			t.rotate()
			continue
		}
		t.accounts[k] = max(account-price, -mostWaited*price)
		return k, true
	}
	return none, false
}

// mostWaited bounds the turns that are passed over in one call because an account does not cover its job yet; then one starts on credit.
const mostWaited = 64

// rotate puts the first behind the last.
func (t *Turns[K]) rotate() {
	k := t.ring[t.head]
	t.drop()
	t.ring = append(t.ring, k)
}

// drop takes the first out and gives its memory back now and then.
func (t *Turns[K]) drop() {
	t.head++
	t.given = false
	if t.head > 32 && t.head > len(t.ring)/2 {
		n := copy(t.ring, t.ring[t.head:])
		clear(t.ring[n:])
		t.ring, t.head = t.ring[:n], 0
	}
}

const (
	reopenFirst  = 0.1             // of what it took before: the rate with which a host that came back begins
	reopenDouble = 2 * time.Second // in which that doubles
	reopenMost   = 1.5             // times what it took before; twice is promised, and a window of a second may hold two bursts
	reopenFor    = 10 * time.Minute
	reopenLeast  = 0.5 // a second: also a host that took next to nothing gets on
	reopenBurst  = 0.25
)

// Reopening damps how a destination is used again that was away: its rate begins with a tenth of what it took before, doubles every two
// seconds and stays within one and a half of that for ten minutes. Whoever was held back for it meanwhile, perhaps for hours, cannot storm
// it. The zero value is not reopening.
type Reopening struct {
	before float64 // requests a second
	since  time.Time
	last   time.Time
	tokens float64
}

// Reopen begins at the given time, with the rate that the destination took before it was away.
func Reopen(now time.Time, before float64) Reopening {
	if !(before > 0) || math.IsInf(before, 0) {
		before = 0
	}
	return Reopening{before: max(before, reopenLeast), since: now, last: now, tokens: 1}
}

// Rate is how many requests a second may start now; infinite when it is over.
func (r *Reopening) Rate(now time.Time) float64 {
	if r.before == 0 || now.Sub(r.since) >= reopenFor {
		return math.Inf(1)
	}
	grown := reopenFirst * math.Exp2(float64(max(now.Sub(r.since), 0))/float64(reopenDouble))
	return max(min(reopenLeast, r.before), r.before*min(grown, reopenMost))
}

// Allow tells whether a request may start now, and counts it if so. Otherwise wait says after what time to ask again.
func (r *Reopening) Allow(now time.Time) (ok bool, wait time.Duration) {
	rate := r.Rate(now)
	if math.IsInf(rate, 1) {
		*r = Reopening{}
		return true, 0
	}
	if now.Before(r.since) { // the clock went back
		r.since, r.last = now, now
	}
	if d := now.Sub(r.last); d > 0 {
		r.tokens = min(r.tokens+d.Seconds()*rate, max(1, rate*reopenBurst))
		r.last = now
	}
	if r.tokens < 1 {
		return false, max(time.Millisecond, time.Duration((1-r.tokens)/rate*float64(time.Second)))
	}
	r.tokens--
	return true, 0
}

// RatePeak remembers the greatest rate of a destination in its last good minutes, for Reopen: a count for each ten seconds.
type RatePeak struct {
	at     time.Time // of the present count
	count  float64
	recent [6]float64 // a second
}

const peakSlot = 10 * time.Second

// Add counts one request that was answered.
func (p *RatePeak) Add(now time.Time) {
	p.turn(now)
	p.count++
}

func (p *RatePeak) turn(now time.Time) {
	switch d := now.Sub(p.at); {
	case d < 0 || p.at.IsZero():
		p.at = now
	case d >= peakSlot*time.Duration(len(p.recent)):
		// What was long ago says something as well, but less: an outage must not make it forget all.
		best := max(p.Rate()/2, 0)
		*p = RatePeak{at: now}
		p.recent[0] = best
	default:
		for ; d >= peakSlot; d -= peakSlot {
			copy(p.recent[1:], p.recent[:])
			p.recent[0] = p.count / peakSlot.Seconds()
			p.count = 0
			p.at = p.at.Add(peakSlot)
		}
	}
}

// Rate is the greatest rate of the last minute in which there was any, in requests a second.
func (p *RatePeak) Rate() float64 {
	best := p.count / peakSlot.Seconds()
	for _, r := range p.recent {
		best = max(best, r)
	}
	return best
}

// RetryBudget bounds what retries take: at most a share of all starts, while there are others to start. Without it, a destination that fails
// makes its own retries the better part of the load. Each first try pays in, each retry takes out.
type RetryBudget struct {
	perTry float64
	most   float64
	tokens float64
	last   time.Time
}

const (
	retryFloor  = 1.0 // a second: also where hardly anything new comes, retries get on
	retryBursts = 30  // first tries' worth of credit at most
)

// NewRetryBudget makes a budget of a share of all starts, between 0 and 1; 0.2 if it is none.
func NewRetryBudget(share float64) *RetryBudget {
	if !(share > 0 && share < 1) {
		share = 0.2
	}
	per := share / (1 - share)
	most := max(1, per*retryBursts)
	return &RetryBudget{perTry: per, most: most, tokens: most}
}

// Tried counts the start of a job that was never tried before.
func (b *RetryBudget) Tried() { b.tokens = min(b.tokens+b.perTry, b.most) }

// Allow tells whether a retry may start now, and counts it if so. contended is true when something that was never tried waits for the same
// slots; otherwise retries are welcome to what nobody else wants, and nothing is counted.
func (b *RetryBudget) Allow(now time.Time, contended bool) bool {
	d := now.Sub(b.last)
	if b.last.IsZero() || d < 0 {
		d = 0
	}
	b.last = now
	b.tokens = min(b.tokens+min(d.Seconds(), 60)*retryFloor*b.floorShare(), b.most)
	if !contended {
		return true
	}
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// floorShare keeps the floor from being more than the budget is meant to be.
func (b *RetryBudget) floorShare() float64 { return min(1, b.perTry) }
