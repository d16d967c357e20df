package suite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/hibiken/asynq"
	"github.com/queueville/queueville/internal/throwaway"
	"github.com/redis/go-redis/v9"

	"github.com/queueville/queueville/bench/internal/jobs"
	"github.com/queueville/queueville/bench/internal/measure"
	"github.com/queueville/queueville/bench/internal/peers"
	"github.com/queueville/queueville/bench/internal/ruby"
)

// Names of the Ruby contenders of the no-op suite.
const (
	sidekiqOne = "sidekiq"
	sidekiqTwo = "sidekiq ×2"
)

// contender is one engine of the no-op suite.
type contender struct {
	name        string
	share       int   // runs 1/share of the jobs: it is slower, and every round should take seconds
	concurrency []int // candidates; the best of a short sweep is used
	form        func(d jobs.Delivery, now time.Time) string
	list        string   // where jobs wait
	inFlight    []string // patterns of lists or hashes that hold unacknowledged jobs
	inner       []string // commands that its scripts call, which are no round trips
	processes   int      // 0 means 1
}

func contenders() []contender {
	sidekiqForm := func(d jobs.Delivery, now time.Time) string { return d.Sidekiq(peers.Queue, now) }
	script := []string{"hset", "hdel", "hget", "hexists", "hincrby", "lrange", "ltrim", "exists", "sismember"}
	ours := contender{
		share: 1, concurrency: []int{512}, form: sidekiqForm, list: "queue:" + peers.Queue, inFlight: []string{"queueville:inflight:*"},
		inner: script,
	}
	plain, args := ours, ours
	plain.name, args.name = peers.Queueville, peers.QueuevilleArgs
	ruby := contender{share: 6, concurrency: []int{1, 2, 5, 10, 25}, form: sidekiqForm, list: "queue:" + peers.Queue}
	one, two := ruby, ruby
	one.name, two.name, two.processes, two.share = sidekiqOne, sidekiqTwo, 2, 4
	return []contender{
		plain, args, one, two,
		{
			name: peers.Gocraft, share: 3, concurrency: []int{5, 10, 25, 50}, list: peers.GocraftNamespace + ":jobs:" + peers.Job,
			form:     func(d jobs.Delivery, now time.Time) string { return d.Gocraft(peers.Job, now) },
			inFlight: []string{peers.GocraftNamespace + ":jobs:" + peers.Job + ":*:inprogress"},
			inner:    []string{"get", "incr", "decr", "hincrby", "rpoplpush", "lrem"},
		},
		{
			name: peers.GoWorkers2, share: 6, concurrency: []int{5, 10, 25, 50}, form: sidekiqForm, list: "queue:" + peers.Queue,
			inFlight: []string{"queue:" + peers.Queue + ":" + peers.GoWorkers2Process + ":inprogress"},
		},
		{
			name: peers.Asynq, share: 6, concurrency: []int{5, 10, 25, 50}, list: "asynq:{default}:pending", inFlight: []string{"asynq:{default}:active"},
			inner: []string{"rpoplpush", "hset", "hget", "hmget", "del", "zadd", "zrem", "lrem", "incr", "incrby", "expireat", "exists", "get", "llen", "set"},
		},
		{
			name: peers.Bare, share: 1, concurrency: []int{1}, form: sidekiqForm, list: "queue:" + peers.Queue, inFlight: []string{peers.BareInFlight},
			inner: []string{"lrange", "hincrby", "hset", "ltrim"},
		},
	}
}

const (
	noopJobs     = 120_000
	minBodyBytes = 900 // with the rest of the payload about 1.3 to 4.4 kB
	maxBodyBytes = 3600
	noopLimit    = 2 * time.Minute // one contender in one round
)

func runNoop(ctx context.Context, o Options) (*Report, error) {
	total := o.Jobs
	if total == 0 {
		total = noopJobs
		if o.Quick {
			total = 30_000
		}
	}
	list, err := chooseConcurrency(ctx, o, total)
	if err != nil {
		return nil, err
	}
	report := &Report{Values: map[string][]Figure{}}
	for round := range o.Rounds {
		for _, c := range list {
			f, err := noopRound(ctx, o, c, c.concurrency[0], total/c.share, uint64(round)) //nolint:gosec // small
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			o.logf("round %d  %-16s %8.0f jobs/s  %6.1f µs cpu", round+1, c.name, f.PerSecond, f.CPU)
			report.Values[c.name] = append(report.Values[c.name], f)
		}
	}
	if o.wants(peers.Queueville) {
		share, err := idle(ctx, o)
		if err != nil {
			return nil, err
		}
		report.Targets = append(report.Targets, measure.Target{What: "CPU of an idle worker, % of a core", Want: "< 1", Got: share * 100, Limit: 1, Most: true})
	}
	noopReport(report, list)
	return report, nil
}

// chooseConcurrency finds the best concurrency of each contender that has several candidates, in a short run of each.
func chooseConcurrency(ctx context.Context, o Options, total int) ([]contender, error) {
	best := map[string]int{}
	var out []contender
	for _, c := range contenders() {
		if !o.wants(c.name) {
			continue
		}
		key := c.list + c.name
		if c.name == sidekiqTwo {
			key = c.list + sidekiqOne // what is best for one is best for two
		}
		if _, known := best[key]; !known && len(c.concurrency) > 1 {
			top := 0.0
			for _, n := range c.concurrency {
				probe := c
				probe.processes = 1
				f, err := noopRound(ctx, o, probe, n, max(2000, total/c.share/3), 99)
				if err != nil {
					return nil, fmt.Errorf("%s with concurrency %d: %w", c.name, n, err)
				}
				o.logf("sweep    %-16s -c %-4d %8.0f jobs/s  %6.1f µs cpu", c.name, n, f.PerSecond, f.CPU)
				if f.PerSecond > top {
					top, best[key] = f.PerSecond, n
				}
			}
		}
		if n, known := best[key]; known {
			c.concurrency = []int{n}
		}
		out = append(out, c)
	}
	return out, nil
}

// noopRound runs one contender on a fresh Redis.
func noopRound(ctx context.Context, o Options, c contender, concurrency, n int, seed uint64) (f Figure, err error) {
	ctx, cancel := context.WithTimeout(ctx, noopLimit)
	defer cancel()
	server, err := throwaway.Redis(ctx, throwaway.RedisConfig{Dir: o.Dir})
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer func() { err = errors.Join(err, client.Close()) }()
	if err := enqueue(ctx, client, server.Addr(), c, n, seed); err != nil {
		return f, err
	}
	var list []*process
	defer func() {
		for _, p := range list {
			p.stop(10 * time.Second)
		}
	}()
	for range max(1, c.processes) {
		p, err := o.startNoop(ctx, c, server, concurrency)
		if err != nil {
			return f, err
		}
		list = append(list, p)
	}
	return watch(ctx, client, c, list, n)
}

func (o Options) startNoop(ctx context.Context, c contender, server *throwaway.RedisServer, concurrency int) (*process, error) {
	if c.name == sidekiqOne || c.name == sidekiqTwo {
		file, err := ruby.Write(o.Dir, ruby.Noop)
		if err != nil {
			return nil, err
		}
		return start(ctx, c.name, []string{"REDIS_URL=" + server.URL(), "RUBYOPT=-W0"},
			"sidekiq", "-r", file, "-q", peers.Queue, "-c", strconv.Itoa(concurrency), "-t", "5", "-e", "production")
	}
	args := []string{o.Self, "child", "-contender", c.name, "-redis", server.Addr(), "-concurrency", strconv.Itoa(concurrency)}
	if o.ProfileDir != "" {
		args = append(args, "-cpuprofile", filepath.Join(o.ProfileDir, fileName("noop-"+c.name)))
	}
	return start(ctx, c.name, nil, args...)
}

// profiles numbers the profiles of this run.
var profiles atomic.Int32

func fileName(what string) string {
	clean := []byte(what)
	for i, b := range clean {
		if b == '/' || b == ' ' || b == '+' {
			clean[i] = '-'
		}
	}
	return fmt.Sprintf("%s-%d-%d.pprof", clean, os.Getpid(), profiles.Add(1))
}

// enqueue fills the queue.
func enqueue(ctx context.Context, client *redis.Client, addr string, c contender, n int, seed uint64) error {
	accounts := make([]int64, 100)
	inboxes := make([]string, 1000)
	for i := range accounts {
		accounts[i] = 110_000_000_000_000_000 + int64(i)
	}
	for i := range inboxes {
		inboxes[i] = fmt.Sprintf("https://host%04d.fedi.test/inbox", i)
	}
	maker := jobs.NewMaker(seed, minBodyBytes, maxBodyBytes, accounts, inboxes)
	if c.name == peers.Asynq {
		return enqueueAsynq(ctx, addr, maker, n)
	}
	if err := client.SAdd(ctx, "queues", peers.Queue).Err(); err != nil {
		return fmt.Errorf("enqueue: %w", err)
	}
	const batch = 200
	values := make([]any, 0, batch)
	for i := range n {
		values = append(values, c.form(maker.Next(), time.Now()))
		if len(values) == batch || i == n-1 {
			if err := client.LPush(ctx, c.list, values...).Err(); err != nil {
				return fmt.Errorf("enqueue: %w", err)
			}
			values = values[:0]
		}
	}
	return nil
}

// enqueueAsynq uses asynq's own client, for its tasks are hashes in a form of their own.
func enqueueAsynq(ctx context.Context, addr string, maker *jobs.Maker, n int) error {
	client := asynq.NewClient(asynq.RedisClientOpt{Addr: addr})
	defer func() { _ = client.Close() }()
	for range n {
		if _, err := client.EnqueueContext(ctx, asynq.NewTask(peers.Job, maker.Next().AsynqPayload())); err != nil {
			return fmt.Errorf("enqueue: %w", err)
		}
	}
	return nil
}

// reading is everything at one moment.
type reading struct {
	at    time.Time
	left  int
	cpu   time.Duration
	redis measure.Redis
}

// watch waits until the contender has finished and takes its figures from the moment at which 2 % of the jobs are gone.
func watch(ctx context.Context, client *redis.Client, c contender, list []*process, n int) (Figure, error) {
	var first *reading
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	flying := newFlying(c.inFlight)
	for {
		select {
		case <-ctx.Done():
			return Figure{}, fmt.Errorf("%w: %w\n%s", errLost, ctx.Err(), list[0].out)
		case <-tick.C:
		}
		for _, p := range list {
			if err := p.failed(); err != nil {
				return Figure{}, err
			}
		}
		waiting, err := client.LLen(ctx, c.list).Result()
		if err != nil {
			return Figure{}, fmt.Errorf("look at the queue: %w", err)
		}
		switch {
		case first == nil && int(waiting) <= n-n/50:
			if first, err = read(ctx, client, list); err != nil {
				return Figure{}, err
			}
			held, err := flying.count(ctx, client)
			if err != nil {
				return Figure{}, err
			}
			first.left = int(waiting) + held
		case waiting == 0:
			held, err := flying.count(ctx, client)
			if err != nil {
				return Figure{}, err
			}
			if held == 0 && first != nil {
				return conclude(ctx, client, c, list, first)
			}
		}
	}
}

func read(ctx context.Context, client *redis.Client, list []*process) (*reading, error) {
	r := &reading{at: time.Now()}
	var err error
	if r.cpu, _, err = usage(list); err != nil {
		return nil, err
	}
	r.redis, err = measure.ReadRedis(ctx, client)
	return r, err
}

func conclude(ctx context.Context, client *redis.Client, c contender, list []*process, first *reading) (Figure, error) {
	last := time.Now()
	cpu, mem, err := usage(list)
	if err != nil {
		return Figure{}, err
	}
	server, err := measure.ReadRedis(ctx, client)
	if err != nil {
		return Figure{}, err
	}
	did := server.Since(first.redis)
	jobs := float64(first.left)
	return Figure{
		Jobs: first.left, PerSecond: jobs / last.Sub(first.at).Seconds(), CPU: micros(cpu-first.cpu) / jobs,
		RedisCPU: micros(did.CPU) / jobs, RoundTrips: float64(did.RoundTrips(c.inner...)) / jobs, PeakMiB: float64(mem.Peak) / (1 << 20),
	}, nil
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// flying counts jobs that are fetched and not acknowledged.
type flying struct{ patterns []string }

func newFlying(patterns []string) *flying { return &flying{patterns} }

func (f *flying) count(ctx context.Context, client *redis.Client) (int, error) {
	n := 0
	for _, pattern := range f.patterns {
		keys, err := client.Keys(ctx, pattern).Result() // a handful of keys in all
		if err != nil {
			return 0, fmt.Errorf("look for jobs in flight: %w", err)
		}
		for _, key := range keys {
			held, err := client.LLen(ctx, key).Result()
			if err != nil { // not a list
				if held, err = client.HLen(ctx, key).Result(); err != nil {
					return 0, fmt.Errorf("count jobs in flight: %w", err)
				}
				counter, err := client.HExists(ctx, key, "#").Result()
				if err != nil {
					return 0, fmt.Errorf("count jobs in flight: %w", err)
				}
				if counter {
					held--
				}
			}
			n += int(held)
		}
	}
	return n, nil
}
