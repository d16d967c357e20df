package suite

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"time"

	"github.com/queueville/queueville/internal/throwaway"
	"github.com/redis/go-redis/v9"

	"github.com/queueville/queueville/bench/internal/jobs"
	"github.com/queueville/queueville/bench/internal/measure"
	"github.com/queueville/queueville/bench/internal/peers"
	"github.com/queueville/queueville/bench/internal/receiver"
)

const (
	steadyRate = 300.0 // deliveries a second to healthy hosts: a fifth to a quarter of what the machine can do
	steadyWarm = 5.0   // seconds that do not count: code is loaded, connections are made
)

// steadyRun is deliveries that come at a steady rate, at random moments.
type steadyRun struct {
	p50, p99 float64 // ms from the push of a job to its request, of healthy hosts
	arrived  int
	stolen   float64 // share of the processors that other machines on the same host took
}

// runDeadWaits compares how long jobs for healthy hosts wait, with and without hosts that hang, when far less comes than could be delivered.
func runDeadWaits(ctx context.Context, o Options, db *database, report *Report) error {
	length := 40.0
	if o.Quick {
		length = 20
	}
	names := []string{"all healthy", "30 % hang"}
	p50, p99, stolen := map[string]measure.Series{}, map[string]measure.Series{}, map[string]measure.Series{}
	ratios := measure.Series{}
	for round := range max(o.Rounds, 1) {
		for i, dead := range []int{0, deadHosts} {
			got, err := o.steadily(ctx, db, dead, length, uint64(round)) //nolint:gosec // small
			if err != nil {
				return fmt.Errorf("steady, %s: %w", names[i], err)
			}
			o.logf("round %d  %-12s %d deliveries to healthy hosts at %.0f/s: median %.1f ms, p99 %.1f ms, %.0f %% stolen", round+1, names[i], got.arrived, steadyRate,
				got.p50, got.p99, 100*got.stolen)
			p50[names[i]], p99[names[i]] = append(p50[names[i]], got.p50), append(p99[names[i]], got.p99)
			stolen[names[i]] = append(stolen[names[i]], 100*got.stolen)
		}
		ratios = append(ratios, p99[names[1]][round]/p99[names[0]][round])
	}
	rows := [][]string{{"", "median ms (least–most)", "p99 ms", "stolen %"}}
	for _, name := range names {
		rows = append(rows, []string{name, p50[name].Range("%.1f"), p99[name].Range("%.1f"), stolen[name].Range("%.0f")})
	}
	report.Tables = append(report.Tables, Table{
		Title: fmt.Sprintf("From the push of a job to its request, %.0f/s to healthy hosts (and as many more as there are more hosts)", steadyRate), Rows: rows,
	})
	report.Targets = append(report.Targets, measure.Target{
		What: "p99 of deliveries to healthy hosts with 30 % hanging, against none", Want: "≤ 1.1", Limit: 1.1, Most: true, Got: ratios.Median(),
	})
	return nil
}

// steadily is one run on a fresh Redis, with a worker of its own.
func (o Options) steadily(ctx context.Context, db *database, dead int, length float64, seed uint64) (got steadyRun, err error) {
	ctx, cancel := context.WithTimeout(ctx, runLimit)
	defer cancel()
	server, err := throwaway.Redis(ctx, throwaway.RedisConfig{Dir: o.Dir})
	if err != nil {
		return got, err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer func() { err = errors.Join(err, client.Close()) }()
	inboxes, err := startReceivers(ctx, o, receiver.Config{Hosts: healthyHosts, Dead: dead, TLS: true, Latency: deadLatency, Keys: db.keys})
	if err != nil {
		return got, err
	}
	defer inboxes.stop(5 * time.Second)
	if err := client.SAdd(ctx, "queues", peers.Queue).Err(); err != nil {
		return got, fmt.Errorf("enqueue: %w", err)
	}
	foreign, err := o.startForeign(ctx, server, client)
	if err != nil {
		return got, err
	}
	defer foreign.stop(5 * time.Second)
	p, err := o.startSender(ctx, sender{name: withOpenSSL, concurrency: 512, perHost: 8}, server, db, inboxes)
	if err != nil {
		return got, err
	}
	defer p.stop(10 * time.Second)
	stolen := 0.0
	counted, began, err := arrive(ctx, client, db, inboxes, length, seed, func() { _, stolen = hostCPU() })
	if err != nil {
		return got, errors.Join(err, p.failed())
	}
	_, stolenNow := hostCPU()
	got.stolen = (stolenNow - stolen) / time.Since(began).Seconds() / float64(runtime.NumCPU())
	err = judgeWaits(ctx, inboxes, p, counted, began, &got)
	return got, err
}

// arrive pushes jobs at random moments until length seconds after the warm-up. It returns how many went to healthy hosts after that, and when
// the warm-up ended. warmed is called then.
func arrive(ctx context.Context, client *redis.Client, db *database, inboxes *receivers, length float64, seed uint64, warmed func()) (counted int, began time.Time, err error) {
	to, healthy := spread(inboxes.Inboxes, inboxes.Dead), map[string]bool{}
	for _, inbox := range inboxes.Inboxes {
		healthy[inbox] = true
	}
	maker := jobs.NewMaker(seed, deliveryBytes-200, deliveryBytes+200, db.accounts(), to)
	rng := rand.New(rand.NewPCG(seed, 30)) //nolint:gosec // the same for all
	rate := steadyRate * float64(len(to)) / healthyHosts
	start := time.Now()
	began = start.Add(seconds(steadyWarm))
	warm := false
	var batch []any
	for at := 0.0; at < steadyWarm+length; {
		due := start.Add(seconds(at))
		if wait := time.Until(due); wait > 0 {
			if len(batch) > 0 { // all that was due
				if err := client.LPush(ctx, "queue:"+peers.Queue, batch...).Err(); err != nil {
					return 0, began, fmt.Errorf("enqueue: %w", err)
				}
				batch = batch[:0]
			}
			if err := pause(ctx, time.Until(due)); err != nil {
				return 0, began, err
			}
		}
		if !warm && at >= steadyWarm {
			warm = true
			warmed()
		}
		job := maker.Next()
		if at >= steadyWarm && healthy[job.Inbox] {
			counted++
		}
		job.Inbox += "/" + strconv.FormatInt(due.UnixNano(), 10)
		batch = append(batch, job.Sidekiq(peers.Queue, due))
		at += rng.ExpFloat64() / rate
	}
	if len(batch) > 0 {
		if err := client.LPush(ctx, "queue:"+peers.Queue, batch...).Err(); err != nil {
			return 0, began, fmt.Errorf("enqueue: %w", err)
		}
	}
	return counted, began, nil
}

// judgeWaits waits until all have arrived and looks at their waits.
func judgeWaits(ctx context.Context, r *receivers, p *process, counted int, began time.Time, got *steadyRun) error {
	for range 100 {
		list, err := r.waits(ctx)
		if err := errors.Join(err, p.failed(), r.failed()); err != nil {
			return err
		}
		var ms []float64
		for _, w := range list {
			if w.Enqueued >= began.UnixNano() {
				ms = append(ms, float64(w.Waited)/1e6)
			}
		}
		if len(ms) < counted {
			if err := pause(ctx, 200*time.Millisecond); err != nil {
				return err
			}
			continue
		}
		slices.Sort(ms)
		at := func(q float64) float64 { return ms[min(len(ms)-1, int(math.Ceil(q*float64(len(ms))))-1)] }
		got.p50, got.p99, got.arrived = at(0.5), at(0.99), len(ms)
		return nil
	}
	return fmt.Errorf("fewer than %d deliveries to healthy hosts: %w", counted, errLost)
}
