package league

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/queueville/queueville/loadtest/run"
	"github.com/queueville/queueville/loadtest/scenario"
	"github.com/queueville/queueville/loadtest/simulate"
)

// RealLength is how long jobs arrive in the short form of a real run: twelve scenarios under two engines take a quarter of an hour with it. What is left
// then may take two thirds of it.
const RealLength = 15 * time.Second

// Engines are both, in the order of the tables.
var Engines = []simulate.EngineName{simulate.Sidekiq, simulate.Queueville}

// Options say how runs are made and where their figures are kept.
type Options struct {
	Dir     string                          // of what is kept
	Only    []string                        // scenarios; none means all
	Engine  simulate.EngineName             // of what is compared with real runs; "" means both
	Again   bool                            // runs what is kept anew
	Real    bool                            // real runs too
	Length  time.Duration                   // of their arrivals; 0 means RealLength
	Worker  []string                        // words that start the worker, for real runs
	Version string                          // of this program
	Doing   func(what string, done float64) // told what is being done
}

func (o *Options) wants(name string) bool { return len(o.Only) == 0 || slices.Contains(o.Only, name) }

func (o *Options) runs(engine simulate.EngineName) bool { return o.Engine == "" || o.Engine == engine }

// Row is what a table says of one run.
type Row struct {
	Scenario string              `json:"scenario"`
	Engine   simulate.EngineName `json:"engine"`
	Version  string              `json:"version"`
	Machine  Machine             `json:"machine"`
	Seed     uint64              `json:"seed"`
	Length   float64             `json:"length_seconds,omitempty"` // of a real run's arrivals
	Met      bool                `json:"met"`                      // the scenario's thresholds
	Missed   []string            `json:"missed,omitempty"`
	InTime   float64             `json:"in_time"`
	P99      float64             `json:"deliveries_p99_seconds"`
	Backlog  int                 `json:"peak_backlog"`
	Done     int                 `json:"done"`
	Lost     int                 `json:"lost"`
	CPU      float64             `json:"cpu_ms_per_job"`
	Rate     float64             `json:"jobs_per_second"`
	Drain    *float64            `json:"drain_seconds"`     // after the last arrival; null: not within the run
	Queue    string              `json:"worst_queue"`       // the one that kept its goal least
	Within   float64             `json:"worst_within_goal"` // and how much of it did
	Steal    float64             `json:"steal"`             // share of the machine's processor time that others took, of a real run
}

// Machine is what a real run was made on.
type Machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	System string `json:"system"`
}

// ThisMachine is the one that this runs on.
func ThisMachine() Machine {
	m := Machine{Cores: runtime.NumCPU(), System: runtime.GOOS + "/" + runtime.GOARCH}
	text, _ := os.ReadFile("/proc/cpuinfo") // elsewhere the name stays unknown
	for line := range strings.Lines(string(text)) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			m.CPU = strings.Trim(name, " \t:\n")
			break
		}
	}
	if text, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.System += " " + strings.TrimSpace(string(text))
	}
	return m
}

// League runs every scenario that is wanted, simulated and perhaps for real, unless it is kept, and returns everything that is kept. An error of one real
// run does not keep the others from being made; all are returned.
func League(ctx context.Context, o *Options) ([]Row, []Row, error) {
	var problems []error
	for i, name := range scenario.Names() {
		if !o.wants(name) {
			continue
		}
		for _, engine := range Engines {
			o.Doing(fmt.Sprintf("%s, %s", name, engine), float64(i)/float64(len(scenario.Names())))
			_, err := kept(o, file(o.Dir, "simulated", name, engine), func() (Row, error) { return simulated(ctx, o, name, engine) })
			problems = append(problems, err)
			if !o.Real || ctx.Err() != nil {
				continue
			}
			_, err = kept(o, file(o.Dir, "real", name, engine), func() (Row, error) { return forReal(ctx, o, name, engine) })
			problems = append(problems, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	sims, err := all(o.Dir, "simulated")
	problems = append(problems, err)
	reals, err := all(o.Dir, "real")
	return sims, reals, errors.Join(append(problems, err)...)
}

func file(dir, kind, name string, engine simulate.EngineName) string {
	return filepath.Join(dir, fmt.Sprintf("%s.%s.%s.json", kind, name, engine))
}

// kept reads a file, or makes what belongs there and writes it.
func kept[T any](o *Options, name string, run func() (T, error)) (T, error) {
	var v T
	if !o.Again {
		if text, err := os.ReadFile(name); err == nil && json.Unmarshal(text, &v) == nil {
			return v, nil
		}
	}
	v, err := run()
	if err != nil {
		return v, err
	}
	text, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return v, fmt.Errorf("keep figures: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return v, fmt.Errorf("keep figures: %w", err)
	}
	return v, os.WriteFile(name, append(text, '\n'), 0o600)
}

// all reads what is kept of a kind, in the order of the scenarios.
func all(dir, kind string) ([]Row, error) {
	var rows []Row
	for _, name := range scenario.Names() {
		for _, engine := range Engines {
			text, err := os.ReadFile(file(dir, kind, name, engine))
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			var row Row
			if err == nil {
				err = json.Unmarshal(text, &row)
			}
			if err != nil {
				return nil, fmt.Errorf("read what is kept: %w", err)
			}
			rows = append(rows, row)
		}
	}
	return rows, nil
}

func load(name string) (*scenario.Scenario, error) {
	text, err := scenario.Source(name)
	if err != nil {
		return nil, err
	}
	s, problems := scenario.Parse(text)
	if len(problems) > 0 {
		return nil, fmt.Errorf("%s: %s", name, problems[0])
	}
	return s, nil
}

func simulated(ctx context.Context, o *Options, name string, engine simulate.EngineName) (Row, error) {
	s, err := load(name)
	if err != nil {
		return Row{}, err
	}
	cfg, err := s.Config(engine)
	if err != nil {
		return Row{}, err
	}
	cfg.Progress = func(float64) bool { return ctx.Err() == nil }
	r, err := simulate.Run(cfg)
	if err != nil {
		return Row{}, err
	}
	if r.Partial {
		return Row{}, context.Cause(ctx)
	}
	row := rowOf(s, r, o.Version)
	row.Rate = float64(r.Jobs.Done) / r.Seconds
	return row, nil
}

func forReal(ctx context.Context, o *Options, name string, engine simulate.EngineName) (Row, error) {
	s, err := load(name)
	if err != nil {
		return Row{}, err
	}
	length := o.Length
	if length == 0 {
		length = RealLength
	}
	small, err := run.Small(s, run.Form{Length: length, Drain: max(5*time.Second, 2*length/3), Machine: runtime.NumCPU()})
	if err != nil {
		return Row{}, err
	}
	before := steal()
	out, err := run.Run(ctx, run.Options{Scenario: small, Engine: engine, Worker: o.Worker})
	if err != nil {
		return Row{}, fmt.Errorf("%s under %s: %w", name, engine, err)
	}
	if ctx.Err() != nil {
		return Row{}, context.Cause(ctx)
	}
	row := rowOf(small, out.Result, o.Version)
	row.Length = length.Seconds()
	row.Machine, row.Rate, row.Drain, row.Lost, row.Steal = ThisMachine(), out.Real.Throughput, out.Real.DrainSeconds, out.Real.Accounting.Missing, steal().since(before)
	return row, nil
}

func rowOf(s *scenario.Scenario, r *simulate.Result, version string) Row {
	checks, met := s.CheckAll(r)
	row := Row{
		Scenario: s.Name, Engine: r.Engine, Version: version, Seed: s.Seed, Met: met, InTime: r.Deliveries.InTime, P99: r.Deliveries.P99Seconds, Backlog: r.Use.PeakBacklog,
		Done: r.Jobs.Done, Lost: r.Jobs.Lost, Within: 2,
	}
	for _, c := range checks {
		if !c.Met {
			row.Missed = append(row.Missed, c.Text)
		}
	}
	if r.Jobs.Done > 0 {
		row.CPU = r.Use.CPUHours * 3.6e6 / float64(r.Jobs.Done)
	}
	for i := range r.Queues {
		if q := &r.Queues[i]; q.Started > 0 && q.WithinGoal < row.Within {
			row.Queue, row.Within = q.Name, q.WithinGoal
		}
	}
	return row
}

// ticks are the machine's processor time: what was stolen from it, and all.
type ticks struct{ stolen, total float64 }

// steal reads /proc/stat; zero elsewhere.
func steal() (t ticks) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return t
	}
	line, _, _ := strings.Cut(string(text), "\n")
	for i, word := range strings.Fields(line) {
		const stolenField, lastField = 8, 8
		var v float64
		if i == 0 || i > lastField {
			continue
		}
		_, _ = fmt.Sscan(word, &v) // a word that is no number counts as 0
		t.total += v
		if i == stolenField {
			t.stolen = v
		}
	}
	return t
}

func (t ticks) since(before ticks) float64 {
	if t.total <= before.total {
		return 0
	}
	return (t.stolen - before.stolen) / (t.total - before.total)
}
