package scheduler

import (
	"testing"
)

// worker is two lanes of one host as they are in a worker, with readings as they are on real servers.
func worker(native, ruby plantLane) *plant {
	native.name, ruby.name, ruby.wants = "native", "ruby", true
	for _, l := range []*plantLane{&native, &ruby} {
		if l.first == 0 {
			l.first = 32
		}
	}
	native.max, ruby.max, ruby.cores = 512, 50, 2
	return &plant{cores: 2, overhead: 0.01, noise: 0.1, jump: 0.1, lanes: []*plantLane{&native, &ruby}}
}

var (
	deliveries = []kind{{class: "Delivery", cpu: 0.0015, io: 0.2, spread: 0.8}}
	rubyMix    = []kind{{class: "Feed", weight: 0.5, cpu: 0.013, io: 0.005, spread: 0.8}, {class: "Fetch", cpu: 0.004, io: 0.25, spread: 0.8}}
)

func logChanges(t *testing.T, changes []change) {
	t.Helper()
	for _, d := range changes {
		t.Logf("%6.2f %s %6.2f %4d → %4d %s (%s) rate %.1f busy %.2f ours %.2f want %.2f full %.2f", d.at, d.Lane, d.View.Running, d.Was, d.Limit, d.Why, d.Bound, d.Rate, d.Host.Busy, d.Host.Ours, d.View.Want, d.View.Full)
	}
}

// steadyWithin is the coefficient of variation that a lane's limit may have on steady load, in the middle of several seeds or for a single one. Of a few
// slots one is much.
func steadyWithin(l *plantLane) float64 {
	if n := mean(l.looks, 240, 720); n < 12 {
		return 0.15 + 1/n
	}
	return 0.25
}

// On steady load no limit swings, though sensors and job times do.
func TestLimitsAreSteadyOnSteadyLoad(t *testing.T) {
	t.Parallel()
	for name, fresh := range map[string]func() *plant{
		"both always have more to do": func() *plant { return worker(plantLane{kinds: deliveries}, plantLane{kinds: rubyMix}) },
		"deliveries come in": func() *plant {
			return worker(plantLane{kinds: deliveries, rate: func(float64) float64 { return 150 }}, plantLane{kinds: rubyMix})
		},
		"no deliveries at all": func() *plant {
			return worker(plantLane{kinds: deliveries, own: 0.15, rate: func(float64) float64 { return 2 }}, plantLane{kinds: rubyMix})
		},
		"deliveries compute": func() *plant {
			return worker(plantLane{kinds: []kind{{class: "Delivery", cpu: 0.003, io: 0.01, spread: 0.8}}}, plantLane{kinds: rubyMix})
		},
		"no Ruby": func() *plant {
			return worker(plantLane{kinds: deliveries}, plantLane{kinds: rubyMix, rate: func(float64) float64 { return 0.5 }})
		},
	} {
		for other, cores := range map[string]float64{"": 0.1, ", others use a fifth": 0.4, ", others use half": 1} {
			t.Run(name+other, func(t *testing.T) {
				t.Parallel()
				var natives, rubies []float64
				var first []change
				var least [2]float64
				for seed := range uint64(*plantSeeds) {
					p := fresh()
					p.seed, p.others = seed, cores
					changes := p.run(t, 180, nil)
					n, r := p.lanes[0], p.lanes[1]
					a, b := cov(n.looks, 240, 720), cov(r.looks, 240, 720)
					t.Logf("CASE seed %d: %-45s native %3.0f cov %.2f, %.0f/s; Ruby %3.0f cov %.2f, %.0f/s", seed, name+other, mean(n.looks, 240, 720), a, mean(n.done, 60, 180), mean(r.looks, 240, 720), b, mean(r.done, 60, 180))
					natives, rubies = append(natives, a), append(rubies, b)
					if seed == 0 {
						first, least = changes, [2]float64{steadyWithin(n), steadyWithin(r)}
					}
				}
				if a, b := quantile(natives, 0.5), quantile(rubies, 0.5); a > least[0] || b > least[1] {
					t.Errorf("coefficients of variation %.2f and %.2f on steady load", a, b)
					logChanges(t, first)
				}
			})
		}
	}
}

// Whatever others use, a quarter of the processors is ours: also where a job gets far less than it wants, and whether or not it is known what
// that is.
func TestAQuarterIsOursWhateverOthersUse(t *testing.T) {
	t.Parallel()
	for name, wants := range map[string]bool{"by trial": false, "by what jobs want": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(*plantSeeds) {
				p := one(plantLane{kinds: []kind{{class: "A", cpu: 0.010, io: 0.002, random: true}}, max: 64, first: 16, wants: wants}, 2)()
				p.seed = seed
				used := 0.0
				changes := p.run(t, 120, func(now float64) {
					if p.others = 0; now >= 10 {
						p.others = 8
					}
					if now > 60 {
						used += p.oursAt / 60
					}
				})
				t.Logf("seed %d: %.2f cores, limit %.1f", seed, used, mean(p.lanes[0].limits, 60, 120))
				if used < 0.9*0.5 || used > 0.8 {
					t.Errorf("seed %d: we use %.2f of 2 cores beside eight that want one each, and a quarter is ours", seed, used)
					logChanges(t, changes)
				}
			}
		})
	}
}
