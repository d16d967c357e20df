package league

import (
	"bytes"
	"fmt"
	"image/color"
	"os"
	"path/filepath"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/queueville/queueville/loadtest/scenario"
	"github.com/queueville/queueville/loadtest/simulate"
)

// colours are those of the reports.
var colours = map[simulate.EngineName]color.RGBA{
	simulate.Sidekiq:    {R: 0xb8, G: 0x4a, B: 0x1d, A: 0xff},
	simulate.Queueville: {R: 0x0b, G: 0x66, B: 0xa0, A: 0xff},
}

// WritePlots writes the pictures of a league into a directory.
func WritePlots(dir string, sims, reals []Row) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write plots: %w", err)
	}
	for name, rows := range map[string][]Row{"league-in-time.svg": sims, "league-in-time-real.svg": reals} {
		if len(rows) == 0 {
			continue
		}
		text, err := inTimeBars(rows)
		if err != nil {
			return fmt.Errorf("plot %s: %w", name, err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil { //nolint:gosec // a picture for everybody
			return fmt.Errorf("write plots: %w", err)
		}
	}
	return nil
}

// inTimeBars draws two bars for each scenario.
func inTimeBars(rows []Row) ([]byte, error) {
	const width, height, bar = 9.2 * vg.Inch, 4.6 * vg.Inch, 7.0
	p := plot.New()
	p.BackgroundColor = color.White
	sans := font.Font{Typeface: "Liberation", Variant: "Sans", Size: vg.Points(9)}
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		a.Tick.Label.Font, a.Label.TextStyle.Font = sans, sans
	}
	p.Legend.TextStyle.Font = sans
	p.Legend.Top = false
	p.X.Label.Text = "deliveries to healthy instances accepted in time, %"
	p.X.Min, p.X.Max = 0, 100
	names := scenario.Names()
	var labels []string
	for i := range names { // the first on top
		labels = append(labels, names[len(names)-1-i])
	}
	for k, engine := range Engines {
		values := make(plotter.Values, len(labels))
		for i, name := range labels {
			if r := find(rows, name, engine); r != nil {
				values[i] = 100 * r.InTime
			}
		}
		bars, err := plotter.NewBarChart(values, vg.Points(bar))
		if err != nil {
			return nil, err
		}
		bars.Horizontal, bars.Color, bars.LineStyle.Width = true, colours[engine], 0
		bars.Offset = vg.Points(bar/2 - bar*float64(k))
		p.Add(bars)
		label := "stock Sidekiq"
		if engine == simulate.Queueville {
			label = "Queueville"
		}
		p.Legend.Add(label, bars)
	}
	p.NominalY(labels...)
	p.Legend.Left, p.Legend.YOffs = true, vg.Points(-46) // below the axis
	p.Legend.ThumbnailWidth = vg.Points(10)
	p.Y.Padding = vg.Points(14) // whoever looks at it may have a wider font
	canvas := vgsvg.New(width, height)
	p.Draw(draw.Crop(draw.New(canvas), vg.Points(16), vg.Points(-14), vg.Points(30), vg.Points(-6)))
	var text bytes.Buffer
	if _, err := canvas.WriteTo(&text); err != nil {
		return nil, err
	}
	// The font that it was set with is not everywhere.
	return bytes.ReplaceAll(text.Bytes(), []byte("font-family:Liberation Sans"), []byte("font-family:'Liberation Sans',Arial,Helvetica,sans-serif")), nil
}
