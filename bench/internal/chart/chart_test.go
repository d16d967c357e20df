package chart_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/queueville/queueville/bench/internal/chart"
)

// Whatever is in a figure, it is drawn: empty curves, curves that begin before their panel, a row that is not full.
func TestWrite(t *testing.T) {
	t.Parallel()
	f := chart.Figure{Title: "two panels", Columns: 2, Panels: []chart.Panel{
		{Title: "nothing", X: "seconds"},
		{
			Title: "much", X: "jobs at once", LogX: true, Curves: []chart.Curve{{Name: "fixed", Points: []chart.Point{{1, 10}, {512, 90}}, Dots: true}},
			Guides: []chart.Curve{{Name: "adaptive", Points: []chart.Point{{0, 80}}, Colour: chart.Orange}},
		},
		{Title: "time", X: "seconds", To: 10, Bands: []chart.Band{{From: 2, To: 5}}, Curves: []chart.Curve{{Points: []chart.Point{{-3, 1}, {4, 2}, {20, 3}}, Steps: true}, {Name: "none"}}},
	}}
	path := filepath.Join(t.TempDir(), "figure")
	if err := f.Write(path, true); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path + ".svg")
	if err != nil {
		t.Fatal(err)
	}
	for d := xml.NewDecoder(bytes.NewReader(text)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("the SVG is no XML: %v", err)
		}
	}
	if bytes.Contains(text, []byte("Liberation")) {
		t.Error("the SVG asks for a font that readers may not have")
	}
	pixels, err := os.Open(path + ".png")
	if err != nil {
		t.Fatal(err)
	}
	defer pixels.Close() //nolint:errcheck // only read
	if _, err := png.Decode(pixels); err != nil {
		t.Fatal(err)
	}
}
