package suite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/queueville/queueville/bench/internal/measure"
)

// Options are what a run is told.
type Options struct {
	Rounds     int           // of every contender; 0 means 3, quick 1
	Quick      bool          // few jobs, for a look
	Only       []string      // contenders to run; nil means all
	Jobs       int           // jobs per round of the quick contenders; 0 means the suite's own number. Slow ones get fewer
	Log        io.Writer     // progress, for a person
	Self       string        // this program, which the harness starts again for contenders and receivers
	Root       string        // the module's directory, where queueville is built
	Dir        string        // a directory for this run's files, removed by the caller
	ProfileDir string        // where Go contenders write CPU profiles; "" means that they do not
	Package    bool          // deliveries run on the packages in a process of this program, not on the queueville binary
	Parts      []string      // of the scheduler or the full suite; nil means all
	Static     [2]int        // processes and threads of stock Sidekiq in the full suite, as an earlier sweep found them; zeros: sweep
	Latency    time.Duration // of other servers in the full suite; 0: 500 ms
	Plots      string        // directory for the scheduler suite's pictures; "" for none
	Binary     string        // a queueville with OpenSSL that is built already; "" builds one
	Seen       string        // directory for all that was seen in the scheduler suite's runs, the journal of limits included; "" for none
}

// withDefaults fills in what was left out.
func (o Options) withDefaults() Options {
	if o.Rounds <= 0 {
		o.Rounds = 3
		if o.Quick {
			o.Rounds = 1
		}
	}
	if o.Latency <= 0 {
		o.Latency = fullLatency
	}
	if o.Log == nil {
		o.Log = io.Discard
	}
	return o
}

func (o Options) wants(name string) bool { return len(o.Only) == 0 || slices.Contains(o.Only, name) }

// has says whether a part of a suite is asked for.
func (o Options) has(part string) bool { return len(o.Parts) == 0 || slices.Contains(o.Parts, part) }

func (o Options) logf(format string, args ...any) { _, _ = fmt.Fprintf(o.Log, format+"\n", args...) }

// Report is what a suite found.
type Report struct {
	Suite   string              `json:"suite"`
	Tables  []Table             `json:"tables"`
	Targets []measure.Target    `json:"targets"`
	Notes   []string            `json:"notes,omitempty"`
	Values  map[string][]Figure `json:"values,omitempty"` // contender → one for each round
	Took    float64             `json:"took_s"`
}

// Table is one table of a report; the first row is its head.
type Table struct {
	Title string     `json:"title"`
	Rows  [][]string `json:"rows"`
}

// Figure is what one contender did in one round.
type Figure struct {
	PerSecond  float64 `json:"per_second"`
	CPU        float64 `json:"cpu_us"`       // of the contender, µs per job
	RedisCPU   float64 `json:"redis_cpu_us"` // µs per job
	RoundTrips float64 `json:"round_trips"`  // to Redis, per job
	PeakMiB    float64 `json:"peak_mib"`     // resident
	Jobs       int     `json:"jobs"`
}

// Suites are the names of all suites, in the order in which they run.
func Suites() []string {
	return []string{"noop", "delivery", "memory", "deadhosts", "shared", "full", "scheduler"}
}

// Run runs one suite.
func Run(ctx context.Context, name string, o Options) (*Report, error) {
	o = o.withDefaults()
	suites := map[string]func(context.Context, Options) (*Report, error){
		"noop": runNoop, "delivery": runDelivery, "memory": runMemory, "deadhosts": runDeadHosts, "shared": runShared, "full": runFull,
		"scheduler": runScheduler,
	}
	run, ok := suites[name]
	if !ok {
		return nil, fmt.Errorf("unknown suite %q", name)
	}
	busy := measure.Busy(ctx, 2*time.Second)
	start := time.Now()
	report, err := run(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if busy > 0.1 {
		report.Notes = append(report.Notes, fmt.Sprintf("the machine was %.0f %% busy with other things before this suite began: its figures are no measurement", 100*busy))
	}
	if o.Quick {
		report.Notes = append(report.Notes, "quick mode: few jobs, one round; a look, no measurement")
	}
	if o.Package || o.ProfileDir != "" {
		report.Notes = append(report.Notes, "deliveries ran on the packages in a process of the benchmark's, not on the queueville binary")
	}
	report.Suite, report.Took = name, time.Since(start).Seconds()
	return report, nil
}

// build makes a queueville binary; without cgo it signs in Go.
func (o Options) build(ctx context.Context, cgo bool) (string, error) {
	if cgo && o.Binary != "" {
		return o.Binary, nil
	}
	name := "queueville"
	env := "CGO_ENABLED=1"
	if !cgo {
		name, env = "queueville-nocgo", "CGO_ENABLED=0"
	}
	path := filepath.Join(o.Dir, name)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "build", "-o", path, "./cmd/queueville") //nolint:gosec // our own module
	cmd.Dir, cmd.Env = o.Root, append(os.Environ(), env)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build queueville: %w\n%s", err, out)
	}
	return path, nil
}

// errLost says that a contender did not finish the jobs it was given.
var errLost = errors.New("jobs are not finished")
