package suite

import (
	"context"
	"fmt"
	"time"

	"github.com/queueville/queueville/internal/rubyapp"

	"github.com/queueville/queueville/bench/internal/measure"
	"github.com/queueville/queueville/bench/internal/receiver"
)

const (
	settleLimit  = 10.0 // seconds within which to come within 10 % of the steady throughput
	stepLength   = 30.0 // seconds of each phase
	stepSteady   = 7.0  // seconds of the phase in which most was done: the steady throughput
	quickLength  = 16.0
	steadyEvery  = 0.5
	stillGrowing = 1.05 // times the throughput of the middle of a phase at its end: it was not steady
)

// steady is the greatest mean throughput of some seconds in a row between two moments. That of the end would not do: where the throughput still grows then,
// what was reached early would seem to be near it.
func (r *record) steady(from, to, span float64) (most float64) {
	for at := from; at+span <= to+1e-9; at += steadyEvery {
		most = max(most, r.rate(at, at+span))
	}
	return most
}

// runSteps changes what the jobs are while they run: computing, waiting, computing.
func runSteps(ctx context.Context, o Options, native bool, report *Report) error {
	var inboxes []receiver.Config
	lane, file := "Ruby jobs", "scheduler-steps-ruby"
	if native {
		file = "scheduler-steps-native"
		lane = "deliveries"
		inboxes = []receiver.Config{{Hosts: quickHosts}, {Hosts: slowHosts, Latency: 500 * time.Millisecond}}
	}
	b, err := newBed(ctx, o, inboxes...)
	if err != nil {
		return err
	}
	defer b.close()
	length, steady := stepLength, stepSteady
	if o.Quick {
		length, steady = quickLength, 5
	}
	load := func(waits bool) []feed {
		switch {
		case native && waits:
			return []feed{b.deliver(2, 1)}
		case native:
			return []feed{b.deliver(1, 0)}
		case waits:
			return []feed{b.ruby("waits", []rubyapp.Share{{Class: rubyapp.ThreadResolve, Parts: 1}, {Class: rubyapp.LinkCrawl, Parts: 1}})}
		}
		return []feed{b.ruby("computes", rubyapp.Ingress())}
	}
	names := []string{"compute, from the start", "then wait", "then compute again"}
	took := make([]measure.Series, len(names))
	rows := [][]string{{lane, "steady jobs/s", "limit", "its variation", "seconds to within 10 %"}}
	var last *record
	var starts []float64
	for round := range max(1, o.Rounds-1) {
		phases := make([]phase, len(names))
		for i := range phases {
			phases[i] = phase{feeds: load(i == 1), length: seconds(length)}
		}
		r, begins, err := b.run(ctx, way{name: file, native: native, adaptive: true}, phases...)
		if err != nil {
			return err
		}
		last, starts = r, begins
		for i, from := range begins {
			to := from + length
			rate := r.steady(from, to, steady)
			took[i] = append(took[i], r.settled(from, to, rate))
			growing := ""
			if r.rate(to-steady, to) > stillGrowing*r.rate(from+length/2-steady/2, from+length/2+steady/2) {
				growing = ", still growing"
			}
			mean, cv := 0.0, 0.0
			for _, name := range r.lanes() {
				mean, cv = r.limit(name, to-steady, to)
			}
			o.logf("steps %-11s round %d  %-24s %7.1f jobs/s, within 10 %% after %4.1f s, limit %.0f ± %.0f %%%s", lane, round+1, names[i], rate, took[i][round], mean, 100*cv, growing)
			if round == 0 {
				rows = append(rows, []string{names[i], fmt.Sprintf("%.0f%s", rate, growing), fmt.Sprintf("%.0f", mean), fmt.Sprintf("%.2f", cv), ""})
			}
		}
	}
	for i, name := range names {
		rows[i+1][4] = took[i].Range("%.1f")
		report.Targets = append(report.Targets, measure.Target{
			What: lane + " " + name + ": seconds to within 10 % of the steady throughput", Want: "≤ 10", Got: took[i].Median(), Limit: settleLimit, Most: true,
		})
	}
	report.Tables = append(report.Tables, Table{Title: "What the jobs are changes while they run", Rows: rows})
	var bands []band
	if len(starts) > 2 {
		bands = []band{{from: starts[1], to: starts[2], name: "jobs wait"}}
	}
	return drawRun(o, file, "Adaptive limits when "+lane+" compute, wait, and compute again", last, starts[0], bands, nil)
}
