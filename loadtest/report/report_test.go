package report_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"image/png"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/queueville/queueville/loadtest/report"
	"github.com/queueville/queueville/loadtest/scenario"
	"github.com/queueville/queueville/loadtest/simulate"
)

func made(t *testing.T, engines ...simulate.EngineName) *report.Report {
	t.Helper()
	text, err := scenario.Source("postgres-stall")
	if err != nil {
		t.Fatal(err)
	}
	s, problems := scenario.Parse(text)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	s.Length, s.Drain = 40*time.Minute, 10*time.Minute
	s.Incidents = s.Incidents[:1]
	var results []*simulate.Result
	for _, engine := range engines {
		cfg, err := s.Config(engine)
		if err != nil {
			t.Fatal(err)
		}
		r, err := simulate.Run(cfg)
		if err != nil {
			t.Fatal(err)
		}
		results = append(results, r)
	}
	return report.New(s, results, "1.2.3", []string{"--hosts <script>"})
}

func TestReport(t *testing.T) {
	r := made(t, simulate.Sidekiq, simulate.Queueville)
	var page, again, object, text bytes.Buffer
	for _, err := range []error{r.WriteHTML(&page), r.WriteHTML(&again), r.WriteJSON(&object), r.WriteText(&text)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(page.Bytes(), again.Bytes()) {
		t.Error("the same report gives two pages")
	}
	for _, want := range []string{"postgres-stall", "stock Sidekiq", "Queueville", "<svg", "seed", "1.2.3", "&lt;script&gt;", "What is assumed"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page has no %q", want)
		}
	}
	for _, bad := range []string{"<script", "http://", "https://", "NaN", "src="} { // nothing is loaded from anywhere
		if i := strings.Index(strings.ReplaceAll(page.String(), "http://www.w3.org/", ""), bad); i >= 0 {
			t.Errorf("the page has %q", bad)
		}
	}
	var back report.Report
	if err := json.Unmarshal(object.Bytes(), &back); err != nil || len(back.Runs) != 2 || back.Runs[1].Result.Jobs.Done == 0 {
		t.Errorf("the object reads back as %d runs, %v", len(back.Runs), err)
	}
	if !strings.Contains(text.String(), "goal") {
		t.Error("the text says nothing of goals")
	}
	plots, err := r.Plots()
	if err != nil {
		t.Fatal(err)
	}
	for i := range plots {
		svg, err := plots[i].SVG()
		if err != nil {
			t.Fatal(err)
		}
		dec := xml.NewDecoder(strings.NewReader(svg))
		for {
			if _, err := dec.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", plots[i].Name, err)
			}
		}
	}
	var pixels bytes.Buffer
	if err := plots[0].WritePNG(&pixels); err != nil {
		t.Fatal(err)
	}
	if _, err := png.Decode(&pixels); err != nil {
		t.Error(err)
	}
}

// TestPart: a run that was ended before its first point has a report, too.
func TestPart(t *testing.T) {
	r := made(t, simulate.Sidekiq)
	r.Runs[0].Result.Partial = true
	r.Runs[0].Result.Series = simulate.Series{}
	var page, text bytes.Buffer
	if err := errors.Join(r.WriteHTML(&page), r.WriteText(&text)); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(page.String(), "true for that part") || !strings.Contains(text.String(), "true for that part") {
		t.Error("nothing says that it is a part")
	}
}
