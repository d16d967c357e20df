package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/queueville/queueville/loadtest/scenario"
	"github.com/queueville/queueville/loadtest/simulate"
)

// Bounds of Options.
const (
	DefaultMaxJobs = 200_000
	maxJobs        = 2_000_000
)

// Options say what is run. See Small for the scenario.
type Options struct {
	Scenario *scenario.Scenario // in its small form
	Engine   simulate.EngineName
	RedisURL string // of a Redis that is there; "" starts one
	MaxJobs  int    // that may come to be; what is beyond is dropped and counted. 0 means 200,000

	// Worker are the words that start the worker, but for its flags: this program, "loadtest", "worker". WorkerFlags are added to those that every
	// run gives.
	Worker      []string
	WorkerFlags []string
	// JobCPUs are processors as taskset reads them ("0", "0-3"): job processes run there, this process and the servers on the others, if there are
	// any. "" means that all share all.
	JobCPUs string

	// Progress, if not nil, is told what is being done and how far the run is, 0 to 1.
	Progress func(doing string, done float64)
}

// check fills defaults in and returns every problem.
func (o *Options) check() error {
	var problems []error
	if o.Scenario == nil || len(o.Scenario.Hardware) == 0 {
		problems = append(problems, errors.New("no scenario, or one without hardware"))
	}
	if o.Engine != simulate.Sidekiq && o.Engine != simulate.Queueville {
		problems = append(problems, fmt.Errorf("engine %q: sidekiq or queueville", o.Engine))
	}
	if o.Engine == simulate.Queueville && len(o.Worker) == 0 {
		problems = append(problems, errors.New("no command that starts the worker"))
	}
	setDefault(&o.MaxJobs, DefaultMaxJobs)
	if o.MaxJobs < 1 || o.MaxJobs > maxJobs {
		problems = append(problems, fmt.Errorf("%d jobs at most; 1 to %d are possible", o.MaxJobs, maxJobs))
	}
	if o.Progress == nil {
		o.Progress = func(string, float64) {}
	}
	return errors.Join(problems...)
}

// Outcome is what came of a run: the figures that a simulation has too, and what only a real run has.
type Outcome struct {
	Result *simulate.Result `json:"-"`
	Real   Real             `json:"real"`
}

// Real is what only a real run has.
type Real struct {
	Engine       simulate.EngineName `json:"engine"`
	Throughput   float64             `json:"jobs_per_second"` // done, from the first second until the last one was done
	DrainSeconds *float64            `json:"drain_seconds"`   // from the last arrival's time until the last job was done; null: not within the run
	P50Seconds   float64             `json:"p50_seconds"`     // of the wait in any queue
	P99Seconds   float64             `json:"p99_seconds"`
	Done         int                 `json:"done"`
	Failures     int                 `json:"runs_that_failed"`
	Deferred     int                 `json:"put_off"` // times that a delivery was put off untried

	Accounting fates   `json:"accounting"`          // where every job is
	MayLose    bool    `json:"may_lose"`            // stock Sidekiq whose processes or Redis were killed: it promises nothing then
	Refused    int     `json:"refused"`             // pushes that Redis did not take
	Late       int     `json:"late"`                // pushes that were not made, because they were a second late
	LatestPush float64 `json:"latest_push_seconds"` // the greatest delay of a push
	Dropped    int     `json:"dropped"`             // by the bound on jobs

	Receivers    Receivers     `json:"receivers"`
	BootSeconds  float64       `json:"boot_seconds"`      // until the processes took jobs
	PerStep      float64       `json:"iterations_per_µs"` // of PostgreSQL's loop on this machine
	Interrupted  bool          `json:"interrupted"`
	Cores        int           `json:"cores"`         // of the job processes
	Machine      int           `json:"machine_cores"` // of this machine
	Pinned       bool          `json:"pinned"`        // the job processes to their cores, everything else of the run to the others
	WhileRunning time.Duration `json:"ended_after_ns"`
	Beside       float64       `json:"beside_cpu_seconds"` // processor time of Redis, the receivers and the generator
}

// Receivers is what the other servers saw.
type Receivers struct {
	Requests      uint64 `json:"requests"`
	Accepted      uint64 `json:"accepted"`
	Duplicates    uint64 `json:"duplicates"`
	BadSignatures uint64 `json:"bad_signatures"` // and digests, and none at all
	Connections   uint64 `json:"connections"`
}

// Run runs a scenario in real time on real servers, under one engine. An end of ctx ends it early, and the outcome is true for the part; there is
// one whenever the run began. A missing server or Ruby is an error.
func Run(ctx context.Context, o Options) (*Outcome, error) {
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("load test: %w", err)
	}
	cfg, err := o.Scenario.Config(o.Engine)
	if err != nil {
		return nil, fmt.Errorf("load test: %w", err)
	}
	if err := need(ctx, o.JobCPUs != ""); err != nil {
		return nil, fmt.Errorf("load test: %w", err)
	}
	if o.JobCPUs != "" {
		cpus, err := parseCPUs(o.JobCPUs)
		if err != nil {
			return nil, fmt.Errorf("load test: %w", err)
		}
		restore, err := confine(cpus)
		if err != nil {
			return nil, fmt.Errorf("load test: %w", err)
		}
		defer restore()
	}
	stage := &o.Scenario.Hardware[0]
	o.Progress("starting servers", 0)
	s, err := build(ctx, &o, cfg.World, cfg.Goals, connections(stage))
	if err != nil {
		return nil, fmt.Errorf("load test: %w", err)
	}
	out, err := s.run(ctx, &o, &cfg)
	return out, errors.Join(err, s.close()) //nolint:contextcheck // ends everything whatever has become of ctx
}

// connections is the budget: the scenario's, or what stock Sidekiq's pools add up to.
func connections(stage *simulate.Stage) int {
	n := stage.Database.Connections
	if n > 0 {
		return n
	}
	for _, h := range stage.Hosts {
		for i := range h.Sidekiq {
			p := &h.Sidekiq[i]
			if p.DBPool > 0 {
				n += p.DBPool
			} else {
				n += p.Concurrency
			}
		}
	}
	return min(max(n, 10), maxConnections-50)
}

func (s *site) run(ctx context.Context, o *Options, cfg *simulate.Config) (*Outcome, error) {
	stage := &o.Scenario.Hardware[0]
	e := &engine{name: o.Engine, site: s, o: o, cpus: o.JobCPUs, procs: stage.Hosts[0].Sidekiq, cores: stage.Hosts[0].Cores, budget: connections(stage)}
	defer e.kill()
	o.Progress("starting "+string(o.Engine), 0)
	boot := time.Now()
	if err := e.start(ctx); err != nil {
		return nil, err
	}
	booted := time.Since(boot)
	c := s.conduct
	c.meter.base.cpu, _ = e.use.look(e.pids()...) // 0 where it is not known
	c.meter.base.database, _ = s.databaseUse.look(s.postgres.PID())
	besideBefore := s.beside()
	c.begin()
	runCtx, stop := context.WithCancel(ctx)
	generated := make(chan struct{})
	go func() {
		defer close(generated)
		c.generate(runCtx, s.client)
	}()
	befallen := make(chan error, 1)
	go func() { befallen <- s.befall(runCtx, s.acts(o.Scenario.Incidents, e)) }()
	err := s.watch(ctx, o, e, generated)
	stop()
	<-generated
	err = errors.Join(err, <-befallen)
	c.mu.Lock()
	end := c.now()
	c.mu.Unlock()
	if err != nil && ctx.Err() == nil {
		return nil, err
	}
	beside := s.beside() - besideBefore
	o.Progress("stopping", 1)
	lookCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	if err := s.mend(lookCtx); err != nil {
		return nil, err
	}
	e.stop()
	where, err := census(lookCtx, s.client, c)
	if err == nil && s.redis == nil {
		err = s.clear(lookCtx)
	}
	if err != nil {
		return nil, err
	}
	out := s.outcome(cfg, stage, end, where)
	r := out.Result
	r.Partial = ctx.Err() != nil
	out.Real.Beside = round(beside.Seconds())
	out.Real.MayLose = mayLose(o.Engine, o.Scenario.Incidents)
	out.Real.BootSeconds, out.Real.Interrupted, out.Real.Pinned = round(booted.Seconds()), r.Partial, o.JobCPUs != ""
	return out, nil
}

// beside is the processor time so far of what else is part of the run: Redis, and this process with the receivers and the generator. A Redis that was
// killed takes its own with it.
func (s *site) beside() time.Duration {
	used, _ := cpuOf(os.Getpid()) // 0 where it is not known
	if s.redis != nil && s.redis.PID() > 0 {
		redis, _ := cpuOf(s.redis.PID())
		used += redis
	}
	return used
}

// watch samples every second until all is done, the time is up, or ctx ends, whose cause is returned then.
func (s *site) watch(ctx context.Context, o *Options, e *engine, generated <-chan struct{}) error {
	c := s.conduct
	limit := o.Scenario.Length + o.Scenario.Drain
	quiet := 0 // seconds in which nothing was to be seen of what the books hold for open
	var last int
	for {
		c.mu.Lock()
		now := c.now()
		c.mu.Unlock()
		if err := pause(ctx, now.Truncate(time.Second)+time.Second-now); err != nil {
			return err
		}
		backlog := s.look(ctx, e)
		if err := e.failed(); err != nil && !s.outage.Load() {
			return err
		}
		c.mu.Lock()
		now, open, ran := c.now(), c.books.open(), c.meter.done+c.meter.failures
		// What was put off because its host is busy comes back within moments, as long as the host gets on.
		if c.books.count[postponed] > 0 && now-c.meter.lastEnd < postponedFor {
			open++
		}
		c.mu.Unlock()
		o.Progress(fmt.Sprintf("%s: %d jobs done, %d wait", o.Engine, ran, max(0, backlog)), min(1, now.Seconds()/limit.Seconds()))
		select {
		case <-generated:
		default:
			continue
		}
		if backlog == 0 && ran == last {
			quiet++
		} else {
			quiet = 0
		}
		last = ran
		if backlog == 0 && open == 0 || quiet > settleSeconds || now >= limit {
			return nil
		}
	}
}

// postponedFor is how long a host may be silent that is waited for: longer than a job is put off for, and looked for again.
const postponedFor = 15 * time.Second

// settleSeconds is how long jobs that no queue holds may be silent: longer than any of them takes.
const settleSeconds = 45

// outcome puts the figures together.
func (s *site) outcome(cfg *simulate.Config, stage *simulate.Stage, end time.Duration, where fates) *Outcome {
	total := s.fedi.Total()
	c := s.conduct
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.meter
	if most := int((end + time.Second - 1) / time.Second); len(m.bins) > most {
		m.bins = m.bins[:most]
	}
	cores := stage.Hosts[0].Cores
	out := &Outcome{Result: m.result(cfg.Engine, end, cores, stage.Database.Cores, cfg.Marks, where)}
	var waits []float64
	for i := range m.queues {
		waits = append(waits, m.queues[i].waits...)
	}
	slices.Sort(waits)
	out.Real = Real{
		Engine: cfg.Engine, P50Seconds: round(quantile(waits, 0.5)), P99Seconds: round(quantile(waits, 0.99)), Accounting: where, Refused: m.refused, Late: m.late,
		LatestPush: round(m.latest.Seconds()), Dropped: m.dropped, PerStep: round(c.perStep), Cores: cores, Machine: runtime.NumCPU(), Done: m.done,
		Deferred: m.deferred, Failures: m.failures, WhileRunning: end,
		Receivers: Receivers{
			Requests: total.Requests, Accepted: total.Accepted, Duplicates: total.Duplicates, Connections: total.Connections,
			BadSignatures: total.BadSignatures + total.BadDigests + total.Unsigned,
		},
	}
	last := min(end, m.lastEnd)
	if last > 0 {
		out.Real.Throughput = round(float64(m.done) / last.Seconds())
	}
	if where.Waiting+where.Running == 0 && c.books.open() == where.Missing+where.Unheard && c.books.count[postponed] == 0 {
		drain := max(0, round((m.lastEnd - c.length).Seconds()))
		out.Real.DrainSeconds = &drain
	}
	return out
}
