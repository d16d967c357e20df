package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"strings"

	"github.com/queueville/queueville/loadtest/simulate"
)

//go:embed report.html
var page string

var pageTemplate = template.Must(template.New("report").Funcs(template.FuncMap{
	"count": count, "span": span, "percent": percent, "engine": engineName,
	"pointer": func(p *float64) float64 {
		if p == nil {
			return -1
		}
		return *p
	},
	"class": func(e simulate.EngineName) string { return string(e) },
	"fixed": func(x float64) string { return fmt.Sprintf("%.2f", x) },
}).Parse(page))

// picture is a Plot on the page.
type picture struct {
	Plot
	SVG  template.HTML
	Wide bool
}

// row is a line of the comparison.
type row struct {
	Name  string
	Note  string
	Cells []string
	Best  int // index of the better cell; −1 where none is
}

// WriteHTML writes the report as one page that loads nothing.
func (r *Report) WriteHTML(w io.Writer) error {
	plots, err := r.Plots()
	if err != nil {
		return err
	}
	data := struct {
		*Report
		Pictures []picture
		Table    []row
		Verdict  []string
	}{Report: r, Table: r.table(), Verdict: r.verdict()}
	for i := range plots {
		svg, err := plots[i].pageSVG(r.Scenario.Clock)
		if err != nil {
			return err
		}
		data.Pictures = append(data.Pictures, picture{Plot: plots[i], SVG: template.HTML(svg), Wide: plots[i].Name == "backlog"}) //nolint:gosec // drawn by us from numbers
	}
	if err := pageTemplate.Execute(w, data); err != nil {
		return fmt.Errorf("write the page: %w", err)
	}
	return nil
}

// verdict says in a sentence for each engine how it went.
func (r *Report) verdict() []string {
	var lines []string
	for i := range r.Runs {
		res := r.Runs[i].Result
		var missed []string
		for _, q := range res.Queues {
			if !q.Goal99 {
				missed = append(missed, fmt.Sprintf("%s (%s of jobs in time, longest wait %s)", q.Name, percent(q.WithinGoal), span(max(q.PeakLatency, q.MostSeconds))))
			}
		}
		text := engineName(res.Engine) + ": "
		if len(missed) == 0 {
			text += "every queue kept its goal for 99 % of its jobs"
		} else {
			text += "goals missed on " + strings.Join(missed, ", ")
		}
		text += fmt.Sprintf("; backlog at most %s", count(res.Use.PeakBacklog))
		if res.Jobs.Lost > 0 {
			text += fmt.Sprintf("; %s jobs lost", count(res.Jobs.Lost))
		}
		if res.Jobs.Waiting > 0 {
			text += fmt.Sprintf("; %s jobs still waiting at the end", count(res.Jobs.Waiting))
		}
		if res.Jobs.Dropped > 0 {
			text += fmt.Sprintf("; %s jobs dropped: late, or beyond the bound on jobs", count(res.Jobs.Dropped))
		}
		lines = append(lines, text+".")
	}
	return lines
}

// table compares the engines number by number.
func (r *Report) table() []row {
	var rows []row
	add := func(name, note string, less bool, value func(*simulate.Result) float64, format func(float64) string) {
		line := row{Name: name, Note: note, Best: -1}
		var values []float64
		for i := range r.Runs {
			v := value(r.Runs[i].Result)
			values = append(values, v)
			line.Cells = append(line.Cells, format(v))
		}
		if len(values) == 2 && line.Cells[0] != line.Cells[1] {
			line.Best = 0
			if (values[1] < values[0]) == less {
				line.Best = 1
			}
		}
		rows = append(rows, line)
	}
	whole := func(x float64) string { return count(int(x)) }
	decimal := func(x float64) string { return fmt.Sprintf("%.2f", x) }
	hours := func(x float64) string {
		if x < 0.1 { // of a real run of seconds
			return fmt.Sprintf("%.1f s", 3600*x)
		}
		return fmt.Sprintf("%.2f h", x)
	}
	neutral := func() { rows[len(rows)-1].Best = -1 }
	add("Jobs done", "", false, func(r *simulate.Result) float64 { return float64(r.Jobs.Done) }, whole)
	neutral()
	add("Peak backlog", "all queues", true, func(r *simulate.Result) float64 { return float64(r.Use.PeakBacklog) }, whole)
	add("Jobs lost", "in the memory of killed processes, or unwritten while Redis was away", true, func(r *simulate.Result) float64 { return float64(r.Jobs.Lost) }, whole)
	add("Deliveries in time", "share of what was due at healthy instances, within the goal of push + 10 s", false, func(r *simulate.Result) float64 { return r.Deliveries.InTime }, percent)
	add("Delivery, median", "from being enqueued to acceptance", true, func(r *simulate.Result) float64 { return r.Deliveries.P50Seconds }, span)
	add("Delivery, 99th percentile", "", true, func(r *simulate.Result) float64 { return r.Deliveries.P99Seconds }, span)
	add("Fairness among instances", "Jain's index of the share in time: 1 is equal", false, func(r *simulate.Result) float64 { return r.Deliveries.Fairness }, decimal)
	add("Runs that failed", "", true, func(r *simulate.Result) float64 { return float64(r.Jobs.Failures) }, whole)
	add("Put off untried", "times a delivery waited because its host is down or has as much as it takes", true, func(r *simulate.Result) float64 { return float64(r.Jobs.Deferred) }, whole)
	neutral()
	add("Jobs at once, peak", "", true, func(r *simulate.Result) float64 { return float64(r.Use.PeakRunning) }, whole)
	neutral()
	add("Database connections, peak", "", true, func(r *simulate.Result) float64 { return float64(r.Use.PeakConnections) }, whole)
	add("Processor used", "of all cores together", true, func(r *simulate.Result) float64 { return r.Use.CPUHours }, hours)
	add("Processor per million jobs", "of all cores together", true, func(r *simulate.Result) float64 { return r.Use.CPUPerMillion }, hours)
	add("Share of the cores used", "", false, func(r *simulate.Result) float64 { return r.Use.CPUShare }, percent)
	neutral()
	add("Memory, peak", "GiB, of the engine's processes", true, func(r *simulate.Result) float64 { return r.Use.PeakMemoryGiB }, decimal)
	return rows
}
