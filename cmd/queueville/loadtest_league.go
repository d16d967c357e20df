package main

import (
	"context"
	"errors"
	"fmt"
	stdlib "io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/queueville/queueville/loadtest/league"
	"github.com/queueville/queueville/loadtest/scenario"
	"github.com/queueville/queueville/loadtest/simulate"
)

// pages is what the commands that write pages of docs/ have in common.
type pages struct {
	league.Options

	out, plots string
	quiet      bool
}

func (p *pages) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&p.out, "out", "", "the page to `FILE` instead of standard output")
	f.StringVar(&p.Dir, "keep", "bin/loadtest", "`DIR` in which figures are kept, so that what was run is not run again")
	f.StringSliceVar(&p.Only, "only", nil, "only these scenarios")
	f.BoolVar(&p.Again, "again", false, "run what is kept, too")
	f.BoolVarP(&p.quiet, "quiet", "q", false, "no progress bar")
}

// begin fills the options in. names are the scenarios that there are.
func (p *pages) begin(io stdio, names []string) (finish func(), err error) {
	for _, name := range p.Only {
		if !slices.Contains(names, name) {
			return nil, &exitError{code: exitUsage, err: fmt.Errorf("--only: unknown scenario %q", name), hint: "there are " + strings.Join(names, ", ")}
		}
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, failure(err)
	}
	p.Worker, p.Version, p.Doing = []string{exe, "loadtest", "worker"}, version, func(string, float64) {}
	if !terminal(io.err) || p.quiet {
		return func() {}, nil
	}
	bar := progressbar.NewOptions(1000, progressbar.OptionSetWriter(io.err), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish(), progressbar.OptionFullWidth())
	p.Doing = func(what string, done float64) {
		bar.Describe(what)
		_ = bar.Set(min(1000, int(1000*done)))
	}
	return func() { _ = bar.Finish() }, nil
}

// write writes the page to its file or to standard output.
func (p *pages) write(io stdio, page func(stdlib.Writer) error) error {
	if p.out == "" {
		return page(io.out)
	}
	return writeFile(p.out, page)
}

func newLoadtestLeague(io stdio) *cobra.Command {
	var p pages
	cmd := &cobra.Command{
		Use:   "league",
		Short: "Run every scenario under both engines and write docs/league.md",
		Long: `Simulates every scenario under stock Sidekiq and under Queueville, with --real also runs each of them in its short form, and writes a page with what came
of it. Figures are kept, a file each, so that a league can be made in parts: what is kept is not run again.`,
		Example: `  queueville loadtest league
  queueville loadtest league --real --only viral-post,dead-hosts-30 --out league.md`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			finish, err := p.begin(io, scenario.Names())
			if err != nil {
				return err
			}
			sims, reals, err := league.League(cmd.Context(), &p.Options)
			finish()
			if cmd.Context().Err() != nil {
				return interrupted(cmd.Context())
			}
			if p.plots != "" {
				err = errors.Join(err, league.WritePlots(p.plots, sims, reals))
			}
			if err = errors.Join(err, p.write(io, func(w stdlib.Writer) error { return league.WritePage(w, sims, reals) })); err != nil {
				return runError(err)
			}
			return missed(sims)
		},
	}
	p.flags(cmd)
	cmd.Flags().BoolVar(&p.Real, "real", false, "real runs too, in short form: Debian's Sidekiq and Queueville on throwaway servers, up to half a minute each")
	cmd.Flags().DurationVar(&p.Length, "length", league.RealLength, "how long jobs arrive in a real run; what is left then may take two thirds of it")
	cmd.Flags().StringVar(&p.plots, "plots", "", "its plots as SVG into `DIR`")
	return cmd
}

func newLoadtestFidelity(io stdio) *cobra.Command {
	var p pages
	var repeats int
	cmd := &cobra.Command{
		Use:   "fidelity",
		Short: "Hold simulations against real runs of the same scenarios",
		Long: `Measures what a job costs each engine on this machine, runs three small scenarios for real under stock Sidekiq and under Queueville, simulates them, and
says how far throughput, drain time and the 99th percentile of deliveries are apart. Exit code 6 when one is more than 15 % off.`,
		Example: `  queueville loadtest fidelity
  queueville loadtest fidelity --only slow-hosts --repeat 1 --again`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if repeats < 1 || repeats > 99 {
				return &exitError{code: exitUsage, err: fmt.Errorf("--repeat %d: 1 to 99", repeats)}
			}
			finish, err := p.begin(io, league.FidelityNames)
			if err != nil {
				return err
			}
			f, err := league.CompareReal(cmd.Context(), &p.Options, repeats)
			finish()
			if cmd.Context().Err() != nil {
				return interrupted(cmd.Context())
			}
			if f == nil {
				return runError(err)
			}
			if err = errors.Join(err, p.write(io, f.WritePage)); err != nil {
				return runError(err)
			}
			for i := range f.Compared {
				if !f.Compared[i].Holds() {
					return &exitError{code: exitThresholds, err: errors.New("a simulation is more than 15 % off"), hint: "the table says which"}
				}
			}
			return nil
		},
	}
	p.flags(cmd)
	cmd.Flags().IntVar(&repeats, "repeat", 3, "real runs of each, of which the medians count: `N`")
	cmd.Flags().StringVar((*string)(&p.Engine), "engine", "", "only under one: sidekiq or queueville")
	return cmd
}

func interrupted(ctx context.Context) error {
	return &exitError{code: exitInterrupted, err: fmt.Errorf("interrupted (%w); what was run is kept", context.Cause(ctx))}
}

// missed is an error when a simulated Queueville missed a threshold. What stock Sidekiq or a real run on a busy machine misses is in the page.
func missed(rows []league.Row) error {
	for i := range rows {
		if r := &rows[i]; !r.Met && r.Engine == simulate.Queueville {
			return &exitError{code: exitThresholds, err: fmt.Errorf("%s, %s: missed %v", r.Scenario, r.Engine, r.Missed), hint: "the page has all of them"}
		}
	}
	return nil
}
