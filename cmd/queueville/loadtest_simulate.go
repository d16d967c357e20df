package main

import (
	"context"
	"errors"
	"fmt"
	stdlib "io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	reports "github.com/queueville/queueville/loadtest/report"
	"github.com/queueville/queueville/loadtest/scenario"
	"github.com/queueville/queueville/loadtest/simulate"
)

// whatIf is what the command line changes of a scenario.
type whatIf struct {
	hosts   string
	sidekiq []string
	budget  int
	seed    uint64
	length  time.Duration
}

func (w *whatIf) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&w.hosts, "hosts", "", "other machines, for the whole run: `3x8c`, or 1x4c,2x16c@1.3 (cores 1.3 times as fast)")
	f.StringArrayVar(&w.sidekiq, "sidekiq", nil, "what stock Sidekiq runs on each machine, repeatable: `\"-c 25 -q default,8 -q push,6\"`; \"4x -c 10\" is four of them")
	f.IntVar(&w.budget, "budget", 0, "database connections for all jobs together: `N`")
	f.Uint64Var(&w.seed, "seed", 0, "another seed")
	f.DurationVar(&w.length, "length", 0, "only the first `36h` of it")
}

// apply changes s, and says in words what was changed.
func (w *whatIf) apply(s *scenario.Scenario) ([]string, error) {
	var changed []string
	if w.seed != 0 {
		s.Seed = w.seed
		changed = append(changed, fmt.Sprintf("--seed %d", w.seed))
	}
	if w.length > 0 && w.length < s.Length {
		s.Length = w.length
		changed = append(changed, "--length "+w.length.String())
	}
	s.Hardware = slices.Clone(s.Hardware)
	if w.hosts != "" {
		hosts, err := scenario.ParseHosts(w.hosts)
		if err != nil {
			return nil, fmt.Errorf("--hosts: %w", err)
		}
		first := s.Hardware[0]
		for i := range hosts {
			hosts[i].Sidekiq = first.Hosts[0].Sidekiq
		}
		first.Hosts = hosts
		s.Hardware = []simulate.Stage{first}
		changed = append(changed, "--hosts "+w.hosts)
	}
	if len(w.sidekiq) > 0 {
		var procs []simulate.Process
		for _, text := range w.sidekiq {
			p, err := scenario.ParseSidekiq(text)
			if err != nil {
				return nil, fmt.Errorf("--sidekiq: %w", err)
			}
			procs = append(procs, p...)
			changed = append(changed, fmt.Sprintf("--sidekiq %q", text))
		}
		for i := range s.Hardware {
			s.Hardware[i].Hosts = slices.Clone(s.Hardware[i].Hosts)
			for h := range s.Hardware[i].Hosts {
				s.Hardware[i].Hosts[h].Sidekiq = procs
			}
		}
	}
	if err := checkBudget(w.budget); err != nil {
		return nil, err
	}
	if w.budget > 0 {
		for i := range s.Hardware {
			s.Hardware[i].Database.Connections = w.budget
		}
		changed = append(changed, fmt.Sprintf("--budget %d", w.budget))
	}
	return changed, nil
}

// leastBudget is how few connections one worker can run everything with: two are kept to confirm with, a Ruby process needs two.
const leastBudget = 4

// checkBudget refuses what nothing could run with; 0 is the scenario's.
func checkBudget(n int) error {
	if n == 0 || n >= leastBudget {
		return nil
	}
	return fmt.Errorf("--budget %d: %d are needed at least, two of them to confirm with, and two for a Ruby process", n, leastBudget)
}

// outputs is where a report goes.
type outputs struct {
	json   bool
	html   string
	plots  string
	quiet  bool
	engine string
}

func newLoadtestSimulate(io stdio) *cobra.Command {
	var change whatIf
	var out outputs
	cmd := &cobra.Command{
		Use:   "simulate SCENARIO",
		Short: "Run a scenario in virtual time, under stock Sidekiq and under Queueville",
		Long: `Runs the scenario by discrete events: hours take seconds. SCENARIO is a name of "queueville loadtest scenarios" or a file (./mine.yaml).
The same seed gives the same report, byte for byte. Ctrl-C ends it early, and the report says of which part it is true.`,
		Example: `  queueville loadtest simulate twitter-migration --html report.html
  queueville loadtest simulate dead-hosts-30 --engine sidekiq --sidekiq "-c 25 -q default,8 -q push,6 -q ingress,4 -q mailers,2" --sidekiq "-c 50 -q pull -q scheduler"
  queueville loadtest simulate viral-post --hosts 3x8c --budget 200 --json | jq '.runs[].result.use'`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeScenarios,
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := loadScenario(args[0])
			if err != nil {
				return err
			}
			changed, err := change.apply(s)
			if err != nil {
				return &exitError{code: exitUsage, err: err}
			}
			return simulateAndReport(cmd.Context(), io, s, changed, &out)
		},
	}
	change.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&out.engine, "engine", "both", "sidekiq, queueville or both")
	f.BoolVar(&out.json, "json", false, "the report as one JSON object")
	f.StringVar(&out.html, "html", "", "the report as one page that needs nothing else, to `FILE`")
	f.StringVar(&out.plots, "plots", "", "every plot as SVG and PNG into `DIR`")
	f.BoolVarP(&out.quiet, "quiet", "q", false, "no progress bar")
	_ = cmd.RegisterFlagCompletionFunc("engine", cobra.FixedCompletions([]string{"both", "sidekiq", "queueville"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// engines are those that a flag names.
func engines(flag string) ([]simulate.EngineName, error) {
	switch flag {
	case "both", "":
		return []simulate.EngineName{simulate.Sidekiq, simulate.Queueville}, nil
	case string(simulate.Sidekiq), string(simulate.Queueville):
		return []simulate.EngineName{simulate.EngineName(flag)}, nil
	}
	return nil, fmt.Errorf("--engine %q: sidekiq, queueville or both", flag)
}

func simulateAndReport(ctx context.Context, io stdio, s *scenario.Scenario, changed []string, out *outputs) error {
	list, err := engines(out.engine)
	if err != nil {
		return &exitError{code: exitUsage, err: err}
	}
	results, err := simulateAll(ctx, io, s, list, "simulating", out.quiet)
	if err != nil {
		return err
	}
	rep := reports.New(s, results, version, changed)
	if err := writeReport(io, rep, out); err != nil {
		return failure(err)
	}
	switch {
	case ctx.Err() != nil:
		return &exitError{code: exitInterrupted, err: errors.New("interrupted; the report is true for the part that was run")}
	case !rep.Met():
		return &exitError{code: exitThresholds, err: errors.New("thresholds were missed"), hint: "the report lists them"}
	}
	return nil
}

// simulateAll runs engines, at the same time where there are processors for it, under one progress bar on standard error, which says what is run. What
// comes of each depends on nothing but the scenario.
func simulateAll(ctx context.Context, io stdio, s *scenario.Scenario, list []simulate.EngineName, what string, quiet bool) ([]*simulate.Result, error) {
	bar := newProgress(io, len(list), what, quiet)
	defer bar.finish()
	results := make([]*simulate.Result, len(list))
	var group errgroup.Group
	for i, engine := range list {
		cfg, err := s.Config(engine)
		if err != nil {
			return nil, &exitError{code: exitConfig, err: errors.Join(err, group.Wait())}
		}
		cfg.Progress = func(done float64) bool {
			bar.set(i, done)
			return ctx.Err() == nil
		}
		group.Go(func() error {
			r, err := simulate.Run(cfg)
			results[i] = r
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, &exitError{code: exitConfig, err: err}
	}
	return results, nil
}

// progress is a bar over several things that are under way at once.
type progress struct {
	mu   sync.Mutex
	bar  *progressbar.ProgressBar // nil: none is shown
	done []float64
}

func newProgress(io stdio, things int, what string, quiet bool) *progress {
	p := &progress{done: make([]float64, things)}
	if terminal(io.err) && !quiet {
		p.bar = progressbar.NewOptions(1000, progressbar.OptionSetWriter(io.err), progressbar.OptionSetDescription(fmt.Sprintf("%-10s", what)),
			progressbar.OptionSetPredictTime(true), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish(), progressbar.OptionFullWidth())
	}
	return p
}

// set says how far one of them is, 0 to 1. The bar shows the one that is least far.
func (p *progress) set(i int, done float64) {
	if p.bar == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done[i] = done
	_ = p.bar.Set(min(1000, int(1000*slices.Min(p.done))))
}

func (p *progress) finish() {
	if p.bar != nil {
		_ = p.bar.Finish()
	}
}

// writeReport writes what was asked for, the text for a person unless the object was.
func writeReport(io stdio, rep *reports.Report, out *outputs) error {
	if out.html != "" {
		if err := writeFile(out.html, rep.WriteHTML); err != nil {
			return err
		}
	}
	if out.plots != "" {
		if err := writePlots(out.plots, rep); err != nil {
			return err
		}
	}
	if out.json {
		return rep.WriteJSON(io.out)
	}
	if err := rep.WriteText(io.out); err != nil {
		return err
	}
	if out.html != "" {
		_, _ = fmt.Fprintf(io.out, "\nreport: %s\n", out.html)
	}
	return nil
}

// writeFile writes a file whole or not at all.
func writeFile(name string, write func(stdlib.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".queueville-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // gone already when all went well
	if err := write(f); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := errors.Join(f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

func writePlots(dir string, rep *reports.Report) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	plots, err := rep.Plots()
	if err != nil {
		return err
	}
	for i := range plots {
		p := &plots[i]
		svg, err := p.SVG()
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, p.Name+".svg"), []byte(svg), 0o644); err != nil {
			return err
		}
		if err := writeFile(filepath.Join(dir, p.Name+".png"), p.WritePNG); err != nil {
			return err
		}
	}
	return nil
}
