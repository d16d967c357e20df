package suite

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/queueville/queueville/internal/throwaway"
	"github.com/queueville/queueville/queues"
	"github.com/redis/go-redis/v9"

	"github.com/queueville/queueville/bench/internal/jobs"
	"github.com/queueville/queueville/bench/internal/measure"
	"github.com/queueville/queueville/bench/internal/receiver"
)

const (
	sharedWaiting = 200_000
	looks         = 200
	passed        = 100 // jobs dropped from the end of each queue between two looks
)

// runShared measures what a look at shared queues costs Redis, and what a sidecar gets beside Ruby.
func runShared(ctx context.Context, o Options) (*Report, error) {
	report := &Report{Values: map[string][]Figure{}}
	if err := sharedLooks(ctx, o, report); err != nil {
		return nil, err
	}
	if err := besideRuby(ctx, o, report); err != nil {
		return nil, err
	}
	return report, nil
}

// mix says which of the waiting jobs are native.
type mix struct {
	name   string
	native func(i int) bool
}

func sharedLooks(ctx context.Context, o Options, report *Report) error {
	rows := [][]string{{"of 200,000 waiting", "Redis µs per look (least–most)", "jobs looked at", "jobs taken per look"}}
	worst := 0.0
	for _, m := range []mix{
		{"none is native", func(int) bool { return false }},
		{"one in two is native", func(i int) bool { return i%2 == 0 }},
		{"all are native", func(int) bool { return true }},
	} {
		var cost measure.Series
		var looked, taken int
		for range o.Rounds {
			micros, l, t, err := look(ctx, o, m)
			if err != nil {
				return fmt.Errorf("%s: %w", m.name, err)
			}
			cost, looked, taken = append(cost, micros), l, t
		}
		o.logf("look, %-22s %7.0f µs, %d looked at, %d taken", m.name, cost.Median(), looked, taken)
		worst = max(worst, cost.Median())
		rows = append(rows, []string{m.name, cost.Range("%.0f"), fmt.Sprint(looked), fmt.Sprint(taken)})
	}
	report.Tables = append(report.Tables, Table{Title: "One look at two shared queues, window of 160 jobs and 384 KiB, 64 taken at most", Rows: rows})
	report.Targets = append(report.Targets, measure.Target{What: "Redis time of one look with 200,000 waiting, µs", Want: "≤ 3,000", Got: worst, Limit: 3000, Most: true})
	return nil
}

// look makes looks one after the other and returns what Redis says of each: µs, jobs looked at, jobs taken.
func look(ctx context.Context, o Options, m mix) (cost float64, looked, taken int, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	server, err := throwaway.Redis(ctx, throwaway.RedisConfig{Dir: o.Dir})
	if err != nil {
		return 0, 0, 0, err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer func() { err = errors.Join(err, client.Close()) }()
	names := []string{"push", "default"}
	for n, queue := range names {
		if err := fillShared(ctx, client, queue, sharedWaiting/len(names), uint64(n), m); err != nil { //nolint:gosec // small
			return 0, 0, 0, err
		}
	}
	store := queues.NewStore(client, "")
	session, _, err := store.Register(ctx, queues.Holder{Identity: "bench:1:000000000000"}, time.Minute, nil)
	if err != nil {
		return 0, 0, 0, err
	}
	if err := client.ConfigResetStat(ctx).Err(); err != nil {
		return 0, 0, 0, fmt.Errorf("reset redis statistics: %w", err)
	}
	for range looks {
		list, n, err := session.FetchShared(ctx, queues.Look{
			Queues: names, Classes: []string{jobs.Class, "ActivityPub::LowPriorityDeliveryWorker"}, Max: queues.LookJobs, WindowJobs: queues.WindowJobs, WindowBytes: queues.WindowBytes, Share: 10_000,
		})
		if err != nil {
			return 0, 0, 0, err
		}
		looked += n
		taken += len(list)
		for _, queue := range names { // the next look finds what this one would have found, not what it left over
			if err := client.LTrim(ctx, "queue:"+queue, 0, -1-int64(passed)).Err(); err != nil {
				return 0, 0, 0, fmt.Errorf("trim queue: %w", err)
			}
		}
	}
	text, err := client.Info(ctx, "commandstats").Result()
	if err != nil {
		return 0, 0, 0, fmt.Errorf("ask redis for its command statistics: %w", err)
	}
	for line := range strings.Lines(text) {
		if _, value, ok := strings.Cut(line, "cmdstat_evalsha:"); ok {
			_, value, _ = strings.Cut(value, "usec_per_call=")
			if _, err := fmt.Sscanf(value, "%f", &cost); err != nil {
				return 0, 0, 0, fmt.Errorf("read redis command statistics: %w", err)
			}
		}
	}
	return cost, looked / looks, taken / looks, nil
}

func fillShared(ctx context.Context, client *redis.Client, queue string, n int, seed uint64, m mix) error {
	maker := jobs.NewMaker(seed, minBodyBytes, maxBodyBytes, []int64{1, 2, 3}, []string{"https://host.fedi.test/inbox"})
	values := make([]any, 0, 200)
	for i := range n {
		payload := maker.Next().Sidekiq(queue, time.Now())
		if !m.native(i) {
			payload = strings.Replace(payload, `"class":"`+jobs.Class+`"`, `"class":"ActivityPub::ProcessingWorker"`, 1)
		}
		values = append(values, payload)
		if len(values) == cap(values) || i == n-1 {
			if err := client.LPush(ctx, "queue:"+queue, values...).Err(); err != nil {
				return fmt.Errorf("enqueue: %w", err)
			}
			values = values[:0]
		}
	}
	return nil
}

// besideRuby counts who delivers what from a queue that both serve, when Ruby has little to do and when it is behind.
func besideRuby(ctx context.Context, o Options, report *Report) error {
	db, err := startDatabase(ctx, o)
	if err != nil {
		return err
	}
	defer func() { _ = db.server.Stop() }()
	rows := [][]string{{"Ruby (5 threads, receivers of 200 ms)", "deliveries/s", "by Queueville", "by Ruby"}}
	for _, c := range []struct {
		name string
		rate int // jobs per second; 0: all at once
		jobs int
	}{{"has idle threads: 10 jobs/s come in", 10, 100}, {"is behind: 3,000 jobs wait", 0, 3000}} {
		counts, took, err := beside(ctx, o, db, c.rate, c.jobs)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		o.logf("beside a Ruby that %-36s %d by us, %d by Ruby", c.name, counts.Received-counts.Ruby, counts.Ruby)
		share := func(n int64) string { return fmt.Sprintf("%.0f %%", 100*float64(n)/float64(counts.Received)) }
		rows = append(rows, []string{c.name, fmt.Sprintf("%.0f", float64(c.jobs)/took.Seconds()), share(counts.Received - counts.Ruby), share(counts.Ruby)})
	}
	report.Tables = append(report.Tables, Table{Title: "A shared queue: who delivers", Rows: rows})
	return nil
}

func beside(ctx context.Context, o Options, db *database, rate, n int) (counts receiver.Counts, took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, runLimit)
	defer cancel()
	server, err := throwaway.Redis(ctx, throwaway.RedisConfig{Dir: o.Dir})
	if err != nil {
		return counts, 0, err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer func() { err = errors.Join(err, client.Close()) }()
	inboxes, err := startReceivers(ctx, o, receiver.Config{Hosts: deliveryHosts, TLS: true, Latency: slowLatency, Keys: db.keys})
	if err != nil {
		return counts, 0, err
	}
	defer inboxes.stop(5 * time.Second)
	both := []sender{
		{name: withRuby, ruby: true, concurrency: 5},
		{name: withOpenSSL, shared: true, concurrency: 512, perHost: 8},
	}
	var list []*process
	for _, s := range both {
		p, err := o.startSender(ctx, s, server, db, inboxes)
		if err != nil {
			return counts, 0, err
		}
		defer p.stop(10 * time.Second)
		list = append(list, p)
	}
	for {
		known, err := client.SCard(ctx, "processes").Result()
		if err == nil && int(known) == len(both) {
			break
		}
		if err := errors.Join(pause(ctx, 100*time.Millisecond), list[0].failed(), list[1].failed()); err != nil {
			return counts, 0, err
		}
	}
	start := time.Now()
	step := n
	if rate > 0 {
		step = 1
	}
	for sent := 0; sent < n; sent += step {
		if err := deliveries(ctx, client, step, deliveryBytes, db.accounts(), inboxes.Inboxes[sent%deliveryHosts:], uint64(sent)); err != nil { //nolint:gosec // small
			return counts, 0, err
		}
		if rate > 0 {
			if err := pause(ctx, time.Second/time.Duration(rate)); err != nil {
				return counts, 0, err
			}
		}
	}
	for {
		if counts, err = inboxes.counts(ctx); err != nil {
			return counts, 0, err
		}
		if int(counts.Received) >= n {
			return counts, time.Since(start), nil
		}
		if err := errors.Join(pause(ctx, 20*time.Millisecond), list[0].failed(), list[1].failed()); err != nil {
			return counts, 0, fmt.Errorf("%d of %d delivered: %w\n%s\n%s", counts.Received, n, err, list[0].out, list[1].out)
		}
	}
}
