package simulate_test

import (
	"math"
	"testing"
	"time"

	"github.com/queueville/queueville/loadtest/scenario"
	"github.com/queueville/queueville/loadtest/simulate"
)

// load reads an embedded scenario.
func load(tb testing.TB, name string) *scenario.Scenario {
	tb.Helper()
	text, err := scenario.Source(name)
	if err != nil {
		tb.Fatal(err)
	}
	s, problems := scenario.Parse(text)
	if len(problems) > 0 {
		tb.Fatalf("%s: %v", name, problems)
	}
	return s
}

func config(tb testing.TB, s *scenario.Scenario, engine simulate.EngineName) simulate.Config {
	tb.Helper()
	cfg, err := s.Config(engine)
	if err != nil {
		tb.Fatal(err)
	}
	return cfg
}

// TestFosstodon holds the simulated backlog of stock Sidekiq to what Fosstodon published, each point within 20 %.
func TestFosstodon(t *testing.T) {
	cfg := config(t, load(t, "twitter-migration"), simulate.Sidekiq)
	const hours = 24 // the last point is at 21 h
	cfg.Length, cfg.Drain, cfg.Bins = hours*time.Hour, 0, hours*360
	r, err := simulate.Run(cfg)
	if err != nil {
		t.Fatal(err)
	}
	backlog := r.Series.Backlog() // greatest in each ten seconds
	at := func(d time.Duration) int { return int(d/(10*time.Second)) - 1 }
	within := func(what string, got, want float64) {
		t.Helper()
		t.Logf("%-60s published %8.0f, simulated %8.0f (%+.1f %%)", what, want, got, 100*(got/want-1))
		if math.Abs(got/want-1) > 0.20 {
			t.Errorf("%s: %v, want %v within 20 %%", what, got, want)
		}
	}

	peak := 0
	for i := at(4 * time.Hour); i < at(4*time.Hour+5*time.Minute); i++ {
		if backlog[i] > backlog[peak] || peak == 0 {
			peak = i
		}
	}
	cleared := peak
	for backlog[cleared] > 15 { // a fetch or two
		cleared++
	}
	within("25 threads: a backlog of about", float64(backlog[peak]), 300)
	gone := float64(cleared-peak) * 10
	t.Logf("%-60s published       60, simulated %8.0f", "seconds until it was gone, at most", gone)
	if gone > 72 {
		t.Errorf("gone after %v s, want within a minute, 20 %% more at most", gone)
	}

	// No clock is given for the evening: an hour before it passes 6,000 for good, it has to be at 2,000.
	six := 0
	for i := at(8 * time.Hour); i < at(12*time.Hour); i++ {
		if backlog[i] < 6000 {
			six = i
		}
	}
	t.Logf("6,000 at %.2f h", r.Series.Seconds[six]/3600)
	within("an hour before the evening's 6,000", float64(backlog[six-360]), 2000)
	within("30 threads, 05:30", float64(backlog[at(17*time.Hour+30*time.Minute)]), 157_523)
	within("80 threads just up, 07:00", float64(backlog[at(19*time.Hour)]), 181_080)
	empty := at(19 * time.Hour)
	for backlog[empty] > 500 {
		empty++
	}
	within("minutes until it was cleared", float64(empty-at(19*time.Hour))/6, 120)
}
