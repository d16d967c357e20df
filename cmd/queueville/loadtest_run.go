package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/queueville/queueville/internal/redisconn"
	"github.com/queueville/queueville/internal/throwaway"
	reports "github.com/queueville/queueville/loadtest/report"
	realruns "github.com/queueville/queueville/loadtest/run"
	"github.com/queueville/queueville/loadtest/scenario"
	"github.com/queueville/queueville/loadtest/simulate"
)

// realRun is what the command line says of a real run.
type realRun struct {
	form    realruns.Form
	sidekiq []string
	seed    uint64
	versus  bool
	predict bool
	maxJobs int
	worker  []string
	redis   string
	sure    bool
	out     outputs
}

func newLoadtestRun(io stdio) *cobra.Command {
	var r realRun
	cmd := &cobra.Command{
		Use:   "run SCENARIO",
		Short: "Run a scenario in real time, on real servers and real job processes on this machine",
		Long: `Runs the scenario in a small form: its whole course squeezed into --length, on one host, this machine. A throwaway Redis and PostgreSQL, receivers
over TLS on loopback addresses, and real job processes: Queueville's worker in full mode, or Debian's Sidekiq with the given -c and -q. Jobs use
the processor time, make the statements and wait as long as the scenario's costs say. Arrivals wait for nobody: a push that is a second late is
dropped and counted. At the end every job is accounted for. Ctrl-C ends it early, and the report is true for the part.`,
		Example: `  queueville loadtest run viral-post --engine queueville --length 60s
  queueville loadtest run dead-hosts-30 --versus --length 60s --sidekiq "-c 25" --html report.html
  queueville loadtest run follow-wave --engine sidekiq --cores 1 --predict --json | jq .real`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeScenarios,
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := loadScenario(args[0])
			if err != nil {
				return err
			}
			return r.run(cmd.Context(), io, s)
		},
	}
	f := cmd.Flags()
	f.StringVar(&r.out.engine, "engine", "queueville", "sidekiq or queueville")
	f.BoolVar(&r.versus, "versus", false, "both engines, one after the other, on the same jobs")
	f.BoolVar(&r.predict, "predict", false, "simulate the same beside it, and say how far they are apart")
	f.DurationVar(&r.form.Length, "length", realruns.DefaultLength, "how long jobs arrive")
	f.DurationVar(&r.form.Drain, "drain", realruns.DefaultDrain, "how long what is left may take at most")
	f.Float64Var(&r.form.Rate, "rate", 1, "`FACTOR` of how many people there are and how often anything happens")
	f.IntVar(&r.form.Instances, "instances", realruns.DefaultInstances, "receivers at most")
	f.IntVar(&r.form.Cores, "cores", 0, "give the job processes so many processors, and everything else the others (0: all share all)")
	f.StringArrayVar(&r.sidekiq, "sidekiq", nil, "what stock Sidekiq runs, repeatable: `\"-c 25 -q default,8 -q push,6\"`; \"4x -c 10\" is four of them")
	f.IntVar(&r.form.Budget, "budget", 0, "database connections for all jobs together: `N`")
	f.Uint64Var(&r.seed, "seed", 0, "another seed")
	f.IntVar(&r.maxJobs, "max-jobs", realruns.DefaultMaxJobs, "jobs at most; what is beyond is dropped and counted")
	f.StringArrayVar(&r.worker, "worker-flag", nil, "one more `FLAG` for Queueville's worker, repeatable: --worker-flag=--ruby-processes=2")
	f.StringVar(&r.redis, "redis", "", "`URL` of an empty Redis to use instead of a throwaway one; needs --i-know-this-is-not-production")
	f.BoolVar(&r.sure, "i-know-this-is-not-production", false, "the Redis of --redis is nobody's")
	f.BoolVar(&r.out.json, "json", false, "the report as one JSON object")
	f.StringVar(&r.out.html, "html", "", "the report as one page that needs nothing else, to `FILE`")
	f.StringVar(&r.out.plots, "plots", "", "every plot as SVG and PNG into `DIR`")
	f.BoolVarP(&r.out.quiet, "quiet", "q", false, "no progress bar")
	_ = cmd.RegisterFlagCompletionFunc("engine", cobra.FixedCompletions([]string{"sidekiq", "queueville"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// small is the scenario as it is run, and what was changed of it, in words.
func (r *realRun) small(s *scenario.Scenario) (*scenario.Scenario, []string, error) {
	r.form.Machine = runtime.NumCPU()
	changed := []string{
		fmt.Sprintf("--length %v (of %v) --drain %v --rate %v --instances %d --cores %d, on this machine", r.form.Length, s.Length, r.form.Drain, r.form.Rate, r.form.Instances, r.form.Cores),
	}
	for _, text := range r.sidekiq {
		p, err := scenario.ParseSidekiq(text)
		if err != nil {
			return nil, nil, fmt.Errorf("--sidekiq: %w", err)
		}
		r.form.Sidekiq = append(r.form.Sidekiq, p...)
		changed = append(changed, fmt.Sprintf("--sidekiq %q", text))
	}
	if r.seed != 0 {
		s.Seed = r.seed
		changed = append(changed, fmt.Sprintf("--seed %d", r.seed))
	}
	if err := checkBudget(r.form.Budget); err != nil {
		return nil, nil, err
	}
	small, err := realruns.Small(s, r.form)
	return small, changed, err
}

func (r *realRun) run(ctx context.Context, io stdio, s *scenario.Scenario) error {
	list := []simulate.EngineName{simulate.EngineName(r.out.engine)}
	if r.versus {
		list = []simulate.EngineName{simulate.Sidekiq, simulate.Queueville}
	}
	if len(list) == 1 {
		if e := list[0]; e != simulate.Sidekiq && e != simulate.Queueville {
			return &exitError{code: exitUsage, err: fmt.Errorf("--engine %q: sidekiq or queueville; --versus is both", e)}
		}
	}
	if r.redis != "" && !r.sure {
		return &exitError{code: exitUsage, err: errors.New("--redis without --i-know-this-is-not-production"), hint: "without --redis a throwaway one is started"}
	}
	small, changed, err := r.small(s)
	if err != nil {
		return &exitError{code: exitUsage, err: err}
	}
	redisconn.SetLogger(slog.New(slog.DiscardHandler)) // that Redis is away is part of some scenarios
	exe, err := os.Executable()
	if err != nil {
		return failure(err)
	}
	var results []*simulate.Result
	rep := realruns.Report{}
	for _, engine := range list {
		o := realruns.Options{
			Scenario: small, Engine: engine, MaxJobs: r.maxJobs, Worker: []string{exe, "loadtest", "worker"}, WorkerFlags: r.worker, JobCPUs: jobCPUs(r.form.Cores),
			RedisURL: r.redis,
		}
		bar := r.bar(io)
		o.Progress = bar.show
		out, err := realruns.Run(ctx, o)
		bar.finish()
		if out != nil {
			results = append(results, out.Result)
			rep.Real = append(rep.Real, out.Real)
		}
		if err != nil && ctx.Err() == nil {
			return runError(err)
		}
		if ctx.Err() != nil {
			break
		}
		if r.predict {
			cfg, err := small.Config(engine)
			if err != nil {
				return failure(err)
			}
			cfg.Shared = r.form.Cores == 0
			predicted, err := simulate.Run(cfg)
			if err != nil {
				return failure(err)
			}
			rep.Predicted = append(rep.Predicted, realruns.Compare(out, predicted, small.Length))
		}
	}
	if len(results) == 0 {
		return &exitError{code: exitInterrupted, err: errors.New("interrupted before anything ran")}
	}
	rep.Report = reports.New(small, results, version, changed)
	rep.Describe()
	if err := r.write(io, &rep); err != nil {
		return failure(err)
	}
	switch {
	case rep.Missing() != nil:
		return &exitError{code: exitLost, err: rep.Missing()}
	case ctx.Err() != nil:
		return &exitError{code: exitInterrupted, err: errors.New("interrupted; the report is true for the part that was run")}
	case !rep.Met():
		return &exitError{code: exitThresholds, err: errors.New("thresholds were missed"), hint: "the report lists them"}
	}
	return nil
}

// write writes what was asked for.
func (r *realRun) write(io stdio, rep *realruns.Report) error {
	if r.out.json {
		out := r.out
		out.json = false
		if err := writeFiles(rep.Report, &out); err != nil {
			return err
		}
		return rep.WriteJSON(io.out)
	}
	if err := writeReport(io, rep.Report, &r.out); err != nil {
		return err
	}
	return rep.WriteText(io.out)
}

// writeFiles writes the page and the plots, if they were asked for.
func writeFiles(rep *reports.Report, out *outputs) error {
	if out.html != "" {
		if err := writeFile(out.html, rep.WriteHTML); err != nil {
			return err
		}
	}
	if out.plots != "" {
		return writePlots(out.plots, rep)
	}
	return nil
}

// jobCPUs are the first processors, as taskset reads them; "" for all.
func jobCPUs(cores int) string {
	switch cores {
	case 0:
		return ""
	case 1:
		return "0"
	}
	return "0-" + strconv.Itoa(cores-1)
}

func runError(err error) error {
	if missing, ok := errors.AsType[*throwaway.MissingError](err); ok {
		return unavailable(err, missing.Hint())
	}
	if errors.Is(err, realruns.ErrForeign) {
		return &exitError{code: exitConfig, err: err, hint: "leave --redis away: a throwaway one is started"}
	}
	return failure(err)
}

// runBar is the progress bar of a real run; nothing without a terminal.
type runBar struct{ bar *progressbar.ProgressBar }

func (r *realRun) bar(io stdio) *runBar {
	if !terminal(io.err) || r.out.quiet {
		return &runBar{}
	}
	return &runBar{bar: progressbar.NewOptions(1000, progressbar.OptionSetWriter(io.err), progressbar.OptionSetPredictTime(true),
		progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish(), progressbar.OptionFullWidth())}
}

func (b *runBar) show(doing string, done float64) {
	if b.bar != nil {
		b.bar.Describe(doing)
		_ = b.bar.Set(min(1000, int(1000*done)))
	}
}

func (b *runBar) finish() {
	if b.bar != nil {
		_ = b.bar.Finish()
	}
}
