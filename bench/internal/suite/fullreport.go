package suite

import (
	"fmt"

	"github.com/queueville/queueville/bench/internal/measure"
)

// fetchLoad is the name of the rounds with empty jobs.
const fetchLoad = "empty jobs, one process `-c 5`"

// memoryLoad is the name of the rounds with a fixed number of processes.
var memoryLoad = fmt.Sprintf("%d processes", memoryProcesses)

// fullSeries collects one figure over the rounds.
func fullSeries(list []fullFigure, value func(fullFigure) float64) measure.Series {
	out := make(measure.Series, len(list))
	for i, f := range list {
		out[i] = value(f)
	}
	return out
}

// paired is how many times as fast as the other's each turn was that both took at the same time.
func paired(ours, theirs []fullFigure) measure.Series {
	out := make(measure.Series, min(len(ours), len(theirs)))
	for i := range out {
		out[i] = ours[i].PerSecond / theirs[i].PerSecond
	}
	return out
}

// fullReport makes the table and the targets.
func fullReport(o Options, r *Report, results map[string][]fullFigure) {
	rows := [][]string{{"load, contender", "jobs/s (least–most)", "CPU µs/job", "processes", "PSS MiB", "idle %", "stolen %"}}
	rate := func(f fullFigure) float64 { return f.PerSecond }
	pss := func(f fullFigure) float64 { return f.pss }
	names := fullLoads(o)
	for _, l := range append(names, load{name: memoryLoad}, load{name: fetchLoad}) {
		for _, name := range []string{fullSidekiq, fullQueueville} {
			list := results[l.name+", "+name]
			if len(list) == 0 {
				continue
			}
			rows = append(rows, []string{
				l.name + ", " + name, fullSeries(list, rate).Range("%.0f"), fullSeries(list, func(f fullFigure) float64 { return f.CPU }).Range("%.0f"),
				fmt.Sprint(list[len(list)-1].processes), fullSeries(list, pss).Range("%.0f"),
				fullSeries(list, func(f fullFigure) float64 { return 100 * f.idle }).Range("%.0f"),
				fullSeries(list, func(f fullFigure) float64 { return 100 * f.stolen }).Range("%.0f"),
			})
		}
	}
	r.Tables = append(r.Tables, Table{Title: fmt.Sprintf("Ruby jobs; other servers answer after %v; stock Sidekiq as the sweep says", o.Latency), Rows: rows})
	for _, l := range names {
		theirs, ours := results[l.name+", "+fullSidekiq], results[l.name+", "+fullQueueville]
		if l.want > 0 && len(theirs) > 0 && len(ours) > 0 {
			r.Targets = append(r.Targets, measure.Target{
				What: l.name + ": jobs/s against tuned stock Sidekiq, %", Want: fmt.Sprintf("≥ %.0f", 100*l.want), Limit: 100 * l.want,
				Got: 100 * paired(ours, theirs).Median(),
			})
		}
	}
	theirs, ours := results[memoryLoad+", "+fullSidekiq], results[memoryLoad+", "+fullQueueville]
	if len(theirs) > 0 && len(ours) > 0 {
		r.Targets = append(r.Targets, measure.Target{
			What: "proportional memory of " + memoryLoad + ", the worker's own included, against stock Sidekiq, %", Want: "≤ 60", Limit: 60, Most: true,
			Got: 100 * fullSeries(ours, pss).Median() / fullSeries(theirs, pss).Median(),
		})
	}
	theirs, ours = results[fetchLoad+", "+fullSidekiq], results[fetchLoad+", "+fullQueueville]
	if len(theirs) > 0 && len(ours) > 0 {
		cpu := func(f fullFigure) float64 { return f.CPU }
		r.Targets = append(r.Targets, measure.Target{
			What: "CPU of fetching and acknowledging, worker and Ruby together, over stock Sidekiq's, µs a job", Want: "≤ 100", Limit: 100, Most: true,
			Got: fullSeries(ours, cpu).Median() - fullSeries(theirs, cpu).Median(),
		})
	}
}
