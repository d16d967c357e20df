package run

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"text/tabwriter"
	"time"

	"github.com/queueville/queueville/loadtest/report"
	"github.com/queueville/queueville/loadtest/simulate"
)

// Report is a report of real runs: the one that simulations have too, and what only real runs have.
type Report struct {
	*report.Report

	Real      []Real       `json:"real"`
	Predicted []Comparison `json:"predicted,omitempty"`
}

// Describe says in the report that it is of real runs, and what is to be known of them.
func (r *Report) Describe() {
	r.Environment.Kind = report.KindReal
	r.Assumptions = []string{
		"Real servers and real job processes on this machine, in real time; the scenario squeezed into its small form. Not Mastodon: each job uses processor time, makes " +
			"statements and waits as the scenario's costs say.",
		"What jobs cost is estimated, except deliveries, which docs/benchmarks.md has measured. Deliveries are real: signed, over TLS, verified.",
		"The same seed gives both engines the same arrivals, costs and answers of other servers. Jobs that follow from a job are pushed when it ends.",
		"Everything shares this machine: what PostgreSQL, Redis, the receivers and the generator use is missing elsewhere, unless --cores keeps them apart.",
	}
	for i := range r.Real {
		if r.Real[i].Refused+r.Real[i].Late+r.Real[i].Dropped > 0 {
			r.Assumptions = append(r.Assumptions, fmt.Sprintf("%s: %d pushes were refused by Redis, %d not made because they were a second late, %d dropped by the bound on jobs. None was quietly delayed.",
				r.Real[i].Engine, r.Real[i].Refused, r.Real[i].Late, r.Real[i].Dropped))
		}
	}
}

// ErrMissing says that a job that was enqueued is nowhere.
var ErrMissing = errors.New("jobs are missing")

// Missing is an error when a job that was enqueued is nowhere, under an engine from which that was not to be expected.
func (r *Report) Missing() error {
	for i := range r.Real {
		if a := &r.Real[i].Accounting; a.Missing > 0 && !r.Real[i].MayLose {
			return fmt.Errorf("%w: %d under %s, such as %v", ErrMissing, a.Missing, r.Real[i].Engine, a.MissingJIDs[:min(3, len(a.MissingJIDs))])
		}
	}
	return nil
}

// WriteJSON writes the report as one object.
func (r *Report) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", " ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(r); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// WriteText writes what only real runs have, for a terminal.
func (r *Report) WriteText(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(t, format, args...) } // Flush tells
	say("\nevery job\tenqueued\tdone\tretry\tscheduled\tdead\tdiscarded\twaiting\tin flight\tmissing\tdoubled\trefused\tlate\t\n")
	for i := range r.Real {
		x := &r.Real[i]
		a := &x.Accounting
		say("%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t\n", x.Engine, a.Enqueued, a.Done, a.Again, a.Scheduled, a.Dead, a.Discarded, a.Waiting, a.Running, a.Missing,
			a.Doubled, x.Refused, x.Late)
	}
	for i := range r.Real {
		x := &r.Real[i]
		drain := "not drained"
		if x.DrainSeconds != nil {
			drain = fmt.Sprintf("drained %.1f s after the last arrival", *x.DrainSeconds)
		}
		say("\n%s: %.1f jobs/s, %s, 99 of 100 waited less than %.2f s; receivers accepted %d, %d twice, %d with a wrong signature", x.Engine, x.Throughput, drain, x.P99Seconds,
			x.Receivers.Accepted, x.Receivers.Duplicates, x.Receivers.BadSignatures)
	}
	if len(r.Predicted) > 0 {
		say("\n\npredicted\treal\tsimulated\tdifference\t\n")
	}
	for i := range r.Predicted {
		p := &r.Predicted[i]
		for _, f := range p.Figures {
			say("%s %s\t%.4g\t%.4g\t%+.0f %%\t\n", p.Engine, f.Name, f.Real, f.Simulated, 100*f.Difference)
		}
	}
	say("\n")
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// Comparison is how far a simulation is from the real run of the same.
type Comparison struct {
	Engine  simulate.EngineName `json:"engine"`
	Figures []Figure            `json:"figures"`
	Result  *simulate.Result    `json:"result"`
}

// Figure is one of them.
type Figure struct {
	Name       string  `json:"name"`
	Real       float64 `json:"real"`
	Simulated  float64 `json:"simulated"`
	Difference float64 `json:"difference"` // (simulated − real) / real; 0 when both are 0
}

// Compare compares throughput, drain time and the 99th percentiles of the queues' waits.
func Compare(measured *Outcome, simulated *simulate.Result, length time.Duration) Comparison {
	c := Comparison{Engine: simulated.Engine, Result: simulated}
	add := func(name string, a, b float64) {
		f := Figure{Name: name, Real: a, Simulated: b}
		if a != b {
			f.Difference = round((b - a) / math.Max(math.Abs(a), 1e-9))
		}
		c.Figures = append(c.Figures, f)
	}
	last := simulated.LastEndSeconds
	if last > 0 {
		add("jobs_per_second", measured.Real.Throughput, round(float64(simulated.Jobs.Done)/last))
	}
	if measured.Real.DrainSeconds != nil {
		add("drain_seconds", *measured.Real.DrainSeconds, math.Max(0, last-length.Seconds()))
	}
	add("jobs_done", float64(measured.Result.Jobs.Done), float64(simulated.Jobs.Done))
	for i := range measured.Result.Queues {
		a, b := &measured.Result.Queues[i], &simulated.Queues[i]
		if a.Started+b.Started > 0 {
			add(a.Name+".p99_seconds", a.P99Seconds, b.P99Seconds)
		}
	}
	add("deliveries.p99_seconds", measured.Result.Deliveries.P99Seconds, simulated.Deliveries.P99Seconds)
	return c
}
