package suite

import (
	"context"
	"fmt"
	"time"

	"github.com/queueville/queueville/internal/rubyapp"

	"github.com/queueville/queueville/bench/internal/measure"
	"github.com/queueville/queueville/bench/internal/receiver"
)

// runSteady keeps the same load up for two minutes, for both lanes of one worker at once, and looks at how much their limits move.
func runSteady(ctx context.Context, o Options, report *Report) error {
	b, err := newBed(ctx, o, receiver.Config{Hosts: slowHosts, Latency: 100 * time.Millisecond})
	if err != nil {
		return err
	}
	defer b.close()
	settle, length := 15.0, 120.0
	if o.Quick {
		settle, length = 10, 35
	}
	feeds := []feed{b.deliver(1, 0), b.ruby("steady", rubyapp.Mixed())}
	r, begins, err := b.run(ctx, way{name: partSteady, adaptive: true}, phase{feeds: feeds, length: seconds(settle + length)})
	if err != nil {
		return err
	}
	from, to := begins[0]+settle, begins[0]+settle+length
	rows := [][]string{{"lane", "mean limit", "its variation", "what moved it"}}
	for _, lane := range r.lanes() {
		mean, cv := r.limit(lane, from, to)
		o.logf("steady: limit of %s %.1f, variation %.3f: %s", lane, mean, cv, r.reasons(lane, from, to))
		rows = append(rows, []string{lane, fmt.Sprintf("%.1f", mean), fmt.Sprintf("%.3f", cv), r.reasons(lane, from, to)})
		report.Targets = append(report.Targets, measure.Target{
			What: fmt.Sprintf("steady load for %.0f s: coefficient of variation of the limit of lane %s", length, lane), Want: "< 0.15", Got: cv, Limit: 0.15, Most: true,
		})
	}
	report.Tables = append(report.Tables, Table{
		Title: fmt.Sprintf("The same load for %.0f s (deliveries and a mix of Ruby jobs in one worker, more waiting all the time): %.0f jobs/s, %.2f cores stolen",
			length, r.rate(from, to), r.mean(from, to, stolenCores)), Rows: rows,
	})
	return drawRun(o, "scheduler-steady", "The same load for two minutes", r, begins[0], []band{{from: begins[0], to: from, name: "not counted"}}, nil)
}
