package league

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/queueville/queueville/loadtest/run"
	"github.com/queueville/queueville/loadtest/scenario"
	"github.com/queueville/queueville/loadtest/simulate"
)

//go:embed files/*.yaml
var files embed.FS

// FidelityNames are the scenarios that are both run and simulated.
var FidelityNames = []string{"slow-hosts", "dead-hosts", "received-follows"}

// What is run before: nothing at all, jobs without deliveries, deliveries.
const (
	restOnly       = "calibrate-rest"
	jobsOnly       = "calibrate-jobs"
	deliveriesOnly = "calibrate-deliveries"
)

// within is how far a simulated figure may be from the real one.
const within = 0.15

// Measured is what of a real run is compared.
type Measured struct {
	Throughput float64             `json:"jobs_per_second"` // done, until the end of the last job
	Drain      float64             `json:"drain_seconds"`   // of the last job, after the last arrival
	P99        float64             `json:"p99_seconds"`     // of a delivery, from its first push to its acceptance
	Waits      map[string]float64  `json:"wait_p99_seconds"`
	Seconds    float64             `json:"seconds"` // that the run took
	Done       int                 `json:"done"`
	Deliveries int                 `json:"deliveries"`
	Queries    int                 `json:"queries"`
	CPU        float64             `json:"cpu_seconds"`
	Database   float64             `json:"database_seconds"`
	Beside     float64             `json:"beside_seconds"` // processor time of Redis, the receivers and the generator
	Drained    bool                `json:"drained"`
	Steal      float64             `json:"steal"`
	Machine    Machine             `json:"machine"`
	Version    string              `json:"version"`
	Engine     simulate.EngineName `json:"engine"`
}

// Compared is one scenario under one engine.
type Compared struct {
	Scenario  string
	About     string
	Engine    simulate.EngineName
	Real      []Measured // each run
	Median    Measured   // of each figure
	Simulated Measured
}

// Off is how far a simulated figure is from the median of the real ones.
func Off(simulated, measured float64) float64 {
	if simulated == measured {
		return 0
	}
	return (simulated - measured) / math.Max(math.Abs(measured), 1e-9)
}

// Holds says whether throughput, drain time and 99th percentile are all within 15 %.
func (c *Compared) Holds() bool {
	if c.Simulated.Drained != c.Median.Drained {
		return false
	}
	drain := Off(c.Simulated.Drain, c.Median.Drain)
	if !c.Median.Drained { // neither was, so there is no such time
		drain = 0
	}
	for _, off := range []float64{Off(c.Simulated.Throughput, c.Median.Throughput), drain, Off(c.Simulated.P99, c.Median.P99)} {
		if math.Abs(off) > within {
			return false
		}
	}
	return true
}

// Needs are what a machine needs under one engine besides the jobs' own work.
type Needs struct {
	simulate.Overhead

	Rest float64 // processors that are busy while nothing happens: the generator's looks at everything, the engine's own
}

// Calibration is both engines'.
type Calibration map[simulate.EngineName]*Needs

// Fidelity is everything that was compared.
type Fidelity struct {
	Calibration Calibration
	Compared    []Compared
	Repeats     int
}

// CompareReal measures what each engine needs on this machine for each job besides the job's own work, then runs every wanted scenario for real, so many
// times under each engine, and simulates it with those constants. What is kept is not run anew. Only what has all its runs is compared.
func CompareReal(ctx context.Context, o *Options, repeats int) (*Fidelity, error) {
	f := &Fidelity{Repeats: repeats}
	var problems []error
	var err error
	if f.Calibration, err = calibrate(ctx, o); err != nil {
		return nil, err
	}
	for i, name := range FidelityNames {
		if !o.wants(name) {
			continue
		}
		for _, engine := range Engines {
			if !o.runs(engine) {
				continue
			}
			c := Compared{Scenario: name, Engine: engine}
			for n := range repeats {
				o.Doing(fmt.Sprintf("%s, %s, run %d", name, engine, n+1), float64(i)/float64(len(FidelityNames)))
				m, err := measured(ctx, o, name, engine, n)
				if ctx.Err() != nil {
					return f, ctx.Err()
				}
				if err != nil {
					problems = append(problems, err)
					continue
				}
				c.Real = append(c.Real, m)
			}
			if len(c.Real) == 0 {
				continue
			}
			c.Median = median(c.Real)
			var err error
			if c.Simulated, c.About, err = predicted(name, engine, f.Calibration[engine], c.Median.Steal); err != nil {
				return f, err
			}
			f.Compared = append(f.Compared, c)
		}
	}
	return f, errors.Join(problems...)
}

// fidelityScenario is a scenario in the form that is run: this machine is its hardware, nothing else of it changes.
func fidelityScenario(name string) (*scenario.Scenario, error) {
	text, err := files.ReadFile("files/" + name + ".yaml")
	if err != nil {
		return nil, fmt.Errorf("scenario %s: %w", name, err)
	}
	s, problems := scenario.Parse(text)
	if len(problems) > 0 {
		return nil, fmt.Errorf("%s: %s", name, problems[0])
	}
	return run.Small(s, run.Form{Length: s.Length, Drain: s.Drain, Machine: runtime.NumCPU()})
}

// measured is one real run, kept or made.
func measured(ctx context.Context, o *Options, name string, engine simulate.EngineName, n int) (Measured, error) {
	return kept(o, filepath.Join(o.Dir, fmt.Sprintf("fidelity.%s.%s.%d.json", name, engine, n+1)), func() (Measured, error) {
		s, err := fidelityScenario(name)
		if err != nil {
			return Measured{}, err
		}
		before := steal()
		out, err := run.Run(ctx, run.Options{Scenario: s, Engine: engine, Worker: o.Worker})
		if err != nil {
			return Measured{}, fmt.Errorf("%s under %s: %w", name, engine, err)
		}
		if ctx.Err() != nil { // true for its part, but not what is compared
			return Measured{}, context.Cause(ctx)
		}
		m := figures(out.Result, s.Length)
		m.Throughput, m.Drained, m.Beside = out.Real.Throughput, out.Real.DrainSeconds != nil, out.Real.Beside
		if m.Drained {
			m.Drain = *out.Real.DrainSeconds
		}
		m.Steal, m.Machine, m.Version = steal().since(before), ThisMachine(), o.Version
		return m, nil
	})
}

// predicted is the simulation of the same, on the same machine: its cores are shared by all, and of their time so much was not ours as others took then.
func predicted(name string, engine simulate.EngineName, needs *Needs, stolen float64) (Measured, string, error) {
	s, err := fidelityScenario(name)
	if err != nil {
		return Measured{}, "", err
	}
	cfg, err := s.Config(engine)
	if err != nil {
		return Measured{}, "", err
	}
	cfg.Overhead, cfg.Bins, cfg.Shared = needs.Overhead, int((s.Length+s.Drain)/time.Second), true
	// What is busy anyway is, to the jobs, gone like what the hypervisor gives to others.
	ours := 1 - needs.Rest/float64(s.Hardware[0].Hosts[0].Cores)
	cfg.Stolen = min(max(0, 1-(1-stolen)*ours), 0.9)
	r, err := simulate.Run(cfg)
	if err != nil {
		return Measured{}, "", err
	}
	m := figures(r, s.Length)
	m.Drained = r.Jobs.Waiting+r.Jobs.Running == 0
	return m, s.About, nil
}

// figures takes out of a result what is compared.
func figures(r *simulate.Result, length time.Duration) Measured {
	m := Measured{
		Engine: r.Engine, Done: r.Jobs.Done, Deliveries: r.Deliveries.Accepted, P99: r.Deliveries.P99Seconds, Waits: map[string]float64{}, CPU: r.Use.CPUHours * 3600,
		Database: r.Use.DatabaseHours * 3600, Seconds: r.Seconds,
	}
	for i := range r.Queues {
		if q := &r.Queues[i]; q.Started > 0 {
			m.Waits[q.Name] = q.P99Seconds
		}
	}
	if last := r.LastEndSeconds; last > 0 {
		m.Throughput, m.Drain = float64(m.Done)/last, max(0, last-length.Seconds())
	}
	m.Queries = r.Queries
	return m
}

// calibrate measures what jobs need on this machine besides their own work: short real runs with little waiting for each engine, one of nothing,
// one of hardly anything but jobs of Ruby, one of many deliveries, against simulations in which everything besides is free. What is needed by the second
// is taken off first. What Ruby needs for a job under its lock is the same code under both engines, so stock Sidekiq's runs say it; what Queueville's need
// beyond that is its worker's. What is measured are sums of processor time, never how long anything took.
func calibrate(ctx context.Context, o *Options) (Calibration, error) {
	all := Calibration{}
	for _, engine := range Engines {
		rest, err := measured(ctx, o, restOnly, engine, 0)
		if err != nil {
			return nil, err
		}
		jobs, err := beyond(ctx, o, jobsOnly, engine, &rest)
		if err != nil {
			return nil, err
		}
		deliveries, err := beyond(ctx, o, deliveriesOnly, engine, &rest)
		if err != nil {
			return nil, err
		}
		need := &Needs{Rest: (rest.CPU + rest.Database + rest.Beside) / rest.Seconds}
		// Two unknowns each, two runs.
		job, delivery := solve(jobs.ruby, jobs.deliveries, jobs.cpu, deliveries.ruby, deliveries.deliveries, deliveries.cpu)
		beside, receive := solve(jobs.all(), jobs.deliveries, jobs.beside, deliveries.all(), deliveries.deliveries, deliveries.beside)
		need.Delivery, need.Beside, need.Receive = seconds(delivery), seconds(beside), seconds(receive)
		need.Query = max(0, seconds((jobs.database+deliveries.database)/(jobs.queries+deliveries.queries)))
		if stock := all[simulate.Sidekiq]; stock == nil {
			need.Fetch, need.HandOver = some(seconds(job)), -1
			need.Delivery = seconds(delivery - max(0, job)) // it is a job of Ruby, too
		} else {
			need.Fetch, need.HandOver = stock.Fetch, some(seconds(job)-max(0, stock.Fetch))
		}
		all[engine] = need
	}
	return all, nil
}

// beyond is what a calibration has shown beyond what is needed at rest and the jobs' own work, in seconds of processor time, and what it was needed for.
func beyond(ctx context.Context, o *Options, name string, engine simulate.EngineName, rest *Measured) (spare, error) {
	made, err := measured(ctx, o, name, engine, 0)
	if err != nil {
		return spare{}, err
	}
	bare, _, err := predicted(name, engine, &Needs{Overhead: simulate.Overhead{Fetch: -1, HandOver: -1}}, 0)
	if err != nil {
		return spare{}, err
	}
	by, done := made.Seconds/rest.Seconds, float64(made.Done)/float64(max(1, bare.Done)) // what a poller finds just before the end may be done or not
	return spare{
		cpu: made.CPU - by*rest.CPU - done*bare.CPU, database: made.Database - by*rest.Database - done*bare.Database, beside: made.Beside - by*rest.Beside,
		ruby: float64(made.Done - made.Deliveries), deliveries: float64(made.Deliveries), queries: done * float64(bare.Queries),
	}, nil
}

// spare are sums over a calibration.
type spare struct{ cpu, database, beside, ruby, deliveries, queries float64 }

func (s *spare) all() float64 { return s.ruby + s.deliveries }

func seconds(s float64) time.Duration {
	return time.Duration(s * float64(time.Second)).Round(time.Microsecond)
}

// some is what an Overhead has for nothing at all, where 0 would be the default.
func some(d time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return -1
}

// solve finds x and y with a1·x + b1·y = c1 and a2·x + b2·y = c2. Nothing costs less than nothing: where one would be negative, which is noise, it is 0, and
// the other what fits both sums together.
func solve(a1, b1, c1, a2, b2, c2 float64) (x, y float64) {
	det := a1*b2 - a2*b1
	if math.Abs(det) < 1e-9 {
		return 0, 0
	}
	x, y = (c1*b2-c2*b1)/det, (a1*c2-a2*c1)/det
	switch {
	case x < 0:
		return 0, max(0, (c1+c2)/max(1e-9, b1+b2))
	case y < 0:
		return max(0, (c1+c2)/max(1e-9, a1+a2)), 0
	}
	return x, y
}

// median is each figure's.
func median(list []Measured) Measured {
	of := func(f func(*Measured) float64) float64 {
		var v []float64
		for i := range list {
			v = append(v, f(&list[i]))
		}
		slices.Sort(v)
		return v[len(v)/2]
	}
	m := list[0]
	m.Throughput = of(func(m *Measured) float64 { return m.Throughput })
	m.Drain = of(func(m *Measured) float64 { return m.Drain })
	m.P99 = of(func(m *Measured) float64 { return m.P99 })
	m.CPU = of(func(m *Measured) float64 { return m.CPU })
	m.Database = of(func(m *Measured) float64 { return m.Database })
	m.Steal = of(func(m *Measured) float64 { return m.Steal })
	m.Waits = map[string]float64{}
	for q := range list[0].Waits {
		m.Waits[q] = of(func(m *Measured) float64 { return m.Waits[q] })
	}
	drained := 0
	for i := range list {
		if list[i].Drained {
			drained++
		}
	}
	m.Drained = 2*drained > len(list)
	return m
}
