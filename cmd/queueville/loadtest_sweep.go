package main

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/queueville/queueville/loadtest/scenario"
	"github.com/queueville/queueville/loadtest/simulate"
)

// ladder is the hardware that a sweep tries, by cores: what one can rent.
var ladder = []string{"1x1c", "1x2c", "1x4c", "2x4c", "1x8c", "2x8c", "1x16c", "3x8c", "4x8c", "2x16c", "3x16c", "4x16c", "6x16c", "8x16c", "12x16c", "16x16c"}

func newLoadtestSweep(io stdio) *cobra.Command {
	var change whatIf
	var out outputs
	cmd := &cobra.Command{
		Use:   "sweep SCENARIO",
		Short: "Find the smallest hardware on which every queue keeps its goal",
		Long: `Simulates the scenario on more and more hardware, from one core to 256, until 99 % of every queue's jobs start within their goal, nothing is
lost and nothing is left waiting. Stock Sidekiq runs one process of 25 threads for each core (--sidekiq sets another choice per machine).
PostgreSQL and its connections grow with the cores, unless --budget says otherwise. Exit code 6 when nothing on the ladder is enough.`,
		Example: `  queueville loadtest sweep viral-post
  queueville loadtest sweep twitter-migration --engine queueville --length 12h`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeScenarios,
		RunE: func(cmd *cobra.Command, args []string) error {
			list, err := engines(out.engine)
			if err != nil {
				return &exitError{code: exitUsage, err: err}
			}
			return sweep(cmd.Context(), io, args[0], change, list, out.quiet)
		},
	}
	change.flags(cmd)
	cmd.Flags().StringVar(&out.engine, "engine", "both", "sidekiq, queueville or both")
	cmd.Flags().BoolVarP(&out.quiet, "quiet", "q", false, "no progress bar")
	return cmd
}

func sweep(ctx context.Context, io stdio, name string, change whatIf, list []simulate.EngineName, quiet bool) error {
	w := tabwriter.NewWriter(io.out, 0, 0, 2, ' ', 0)
	defer w.Flush() //nolint:errcheck // a report that cannot be written
	_, _ = fmt.Fprintln(w, "engine\thosts\tkept\tworst queue\tin time\tpeak backlog\tconnections\tcore-hours used")
	enough := true
	for _, engine := range list {
		found := false
		for _, hosts := range ladder {
			if change.hosts != "" {
				hosts = change.hosts
			}
			r, err := rung(ctx, io, name, change, engine, hosts, quiet)
			if err != nil {
				return err
			}
			if r.Partial {
				return &exitError{code: exitInterrupted, err: errors.New("interrupted; the rows are true as far as they go")}
			}
			kept := r.Jobs.Lost == 0 && r.Jobs.Waiting == 0 && r.Jobs.Dropped == 0
			worst := 0
			for i := range r.Queues {
				kept = kept && r.Queues[i].Goal99
				if r.Queues[i].WithinGoal < r.Queues[worst].WithinGoal {
					worst = i
				}
			}
			verdict := "no"
			if kept {
				verdict = "yes"
			}
			_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%.1f %%\t%d\t%d\t%.1f\n", engine, hosts, verdict, r.Queues[worst].Name, 100*r.Queues[worst].WithinGoal,
				r.Use.PeakBacklog, r.Use.PeakConnections, r.Use.CPUHours)
			_ = w.Flush()
			if kept {
				found = true
				break
			}
			if change.hosts != "" {
				break
			}
		}
		enough = enough && found
	}
	if !enough {
		return &exitError{code: exitThresholds, err: errors.New("no hardware on the ladder kept every goal for every engine")}
	}
	return nil
}

// rung simulates one step of the ladder.
func rung(ctx context.Context, io stdio, name string, change whatIf, engine simulate.EngineName, hosts string, quiet bool) (*simulate.Result, error) {
	s, err := loadScenario(name)
	if err != nil {
		return nil, err
	}
	change.hosts = hosts
	if _, err := change.apply(s); err != nil {
		return nil, &exitError{code: exitUsage, err: err}
	}
	stage := &s.Hardware[0]
	cores := 0
	for i := range stage.Hosts {
		h := &stage.Hosts[i]
		cores += h.Cores
		if len(change.sidekiq) == 0 {
			procs, err := scenario.ParseSidekiq(fmt.Sprintf("%dx -c 25", h.Cores))
			if err != nil {
				return nil, failure(err)
			}
			h.Sidekiq = procs
		}
	}
	stage.Database.Cores = max(stage.Database.Cores, cores/2)
	if change.budget == 0 {
		stage.Database.Connections = 25*cores + 10
	}
	results, err := simulateAll(ctx, io, s, []simulate.EngineName{engine}, fmt.Sprintf("%s on %-6s", engine, hosts), quiet)
	if err != nil {
		return nil, err
	}
	return results[0], nil
}
