package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/queueville/queueville/bench/internal/measure"
	"github.com/queueville/queueville/bench/internal/suite"
)

// result is the whole run as JSON.
type result struct {
	Machine measure.Machine `json:"machine"`
	Suites  []*suite.Report `json:"suites"`
	Missed  int             `json:"missed"`
}

func bench(ctx context.Context, args []string) error {
	var o suite.Options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	names := flags.String("suite", "all", "comma-separated: "+strings.Join(suite.Suites(), ", ")+", or all")
	only := flags.String("only", "", "comma-separated contenders; all if empty")
	asJSON := flags.Bool("json", false, "print one JSON object instead of tables")
	strict := flags.Bool("strict", false, "exit with status 1 when a target is missed")
	flags.BoolVar(&o.Quick, "quick", false, "few jobs and one round: a look, not a measurement")
	flags.IntVar(&o.Rounds, "rounds", 0, "rounds of every contender (3; 1 with -quick)")
	flags.IntVar(&o.Jobs, "jobs", 0, "jobs per round of the quick contenders (0: the suite's own number)")
	flags.StringVar(&o.Root, "root", "..", "Queueville's module `DIR`ectory")
	flags.StringVar(&o.ProfileDir, "profile", "", "write CPU profiles of our own contenders to `DIR`ectory; implies -package")
	parts := flags.String("part", "", "comma-separated parts of the scheduler suite: "+strings.Join(suite.SchedulerParts(), ", ")+"; of the full suite: "+strings.Join(suite.FullParts(), ", ")+"; all if empty")
	flags.Func("static", "`PxC`: stock Sidekiq as P processes of C threads in the full suite, as an earlier sweep found it", func(text string) error {
		if _, err := fmt.Sscanf(text, "%dx%d", &o.Static[0], &o.Static[1]); err != nil || o.Static[0] < 1 || o.Static[1] < 1 {
			return fmt.Errorf("%q is not like 4x5: %w", text, err)
		}
		return nil
	})
	flags.DurationVar(&o.Latency, "latency", 0, "how late other servers answer in the full suite (500ms)")
	flags.StringVar(&o.Plots, "plots", "", "write the scheduler suite's pictures to `DIR`ectory, below the module's")
	flags.StringVar(&o.Binary, "binary", "", "measure this `FILE` instead of building queueville")
	flags.StringVar(&o.Seen, "seen", "", "write what was seen in the runs of the scheduler suite, with the journal of limits, to `DIR`ectory")
	flags.BoolVar(&o.Package, "package", false, "deliver with the packages in a process of this program instead of the queueville binary")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if o.Jobs < 0 || o.Jobs > 5_000_000 || o.Rounds < 0 || o.Rounds > 100 {
		return fmt.Errorf("want at most 100 rounds of at most 5,000,000 jobs")
	}
	list := suite.Suites()
	if *names != "all" {
		list = strings.Split(*names, ",")
	}
	if *only != "" {
		o.Only = strings.Split(*only, ",")
	}
	if *parts != "" {
		o.Parts = strings.Split(*parts, ",")
	}
	var err error
	if o.Self, err = os.Executable(); err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	if o.Root, err = filepath.Abs(o.Root); err != nil {
		return fmt.Errorf("find the module: %w", err)
	}
	if o.Dir, err = os.MkdirTemp("", "queueville-bench-"); err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	defer func() { _ = os.RemoveAll(o.Dir) }()
	if o.Plots != "" && !filepath.IsAbs(o.Plots) {
		o.Plots = filepath.Join(o.Root, o.Plots)
	}
	if o.Binary != "" {
		if o.Binary, err = filepath.Abs(o.Binary); err != nil {
			return fmt.Errorf("find queueville: %w", err)
		}
	}
	o.Log = os.Stderr
	return runSuites(ctx, o, list, *asJSON, *strict)
}

func runSuites(ctx context.Context, o suite.Options, list []string, asJSON, strict bool) error {
	out := result{Machine: measure.ReadMachine(ctx)}
	if !asJSON {
		if err := printMachine(os.Stdout, out.Machine); err != nil {
			return err
		}
	}
	for _, name := range list {
		report, err := suite.Run(ctx, name, o)
		if err != nil {
			return err
		}
		out.Suites = append(out.Suites, report)
		for _, t := range report.Targets {
			if !t.Met() {
				out.Missed++
			}
		}
		if !asJSON {
			if err := printReport(os.Stdout, report); err != nil {
				return err
			}
		}
	}
	if asJSON {
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", "  ")
		if err := e.Encode(out); err != nil {
			return fmt.Errorf("print: %w", err)
		}
	}
	if strict && out.Missed > 0 {
		return fmt.Errorf("%d targets missed", out.Missed)
	}
	return nil
}

func printMachine(w io.Writer, m measure.Machine) error {
	ifma := "no AVX512-IFMA"
	if m.IFMA {
		ifma = "AVX512-IFMA"
	}
	_, err := fmt.Fprintf(w, "%d × %s (%s), Linux %s\n%s\n%s\n%s, Sidekiq %s\n%s\n%s\n%s\n", m.CPUs, m.CPU, ifma, m.Kernel, m.Go, m.Redis, m.Ruby,
		m.Sidekiq, m.OpenSSL, m.Postgres, m.Taken)
	return err
}

func printReport(w io.Writer, r *suite.Report) error {
	for _, t := range r.Tables {
		if _, err := fmt.Fprintf(w, "\n%s\n\n", t.Title); err != nil {
			return err
		}
		if err := measure.Table(w, t.Rows); err != nil {
			return err
		}
	}
	rows := [][]string{{"target", "wanted", "this run", ""}}
	for _, t := range r.Targets {
		rows = append(rows, t.Row())
	}
	if _, err := fmt.Fprintf(w, "\n%s, %.0f s\n\n", r.Suite, r.Took); err != nil {
		return err
	}
	for _, note := range r.Notes {
		if _, err := fmt.Fprintf(w, "Note: %s.\n\n", note); err != nil {
			return err
		}
	}
	if len(r.Targets) == 0 {
		return nil
	}
	return measure.Table(w, rows)
}
