package suite

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// The parts of the scheduler suite. Each fits into four minutes, so that a machine need not be kept still for longer at a time.
const (
	partFlood  = "flood"
	partBurn   = "burn"
	partSteady = "steady"
	partDead   = "deadhosts"
)

// SchedulerParts are the names of the scheduler suite's parts, in the order in which they run.
func SchedulerParts() []string {
	var names []string
	for _, s := range sweeps() {
		names = append(names, s.part)
	}
	return append(names, "steps-native", "steps-ruby", partFlood, partBurn, partSteady, partDead)
}

// partLimit bounds every part.
const partLimit = 8 * time.Minute

// runScheduler measures what the scheduler promises, on real servers: nobody needs to tune concurrency, a flood hurts only itself, other
// processes come first, limits are steady.
func runScheduler(ctx context.Context, o Options) (*Report, error) {
	report := &Report{Values: map[string][]Figure{}}
	parts := o.Parts
	if len(parts) == 0 {
		parts = SchedulerParts()
		if o.Quick { // a look
			parts = []string{"sweep-native-mixed", "sweep-ruby-mixed", partFlood, partBurn, partSteady}
		}
	}
	for _, name := range parts {
		if !slices.Contains(SchedulerParts(), name) {
			return nil, fmt.Errorf("the scheduler suite has no part %q", name)
		}
	}
	if _, err := o.build(ctx, true); err != nil { // not while a part is timed
		return nil, err
	}
	for _, name := range parts {
		partCtx, cancel := context.WithTimeout(ctx, partLimit)
		began := time.Now()
		err := runPart(partCtx, o, name, report)
		cancel()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		o.logf("%s took %.0f s", name, time.Since(began).Seconds())
	}
	return report, nil
}

func runPart(ctx context.Context, o Options, name string, report *Report) error {
	for _, s := range sweeps() {
		if s.part == name {
			return runSweep(ctx, o, s, report)
		}
	}
	switch name {
	case partFlood:
		return runFlood(ctx, o, report)
	case partBurn:
		return runBurn(ctx, o, report)
	case partSteady:
		return runSteady(ctx, o, report)
	case partDead:
		return runDead(ctx, o, report)
	}
	lane, _ := strings.CutPrefix(name, "steps-")
	return runSteps(ctx, o, lane == "native", report)
}

// runDead takes the deadhosts suite in.
func runDead(ctx context.Context, o Options, report *Report) error {
	got, err := runDeadHosts(ctx, o)
	if err != nil {
		return err
	}
	report.Tables = append(report.Tables, got.Tables...)
	report.Targets = append(report.Targets, got.Targets...)
	report.Notes = append(report.Notes, got.Notes...)
	return nil
}
