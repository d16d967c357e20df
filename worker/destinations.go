package worker

import (
	"cmp"
	"slices"
	"time"

	"github.com/queueville/queueville/scheduler"
)

// Jobs wait by destination and, of each, first tries apart from retries: whether a retry may start is not for its destination alone to say.
const (
	tries = iota
	retries
	kinds
)

// destination is what is known of one destination's jobs. It exists while some of them wait or run.
type destination struct {
	name    string
	lines   [kinds]line
	active  int       // jobs running
	stalled bool      // its waiting jobs were shed; no more are let in until one of its jobs ends
	parked  bool      // the gate is not asked before until
	until   time.Time // see parked
	moved   time.Time // when one of its jobs last came, as the first, started or ended
	mean    float64   // seconds that a job holds its slot, lately; 0: none has ended
}

// line is one waiting line, first in, first out.
type line struct {
	dest    *destination
	kind    int
	items   []*item
	account scheduler.Account
}

// Account implements scheduler.Line.
func (l *line) Account() *scheduler.Account { return &l.account }

func (d *destination) waiting() int { return len(d.lines[tries].items) + len(d.lines[retries].items) }

const (
	meanOfOne   = 1.0 / 8   // what the last job counts in the mean of its destination
	meanOfAll   = 1.0 / 128 // and in that of all
	meanOfUsual = 1.0 / 32  // and in that of all that were not given up
	// retriesSeen is how long after the last first try retries may fill only their share of the window.
	retriesSeen = 5 * time.Second
	leastRoom   = 32 // retries that may wait all the same
	// parkedKept is how many jobs of a destination that takes few at present stay when others need the room.
	parkedKept = 8
	useDecay   = 0.99 // of the shares of slots, each sweepEvery: half in 17 s

	// A destination of which nothing was heard for so long makes room for others: some times as long as jobs take lately, for a busy host is
	// late with all of its requests, within bounds.
	stallTimes                  = 3
	leastPatience, mostPatience = time.Second, 5 * time.Second
)

// destination finds the destination of a name, or makes it. mu is held.
func (l *lane) destination(name string, now time.Time) *destination {
	d := l.dests[name]
	if d == nil {
		d = &destination{name: name, moved: now}
		for kind := range d.lines {
			d.lines[kind].dest, d.lines[kind].kind = d, kind
		}
		l.dests[name] = d
	}
	return d
}

// forgetIdle forgets a destination of which nothing waits or runs. mu is held.
func (l *lane) forgetIdle(d *destination) {
	if d.active == 0 && d.waiting() == 0 && l.dests[d.name] == d {
		delete(l.dests, d.name)
	}
}

// push lets the lines of a destination take turns in which something waits. mu is held.
func (l *lane) push(d *destination) {
	if d.parked {
		return
	}
	for kind := range d.lines {
		if len(d.lines[kind].items) > 0 {
			l.turns[kind].Join(&d.lines[kind])
		}
	}
}

// patience is how long nothing need be heard of a destination with jobs running. mu is held.
func (l *lane) patience(d *destination) time.Duration {
	usual := time.Duration(max(d.mean, l.usual) * stallTimes * float64(time.Second))
	return min(max(usual, leastPatience), mostPatience)
}

// empty takes all waiting jobs of a destination out. mu is held.
func (l *lane) empty(d *destination) (out []*item) {
	for kind := range d.lines {
		out = append(out, l.cut(&d.lines[kind], 0, len(d.lines[kind].items))...)
	}
	return out
}

// cut takes some jobs out of a line to settle them otherwise. mu is held.
func (l *lane) cut(ln *line, from, to int) []*item {
	if from >= to {
		return nil
	}
	out := slices.Clone(ln.items[from:to])
	for _, it := range out {
		it.state = settling
	}
	ln.items = slices.Delete(ln.items, from, to)
	if len(ln.items) == 0 {
		ln.items = nil
		l.turns[ln.kind].Leave(ln)
	}
	l.waiting[ln.kind] -= len(out)
	return out
}

// turn names the line whose job is next: a retry's if the budget allows one, else a first try's. It is nil when there is none. mu is held.
func (l *lane) turn(now time.Time) *line {
	try, contended := l.turns[tries].Next()
	if l.turns[retries].Len() > 0 && l.budget.May(now, contended, l.limit) {
		try, _ = l.turns[retries].Next()
	}
	return try
}

// startable tells whether there is anything to ask the gate about. mu is held.
func (l *lane) startable(now time.Time) bool {
	return l.turns[tries].Len() > 0 || l.turns[retries].Len() > 0 && l.budget.May(now, false, l.limit)
}

// take takes the first job of a line, which starts. mu is held.
func (l *lane) take(ln *line, now time.Time) *item {
	d := ln.dest
	it := ln.items[0]
	ln.items[0] = nil
	ln.items = ln.items[1:]
	contended := ln.kind == retries && l.turns[tries].Len() > 0
	it.charged = cmp.Or(d.mean, l.mean)
	l.turns[ln.kind].Charge(ln, it.charged)
	if len(ln.items) == 0 {
		ln.items = nil
		l.turns[ln.kind].Leave(ln)
	}
	if ln.kind == retries {
		l.budget.Retried(contended)
	} else {
		l.budget.Tried()
	}
	l.started[ln.kind]++
	d.moved = now
	d.active++
	l.waiting[ln.kind]--
	l.running++
	it.state = running
	it.started = now
	return it
}

// ended takes in that a job has given its slot back. mu is held.
func (l *lane) ended(it *item, now time.Time) {
	d := it.line.dest
	kind := it.line.kind
	l.running--
	if kind == retries {
		l.budget.Ended()
	}
	d.active--
	d.stalled, d.moved = false, now
	took := max(now.Sub(it.started).Seconds(), 1e-6)
	l.used[kind] += took
	l.turns[kind].Charge(it.line, took-it.charged) // what it really cost
	if d.mean == 0 {
		d.mean = took
	}
	d.mean += (took - d.mean) * meanOfOne
	if l.mean == 0 {
		l.mean = took
	}
	l.mean += (took - l.mean) * meanOfAll
	if took < mostPatience.Seconds() { // what took longer was, as a rule, given up
		l.usual += (took - l.usual) * meanOfUsual
	}
	for kind := range l.turns {
		l.turns[kind].SetQuantum(l.mean)
	}
	l.push(d)
	l.forgetIdle(d)
}

// park does not ask the gate about a destination before a time. mu is held.
func (l *lane) park(d *destination, now, until time.Time) {
	for kind := range d.lines {
		l.turns[kind].Leave(&d.lines[kind])
	}
	d.until = until
	if !d.parked {
		d.parked = true
		l.parked = append(l.parked, d)
	}
	if l.wakeAt.IsZero() || until.Before(l.wakeAt) {
		l.wakeAt = until
		wait := max(until.Sub(now), time.Millisecond)
		if l.wake == nil {
			l.wake = time.AfterFunc(wait, l.unpark)
		} else {
			l.wake.Reset(wait)
		}
	}
}

// unpark lets destinations take turns again whose time has come.
func (l *lane) unpark() {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wakeAt = time.Time{}
	list := l.parked
	l.parked = l.parked[:0]
	for _, d := range list {
		switch {
		case !d.until.After(now):
			d.parked = false
			l.push(d)
		case l.closed: // nothing starts any more
			d.parked = false
		default:
			l.parked = append(l.parked, d)
			if l.wakeAt.IsZero() || d.until.Before(l.wakeAt) {
				l.wakeAt = d.until
			}
		}
	}
	clear(list[len(l.parked):])
	if !l.wakeAt.IsZero() {
		l.wake.Reset(max(l.wakeAt.Sub(now), time.Millisecond))
	}
	l.spawn(now)
}

// roomOf is how many jobs may wait for a destination here. mu is held.
func (l *lane) roomOf(d *destination) int {
	p, ok := l.gate.(Pacer)
	if !ok {
		return l.perDest
	}
	return scheduler.LineRoom(l.perDest, l.window, l.here(), p.Pace(d.name))
}

// crowded tells whether a retry should not wait here: there are enough of them, the window is nearly full, and first tries come. mu is held.
func (l *lane) crowded(now time.Time) bool {
	share := l.budget.Share()
	return share < 1 && now.Sub(l.triedAt) < retriesSeen && l.here() >= l.window*3/4 && l.waiting[retries] >= max(leastRoom, int(share*float64(l.window)))
}

// nudge looks again whether something may start that might not, for reasons that pass with time.
func (l *lane) nudge(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for kind := range l.used {
		l.used[kind] *= useDecay
	}
	l.spawn(now)
}

// DestinationLoad is what a worker has of one destination.
type DestinationLoad struct {
	Name    string  // "" for jobs that share no limit
	Waiting int     // fetched and not started
	Retries int     // of these, jobs that have failed before
	Running int     // jobs
	Seconds float64 // that a job holds its slot, lately; 0: not known
	Paced   bool    // the next one starts at a time that the gate has named
	Stalled bool    // it does not answer, and its jobs have made room for others
}

// Destinations lists those of which most waits, at most n.
func (w *Worker) Destinations(n int) []DestinationLoad {
	l := w.lane
	l.mu.Lock()
	list := make([]DestinationLoad, 0, len(l.dests))
	for _, d := range l.dests {
		list = append(list, DestinationLoad{
			Name: d.name, Waiting: d.waiting(), Retries: len(d.lines[retries].items), Running: d.active, Seconds: d.mean, Paced: d.parked, Stalled: d.stalled,
		})
	}
	l.mu.Unlock()
	slices.SortFunc(list, func(a, b DestinationLoad) int {
		return cmp.Or(cmp.Compare(b.Waiting, a.Waiting), cmp.Compare(b.Running, a.Running), cmp.Compare(a.Name, b.Name))
	})
	return slices.Clip(list[:min(max(n, 0), len(list))])
}

// RetryLoad is what retries take of a worker.
type RetryLoad struct {
	Share   float64 // of starts and slots that they may take while first tries want them; 1: all
	Used    float64 // of the time that slots were held, lately
	Running int
	Waiting int
	Slots   int    // that they may hold now
	Scarce  bool   // first tries have had to wait for slots lately, so the share holds
	Started uint64 // retries, since the start
	Tried   uint64 // first tries, since the start
}

// Retries is what retries take at present.
func (w *Worker) Retries() RetryLoad {
	l := w.lane
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	r := RetryLoad{
		Share: l.budget.Share(), Running: l.budget.Running(), Waiting: l.waiting[retries], Slots: l.budget.Slots(now, l.limit), Scarce: l.budget.IsScarce(now),
		Started: l.started[retries], Tried: l.started[tries],
	}
	if all := l.used[tries] + l.used[retries]; all > 0 {
		r.Used = l.used[retries] / all
	}
	return r
}
