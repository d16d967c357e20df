package report

import (
	"bytes"
	"fmt"
	"image/color"
	"io"
	"math"
	"regexp"
	"strings"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/queueville/queueville/loadtest/simulate"
	"github.com/queueville/queueville/loadtest/world"
)

// Plot is one picture.
type Plot struct {
	Name  string // for a file: backlog
	Title string
	Unit  string
	Note  string // how to read it
	plot  *plot.Plot
}

// Colours that differ for the colour-blind too (Okabe and Ito), and in grey.
var (
	engineColour = map[simulate.EngineName]color.RGBA{
		simulate.Sidekiq:    {R: 0xb8, G: 0x4a, B: 0x1d, A: 0xff},
		simulate.Queueville: {R: 0x0b, G: 0x66, B: 0xa0, A: 0xff},
	}
	ink    = color.RGBA{R: 0x40, G: 0x46, B: 0x4d, A: 0xff}
	faint  = color.RGBA{R: 0xe4, G: 0xe7, B: 0xea, A: 0xff}
	goalCl = color.RGBA{R: 0x2e, G: 0x7d, B: 0x32, A: 0xff}
	shade  = color.RGBA{R: 0xf6, G: 0xef, B: 0xdc, A: 0xff}
)

const (
	plotWidth  = 9.2 * vg.Inch
	plotHeight = 2.9 * vg.Inch
	smallWidth = 4.5 * vg.Inch
)

// Plots draws everything.
func (r *Report) Plots() ([]Plot, error) {
	var plots []Plot
	var failed error
	add := func(name, title, unit, note string, log bool, lines func(s *simulate.Series) [][]float64, extra ...guide) {
		p, err := r.draw(unit, log, lines, extra)
		if err != nil {
			failed = fmt.Errorf("plot %s: %w", name, err)
			return
		}
		plots = append(plots, Plot{Name: name, Title: title, Unit: unit, Note: note, plot: p})
	}
	one := func(f func(s *simulate.Series) []float64) func(s *simulate.Series) [][]float64 {
		return func(s *simulate.Series) [][]float64 { return [][]float64{f(s)} }
	}
	add("backlog", "Backlog", "jobs", "Jobs waiting in all queues: the greatest number in each interval.", false,
		one(func(s *simulate.Series) []float64 { return floats(s.Backlog()) }))
	for _, q := range []int{world.QueueDefault, world.QueuePush, world.QueueIngress, world.QueuePull} {
		goal := r.goal(q)
		add("wait-"+world.QueueNames[q], "Queue wait: "+world.QueueNames[q], "seconds, logarithmic",
			"What 99 of 100 jobs that started in an interval had waited at most, or the age of the oldest that still waited. Dashed: the goal.", true,
			one(func(s *simulate.Series) []float64 { return worst(s.Queues[q].P99, s.Queues[q].Latency) }), guide{at: goal, name: "goal"})
	}
	add("rates", "Arrivals and work done", "jobs a second", "Solid: done. Dotted: arrived.", false,
		func(s *simulate.Series) [][]float64 { return [][]float64{s.Done, s.Arrived} })
	add("running", "Concurrency", "jobs at once", "Jobs running at the end of each interval.", false, one(func(s *simulate.Series) []float64 { return floats(s.Running) }))
	add("cpu", "Processor", "% of all cores", "Of the machines that run jobs.", false, one(func(s *simulate.Series) []float64 { return times(s.CPU, 100) }))
	add("database", "PostgreSQL's processor", "% of its cores", "By jobs only.", false, one(func(s *simulate.Series) []float64 { return times(s.Database, 100) }))
	var guides []guide
	if n := r.Scenario.Stages[0].Database.Connections; n > 0 {
		guides = append(guides, guide{at: float64(n), name: "budget"})
	}
	add("connections", "Database connections", "open", "Of all job processes together.", false, one(func(s *simulate.Series) []float64 { return floats(s.Connections) }), guides...)
	if r.Environment.Kind == KindReal { // nobody asks the engines there
		add("destinations", "Destinations that are down", "instances", "In truth: what the receivers do.", false,
			func(s *simulate.Series) [][]float64 { return [][]float64{floats(s.Unhealthy)} })
	} else {
		add("destinations", "Destinations that are down", "instances", "Solid: held for down by the engine's breaker. Dotted: down in truth.", false,
			func(s *simulate.Series) [][]float64 { return [][]float64{floats(s.Down), floats(s.Unhealthy)} })
	}
	add("retries", "Waiting for another try", "jobs", "Solid: failed, in the retry set. Dotted: put off untried, because the destination is down.", false,
		func(s *simulate.Series) [][]float64 { return [][]float64{floats(s.Retrying), floats(s.Held)} })
	memory := "Of the engine's processes, by the figures of docs/loadtest.md."
	if r.Environment.Kind == KindReal {
		memory = "Of the engine's processes, as the system counts them (Pss)."
	}
	add("memory", "Memory", "GiB", memory, false, one(func(s *simulate.Series) []float64 { return s.Memory }))
	return plots, failed
}

// guide is a horizontal line.
type guide struct {
	at   float64
	name string
}

func (r *Report) goal(q int) float64 {
	if len(r.Runs) == 0 {
		return 0
	}
	return r.Runs[0].Result.Queues[q].GoalSeconds
}

// least is what a logarithmic axis shows of zero.
const least = 0.01

func (r *Report) draw(unit string, log bool, lines func(*simulate.Series) [][]float64, guides []guide) (*plot.Plot, error) {
	p := plot.New()
	p.BackgroundColor = color.White
	sans := font.Font{Typeface: "Liberation", Variant: "Sans", Size: vg.Points(9)}
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		a.Width = vg.Points(0.6)
		a.Color = ink
		a.Tick.Color = ink
		a.Tick.Width = vg.Points(0.6)
		a.Tick.Label.Font = sans
		a.Tick.Label.Color = ink
		a.Label.TextStyle.Font = sans
		a.Label.TextStyle.Color = ink
		a.Padding = 0
	}
	p.Y.Label.Text = unit
	p.X.Tick.Marker = clockTicks{start: r.Scenario.Clock, most: 12}
	p.Legend.TextStyle.Font = sans
	p.Legend.TextStyle.Color = ink
	p.Legend.Top = true
	p.Legend.Left = true
	p.Legend.ThumbnailWidth = vg.Points(18)
	p.Legend.Padding = vg.Points(2)
	top := 0.0
	type curve struct {
		xy     plotter.XYs
		colour color.RGBA
		dotted bool
		name   string
	}
	var curves []curve
	end := 0.0
	for i := range r.Runs {
		res := r.Runs[i].Result
		if len(res.Series.Seconds) == 0 {
			continue
		}
		for k, values := range lines(&res.Series) {
			xy := make(plotter.XYs, len(values))
			for j, v := range values {
				if log {
					v = max(least, v)
				}
				xy[j] = plotter.XY{X: res.Series.Seconds[j] / 3600, Y: v}
				top = max(top, v)
				end = max(end, xy[j].X)
			}
			c := curve{xy: xy, colour: engineColour[res.Engine], dotted: k > 0}
			if k == 0 {
				c.name = engineName(res.Engine)
			}
			curves = append(curves, c)
		}
	}
	if len(curves) == 0 {
		return p, nil
	}
	for _, g := range guides {
		top = max(top, g.at)
	}
	p.X.Min, p.X.Max = 0, end
	p.Y.Min, p.Y.Max = 0, max(1e-3, top*1.12)
	if log {
		p.Y.Min, p.Y.Max = least, max(1, top*1.6)
		p.Y.Scale = plot.LogScale{}
		p.Y.Tick.Marker = spanTicks{}
	} else {
		p.Y.Tick.Marker = countTicks{}
	}
	for _, m := range r.Scenario.Marks { // when something was wrong
		band, err := plotter.NewPolygon(plotter.XYs{
			{X: m.At.Hours(), Y: p.Y.Min}, {X: min(end, (m.At + m.For).Hours()), Y: p.Y.Min}, {X: min(end, (m.At + m.For).Hours()), Y: p.Y.Max}, {X: m.At.Hours(), Y: p.Y.Max},
		})
		if err != nil {
			return nil, fmt.Errorf("a band: %w", err)
		}
		band.Color = shade
		band.Width = 0
		p.Add(band)
	}
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = faint, faint
	grid.Vertical.Width, grid.Horizontal.Width = vg.Points(0.5), vg.Points(0.5)
	p.Add(grid)
	for _, g := range guides {
		line, err := plotter.NewLine(plotter.XYs{{X: 0, Y: g.at}, {X: end, Y: g.at}})
		if err != nil {
			return nil, fmt.Errorf("a guide: %w", err)
		}
		line.Color, line.Width, line.Dashes = goalCl, vg.Points(1), []vg.Length{vg.Points(5), vg.Points(3)}
		p.Add(line)
		p.Legend.Add(g.name, line)
	}
	for _, c := range curves {
		line, err := plotter.NewLine(c.xy)
		if err != nil {
			return nil, fmt.Errorf("a curve: %w", err)
		}
		line.Color, line.Width = c.colour, vg.Points(1.3)
		if c.dotted {
			line.Width, line.Dashes = vg.Points(0.9), []vg.Length{vg.Points(1.5), vg.Points(2)}
		}
		p.Add(line)
		if c.name != "" {
			p.Legend.Add(c.name, line)
		}
	}
	return p, nil
}

// clockTicks are times of day; of a run of minutes, the time since its beginning.
type clockTicks struct {
	start time.Duration
	most  float64 // labels
}

// Ticks implements plot.Ticker.
func (c clockTicks) Ticks(low, high float64) []plot.Tick {
	if high-low < shortRun {
		return c.secondTicks(low, high)
	}
	step := 1.0 / 12
	for _, s := range []float64{1.0 / 12, 0.25, 0.5, 1, 2, 3, 6, 12, 24, 48} {
		step = s
		if (high-low)/s <= c.most {
			break
		}
	}
	var ticks []plot.Tick
	start := c.start.Hours()
	// The last label would be cut off at the edge.
	for t := math.Ceil((start+low)/step) * step; t < start+0.985*high; t += step {
		minutes := int(math.Round(t*60)) % 1440
		ticks = append(ticks, plot.Tick{Value: t - start, Label: fmt.Sprintf("%02d:%02d", minutes/60, minutes%60)})
	}
	return ticks
}

// shortRun, in hours, is what a time of day says nothing about.
const shortRun = 0.25

func (c clockTicks) secondTicks(low, high float64) []plot.Tick {
	const hour = 3600
	step := 1.0
	for _, s := range []float64{1, 2, 5, 10, 15, 30, 60, 120} {
		step = s
		if (high-low)*hour/s <= c.most {
			break
		}
	}
	var ticks []plot.Tick
	for t := math.Ceil(low*hour/step) * step; t < 0.985*high*hour; t += step {
		label := fmt.Sprintf("%.0f s", t)
		if high*hour >= 120 {
			label = fmt.Sprintf("%d:%02d", int(t)/60, int(t)%60)
		}
		ticks = append(ticks, plot.Tick{Value: t / hour, Label: label})
	}
	return ticks
}

// countTicks write 150,000 and not 1.5e+05.
type countTicks struct{}

// Ticks implements plot.Ticker.
func (countTicks) Ticks(low, high float64) []plot.Tick {
	ticks := plot.DefaultTicks{}.Ticks(low, high)
	for i := range ticks {
		if v := ticks[i].Value; ticks[i].Label != "" {
			if v == math.Trunc(v) {
				ticks[i].Label = count(int(v))
			} else {
				ticks[i].Label = fmt.Sprintf("%.3g", v)
			}
		}
	}
	return ticks
}

// spanTicks are powers of ten of a second, said as one would.
type spanTicks struct{}

// Ticks implements plot.Ticker.
func (spanTicks) Ticks(low, high float64) []plot.Tick {
	var ticks []plot.Tick
	for _, t := range []struct {
		at   float64
		name string
	}{{0.01, "≤ 10 ms"}, {0.1, "100 ms"}, {1, "1 s"}, {10, "10 s"}, {60, "1 min"}, {600, "10 min"}, {3600, "1 h"}, {36000, "10 h"}, {360000, "100 h"}} {
		if t.at >= low*0.999 && t.at <= high*1.001 {
			ticks = append(ticks, plot.Tick{Value: t.at, Label: t.name})
		}
	}
	return ticks
}

var ownSize = regexp.MustCompile(`<svg width="[^"]*" height="[^"]*"`)

var fontFamily = regexp.MustCompile(`font-family:[^;"]*;?`)

// SVG is the picture: it takes the width that it is given, and the fonts of the page that it is on.
func (p *Plot) SVG() (string, error) {
	c := vgsvg.New(plotWidth, plotHeight)
	p.plot.Draw(draw.New(c))
	return p.finish(c)
}

// pageSVG is the picture for the page, which shows two beside each other and says once which colour is whose.
func (p *Plot) pageSVG(start time.Duration) (string, error) {
	width := plotWidth
	small := *p.plot
	small.Legend = plot.NewLegend()
	if p.Name != "backlog" {
		width = smallWidth
		small.X.Tick.Marker = clockTicks{start: start, most: 7}
	}
	c := vgsvg.New(width, plotHeight)
	small.Draw(draw.New(c))
	return p.finish(c)
}

func (p *Plot) finish(c *vgsvg.Canvas) (string, error) {
	var buf bytes.Buffer
	if _, err := c.WriteTo(&buf); err != nil {
		return "", fmt.Errorf("draw %s: %w", p.Name, err)
	}
	text := buf.String()
	if i := strings.Index(text, "<svg"); i > 0 {
		text = text[i:]
	}
	text = fontFamily.ReplaceAllString(text, "")
	// The first two sizes are the picture's own; the page decides how large it is shown.
	text = ownSize.ReplaceAllString(text, `<svg role="img" aria-label="`+p.Title+`"`)
	return text, nil
}

// WritePNG writes the picture as pixels, 200 to an inch.
func (p *Plot) WritePNG(w io.Writer) error {
	c := vgimg.NewWith(vgimg.UseWH(plotWidth, plotHeight), vgimg.UseDPI(200), vgimg.UseBackgroundColor(color.White))
	p.plot.Draw(draw.New(c))
	if _, err := (vgimg.PngCanvas{Canvas: c}).WriteTo(w); err != nil {
		return fmt.Errorf("draw %s: %w", p.Name, err)
	}
	return nil
}

func floats(n []int) []float64 {
	out := make([]float64, len(n))
	for i, v := range n {
		out[i] = float64(v)
	}
	return out
}

func times(x []float64, by float64) []float64 {
	out := make([]float64, len(x))
	for i, v := range x {
		out[i] = v * by
	}
	return out
}

func worst(a, b []float64) []float64 {
	out := make([]float64, len(a))
	for i := range a {
		out[i] = max(a[i], b[i])
	}
	return out
}
