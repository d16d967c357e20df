package suite

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/queueville/queueville/internal/rubyapp"
	"github.com/queueville/queueville/internal/throwaway"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/queueville/queueville/bench/internal/jobs"
	"github.com/queueville/queueville/bench/internal/peers"
	"github.com/queueville/queueville/bench/internal/receiver"
)

const (
	rubyQueue   = "default" // of all classes, so that what is done is what was asked for, whatever the order of queues
	deliveryAim = 3000      // deliveries that wait all the time
	rubyAim     = 400       // Ruby jobs
	feedEvery   = 50 * time.Millisecond
	warmJobs    = 2500 // made and thrown away, so that the maker has signed all that it signs

	// bedNice is the niceness of whatever is compared, and of the inboxes: that of adaptive limits. What is compared is how much runs at once. At 0
	// the inboxes, which stand for other servers, would take a processor from a nicer worker for every single request, which other servers do not.
	bedNice = 5
)

// bed is what all runs of a part of the scheduler suite share: Postgres, the Ruby application, Redis, and receivers if there are deliveries.
type bed struct {
	*full

	server    *throwaway.RedisServer
	client    *redis.Client
	foreign   *process
	receivers []*receivers
	mixes     map[string]*rubyapp.Mix // by load; a status is made once in a bed's life
	runs      int
	yard      yardstick
}

// newBed starts the servers. Deliveries need receivers: one process for each configuration.
func newBed(ctx context.Context, o Options, inboxes ...receiver.Config) (b *bed, err error) {
	f, err := newFull(ctx, o)
	if err != nil {
		return nil, err
	}
	b = &bed{full: f, mixes: map[string]*rubyapp.Mix{}}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	if b.server, err = throwaway.Redis(ctx, throwaway.RedisConfig{Dir: o.Dir}); err != nil {
		return b, err
	}
	b.client = redis.NewClient(&redis.Options{Addr: b.server.Addr()})
	for _, cfg := range inboxes {
		cfg.Keys, cfg.Sample = f.db.keys, 512
		r, err := startReceivers(ctx, o, cfg)
		if err != nil {
			return b, err
		}
		b.receivers = append(b.receivers, r)
		if err := giveWay(r.process); err != nil {
			return b, err
		}
	}
	return b, f.reset(ctx)
}

func (b *bed) close() {
	for _, r := range b.receivers {
		r.stop(5 * time.Second)
	}
	if b.foreign != nil {
		b.foreign.stop(5 * time.Second)
	}
	if b.client != nil {
		_ = b.client.Close()
	}
	if b.server != nil {
		_ = b.server.Stop()
	}
	b.full.close()
}

// way is one way to run Queueville.
type way struct {
	name     string
	native   bool // an owning worker of deliveries; else full mode
	slots    int  // deliveries at once at most; 0: the default
	setting  setting
	adaptive bool
}

func (w way) String() string {
	switch {
	case w.adaptive:
		return "adaptive"
	case w.native:
		return strconv.Itoa(w.slots)
	}
	return fmt.Sprintf("%d × %d", w.setting.processes, w.setting.threads)
}

// giveWay makes all that a process runs as nice as whatever is compared.
func giveWay(p *process) error {
	for range 2 { // a thread may be started meanwhile, by one that was not nice yet
		if err := unix.Setpriority(unix.PRIO_PGRP, p.pid(), bedNice); err != nil {
			return fmt.Errorf("make %s nice: %w", p.name, err)
		}
	}
	return nil
}

// start starts a worker. What an earlier one left in Redis is gone before.
func (b *bed) start(ctx context.Context, w way) (*process, error) {
	p, err := b.launch(ctx, w)
	if err != nil || w.adaptive { // which are so by themselves
		return p, err
	}
	if err := giveWay(p); err != nil {
		p.stop(time.Second)
		return nil, err
	}
	return p, nil
}

func (b *bed) launch(ctx context.Context, w way) (*process, error) {
	limits := "fixed"
	if w.adaptive {
		limits = "adaptive"
	}
	if w.native {
		if b.foreign == nil {
			var err error
			if b.foreign, err = b.o.startForeign(ctx, b.server, b.client); err != nil {
				return nil, err
			}
		}
		s := sender{name: "queueville, " + w.String(), concurrency: w.slots, perHost: 8, args: []string{"--limits", limits, "--policy", "goals"}}
		if s.concurrency == 0 {
			s.concurrency = 512
		}
		return b.o.startSender(ctx, s, b.server, b.db, b.receivers[0])
	}
	return b.startQueueville(ctx, b.env(b.server), w.setting, "--limits", limits, "--policy", "goals")
}

// clear empties what a run leaves behind.
func (b *bed) clear(ctx context.Context) error {
	keys := []string{"queue:" + peers.Queue, "queue:" + rubyQueue, "queue:" + foreignQueue, "retry", "dead", "schedule", "queueville:scheduler:journal"}
	if err := b.client.Del(ctx, keys...).Err(); err != nil {
		return fmt.Errorf("empty the queues: %w", err)
	}
	return nil
}

// count is how many jobs have ended so far: deliveries that were received, and Ruby jobs.
func (b *bed) count(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	n, err := b.client.Get(ctx, "ran:count").Int64()
	if err != nil && !errors.Is(err, redis.Nil) {
		return 0, fmt.Errorf("count jobs: %w", err)
	}
	for _, r := range b.receivers {
		c, err := r.counts(ctx)
		if err != nil {
			return 0, err
		}
		if c.Bad > 0 {
			return 0, fmt.Errorf("%d wrong signatures", c.Bad)
		}
		n += c.Received
	}
	return n, nil
}

// feed keeps a queue filled.
type feed struct {
	queue string
	aim   int           // jobs that wait
	next  func() string // payload
}

// deliver feeds deliveries to the inboxes of the given receivers in turn: as many to one process as to the other, whatever their hosts.
func (b *bed) deliver(seed uint64, to ...int) feed {
	makers := make([]*jobs.Maker, len(to))
	for i, n := range to {
		makers[i] = jobs.NewMaker(seed+uint64(i), deliveryBytes-200, deliveryBytes+200, b.db.accounts(), b.receivers[n].Inboxes) //nolint:gosec // small
	}
	n := 0
	return feed{queue: peers.Queue, aim: deliveryAim, next: func() string {
		n++
		return makers[n%len(makers)].Next().Sidekiq(peers.Queue, time.Now())
	}}
}

// ruby feeds jobs of a mix, all on one queue.
func (b *bed) ruby(name string, shares []rubyapp.Share) feed {
	mix := b.mixes[name]
	if mix == nil {
		mix = rubyapp.NewMix(uint64(len(b.mixes))+1, b.db.data.Accounts, shares...)
		for range warmJobs {
			mix.Next()
		}
		b.mixes[name] = mix
	}
	return feed{queue: rubyQueue, aim: rubyAim, next: func() string {
		j := mix.Next()
		j.Queue = rubyQueue
		payload, _, _ := j.Payload(time.Now())
		return payload
	}}
}

// phase is a part of a run, with its load.
type phase struct {
	feeds  []feed
	length time.Duration
	keep   bool   // the load is that of the phase before
	begins func() // told when it begins; may be nil
}

// run starts a worker on full queues and follows it through the phases. Their beginnings, in seconds of the record, are returned too; the
// first begins when the first job has ended, so that starting Ruby is not counted.
func (b *bed) run(ctx context.Context, w way, phases ...phase) (r *record, begins []float64, err error) {
	limit := time.Minute
	for _, p := range phases {
		limit += p.length
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := b.clear(ctx); err != nil {
		return nil, nil, err
	}
	if err := b.fill(ctx, phases[0].feeds, true); err != nil {
		return nil, nil, err
	}
	r = &record{began: time.Now()}
	p, err := b.start(ctx, w)
	if err != nil {
		return nil, nil, err
	}
	defer p.stop(15 * time.Second)
	g, gctx := errgroup.WithContext(ctx)
	gctx, end := context.WithCancel(gctx)
	started := make(chan struct{})
	g.Go(func() error {
		counted := int64(-1)
		return r.follow(gctx, []*process{p}, &b.yard, func(ctx context.Context) (int64, error) {
			n, err := b.count(ctx)
			if counted < 0 {
				counted = n
			}
			if n > counted && err == nil {
				select {
				case <-started:
				default:
					close(started)
				}
			}
			return n - counted, err
		})
	})
	g.Go(func() error {
		defer end()
		select {
		case <-gctx.Done():
			return nil
		case <-started:
		case <-time.After(45 * time.Second):
			return fmt.Errorf("%s runs nothing: %w\n%s", p.name, errLost, p.out)
		}
		for i, ph := range phases {
			begins = append(begins, time.Since(r.began).Seconds())
			if err := b.feedFor(gctx, ph, i > 0 && !ph.keep); err != nil {
				return err
			}
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		return r, begins, fmt.Errorf("%v: %w\n%s", w, err, p.out)
	}
	if err := r.readJournal(ctx, b.client); err != nil {
		return r, begins, err
	}
	b.runs++
	return r, begins, r.write(b.o.Seen, fmt.Sprintf("%s-%02d-%s", w.name, b.runs, strings.ReplaceAll(w.String(), " ", "")))
}

// feedFor feeds one phase. A new load replaces what waits of the one before.
func (b *bed) feedFor(ctx context.Context, ph phase, fresh bool) error {
	if ph.begins != nil {
		ph.begins()
	}
	end := time.NewTimer(ph.length)
	defer end.Stop()
	tick := time.NewTicker(feedEvery)
	defer tick.Stop()
	for {
		if err := b.fill(ctx, ph.feeds, fresh); err != nil {
			return err
		}
		fresh = false
		select {
		case <-ctx.Done():
			return nil
		case <-end.C:
			return nil
		case <-tick.C:
		}
	}
}

// fill tops queues up, or fills them anew.
func (b *bed) fill(ctx context.Context, feeds []feed, fresh bool) error {
	for _, f := range feeds {
		key, missing := "queue:"+f.queue, f.aim
		if !fresh {
			n, err := b.client.LLen(ctx, key).Result()
			if ctx.Err() != nil {
				return nil //nolint:nilerr // asked to end
			}
			if err != nil {
				return fmt.Errorf("look at %s: %w", key, err)
			}
			if missing = f.aim - int(n); missing < f.aim/20 { // a few at a time cost a round trip each
				continue
			}
		}
		values := make([]any, missing)
		if err := b.yard.time(missing, func(i int) { values[i] = f.next() }); err != nil {
			return err
		}
		pipe := b.client.TxPipeline()
		if fresh {
			pipe.Del(ctx, key)
			pipe.SAdd(ctx, "queues", f.queue)
		}
		pipe.LPush(ctx, key, values...)
		if _, err := pipe.Exec(ctx); err != nil && ctx.Err() == nil {
			return fmt.Errorf("fill %s: %w", key, err)
		}
	}
	return nil
}
