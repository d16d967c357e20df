package simulate_test

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/queueville/queueville/loadtest/scenario"
	"github.com/queueville/queueville/loadtest/simulate"
	"github.com/queueville/queueville/scheduler"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var both = []simulate.EngineName{simulate.Sidekiq, simulate.Queueville}

// short cuts a scenario down to a few seconds of a test: its first part, without the hours it may take to drain.
func short(tb testing.TB, name string, engine simulate.EngineName, length time.Duration) simulate.Config {
	tb.Helper()
	s := load(tb, name)
	s.Length = min(s.Length, length)
	cfg := config(tb, s, engine)
	cfg.Drain = min(cfg.Drain, length/2)
	return cfg
}

func run(tb testing.TB, cfg simulate.Config) *simulate.Result {
	tb.Helper()
	r, err := simulate.Run(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// TestSameSeedSameBytes: a result depends on its configuration only.
func TestSameSeedSameBytes(t *testing.T) {
	for _, engine := range both {
		for _, name := range []string{"two-hour-outage", "redis-failover"} {
			var first []byte
			for range 2 {
				text, err := json.Marshal(run(t, short(t, name, engine, 130*time.Minute)))
				if err != nil {
					t.Fatal(err)
				}
				if first != nil && !bytes.Equal(first, text) {
					t.Errorf("%s, %s: two runs differ", name, engine)
				}
				first = text
			}
			cfg := load(t, name)
			cfg.Seed, cfg.Length = 2, time.Hour
			other, err := json.Marshal(run(t, config(t, cfg, engine)))
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Equal(first, other) {
				t.Errorf("%s, %s: another seed gives the same result", name, engine)
			}
		}
	}
}

// TestEveryJobIsSomewhere: what was pushed is done, dead, discarded, lost, dropped, or still there.
func TestEveryJobIsSomewhere(t *testing.T) {
	for _, name := range scenario.Names() {
		for _, engine := range both {
			length := 25 * time.Minute
			if name == "two-hour-outage" {
				length = 4*time.Hour + 30*time.Minute
			}
			r := run(t, short(t, name, engine, length))
			j := r.Jobs
			if j.Pushed < 1000 {
				t.Errorf("%s, %s: only %d jobs", name, engine, j.Pushed)
			}
			there := j.Done + j.Dead + j.Discarded + j.Lost + j.Dropped + j.Waiting + j.Running + j.Again
			if there != j.Pushed {
				t.Errorf("%s, %s: pushed %d, accounted for %d: %+v", name, engine, j.Pushed, there, j)
			}
			if engine == simulate.Queueville && j.Lost > 0 {
				t.Errorf("%s: %d jobs lost by Queueville", name, j.Lost)
			}
			if engine == simulate.Queueville && name == "two-hour-outage" && j.Waiting > 100 {
				t.Errorf("%d jobs wait half an hour after the outage", j.Waiting)
			}
		}
	}
}

// TestBudgetHolds: the connections of all processes together are never above the budget, whatever falls over.
func TestBudgetHolds(t *testing.T) {
	for _, budget := range []int{45} {
		for _, name := range []string{"two-hour-outage", "follow-wave"} {
			s := load(t, name)
			hosts, err := scenario.ParseHosts("4x2c")
			if err != nil {
				t.Fatal(err)
			}
			s.Length = min(s.Length, 270*time.Minute)
			s.Hardware[0].Hosts = hosts
			s.Hardware[0].Database.Connections = budget
			r := run(t, config(t, s, simulate.Queueville))
			if most := r.Use.PeakConnections; most > budget || most == 0 {
				t.Errorf("%s: %d connections of a budget of %d", name, most, budget)
			}
		}
	}
}

// TestBehind: with goals, deletions that go everywhere wait in the list behind their queue, and nothing else of it waits for them.
func TestBehind(t *testing.T) {
	wait := func(policy scheduler.Policy, class string) float64 {
		cfg := short(t, "delete-flood", simulate.Queueville, 45*time.Minute)
		cfg.Policy = policy
		r := run(t, cfg)
		if j := r.Jobs; j.Done+j.Dead+j.Discarded+j.Dropped+j.Waiting+j.Running+j.Again != j.Pushed {
			t.Errorf("%s: not every job is somewhere: %+v", policy, j)
		}
		for i := range r.Classes {
			if c := &r.Classes[i]; c.Name == class && c.Runs > 0 {
				return c.MeanWait
			}
		}
		t.Fatalf("%s: no %s ran", policy, class)
		return 0
	}
	const others = "LinkCrawlWorker"
	goals, weights := wait(scheduler.PolicyGoals, others), wait(scheduler.PolicyWeighted, others)
	if goals > 1 || goals > weights/5 {
		t.Errorf("link previews wait %.2f s on average beside a flood of deletions by goals, %.2f s by weights", goals, weights)
	}
}

// TestSidekiqModel checks the model of stock Sidekiq against what its rules say.
func TestSidekiqModel(t *testing.T) {
	t.Run("a pool smaller than the threads makes jobs wait and fail", func(t *testing.T) {
		cfg := short(t, "viral-post", simulate.Sidekiq, 45*time.Minute)
		cfg.Stages[0].Hosts[0].Sidekiq[0].DBPool = 5
		if r := run(t, cfg); r.Use.PoolWaits == 0 || r.Use.PeakConnections > 5 {
			t.Errorf("%d waits, %d connections; want waits and at most 5", r.Use.PoolWaits, r.Use.PeakConnections)
		}
	})
	t.Run("strict order starves the last queue", func(t *testing.T) {
		cfg := short(t, "viral-post", simulate.Sidekiq, 50*time.Minute)
		procs, err := scenario.ParseSidekiq("-c 25 -q push -q default -q ingress -q mailers -q pull -q scheduler")
		if err != nil {
			t.Fatal(err)
		}
		cfg.Stages[0].Hosts[0].Sidekiq = procs
		weighted := run(t, short(t, "viral-post", simulate.Sidekiq, 50*time.Minute))
		strict := run(t, cfg)
		if strict.Queues[0].WithinGoal >= weighted.Queues[0].WithinGoal {
			t.Errorf("default in time: strict behind push %v, weighted %v; want less", strict.Queues[0].WithinGoal, weighted.Queues[0].WithinGoal)
		}
	})
	t.Run("one process uses one core", func(t *testing.T) {
		cfg := short(t, "relay-firehose", simulate.Sidekiq, 90*time.Minute)
		cfg.Stages[0].Hosts[0].Speed = 0.05
		r := run(t, cfg)
		// Four cores; what runs outside of Ruby's lock may use the others.
		if r.Use.CPUShare > 0.75 {
			t.Errorf("CPU share %v with one process on four cores", r.Use.CPUShare)
		}
	})
	t.Run("interrupted: the part is true", func(t *testing.T) {
		cfg := short(t, "viral-post", simulate.Sidekiq, 50*time.Minute)
		cfg.Progress = func(done float64) bool { return done < 0.3 }
		if r := run(t, cfg); !r.Partial || r.Seconds > 0.5*75*60 || r.Jobs.Pushed == 0 {
			t.Errorf("partial %v after %v s with %d jobs", r.Partial, r.Seconds, r.Jobs.Pushed)
		}
	})
	t.Run("every problem is named", func(t *testing.T) {
		if _, err := simulate.Run(simulate.Config{}); err == nil {
			t.Error("an empty configuration runs")
		}
	})
}

// BenchmarkScenario is how long a scenario takes: go test -bench Scenario -benchtime 1x ./loadtest/simulate
func BenchmarkScenario(b *testing.B) {
	for _, engine := range both {
		b.Run("engine="+string(engine), func(b *testing.B) {
			for b.Loop() {
				r := run(b, config(b, load(b, "twitter-migration"), engine))
				b.ReportMetric(float64(r.Jobs.Done)/1e6, "Mjobs")
			}
		})
	}
}

// BenchmarkFleet is a fleet of 200 hosts at 3,000 jobs a second: go test -bench Fleet -benchtime 1x ./loadtest/simulate
func BenchmarkFleet(b *testing.B) {
	for _, engine := range both {
		b.Run("engine="+string(engine), func(b *testing.B) {
			for b.Loop() {
				s := fleet(b, 5*time.Minute)
				r := run(b, config(b, s, engine))
				b.ReportMetric(float64(r.Jobs.Done)/1e6, "Mjobs")
			}
		})
	}
}

func fleet(tb testing.TB, length time.Duration) *scenario.Scenario {
	tb.Helper()
	text, err := os.ReadFile("testdata/fleet.yaml")
	if err != nil {
		tb.Fatal(err)
	}
	s, problems := scenario.Parse(text)
	if len(problems) > 0 {
		tb.Fatal(problems)
	}
	s.Length = min(s.Length, length)
	return s
}
