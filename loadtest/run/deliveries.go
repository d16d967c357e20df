package run

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/queueville/queueville/loadtest/mastodondata"
	"github.com/queueville/queueville/loadtest/scenario"
	"github.com/queueville/queueville/loadtest/simulate"
	"github.com/queueville/queueville/loadtest/sink"
	"github.com/queueville/queueville/loadtest/world"
)

// DeliveryOptions say what is pushed to whom, when only the generator runs.
type DeliveryOptions struct {
	Scenario *scenario.Scenario     // in its small form
	Data     *mastodondata.Data     // the accounts that send
	Redis    redis.UniversalClient  // of Sidekiq
	Port     int                    // that the receivers listen on
	MaxJobs  int                    // at most; 0 means 200,000
	Progress func(float64, *Pushed) // told once a second how far it is, 0 to 1; may be nil
}

// Pushed is what the generator has done.
type Pushed struct {
	Pushed     int     `json:"pushed"`
	Refused    int     `json:"refused"`             // Redis did not take it
	Late       int     `json:"late"`                // not pushed, because it would have been a second late
	Dropped    int     `json:"dropped"`             // by the bound on jobs
	LatestPush float64 `json:"latest_push_seconds"` // the greatest delay of a push
	Seconds    float64 `json:"seconds"`
	Partial    bool    `json:"interrupted"`
}

// Deliver pushes the deliveries that a scenario's world leads to, at their times, and runs nothing: for a staging Mastodon whose workers do. The jobs in
// between (posts being distributed, say) are taken to be done at once. The caller has made sure whose Redis it is. An end of ctx ends it early.
func Deliver(ctx context.Context, o DeliveryOptions) (*Pushed, error) {
	cfg, err := o.Scenario.Config(simulate.Queueville)
	if err != nil {
		return nil, fmt.Errorf("generate: %w", err)
	}
	setDefault(&o.MaxJobs, DefaultMaxJobs)
	if o.MaxJobs < 1 || o.MaxJobs > maxJobs {
		return nil, fmt.Errorf("generate: %d jobs at most; 1 to %d are possible", o.MaxJobs, maxJobs)
	}
	name := func(to int32) string { return sink.HostName(int(to)) }
	c := &conductor{
		world: cfg.World, length: o.Scenario.Length, books: newBooks(o.MaxJobs), meter: newMeter(cfg.World, cfg.Goals), dests: make([]dest, cfg.World.Instances()),
		onlyDeliveries: true,
		write: newWriter(o.Data, o.Scenario.Seed, time.Now(), func(to int32) string {
			return fmt.Sprintf("https://%s:%d", name(to), o.Port)
		}, name),
	}
	callCtx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	for _, id := range []world.ClassID{world.Delivery, world.LowDelivery} {
		if err := o.Redis.SAdd(callCtx, "queues", world.QueueNames[world.ClassTable[id].Queue]).Err(); err != nil {
			return nil, fmt.Errorf("generate: %w", err)
		}
	}
	c.begin()
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.generate(ctx, o.Redis)
	}()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-done:
			p := c.soFar()
			p.Partial = ctx.Err() != nil
			return p, nil
		case <-tick.C:
			if o.Progress != nil {
				p := c.soFar()
				o.Progress(min(1, p.Seconds/c.length.Seconds()), p)
			}
		}
	}
}

func (c *conductor) soFar() *Pushed {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.meter
	return &Pushed{
		Pushed: c.books.count[queued], Refused: m.refused, Late: m.late, Dropped: m.dropped, LatestPush: round(m.latest.Seconds()), Seconds: round(c.now().Seconds()),
	}
}

// maxUnfold bounds what is taken apart at one time: a deleted account tells everybody, and that many do at most.
const maxUnfold = 100_000

// unfold replaces jobs by the deliveries that come of them. What comes later is kept for later. The lock is held.
func (c *conductor) unfold(batch []arrival) []arrival {
	var out []arrival
	for n := 0; len(batch) > 0; n++ {
		a := batch[len(batch)-1]
		batch = batch[:len(batch)-1]
		if world.ClassTable[a.job.Class].Net == world.NetDelivery {
			out = append(out, a)
			continue
		}
		if a.score > 0 {
			a.job.Enqueued = a.score
			c.later(a.job)
			continue
		}
		if n >= maxUnfold {
			c.meter.dropped++
			continue
		}
		c.world.Spawn(&a.job, a.due, &c.seen, func(p world.Push) {
			switch {
			case p.After <= 0:
				p.Job.Enqueued = a.due
				batch = append(batch, arrival{job: p.Job, due: a.due, cause: a.job.ID})
			case !c.books.full() && len(c.outside) < c.books.most:
				c.later(p.Job)
			}
		})
	}
	return out
}
