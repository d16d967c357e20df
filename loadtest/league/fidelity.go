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
var FidelityNames = []string{"slow-hosts", "dead-hosts", "received-posts"}

// calibrations are run before: jobs without deliveries, and deliveries.
var calibrations = []string{"calibrate-jobs", "calibrate-deliveries"}

// within is how far a simulated figure may be from the real one.
const within = 0.15

// Measured is what of a real run is compared.
type Measured struct {
	Throughput float64             `json:"jobs_per_second"` // done, until the end of the last job
	Drain      float64             `json:"drain_seconds"`   // of the last job, after the last arrival
	P99        float64             `json:"p99_seconds"`     // of a delivery, from its first push to its acceptance
	Waits      map[string]float64  `json:"wait_p99_seconds"`
	Done       int                 `json:"done"`
	Deliveries int                 `json:"deliveries"`
	Queries    int                 `json:"queries"`
	CPU        float64             `json:"cpu_seconds"`
	Database   float64             `json:"database_seconds"`
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
	for _, off := range []float64{Off(c.Simulated.Throughput, c.Median.Throughput), Off(c.Simulated.Drain, c.Median.Drain), Off(c.Simulated.P99, c.Median.P99)} {
		if math.Abs(off) > within {
			return false
		}
	}
	return true
}

// Fidelity is everything that was compared.
type Fidelity struct {
	Calibration simulate.Overhead
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
			if c.Simulated, c.About, err = predicted(name, engine, f.Calibration); err != nil {
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
		m.Throughput, m.Drained = out.Real.Throughput, out.Real.DrainSeconds != nil
		if m.Drained {
			m.Drain = *out.Real.DrainSeconds
		}
		m.Steal, m.Machine, m.Version = steal().since(before), ThisMachine(), o.Version
		return m, nil
	})
}

// predicted is the simulation of the same.
func predicted(name string, engine simulate.EngineName, over simulate.Overhead) (Measured, string, error) {
	s, err := fidelityScenario(name)
	if err != nil {
		return Measured{}, "", err
	}
	cfg, err := s.Config(engine)
	if err != nil {
		return Measured{}, "", err
	}
	cfg.Overhead, cfg.Bins = over, int((s.Length+s.Drain)/time.Second)
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
		Database: r.Use.DatabaseHours * 3600,
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

// calibrate measures what jobs need on this machine besides their own work: two short real runs with little waiting for each engine, against
// simulations in which everything besides is free. What Ruby needs for a job under its lock is the same code under both engines, so stock Sidekiq's runs
// say it; what Queueville's need beyond that is its worker's.
func calibrate(ctx context.Context, o *Options) (simulate.Overhead, error) {
	over := simulate.Overhead{Fetch: -1, HandOver: -1}
	var spare, database [2]float64 // seconds, by engine
	var ruby, queries [2]int
	for k, engine := range Engines {
		for _, name := range calibrations {
			o.Doing(fmt.Sprintf("%s, %s", name, engine), 0)
			made, err := measured(ctx, o, name, engine, 0)
			if err != nil {
				return over, err
			}
			bare, _, err := predicted(name, engine, simulate.Overhead{Fetch: -1, HandOver: -1})
			if err != nil {
				return over, err
			}
			spare[k] += made.CPU - bare.CPU
			database[k] += made.Database - bare.Database
			queries[k] += bare.Queries
			ruby[k] += made.Done
			if engine == simulate.Queueville {
				ruby[k] -= made.Deliveries
			}
		}
	}
	per := func(seconds float64, n int) time.Duration {
		d := time.Duration(seconds / float64(max(1, n)) * float64(time.Second)).Round(time.Microsecond)
		if d <= 0 {
			return -1 // none; 0 would be the default
		}
		return d
	}
	over.Fetch = per(spare[0], ruby[0])
	over.HandOver = per(spare[1]-float64(ruby[1])*max(0, over.Fetch).Seconds(), ruby[1])
	over.Query = max(0, per(database[0], queries[0]))
	return over, nil
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
	for i := range list {
		m.Drained = m.Drained && list[i].Drained
	}
	return m
}
