package suite

import (
	"fmt"
	"math"
	"os"
	"path/filepath"

	"github.com/queueville/queueville/bench/internal/chart"
)

// band is a span of a run.
type band struct {
	from, to float64 // seconds of the record
	name     string
}

// smooth is how many seconds throughput is averaged over where it is drawn.
const smooth = 1.0

// draw writes a figure into the directory for pictures; as pixels too, for a look, unless that is where documents are.
func (o Options) draw(name string, f chart.Figure) error {
	if o.Plots == "" {
		return nil
	}
	if err := os.MkdirAll(o.Plots, 0o755); err != nil { //nolint:gosec // pictures for everybody
		return fmt.Errorf("make %s: %w", o.Plots, err)
	}
	return f.Write(filepath.Join(o.Plots, name), os.Getenv("BENCH_PNG") != "")
}

// throughput is the throughput from a moment on, which becomes zero.
func (r *record) throughput(from float64) []chart.Point {
	var points []chart.Point
	for _, s := range r.sights {
		if s.at >= from {
			points = append(points, chart.Point{X: s.at - from, Y: r.rate(max(s.at-smooth, from-lookEvery.Seconds()), s.at)})
		}
	}
	return points
}

// levels is a lane's limit from a moment on.
func (r *record) levels(lane string, from float64) []chart.Point {
	var points []chart.Point
	last := 0.0
	for _, c := range r.changes {
		if c.lane != lane {
			continue
		}
		if c.at < from {
			points = points[:0]
		}
		last = float64(c.to)
		points = append(points, chart.Point{X: max(0, c.at-from), Y: last})
	}
	if len(points) > 0 {
		points = append(points, chart.Point{X: math.Max(r.end()-from, points[len(points)-1].X), Y: last})
	}
	return points
}

// cores is a figure from a moment on, over a second.
func (r *record) cores(from float64, value func(*sight) float64) []chart.Point {
	var points []chart.Point
	for _, s := range r.sights {
		if s.at >= from {
			points = append(points, chart.Point{X: s.at - from, Y: r.mean(s.at-smooth, s.at, value)})
		}
	}
	return points
}

// panels are throughput, limits and processors over time.
func (r *record) panels(from float64, bands []band) []chart.Panel {
	shaded := make([]chart.Band, len(bands))
	for i, b := range bands {
		shaded[i] = chart.Band{From: b.from - from, To: b.to - from}
	}
	limits := chart.Panel{Title: "limit, jobs at once", X: "seconds", Bands: shaded}
	for i, lane := range r.lanes() {
		limits.Curves = append(limits.Curves, chart.Curve{Name: lane, Points: r.levels(lane, from), Colour: i % (chart.Green + 1), Steps: true})
	}
	list := []chart.Panel{
		{Title: "throughput, jobs a second", X: "seconds", Bands: shaded, Curves: []chart.Curve{{Points: r.throughput(from), Colour: chart.Blue}}},
		limits,
		{Title: "processors in use", X: "seconds", Bands: shaded, Top: 2, Curves: []chart.Curve{
			{Name: "all", Points: r.cores(from, busyCores), Colour: chart.Grey},
			{Name: "ours", Points: r.cores(from, ourCores), Colour: chart.Blue},
			{Name: "stolen", Points: r.cores(from, stolenCores), Colour: chart.Orange, Dashed: true},
		}},
	}
	for i := range list {
		list[i].To = r.end() - from
	}
	return list
}

// drawRun draws one run over time, with more panels behind those of every run.
func drawRun(o Options, name, title string, r *record, from float64, bands []band, more []chart.Panel) error {
	if r == nil {
		return nil
	}
	f := chart.Figure{Title: title, Columns: 3, Panels: append(r.panels(from, bands), more...)}
	return o.draw(name, f)
}

// drawSweep draws the throughput of every fixed setting beside that of adaptive limits, and how those got there.
func drawSweep(o Options, l *sweepLoad, list, best []*tried, ours *tried, run sweepRun) error {
	if run.record == nil {
		return nil
	}
	fixed := chart.Curve{Name: "fixed, one look", Colour: chart.Grey, Dots: true}
	for _, t := range list {
		fixed.Points = append(fixed.Points, chart.Point{X: t.concurrency(), Y: t.look})
	}
	rounds := chart.Curve{Name: "the best, in the rounds", Colour: chart.Orange, Dots: true}
	for _, t := range best {
		rounds.Points = append(rounds.Points, chart.Point{X: t.concurrency(), Y: t.rounds.Median()})
	}
	x := "jobs at once"
	if !l.native() {
		x = "processes × threads"
	}
	first := chart.Panel{
		Title: "throughput, jobs a second", X: x, LogX: true, Curves: []chart.Curve{fixed, rounds},
		Guides: []chart.Curve{{Name: "adaptive", Colour: chart.Blue, Points: []chart.Point{{Y: ours.rounds.Median()}}}},
	}
	panels := run.panels(run.from, nil)
	panels[0].Title = "adaptive, jobs a second"
	return o.draw("scheduler-"+l.part, chart.Figure{Title: l.title, Columns: 4, Panels: append([]chart.Panel{first}, panels...)})
}
