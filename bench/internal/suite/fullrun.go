package suite

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/queueville/queueville/internal/rubyapp"
	"github.com/queueville/queueville/internal/throwaway"
	"github.com/redis/go-redis/v9"

	"github.com/queueville/queueville/bench/internal/jobs"
)

// runner is one contender that is up, on a Redis of its own, and the jobs that it gets.
type runner struct {
	f         *full
	load      load
	name      string
	server    *throwaway.RedisServer
	client    *redis.Client
	processes []*process
	mix       *rubyapp.Mix // nil: jobs that do nothing
	maker     *jobs.Maker
	before    int // deliveries of earlier runners
	pushed    int
}

// open starts a contender and waits until it is up. What has been started is ended with an error.
func (f *full) open(ctx context.Context, l load, name string, s setting, seed uint64) (*runner, error) {
	server, err := throwaway.Redis(ctx, throwaway.RedisConfig{Dir: f.o.Dir})
	if err != nil {
		return nil, err
	}
	r := &runner{f: f, load: l, name: name, server: server, client: redis.NewClient(&redis.Options{Addr: server.Addr()})}
	if l.shares != nil {
		r.mix = rubyapp.NewMix(seed, f.db.data.Accounts, l.shares...)
	}
	r.maker = jobs.NewMaker(seed, deliveryBytes-200, deliveryBytes+200, f.db.accounts(), f.inboxes.Inboxes)
	if r.before, err = f.delivered(ctx); err != nil {
		return nil, errors.Join(err, r.close())
	}
	if name == fullQueueville {
		var p *process
		if p, err = f.startQueueville(ctx, f.env(server), s); p != nil {
			r.processes = []*process{p}
		}
	} else {
		r.processes, err = f.startSidekiq(ctx, f.env(server), s)
	}
	if err == nil {
		err = up(ctx, r.client, r.processes)
	}
	if err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

// close ends the contender and its Redis.
func (r *runner) close() error {
	for _, p := range r.processes {
		p.stop(15 * time.Second)
	}
	return errors.Join(r.client.Close(), r.server.Stop())
}

// up waits until every process of the list has registered in Redis, or, for a worker that registers Ruby processes beside itself, until one
// of those has.
func up(ctx context.Context, client *redis.Client, list []*process) error {
	want := len(list)
	if list[0].name == fullQueueville {
		want = 2
	}
	for {
		n, err := client.SCard(ctx, "processes").Result()
		if err == nil && int(n) >= want {
			return nil
		}
		if err := errors.Join(pause(ctx, 50*time.Millisecond), alive(list)); err != nil {
			return fmt.Errorf("%s does not come up: %w\n%s", list[0].name, err, list[0].out)
		}
	}
}

func alive(list []*process) error {
	for _, p := range list {
		if err := p.failed(); err != nil {
			return err
		}
	}
	return nil
}

// work pushes n jobs and waits for the end of the last; the clock runs meanwhile.
func (r *runner) work(ctx context.Context, n int) (got fullFigure, err error) {
	list := mingle(draw(r.mix, n), r.maker, r.load.deliveries)
	cpu, err := treeCPU(r.processes)
	if err != nil {
		return got, err
	}
	used, stolen := hostCPU()
	start := time.Now()
	r.pushed += n
	if err := push(ctx, r.client, list); err != nil {
		return got, err
	}
	if err := r.until(ctx, r.pushed); err != nil {
		return got, err
	}
	took := time.Since(start)
	usedThen, stolenThen := hostCPU()
	whole := took.Seconds() * float64(r.f.cores)
	got.stolen, got.idle = (stolenThen-stolen)/whole, max(0, 1-(usedThen-used)/whole)
	after, err := treeCPU(r.processes)
	got.Figure = Figure{Jobs: n, PerSecond: float64(n) / took.Seconds(), CPU: micros(after-cpu) / float64(n)}
	return got, err
}

// delivered counts the deliveries that were not made in Ruby, of all runs.
func (f *full) delivered(ctx context.Context) (int, error) {
	if f.inboxes == nil {
		return 0, nil
	}
	c, err := f.inboxes.counts(ctx)
	return int(c.Received - c.Ruby), err
}

// done counts the jobs that have ended: those that Ruby counted, and the deliveries that it did not make.
func (r *runner) done(ctx context.Context) (int, error) {
	count, err := r.client.Get(ctx, "ran:count").Int()
	if err != nil && !errors.Is(err, redis.Nil) {
		return 0, fmt.Errorf("count jobs: %w", err)
	}
	if r.name != fullQueueville || r.load.deliveries == 0 {
		return count, nil
	}
	native, err := r.f.delivered(ctx)
	return count + native - r.before, err
}

// until waits for the end of the nth job. It looks rarely while there is much to do, since looking takes processor time, too.
func (r *runner) until(ctx context.Context, n int) error {
	wait, before, at := soonLook, 0, time.Now()
	for {
		count, err := r.done(ctx)
		if err != nil {
			return err
		}
		if count >= n {
			return nil
		}
		now := time.Now()
		if took := now.Sub(at); count > before && before > 0 {
			wait = min(lateLook, max(soonLook, took*time.Duration(n-count)/time.Duration(4*(count-before)))) // a quarter of what is left
		}
		before, at = count, now
		if err := errors.Join(pause(ctx, wait), alive(r.processes)); err != nil {
			return fmt.Errorf("%d of %d jobs: %w\n%s", count, n, err, r.processes[0].out)
		}
	}
}

// clean says that every job has run and none twice, but for what failed and was tried again.
func (r *runner) clean(ctx context.Context) error {
	if err := pause(ctx, 300*time.Millisecond); err != nil {
		return err
	}
	count, err := r.done(ctx)
	if err != nil {
		return err
	}
	again, err := r.client.Get(ctx, "ran:failed").Int()
	if err != nil && !errors.Is(err, redis.Nil) {
		return fmt.Errorf("count failures: %w", err)
	}
	failed, err := r.client.ZCard(ctx, "retry").Result()
	if err != nil {
		return fmt.Errorf("count failures: %w", err)
	}
	dead, err := r.client.ZCard(ctx, "dead").Result()
	if err != nil {
		return fmt.Errorf("count failures: %w", err)
	}
	if count-again != r.pushed || failed+dead > 0 {
		return fmt.Errorf("%d jobs ran as %d executions, of which %d failed; %d wait or are dead: %w", r.pushed, count, again, failed+dead, errLost)
	}
	return nil
}

// run runs one contender alone: a quarter of the jobs before, so that all code is loaded and whoever adapts has adapted; then the clock runs
// from the push of the jobs to the end of the last.
func (f *full) run(ctx context.Context, l load, name string, s setting, seed uint64, n int) (got fullFigure, err error) {
	ctx, cancel := context.WithTimeout(ctx, fullLimit)
	defer cancel()
	if err := f.reset(ctx); err != nil {
		return got, err
	}
	r, err := f.open(ctx, l, name, s, seed)
	if err != nil {
		return got, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	if _, err := r.work(ctx, n/4); err != nil {
		return got, err
	}
	if got, err = r.work(ctx, n); err != nil {
		return got, err
	}
	if got.pss, got.processes, err = treePSS(r.processes); err != nil {
		return got, err
	}
	got.PeakMiB = got.pss
	return got, r.clean(ctx)
}

const (
	soonLook = 10 * time.Millisecond
	lateLook = 250 * time.Millisecond
)

const (
	fullTurns   = 10 // of each contender in a round
	againstCalm = 5  // turns of a round that may be taken again
)

// turns compares the contenders on a load: in each round both are up, each with a Redis of its own, and take turns at small parts of the work,
// in the order ours, theirs, theirs, ours. A machine's speed drifts by a fifth within minutes even when nobody else is seen on it; two turns of a pair
// find it the same.
func (f *full) turns(ctx context.Context, l load, theirs setting, ours bool, into map[string][]fullFigure, report *Report) error {
	for i := range f.o.Rounds {
		if err := f.turnsRound(ctx, l, theirs, ours, uint64(i+1), into, report); err != nil { //nolint:gosec // at most 100
			return fmt.Errorf("%s: %w", l.name, err)
		}
	}
	return nil
}

func (f *full) turnsRound(ctx context.Context, l load, theirs setting, ours bool, seed uint64, into map[string][]fullFigure, report *Report) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*fullLimit)
	defer cancel()
	if err := f.reset(ctx); err != nil {
		return err
	}
	var pair []*runner
	defer func() {
		for _, r := range pair {
			err = errors.Join(err, r.close())
		}
	}()
	for i, s := range []setting{theirs, {}} {
		name := []string{fullSidekiq, fullQueueville}[i]
		if !f.o.wants(name) || name == fullQueueville && !ours {
			continue
		}
		r, err := f.open(ctx, l, name, s, 2*seed+uint64(i)) //nolint:gosec // 0 or 1; other jobs for each, since they share a database
		if err != nil {
			return err
		}
		pair = append(pair, r)
		if _, err := r.work(ctx, l.jobs/4); err != nil {
			return err
		}
	}
	got := make([][]fullFigure, len(pair))
	for turn, again := 0, againstCalm; turn < fullTurns; {
		these := make([]fullFigure, len(pair))
		worst := 0.0
		for k := range pair {
			if turn%2 == 0 {
				k = len(pair) - 1 - k
			}
			if these[k], err = pair[k].work(ctx, l.jobs/fullTurns); err != nil {
				return err
			}
			worst = max(worst, these[k].stolen)
			f.o.logf("         turn %2d %-18s %6.1f jobs/s %7.0f µs cpu, %2.0f %% idle, %2.0f %% stolen", turn+1, pair[k].name, these[k].PerSecond, these[k].CPU, 100*these[k].idle, 100*these[k].stolen)
		}
		if worst > calm && again > 0 && !f.o.Quick {
			again--
			continue
		}
		for k := range pair {
			got[k] = append(got[k], these[k])
		}
		turn++
	}
	for k, r := range pair {
		mean, err := r.whole(got[k])
		if err != nil {
			return err
		}
		f.o.logf("%-34s %-18s %6.1f jobs/s (%s)  %7.0f µs cpu  %5.0f MiB PSS of %d processes, %2.0f %% idle, %2.0f %% stolen", l.name, r.name, mean.PerSecond,
			fullSeries(got[k], func(f fullFigure) float64 { return f.PerSecond }).Range("%.0f"), mean.CPU, mean.pss, mean.processes, 100*mean.idle, 100*mean.stolen)
		key := l.name + ", " + r.name
		into[key] = append(into[key], got[k]...)
		report.Values[key] = append(report.Values[key], mean.Figure)
		if err := r.clean(ctx); err != nil {
			return err
		}
	}
	return nil
}

// whole sums turns up, and notes the contender's memory in each of them: what both have in common, such as pages of Ruby itself, counts half.
func (r *runner) whole(turns []fullFigure) (sum fullFigure, err error) {
	pss, n, err := treePSS(r.processes)
	if err != nil {
		return sum, err
	}
	seconds := 0.0
	for i := range turns {
		t := &turns[i]
		t.pss, t.PeakMiB, t.processes = pss, pss, n
		took := float64(t.Jobs) / t.PerSecond
		seconds += took
		sum.Jobs += t.Jobs
		sum.CPU += t.CPU * float64(t.Jobs)
		sum.idle += t.idle * took
		sum.stolen += t.stolen * took
	}
	sum.PerSecond, sum.CPU = float64(sum.Jobs)/seconds, sum.CPU/float64(sum.Jobs)
	sum.idle, sum.stolen, sum.pss, sum.PeakMiB, sum.processes = sum.idle/seconds, sum.stolen/seconds, pss, pss, n
	return sum, nil
}
