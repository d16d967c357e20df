package league_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/queueville/queueville/loadtest/league"
	"github.com/queueville/queueville/loadtest/simulate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestLeague runs the part of the league that every build runs, and writes its page twice.
func TestLeague(t *testing.T) {
	only := []string{"dead-hosts-30", "follow-wave", "redis-failover", "postgres-stall", "two-hour-outage"}
	if testing.Short() {
		only = only[1:2]
	}
	write := func(dir string) (pageText, plot []byte) {
		o := league.Options{Dir: dir, Only: only, Version: "test", Doing: func(string, float64) {}}
		sims, reals, err := league.League(t.Context(), &o)
		if err != nil {
			t.Fatal(err)
		}
		if len(sims) != 2*len(only) || len(reals) != 0 {
			t.Fatalf("%d simulated rows and %d real ones of %d scenarios", len(sims), len(reals), len(only))
		}
		for i := range sims {
			r := &sims[i]
			if r.Engine == simulate.Queueville && (!r.Met || r.Lost > 0) {
				t.Errorf("%s: thresholds missed %v, %d jobs lost", r.Scenario, r.Missed, r.Lost)
			}
			if r.Done < 1000 {
				t.Errorf("%s, %s: %d jobs", r.Scenario, r.Engine, r.Done)
			}
		}
		var page bytes.Buffer
		if err := league.WritePage(&page, sims, reals); err != nil {
			t.Fatal(err)
		}
		if err := league.WritePlots(dir, sims, reals); err != nil {
			t.Fatal(err)
		}
		plot, err = os.ReadFile(filepath.Join(dir, "league-in-time.svg"))
		if err != nil {
			t.Fatal(err)
		}
		return page.Bytes(), plot
	}
	dir := t.TempDir()
	page, plot := write(dir)
	if !strings.Contains(string(page), "| follow-wave | ") || !bytes.Contains(plot, []byte("<svg")) {
		t.Errorf("a page without its table, or a plot that is none:\n%s", page)
	}
	again, plotAgain := write(dir) // from what is kept
	if !bytes.Equal(page, again) || !bytes.Equal(plot, plotAgain) {
		t.Error("the page or its plot is another when it is written again")
	}
}

func TestOff(t *testing.T) {
	for about, c := range map[string]struct{ simulated, real, want float64 }{
		"equal": {3, 3, 0}, "a tenth more": {1.1, 1, 0.1}, "half": {5, 10, -0.5}, "both nothing": {0, 0, 0},
	} {
		if got := league.Off(c.simulated, c.real); got < c.want-1e-9 || got > c.want+1e-9 {
			t.Errorf("%s: Off(%v, %v) = %v, want %v", about, c.simulated, c.real, got, c.want)
		}
	}
}

// TestHolds: all three figures have to be within 15 %.
func TestHolds(t *testing.T) {
	measured := league.Measured{Throughput: 100, Drain: 10, P99: 2, Drained: true}
	for about, c := range map[string]struct {
		simulated league.Measured
		want      bool
	}{
		"all near":       {league.Measured{Throughput: 90, Drain: 11, P99: 1.8, Drained: true}, true},
		"drains later":   {league.Measured{Throughput: 100, Drain: 12, P99: 2, Drained: true}, false},
		"answers sooner": {league.Measured{Throughput: 100, Drain: 10, P99: 1.5, Drained: true}, false},
		"does less":      {league.Measured{Throughput: 80, Drain: 10, P99: 2, Drained: true}, false},
		"does not drain": {league.Measured{Throughput: 100, P99: 2}, false},
	} {
		compared := league.Compared{Median: measured, Simulated: c.simulated}
		if got := compared.Holds(); got != c.want {
			t.Errorf("%s: Holds() = %v", about, got)
		}
	}
}
