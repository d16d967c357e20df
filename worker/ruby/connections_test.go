package ruby

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// lender lends names, as many at once as it has.
type lender struct {
	mu       sync.Mutex
	free     int
	seats    int // that it lends at most; 0: as many as are asked for
	out      map[*lent]bool
	names    int
	most     int
	changed  chan struct{}
	releases int
}

func newLender(n int) *lender {
	return &lender{free: n, out: map[*lent]bool{}, changed: make(chan struct{})}
}

type lent struct {
	*lender
	name           string
	seats          int
	lost, recalled chan struct{}
}

func (l *lender) Reserve(ctx context.Context, least, most int) (Reservation, error) {
	for {
		l.mu.Lock()
		if l.free > 0 {
			l.free--
			l.names++
			r := &lent{lender: l, seats: most, name: fmt.Sprintf("qv-%d", l.names), lost: make(chan struct{}), recalled: make(chan struct{})}
			l.out[r] = true
			if l.seats > 0 {
				r.seats = max(least, min(most, l.seats))
			}
			l.most = max(l.most, len(l.out))
			l.mu.Unlock()
			return r, nil
		}
		changed := l.changed
		l.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (l *lender) Why() string { return "others have them" }

// give adds n to what there is.
func (l *lender) give(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.free += n
	close(l.changed)
	l.changed = make(chan struct{})
}

// all are those that are lent.
func (l *lender) all() []*lent {
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []*lent
	for r := range l.out {
		list = append(list, r)
	}
	return list
}

func (r *lent) ApplicationName() string { return r.name }

func (r *lent) Left() time.Duration {
	if closed(r.lost) {
		return 0
	}
	return time.Minute
}
func (r *lent) Seats() int                { return r.seats }
func (r *lent) Limit() int                { return r.seats }
func (r *lent) Lost() <-chan struct{}     { return r.lost }
func (r *lent) Recalled() <-chan struct{} { return r.recalled }

func (r *lent) Release(context.Context) error {
	r.mu.Lock()
	delete(r.out, r)
	r.releases++
	r.mu.Unlock()
	r.give(1)
	return nil
}

// A process is started when its connections are there, and not before; what is over is given back.
func TestRubyWaitsForConnections(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, noPreload bool) { //nolint:thelper // it is the test itself
		l := newLender(0)
		r := newRig(t, func(c *Config) {
			c.Connections, c.NoPreload, c.MinProcs, c.MaxProcs = l, noPreload, 2, 2
		})
		r.await("it says why", func() bool { return r.s.Load().Waits == "others have them" })
		r.said("ruby process waits for database connections")
		if n := len(r.s.Processes()); n != 0 {
			t.Errorf("%d processes without connections", n)
		}
		l.give(1)
		r.ready(1)
		r.s.Submit([]Job{job("Tell", "t", "[]")})
		r.result("t")
		told, err := r.redis.LRange(t.Context(), "told", 0, -1).Result()
		if names := l.all(); err != nil || len(told) != 1 || len(names) != 1 || !strings.HasPrefix(told[0], names[0].name+" ") {
			t.Errorf("told %q, lent %v, %v", told, names, err)
		}
		r.await("the second one waits", func() bool { return r.s.Load().Waits != "" && r.s.Load().Problem == "" })
		l.give(1)
		r.ready(2)
		r.await("nobody waits", func() bool { return r.s.Load().Waits == "" })
		r.stop()
		if left := l.all(); len(left) != 0 || l.most > 2 {
			t.Errorf("%d not given back, at most %d lent", len(left), l.most)
		}
	})
}

// A process that is recalled finishes what it does; one whose connections are lost is killed soon, and its job comes back.
func TestRubyConnectionsEnd(t *testing.T) {
	t.Parallel()
	l := newLender(1)
	r := newRig(t, func(c *Config) { c.Connections = l })
	r.ready(1)
	r.s.Submit([]Job{job("Nap", "short", "[1.5]")})
	first := r.started("short")
	close(l.all()[0].recalled)
	if res := r.result("short"); res.Kind != Acked {
		t.Errorf("a job of a process that is recalled: %+v", res)
	}
	r.gone(first)
	r.await("another process", func() bool { return r.s.Load().Processes == 1 })
	r.s.Submit([]Job{job("Nap", "long", "[60]")})
	second := r.started("long")
	start := time.Now()
	close(l.all()[0].lost)
	if res := r.result("long"); res.Kind != Returned || res.Label != LabelStopping {
		t.Errorf("a job whose connections are lost: %+v", res)
	}
	if took := time.Since(start); took < lostGrace/2 || took > lostGrace+5*time.Second {
		t.Errorf("it was ended after %v", took)
	}
	r.gone(second)
	r.ready(1)
	if l.most > 1 {
		t.Errorf("%d lent", l.most)
	}
}

// One process fits, and the host comes to run the cron scheduler: its process takes the other's place.
func TestRubyCronTakesAPlace(t *testing.T) {
	t.Parallel()
	l := newLender(1)
	r := newRig(t, func(c *Config) {
		c.Connections, c.Leader, c.CronEvery = l, &fakeLeader{}, 100*time.Millisecond
	})
	r.await("the cron scheduler runs", func() bool { return r.s.Load().Cron })
	r.said("makes room for the one that runs the cron scheduler")
	if l.most > 1 {
		t.Errorf("%d lent", l.most)
	}
}

// fakeLeader always leads.
type fakeLeader struct{}

func (fakeLeader) Try(context.Context) (time.Time, error) { return time.Now().Add(time.Minute), nil }
func (fakeLeader) Release(context.Context) error          { return nil }
