package activitypub

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

const (
	outageHosts  = 5                // so many distinct hosts must fail …
	outageWindow = 30 * time.Second // … within this …
	outageShare  = 0.8              // … and be this share of all that were tried
	// evidenceWait is how long a network failure waits for a success somewhere else before it is believed.
	evidenceWait = 2 * time.Second
	// evidenceSpan is how far back a success still shows that the network works.
	evidenceSpan = time.Second
	// outageProbe is the time between two requests that start while it is us; outageHold is how long the others are held.
	outageProbe = time.Second
	outageHold  = 10 * time.Second
	// maxFailing bounds the hosts that are remembered as evidence; a handful decides.
	maxFailing = 1024
)

// outage tells a host's failure from ours: our DNS, our network, our clock. One answer from anywhere ends an outage. A failure is
// believed at once when another host answered in the last second; otherwise it waits up to two seconds for one to answer. If none does, and
// at least five hosts that worked before (or are new) failed within 30 s, it is us.
type outage struct {
	log *slog.Logger

	active    atomic.Bool  // read by Hosts.Acquire without the lock
	nextProbe atomic.Int64 // Unix nanoseconds

	mu      sync.Mutex
	since   time.Time
	reason  FailureKind
	failing map[string]time.Time // hosts whose latest result is a failure that was news, and when
	answers [64]answer           // the latest answers, as a ring
	next    int
	wake    chan struct{} // closed and replaced when an answer arrives while someone waits
	waiting int
	count   uint64 // outages so far
}

type answer struct {
	host string
	at   time.Time
}

func newOutage(log *slog.Logger) *outage {
	return &outage{log: log, failing: make(map[string]time.Time), wake: make(chan struct{})}
}

// answered notes that a host answered: the network works.
func (o *outage) answered(ctx context.Context, dest string, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.answers[o.next%len(o.answers)] = answer{dest, now}
	o.next++
	if len(o.failing) > 0 {
		delete(o.failing, dest)
	}
	if o.active.Load() {
		o.active.Store(false)
		clear(o.failing)
		o.log.InfoContext(ctx, "local outage is over", slog.Float64("run_s", now.Sub(o.since).Seconds()))
	}
	if o.waiting > 0 {
		close(o.wake)
		o.wake = make(chan struct{})
	}
}

// blames says whether the failure of a request to dest, started then, is our fault. It may wait up to evidenceWait. known says that
// the host was failing before: then its failure is no sign of anything, unless an outage is on.
func (o *outage) blames(ctx context.Context, dest string, kind FailureKind, started time.Time, known bool) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.active.Load() {
		return true
	}
	if known {
		return false
	}
	now := time.Now()
	o.note(dest, now)
	since := later(started, now.Add(-evidenceSpan))
	timer := time.NewTimer(evidenceWait)
	defer timer.Stop()
	for {
		if o.active.Load() {
			return true
		}
		if o.networkWorks(since) {
			return false
		}
		wake := o.wake
		o.waiting++
		o.mu.Unlock()
		decided := false
		select {
		case <-wake:
		case <-timer.C:
			decided = true
		case <-ctx.Done():
			decided = true
		}
		o.mu.Lock()
		o.waiting--
		if decided {
			break
		}
	}
	if o.networkWorks(since) {
		return false
	}
	o.prune(time.Now())
	if len(o.failing) < outageHosts {
		return o.active.Load()
	}
	o.declare(ctx, kind)
	return true
}

// networkWorks says whether too many hosts answered since then for it to be us.
func (o *outage) networkWorks(since time.Time) bool {
	answered := o.answeredSince(since)
	if answered == 0 {
		return false
	}
	failing := len(o.failing)
	return failing < outageHosts || float64(failing) < outageShare*float64(failing+answered)
}

// answeredSince counts the distinct hosts among the latest answers.
func (o *outage) answeredSince(since time.Time) int {
	var seen [len(o.answers)]string
	n := 0
next:
	for i := range min(o.next, len(o.answers)) {
		a := &o.answers[(o.next-1-i)%len(o.answers)]
		if a.at.Before(since) {
			break
		}
		for _, s := range seen[:n] {
			if s == a.host {
				continue next
			}
		}
		seen[n] = a.host
		n++
	}
	return n
}

func (o *outage) note(dest string, now time.Time) {
	if _, ok := o.failing[dest]; !ok && len(o.failing) >= maxFailing {
		o.prune(now)
		if len(o.failing) >= maxFailing {
			return
		}
	}
	o.failing[dest] = now
}

func (o *outage) prune(now time.Time) {
	for host, at := range o.failing {
		if now.Sub(at) > outageWindow {
			delete(o.failing, host)
		}
	}
}

func (o *outage) declare(ctx context.Context, kind FailureKind) {
	if o.active.Load() {
		return
	}
	o.since, o.reason = time.Now(), kind
	o.count++
	o.nextProbe.Store(0)
	o.active.Store(true)
	o.log.ErrorContext(ctx, "local outage: most hosts fail at once, so it is us; deliveries are deferred and nothing is counted against a host",
		slog.String("reason", kind.String()), slog.Int("failing_hosts", len(o.failing)))
	if o.waiting > 0 {
		close(o.wake)
		o.wake = make(chan struct{})
	}
}

// holds says whether a request must wait because of an outage of ours; one a second may go to see whether it is over.
func (o *outage) holds(now time.Time) (time.Time, bool) {
	if !o.active.Load() {
		return time.Time{}, false
	}
	next := o.nextProbe.Load()
	if now.UnixNano() >= next && o.nextProbe.CompareAndSwap(next, now.Add(outageProbe).UnixNano()) {
		return time.Time{}, false
	}
	return now.Add(outageHold), true
}

func (o *outage) state() (on bool, since time.Time, reason string, count uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.active.Load() {
		return false, time.Time{}, "", o.count
	}
	return true, o.since, o.reason.String(), o.count
}
