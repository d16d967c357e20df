package sink

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/queueville/queueville/loadtest/fediverse"
	"github.com/queueville/queueville/loadtest/world"
)

// Config is what a sink is.
type Config struct {
	World     *world.World
	Seed      uint64
	Keys      fediverse.Keys      // of those who may sign
	Authority fediverse.Authority // of the receivers' certificates
	Port      uint16              // that all receivers listen on; 0 finds one
}

// HostName is the name of an instance of a world: of a run's receivers and of a sink's.
func HostName(i int) string { return fmt.Sprintf("i%05d.fedi.test", i) }

// Hosts are the receivers of a world, one for each instance.
func Hosts(w *world.World) []fediverse.Host {
	hosts := make([]fediverse.Host, w.Instances())
	for i := range hosts {
		hosts[i] = fediverse.Host{Name: HostName(i), Class: string(w.Temper(int32(i), 0))}
	}
	return hosts
}

// Sink is running receivers. Its methods are safe for concurrent use.
type Sink struct {
	*fediverse.Fediverse
	live *live
}

// Start binds all addresses and serves. The world's clock starts with Begin, or with the first delivery.
func Start(ctx context.Context, cfg Config) (*Sink, error) {
	l := &live{world: cfg.World, busy: make([]busy, cfg.World.Instances()), tries: map[fediverse.Key]uint8{}}
	f, err := fediverse.Start(ctx, fediverse.Config{Hosts: Hosts(cfg.World), Seed: cfg.Seed, Keys: cfg.Keys, Authority: cfg.Authority, Port: cfg.Port, Live: l})
	if err != nil {
		return nil, fmt.Errorf("start the sink: %w", err)
	}
	return &Sink{Fediverse: f, live: l}, nil
}

// Seconds is how long ago the world's clock started; 0 when it has not.
func (s *Sink) Seconds() float64 {
	s.live.mu.Lock()
	defer s.live.mu.Unlock()
	if s.live.start.IsZero() {
		return 0
	}
	return time.Since(s.live.start).Seconds()
}

// maxTries bounds the remembered deliveries; of later ones every attempt is answered like the first.
const maxTries = 1 << 20

// live answers as the world says. What it draws is drawn from the delivery and the number of its attempt.
type live struct {
	world *world.World

	mu    sync.Mutex
	start time.Time // of the world's clock: the first connection
	busy  []busy
	tries map[fediverse.Key]uint8
}

// busy is how many requests an instance got within a second.
type busy struct {
	second int32
	sent   uint16
}

func (l *live) now() time.Duration {
	if l.start.IsZero() {
		l.start = time.Now()
	}
	return time.Since(l.start)
}

// Connecting implements fediverse.Live.
func (l *live) Connecting(host int) fediverse.Connecting {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Connecting(l.world.Temper(int32(host), l.now()))
}

// Answer implements fediverse.Live.
func (l *live) Answer(host int, key fediverse.Key) fediverse.Answer {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	job := world.Job{ID: uint64(key), Class: world.Delivery, Dest: int32(host), Author: -1, Retries: l.tries[key]}
	if _, known := l.tries[key]; known || len(l.tries) < maxTries {
		l.tries[key]++
	}
	b := &l.busy[host]
	if second := int32(now / time.Second); b.second != second {
		b.second, b.sent = second, 0
	}
	b.sent++
	return Answer(l.world, &job, now, int(b.sent))
}

// Connecting is how an instance of a temper takes a connection.
func Connecting(t world.Temper) fediverse.Connecting {
	switch t {
	case world.Dark:
		return fediverse.ConnectSilent
	case world.Refused:
		return fediverse.ConnectRefuse
	default:
		return fediverse.ConnectAccept
	}
}

// Answer is what the world says of a request of job: job.Retries is the number of requests before it, busy how many the instance got within
// this second.
func Answer(w *world.World, job *world.Job, now time.Duration, busy int) fediverse.Answer {
	a := w.Attempt(job, now, busy)
	switch a.Verdict {
	case world.Accepted:
		return fediverse.Answer{After: a.Took}
	case world.Final:
		return fediverse.Answer{After: a.Took, Status: http.StatusNotFound}
	case world.TimedOut:
		loris := w.Temper(job.Dest, now) == world.Loris
		return fediverse.Answer{Hang: !loris, Drip: loris}
	default:
		status := http.StatusServiceUnavailable
		if a.Limited {
			status = http.StatusTooManyRequests
		}
		return fediverse.Answer{After: a.Took, Status: status}
	}
}
