package report

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// WriteText writes the report for a terminal.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", r.Scenario.Name, r.Scenario.About)
	for _, line := range r.Scenario.Hosts {
		fmt.Fprintf(&b, "  %s\n", line)
	}
	for _, line := range r.Scenario.Changed {
		fmt.Fprintf(&b, "  changed by %s\n", line)
	}
	b.WriteByte('\n')
	for i, line := range r.verdict() {
		fmt.Fprintf(&b, "%s\n", line)
		if r.Runs[i].Result.Partial {
			fmt.Fprintf(&b, "  Ended early, after %s: true for that part.\n", span(r.Runs[i].Result.Seconds))
		}
	}
	b.WriteByte('\n')
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	say(t, "\t")
	for i := range r.Runs {
		say(t, "%s\t", engineName(r.Runs[i].Result.Engine))
	}
	say(t, "\n")
	for _, row := range r.table() {
		say(t, "%s\t%s\t\n", row.Name, strings.Join(row.Cells, "\t"))
	}
	_ = t.Flush() // to a strings.Builder, which takes everything
	b.WriteByte('\n')
	t = tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	say(t, "queue\tgoal\t")
	for range r.Runs {
		say(t, "in time\t99 %%\tmost\tbacklog\t")
	}
	say(t, "\n")
	for q := range r.Runs[0].Result.Queues {
		say(t, "%s\t%s\t", r.Runs[0].Result.Queues[q].Name, span(r.Runs[0].Result.Queues[q].GoalSeconds))
		for i := range r.Runs {
			x := &r.Runs[i].Result.Queues[q]
			say(t, "%s\t%s\t%s\t%s\t", percent(x.WithinGoal), span(x.P99Seconds), span(x.MostSeconds), count(x.PeakBacklog))
		}
		say(t, "\n")
	}
	_ = t.Flush()
	for i := range r.Runs {
		run := &r.Runs[i]
		for _, rec := range run.Result.Recoveries {
			if rec.CatchUpRatio == nil {
				fmt.Fprintf(&b, "\n%s: not caught up after %s (%s) within the run", engineName(run.Result.Engine), rec.Name, span(rec.LastsSeconds))
				continue
			}
			fmt.Fprintf(&b, "\n%s: caught up %s after %s (%s), ratio %.2f", engineName(run.Result.Engine), span(*rec.DrainSeconds), rec.Name, span(rec.LastsSeconds), *rec.CatchUpRatio)
		}
	}
	b.WriteByte('\n')
	for i := range r.Runs {
		for _, c := range r.Runs[i].Checks {
			verdict := "met"
			switch {
			case c.Few:
				verdict = "(too few deliveries to judge)"
			case !c.Met:
				verdict = "MISSED"
			}
			fmt.Fprintf(&b, "\n%-6s %s: %s (is %v)", verdict, engineName(r.Runs[i].Result.Engine), c.Text, c.Actual)
		}
	}
	b.WriteByte('\n')
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// say writes to a table in memory, which takes everything.
func say(t *tabwriter.Writer, format string, args ...any) { _, _ = fmt.Fprintf(t, format, args...) }
