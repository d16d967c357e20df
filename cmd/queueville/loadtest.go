package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/queueville/queueville/loadtest/scenario"
)

// Exit code of a load test whose thresholds were missed, as listed in docs/exit-codes.md.
const exitThresholds = 6

func newLoadtest(io stdio, release func()) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "loadtest",
		Short: "The synthetic Twitter migration: what breaks first, when, and what would hold",
		Long: `A Mastodon server in a rush, under stock Sidekiq and under Queueville: simulated in virtual time on hardware that you name (simulate, sweep), or run for
real on this machine with throwaway servers, real job processes and receivers (run). Both report backlog, waits, connections, processor and cost
side by side, and the scenario's thresholds set the exit code. docs/loadtest.md says what is modelled and what is assumed.`,
		Example: `  queueville loadtest scenarios
  queueville loadtest simulate twitter-migration --html report.html
  queueville loadtest simulate two-hour-outage --hosts 2x8c --budget 120
  queueville loadtest sweep viral-post
  queueville loadtest run viral-post --versus --length 30s
  queueville loadtest show viral-post > mine.yaml && queueville loadtest validate mine.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newLoadtestScenarios(io), newLoadtestShow(io), newLoadtestValidate(io), newLoadtestSimulate(io), newLoadtestSweep(io), newLoadtestRun(io),
		newLoadtestLeague(io), newLoadtestFidelity(io), newLoadtestSink(io), newLoadtestGenerate(io), newLoadtestWorker(io, release))
	return cmd
}

func newLoadtestScenarios(io stdio) *cobra.Command {
	return &cobra.Command{
		Use:   "scenarios",
		Short: "The scenarios that come with Queueville",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			w := tabwriter.NewWriter(io.out, 0, 0, 2, ' ', 0)
			for _, name := range scenario.Names() {
				s, err := loadScenario(name)
				if err != nil {
					return err
				}
				_, _ = fmt.Fprintf(w, "%s\t%s\t%s\n", s.Name, hoursOf(s), s.About)
			}
			if err := w.Flush(); err != nil {
				return failure(err)
			}
			return nil
		},
	}
}

func hoursOf(s *scenario.Scenario) string {
	return strings.TrimSuffix(strings.TrimSuffix(s.Length.String(), "0s"), "0m")
}

func newLoadtestShow(io stdio) *cobra.Command {
	return &cobra.Command{
		Use:               "show NAME",
		Short:             "Print a scenario's file, to be copied and changed",
		Example:           "  queueville loadtest show dead-hosts-30 > mine.yaml",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeScenarios,
		RunE: func(_ *cobra.Command, args []string) error {
			text, err := scenario.Source(args[0])
			if err != nil {
				return &exitError{code: exitUsage, err: err, hint: "queueville loadtest scenarios lists them"}
			}
			if _, err := io.out.Write(text); err != nil {
				return failure(err)
			}
			return nil
		},
	}
}

func newLoadtestValidate(io stdio) *cobra.Command {
	var metrics bool
	cmd := &cobra.Command{
		Use:   "validate FILE…",
		Short: "Say everything that is wrong with scenario files",
		Example: `  queueville loadtest validate mine.yaml
  queueville loadtest validate --metrics`,
		RunE: func(_ *cobra.Command, args []string) error {
			if metrics {
				_, err := fmt.Fprintln(io.out, strings.Join(scenario.Metrics(), "\n"))
				return err
			}
			if len(args) == 0 {
				return errors.New("which file?")
			}
			bad := 0
			for _, name := range args {
				text, err := readFile(name)
				if err != nil {
					return &exitError{code: exitConfig, err: err}
				}
				_, problems := scenario.Parse(text)
				for _, p := range problems {
					_, _ = fmt.Fprintf(io.out, "%s: %s\n", name, p)
				}
				if len(problems) == 0 {
					_, _ = fmt.Fprintf(io.out, "%s: good\n", name)
				}
				bad += len(problems)
			}
			if bad > 0 {
				return &exitError{code: exitConfig, err: fmt.Errorf("problems: %d", bad)}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&metrics, "metrics", false, "list what a threshold may name")
	return cmd
}

// loadScenario reads an embedded scenario, or a file if the argument looks like one.
func loadScenario(arg string) (*scenario.Scenario, error) {
	var text []byte
	var err error
	if strings.ContainsAny(arg, "/.") {
		text, err = readFile(arg)
	} else {
		text, err = scenario.Source(arg)
	}
	if err != nil {
		return nil, &exitError{code: exitUsage, err: err, hint: "queueville loadtest scenarios lists the names; a file is given as ./mine.yaml"}
	}
	s, problems := scenario.Parse(text)
	if len(problems) > 0 {
		var errs []error
		for _, p := range problems {
			errs = append(errs, fmt.Errorf("%s: %s", arg, p))
		}
		return nil, &exitError{code: exitConfig, err: errors.Join(errs...), hint: "queueville loadtest validate " + arg}
	}
	return s, nil
}

// readFile reads a file that a person named, up to a megabyte and a bit: more is no scenario.
func readFile(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.Size() > 2<<20 || info.IsDir() {
		return nil, fmt.Errorf("%s: no scenario file", name)
	}
	return os.ReadFile(name)
}

func completeScenarios(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return scenario.Names(), cobra.ShellCompDirectiveDefault
}
