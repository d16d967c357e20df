// Package chart draws small panels of curves, several in one picture, as SVG for documents and as PNG to look at. It starts no goroutines.
package chart

import (
	"bytes"
	"errors"
	"fmt"
	"image/color"
	"math"
	"os"
	"regexp"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Colours of curves: they differ for the colour-blind too (after Okabe and Ito), and in grey.
const (
	Blue = iota
	Orange
	Green
	Grey
)

var colours = []color.RGBA{
	{R: 0x0b, G: 0x66, B: 0xa0, A: 0xff}, {R: 0xb8, G: 0x4a, B: 0x1d, A: 0xff}, {R: 0x2e, G: 0x7d, B: 0x32, A: 0xff}, {R: 0x8a, G: 0x90, B: 0x96, A: 0xff},
}

var (
	ink   = color.RGBA{R: 0x40, G: 0x46, B: 0x4d, A: 0xff}
	faint = color.RGBA{R: 0xe4, G: 0xe7, B: 0xea, A: 0xff}
	shade = color.RGBA{R: 0xf6, G: 0xef, B: 0xdc, A: 0xff}
)

// Point is a place in a panel.
type Point struct{ X, Y float64 }

// Curve is one line of a panel.
type Curve struct {
	Name   string // for the legend; "" leaves it out
	Points []Point
	Colour int  // Blue, Orange, Green or Grey
	Steps  bool // a value holds until the next one
	Dots   bool // each point is marked
	Dashed bool
}

// Band shades a span of the horizontal axis.
type Band struct{ From, To float64 }

// Panel is one pair of axes.
type Panel struct {
	Title  string
	X      string // what the horizontal axis counts
	Curves []Curve
	Guides []Curve // lines across, at the height of their first point
	Bands  []Band
	LogX   bool    // powers of two
	Top    float64 // of the vertical axis at least
	From   float64 // of the horizontal axis, unless LogX
	To     float64 // same; 0: the last point
}

// Figure is panels side by side, in rows.
type Figure struct {
	Title   string // for those who cannot see it
	Columns int
	Panels  []Panel
}

const (
	width  = 9.2 * vg.Inch
	height = 2.5 * vg.Inch // of a row
)

// Write writes the figure as path.svg and, if asked to, path.png.
func (f *Figure) Write(path string, png bool) error {
	svg := vgsvg.New(width, f.height())
	if err := f.draw(draw.New(svg)); err != nil {
		return err
	}
	var buf bytes.Buffer
	if _, err := svg.WriteTo(&buf); err != nil {
		return fmt.Errorf("draw %s: %w", path, err)
	}
	if err := os.WriteFile(path+".svg", []byte(finish(buf.String(), f.Title)), 0o644); err != nil { //nolint:gosec // a picture for everybody
		return fmt.Errorf("write a picture: %w", err)
	}
	if !png {
		return nil
	}
	img := vgimg.NewWith(vgimg.UseWH(width, f.height()), vgimg.UseDPI(150), vgimg.UseBackgroundColor(color.White))
	if err := f.draw(draw.New(img)); err != nil {
		return err
	}
	out, err := os.Create(path + ".png")
	if err != nil {
		return fmt.Errorf("write a picture: %w", err)
	}
	_, err = (vgimg.PngCanvas{Canvas: img}).WriteTo(out)
	return errors.Join(err, out.Close())
}

var (
	fontFamily = regexp.MustCompile(`font-family:[^;"]*;?`)
	ownSize    = regexp.MustCompile(`<svg width="[^"]*" height="[^"]*"`)
)

// finish takes out the fonts, which a reader may not have, and the size, which the document decides.
func finish(text, title string) string {
	if i := strings.Index(text, "<svg"); i > 0 {
		text = text[i:]
	}
	text = fontFamily.ReplaceAllString(text, "")
	return ownSize.ReplaceAllString(text, `<svg role="img" aria-label="`+title+`" font-family="Helvetica, Arial, sans-serif"`)
}

func (f *Figure) rows() int { return (len(f.Panels) + f.Columns - 1) / f.Columns }

func (f *Figure) height() vg.Length { return height * vg.Length(f.rows()) }

func (f *Figure) draw(c draw.Canvas) error {
	rows := make([][]*plot.Plot, f.rows())
	for i := range rows {
		rows[i] = make([]*plot.Plot, f.Columns)
	}
	for i := range f.Panels {
		p, err := f.Panels[i].plot()
		if err != nil {
			return fmt.Errorf("draw %s: %w", f.Panels[i].Title, err)
		}
		rows[i/f.Columns][i%f.Columns] = p
	}
	tiles := draw.Tiles{Rows: len(rows), Cols: f.Columns, PadX: vg.Points(14), PadY: vg.Points(10), PadTop: vg.Points(4), PadBottom: vg.Points(4), PadLeft: vg.Points(4), PadRight: vg.Points(8)}
	canvases := plot.Align(rows, tiles, c)
	for y := range rows {
		for x, p := range rows[y] {
			if p != nil {
				p.Draw(canvases[y][x])
			}
		}
	}
	return nil
}

func (n *Panel) plot() (*plot.Plot, error) {
	p := plot.New()
	p.BackgroundColor = color.White
	sans := font.Font{Typeface: "Liberation", Variant: "Sans", Size: vg.Points(9)}
	p.Title.Text = n.Title
	p.Title.TextStyle.Font, p.Title.TextStyle.Color = sans, ink
	p.Title.Padding = vg.Points(4)
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		a.Width, a.Color, a.Padding = vg.Points(0.6), ink, 0
		a.Tick.Color, a.Tick.Width = ink, vg.Points(0.6)
		a.Tick.Label.Font, a.Tick.Label.Color = sans, ink
		a.Label.TextStyle.Font, a.Label.TextStyle.Color = sans, ink
		a.Tick.Marker = roundTicks{}
	}
	p.X.Label.Text = n.X
	p.Legend.TextStyle.Font, p.Legend.TextStyle.Color = sans, ink
	p.Legend.Top, p.Legend.ThumbnailWidth, p.Legend.Padding = true, vg.Points(16), vg.Points(2)
	n.bounds(p)
	for _, b := range n.Bands {
		area, err := plotter.NewPolygon(plotter.XYs{{X: b.From, Y: p.Y.Min}, {X: b.To, Y: p.Y.Min}, {X: b.To, Y: p.Y.Max}, {X: b.From, Y: p.Y.Max}})
		if err != nil {
			return nil, fmt.Errorf("a band: %w", err)
		}
		area.Color, area.Width = shade, 0
		p.Add(area)
	}
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = faint, faint
	grid.Vertical.Width, grid.Horizontal.Width = vg.Points(0.5), vg.Points(0.5)
	p.Add(grid)
	for _, g := range n.Guides {
		g.Points = []Point{{p.X.Min, g.Points[0].Y}, {p.X.Max, g.Points[0].Y}}
		g.Dashed = true
		if err := add(p, &g); err != nil {
			return nil, err
		}
	}
	for i := range n.Curves {
		if err := add(p, &n.Curves[i]); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// bounds sets both axes so that everything fits, the vertical one from zero and with room for the legend.
func (n *Panel) bounds(p *plot.Plot) {
	p.X.Min, p.X.Max, p.Y.Max = math.Inf(1), math.Inf(-1), n.Top
	for _, c := range n.Curves {
		for _, at := range c.Points {
			p.X.Min, p.X.Max, p.Y.Max = min(p.X.Min, at.X), max(p.X.Max, at.X), max(p.Y.Max, at.Y)
		}
	}
	for _, g := range n.Guides {
		p.Y.Max = max(p.Y.Max, g.Points[0].Y)
	}
	if math.IsInf(p.X.Min, 0) {
		p.X.Min, p.X.Max = 0, 1
	}
	if n.LogX {
		p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, doublings{}
		p.X.Min, p.X.Max = max(p.X.Min, 0.5)/1.2, max(p.X.Max, 1)*1.2
	} else {
		p.X.Min = n.From
		if n.To > 0 {
			p.X.Max = n.To
		}
	}
	named := 0
	for _, c := range slices.Concat(n.Guides, n.Curves) {
		if c.Name != "" {
			named++
		}
	}
	p.Y.Min, p.Y.Max = 0, max(1e-3, p.Y.Max*(1.06+0.1*float64(named)))
}

func add(p *plot.Plot, c *Curve) error {
	var xy plotter.XYs
	for _, at := range c.Points {
		if at.X < p.X.Min { // a curve may begin before its panel
			at.X = p.X.Min
			xy = xy[:0]
		}
		xy = append(xy, plotter.XY{X: min(at.X, p.X.Max), Y: at.Y})
	}
	if len(xy) == 0 {
		return nil
	}
	line, err := plotter.NewLine(xy)
	if err != nil {
		return fmt.Errorf("a curve: %w", err)
	}
	line.Color, line.Width = colours[c.Colour], vg.Points(1.3)
	if c.Steps {
		line.StepStyle = plotter.PostStep
	}
	if c.Dashed {
		line.Width, line.Dashes = vg.Points(1), []vg.Length{vg.Points(4), vg.Points(3)}
	}
	p.Add(line)
	if c.Dots {
		dots, err := plotter.NewScatter(xy)
		if err != nil {
			return fmt.Errorf("a curve: %w", err)
		}
		dots.Color, dots.Shape, dots.Radius = colours[c.Colour], draw.CircleGlyph{}, vg.Points(2.2)
		p.Add(dots)
	}
	if c.Name != "" {
		p.Legend.Add(c.Name, line)
	}
	return nil
}

// roundTicks are four to seven round numbers.
type roundTicks struct{}

// Ticks implements plot.Ticker.
func (roundTicks) Ticks(low, high float64) []plot.Tick {
	step := math.Pow(10, math.Floor(math.Log10((high-low)/4)))
	for _, by := range []float64{2, 2.5, 2} { // 2, 5, 10
		if (high-low)/step <= 6 {
			break
		}
		step *= by
	}
	var ticks []plot.Tick
	for i := math.Ceil(low / step); i*step <= high*1.0001 && len(ticks) < 20; i++ {
		ticks = append(ticks, plot.Tick{Value: i * step, Label: fmt.Sprintf("%g", math.Round(i*step*1e6)/1e6)})
	}
	return ticks
}

// doublings are powers of two, every other one named where there are many.
type doublings struct{}

// Ticks implements plot.Ticker.
func (doublings) Ticks(low, high float64) []plot.Tick {
	var ticks []plot.Tick
	every := 1
	if high/low > 100 {
		every = 2
	}
	for i, v := 0, 1.0; v <= high*1.001 && i < 30; i, v = i+1, 2*v {
		if v < low {
			continue
		}
		t := plot.Tick{Value: v}
		if i%every == 0 {
			t.Label = fmt.Sprintf("%g", v)
		}
		ticks = append(ticks, t)
	}
	return ticks
}
