package scheduler

import (
	"fmt"
	"testing"
)

// one is a plant with a single lane that always has something to do.
func one(l plantLane, cores float64) func() *plant {
	return func() *plant {
		lane := l
		lane.name = "lane"
		if lane.max == 0 {
			lane.max = 512
		}
		return &plant{cores: cores, overhead: 0.01, noise: 0.02, lanes: []*plantLane{&lane}}
	}
}

var workloads = map[string]func() *plant{
	"CPU-bound":          one(plantLane{kinds: []kind{{class: "Signing", cpu: 0.010}}}, 2),
	"CPU-bound, 8 cores": one(plantLane{kinds: []kind{{class: "Signing", cpu: 0.010, random: true}}}, 8),
	"I/O-bound":          one(plantLane{kinds: []kind{{class: "Delivery", cpu: 0.0004, io: 0.2, random: true}}}, 2),
	"I/O-bound, even":    one(plantLane{kinds: []kind{{class: "Delivery", cpu: 0.0004, io: 0.3}}}, 2),
	"mixed":              one(plantLane{kinds: []kind{{class: "A", weight: 0.5, cpu: 0.012, io: 0.002, random: true}, {class: "B", cpu: 0.002, io: 0.25, random: true}}}, 2),
	"remote saturates":   one(plantLane{kinds: []kind{{class: "Search", cpu: 0.0005, io: 0.05, random: true}}, remote: 24}, 2),
	"one Ruby process":   one(plantLane{kinds: []kind{{class: "Feed", cpu: 0.006, io: 0.012, random: true}}, cores: 1, max: 50}, 2),
	"two Ruby processes": one(plantLane{kinds: []kind{{class: "Feed", cpu: 0.006, io: 0.006, random: true}}, cores: 2, max: 50}, 2),
	"slow jobs":          one(plantLane{kinds: []kind{{class: "Crawl", cpu: 0.05, io: 2, random: true}}}, 2),
	"short jobs, overhead": func() *plant {
		p := one(plantLane{kinds: []kind{{class: "X", cpu: 0.003, random: true}}}, 4)()
		p.overhead = 0.05
		return p
	},
}

func TestLimitReachesTheBestStaticOne(t *testing.T) {
	t.Parallel()
	for name, fresh := range workloads {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			best, at := bestStatic(t, fresh)
			p := fresh()
			changes := p.run(t, 120, nil)
			l := p.lanes[0]
			got := mean(l.done, 30, 120)
			first := 0
			for first < 100 && mean(l.done, first, first+2) < 0.9*got {
				first++
			}
			line := fmt.Sprintf("%.1f/s, %.1f %% of the best static %.1f/s at %d; within 10 %% after %d s; limit %.0f, cov %.3f", got, 100*got/best, best, at, first, mean(l.limits, 60, 120), cov(l.limits, 60, 120))
			t.Log(line)
			if got < 0.95*best || first > 10 || cov(l.limits, 60, 120) > 0.15 {
				t.Error(line)
				for _, d := range changes {
					t.Logf("%6.2f %4d → %4d %s (%s) rate %.0f busy %.2f", d.View.Running, d.Was, d.Limit, d.Why, d.Bound, d.Rate, d.Host.Busy)
				}
			}
		})
	}
}
