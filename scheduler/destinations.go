package scheduler

import "time"

// Turns is deficit round-robin over lines of waiting jobs, one for each destination: a turn gives a line a quantum of cost, and its jobs start
// while its account is positive. What a job costs is charged when it starts, as an estimate, and corrected when it has ended, so an account may
// be overdrawn; the line then waits as many turns as that takes. A destination whose jobs hold their slots ten times as long gets a tenth as
// many starts, and so the same share of the slots. An account saves nothing up.
//
// The accounts are in the lines themselves, so a turn costs no look-up and no memory.
type Turns[L Line] struct {
	quantum float64
	ring    []L // those that take turns, next first, from head on
	head    int
	given   bool // the first has got this turn's quantum
}

// Line is a waiting line that takes turns: usually a pointer.
type Line interface {
	comparable
	// Account is the line's own; always the same.
	Account() *Account
}

// Account is what a line has in Turns. The zero value is that of a line that takes no turns and owes nothing.
type Account struct {
	credit float64
	in     bool
}

// In tells whether the line takes turns.
func (a *Account) In() bool { return a.in }

// mostOwed bounds what a line can owe, in quanta: nobody waits for longer than so many turns.
const mostOwed = 32

// SetQuantum sets what a turn is worth, in the unit of cost, for instance the mean seconds of a job.
func (t *Turns[L]) SetQuantum(q float64) { t.quantum = sane(q) }

// Join puts a line at the end of the ring, unless it is in it.
func (t *Turns[L]) Join(l L) {
	a := l.Account()
	if a.in {
		return
	}
	a.in = true
	if len(t.ring) == cap(t.ring) && t.head > len(t.ring)/2 { // the room in front comes before more memory
		n := copy(t.ring, t.ring[t.head:])
		clear(t.ring[n:])
		t.ring, t.head = t.ring[:n], 0
	}
	t.ring = append(t.ring, l)
}

// Leave takes a line out: nothing of it waits, or nothing of it can start at present. What it owes it goes on owing. It is quick for the line
// that Next named.
func (t *Turns[L]) Leave(l L) {
	a := l.Account()
	if !a.in {
		return
	}
	a.in, a.credit = false, min(a.credit, 0)
	if t.ring[t.head] == l {
		t.drop()
		return
	}
	for i := t.head + 1; i < len(t.ring); i++ {
		if t.ring[i] == l {
			var none L
			copy(t.ring[i:], t.ring[i+1:])
			t.ring[len(t.ring)-1] = none
			t.ring = t.ring[:len(t.ring)-1]
			return
		}
	}
}

// Clear takes all lines out.
func (t *Turns[L]) Clear() {
	for _, l := range t.ring[t.head:] {
		*l.Account() = Account{}
	}
	clear(t.ring)
	t.ring, t.head, t.given = t.ring[:0], 0, false
}

// Len is how many lines take turns.
func (t *Turns[L]) Len() int { return len(t.ring) - t.head }

// Next names the line whose turn it is; false if there is none. It stays its turn until it is charged for more than it has, or leaves.
func (t *Turns[L]) Next() (L, bool) {
	// Each turn brings every line a quantum nearer, so this ends.
	for n := t.Len(); n > 0; {
		l := t.ring[t.head]
		a := l.Account()
		if !t.given {
			t.given = true
			a.credit = max(min(a.credit+t.quantum, t.quantum), -mostOwed*t.quantum)
		}
		if a.credit > 0 || n == 1 || t.quantum == 0 { // alone, it waits for nobody
			return l, true
		}
		t.rotate()
	}
	var none L
	return none, false
}

// Charge books what a job of l costs that starts, or, with a negative cost, what it cost less than was booked.
func (t *Turns[L]) Charge(l L, cost float64) {
	a := l.Account()
	if cost != cost { //nolint:gocritic // NaN
		return
	}
	a.credit = max(min(a.credit-cost, t.quantum), -mostOwed*t.quantum)
	if a.credit <= 0 && a.in && t.given && t.Len() > 1 && t.ring[t.head] == l { // it has had its turn
		t.rotate()
	}
}

// rotate puts the first behind the last.
func (t *Turns[L]) rotate() {
	l := t.ring[t.head]
	t.drop()
	l.Account().in = false
	t.Join(l)
}

// drop takes the first out of the ring.
func (t *Turns[L]) drop() {
	var none L
	t.ring[t.head] = none
	t.head++
	t.given = false
	if t.head == len(t.ring) {
		t.ring, t.head = t.ring[:0], 0
	}
}

// RetryBudget bounds what retries take while first tries want it, in two ways, for a retry may be short and cost a request, or long and cost a
// slot: at most a share of all starts, and at most a share of the slots. Without it, a destination that fails makes its own retries the better
// part of the load. What first tries do not want is the retries' as well.
type RetryBudget struct {
	share   float64 // of starts and slots; 1: no bound
	perTry  float64
	most    float64
	tokens  float64
	last    time.Time
	scarce  time.Time // a first try last waited for a slot
	running int       // retries
}

const (
	// DefaultRetryShare is what retries may take where nobody says otherwise.
	DefaultRetryShare = 0.2

	retryFloor  = 1.0 // a second: also where hardly anything new comes, retries get on
	retryBursts = 30  // first tries' worth of credit at most
	// scarceFor is how long slots count as scarce after a first try had to wait for one: as long as most requests take to time out. Slots that
	// retries hold are not free the moment they are wanted.
	scarceFor = 10 * time.Second
)

// NewRetryBudget makes a budget of a share of starts and slots, above 0; from 1 on it bounds nothing, and DefaultRetryShare stands for nonsense.
func NewRetryBudget(share float64) *RetryBudget {
	if !(share > 0) {
		share = DefaultRetryShare
	}
	if share >= 1 {
		return &RetryBudget{share: 1}
	}
	per := share / (1 - share)
	most := max(1, per*retryBursts)
	return &RetryBudget{share: share, perTry: per, most: most, tokens: most}
}

// Share is the share that it is of.
func (b *RetryBudget) Share() float64 { return b.share }

// Running is how many retries run.
func (b *RetryBudget) Running() int { return b.running }

// Scarce notes that a first try waits and no slot is free.
func (b *RetryBudget) Scarce(now time.Time) { b.scarce = now }

// IsScarce tells whether first tries have had to wait for slots lately.
func (b *RetryBudget) IsScarce(now time.Time) bool {
	d := now.Sub(b.scarce)
	return !b.scarce.IsZero() && d >= 0 && d < scarceFor
}

// Slots is how many of so many slots retries may hold now.
func (b *RetryBudget) Slots(now time.Time, slots int) int {
	if b.share == 1 || !b.IsScarce(now) {
		return slots
	}
	return max(1, int(b.share*float64(slots)))
}

// May tells whether a retry may start now, of so many slots. contended is true when a first try could start in its place.
func (b *RetryBudget) May(now time.Time, contended bool, slots int) bool {
	if b.share == 1 {
		return true
	}
	d := now.Sub(b.last)
	if b.last.IsZero() || d < 0 {
		d = 0
	}
	b.last = now
	b.tokens = min(b.tokens+min(d.Seconds(), 60)*retryFloor*min(1, b.perTry), b.most)
	return b.running < b.Slots(now, slots) && (!contended || b.tokens >= 1)
}

// Tried counts the start of a job that was never tried before.
func (b *RetryBudget) Tried() { b.tokens = min(b.tokens+b.perTry, b.most) }

// Retried counts the start of a retry. What nobody else could have had costs no credit.
func (b *RetryBudget) Retried(contended bool) {
	b.running++
	if contended {
		b.tokens--
	}
}

// Ended counts the end of a retry.
func (b *RetryBudget) Ended() { b.running = max(0, b.running-1) }
