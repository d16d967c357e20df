package scheduler

import (
	"math"
	"testing"
	"time"
)

// Growth never drifts upwards where more concurrency brings nothing: the known fault of limits that follow latency. The outside serves 24
// requests at once, the lane could have 512, the latency rises with every one more, for ten minutes.
func TestLimitNeverDriftsUpwardsWhereMoreBringsNothing(t *testing.T) {
	t.Parallel()
	for name, blind := range map[string]bool{"with sensors": false, "without any": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := workloads["remote saturates"]()
			p.blind = blind
			p.run(t, 600, nil)
			l := p.lanes[0]
			for s := 60; s < 600; s++ {
				if l.limits[s] > 64 {
					t.Fatalf("limit %.0f after %d s, and 24 would do", l.limits[s], s)
				}
			}
			if early, late := mean(l.limits, 60, 240), mean(l.limits, 420, 600); late > 1.5*early || late > 48 {
				t.Errorf("mean limit %.1f in minutes 2 to 4, %.1f in the last three: it drifts", early, late)
			}
			if got := mean(l.done, 420, 600); got < 0.95*480 {
				t.Errorf("%.0f jobs/s at the end", got)
			}
		})
	}
}

// steady returns the mean throughput of [from, to) and how many seconds after since it was first within 10 % of it, over two seconds.
func steady(l *plantLane, since, from, to int) (rate float64, after int) {
	rate = mean(l.done, from, to)
	for after = 0; since+after < to && math.Abs(mean(l.done, since+after, since+after+2)-rate) > 0.1*rate; after++ {
	}
	return rate, after
}

func TestLimitAfterSteps(t *testing.T) {
	t.Parallel()
	delivery := kind{class: "Delivery", cpu: 0.0004, io: 0.2, random: true}
	for name, c := range map[string]struct {
		lane plantLane
		at   func(p *plant) func(now float64)
	}{
		"demand rises tenfold": {plantLane{kinds: []kind{delivery}, rate: func(t float64) float64 {
			if t < 60 {
				return 100
			}
			return 1000
		}}, nil},
		"demand falls to a tenth": {plantLane{kinds: []kind{delivery}, rate: func(t float64) float64 {
			if t < 60 {
				return 1000
			}
			return 100
		}}, nil},
		"every job takes five times the processor": {plantLane{kinds: []kind{{class: "A", cpu: 0.002, io: 0.05, random: true}}}, func(p *plant) func(float64) {
			return func(now float64) {
				if now >= 60 {
					p.lanes[0].kinds[0].cpu = 0.010
				}
			}
		}},
		"every job waits three times as long": {plantLane{kinds: []kind{{class: "A", cpu: 0.004, io: 0.08, random: true}}}, func(p *plant) func(float64) {
			return func(now float64) {
				if now >= 60 {
					p.lanes[0].kinds[0].io = 0.24
				}
			}
		}},
		"one core of two is taken by another process": {plantLane{kinds: []kind{{class: "A", cpu: 0.008, io: 0.04, random: true}}}, func(p *plant) func(float64) {
			return func(now float64) {
				if p.others = 0; now >= 60 {
					p.others = 1
				}
			}
		}},
		"and given back": {plantLane{kinds: []kind{{class: "A", cpu: 0.008, io: 0.04, random: true}}}, func(p *plant) func(float64) {
			return func(now float64) {
				if p.others = 1; now >= 60 {
					p.others = 0
				}
			}
		}},
		"a third of the hosts is dead": {plantLane{kinds: []kind{{class: "Delivery", weight: 1, cpu: 0.0004, io: 0.2, random: true}, {class: "Dead", io: 10}}, max: 1024}, func(p *plant) func(float64) {
			return func(now float64) {
				if now >= 60 { // the breaker leaves few of them
					p.lanes[0].kinds[0].weight = 0.99
				}
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := one(c.lane, 2)()
			var at func(float64)
			if c.at != nil {
				at = c.at(p)
			}
			changes := p.run(t, 160, at)
			l := p.lanes[0]
			before, first := steady(l, 0, 30, 60)
			after, second := steady(l, 60, 110, 160)
			t.Logf("%.0f/s after %d s, %.0f/s %d s after the step; limit %.0f, then %.0f", before, first, after, second, mean(l.limits, 40, 60), mean(l.limits, 110, 160))
			if first > 10 || second > 10 {
				t.Errorf("steady after %d s, and %d s after the step; want 10", first, second)
				for _, d := range changes {
					t.Logf("%6.2f %6.2f %4d → %4d %s (%s) rate %.0f busy %.2f", d.at, d.View.Running, d.Was, d.Limit, d.Why, d.Bound, d.Rate, d.Host.Busy)
				}
			}
		})
	}
}

// Jobs that computed begin to wait: what the processors could take was found out of other jobs, so the limit goes up as if it had just begun. Ten
// seconds later as much gets done as with the greatest limit, and when they compute again nothing is lost.
func TestLimitWhenJobsBeginToWait(t *testing.T) {
	t.Parallel()
	computes, waits := kind{class: "Delivery", cpu: 0.0008, io: 0.004}, kind{class: "Delivery", cpu: 0.0012, io: 0.5}
	run := func(seed uint64, static int) (*plantLane, []change) {
		p := one(plantLane{kinds: []kind{computes}, first: 32, static: static}, 2)()
		p.seed, p.noise, p.jump = seed, 0.05, 0.05
		changes := p.run(t, 90, func(now float64) {
			p.others = 0.2 // Redis, at work for us
			if p.lanes[0].kinds[0] = computes; now >= 30 && now < 60 {
				p.lanes[0].kinds[0] = waits
			}
		})
		return p.lanes[0], changes
	}
	for seed := range uint64(max(3, *plantSeeds)) {
		best, _ := run(seed, 512)
		l, changes := run(seed, 0)
		for _, c := range []struct {
			name     string
			from, to int
		}{{"computing", 20, 30}, {"waiting", 40, 42}, {"waiting, still", 45, 60}, {"computing again", 70, 90}} {
			if got := mean(l.done, c.from, c.to) / mean(best.done, c.from, c.to); got < 0.9 {
				t.Errorf("seed %d, %s: %.2f of the throughput with 512 at once, limit %.0f", seed, c.name, got, mean(l.limits, c.from, c.to))
				logChanges(t, changes)
			}
		}
		t.Logf("seed %d: limits %.0f, %.0f, %.0f", seed, mean(l.limits, 20, 30), mean(l.limits, 40, 60), mean(l.limits, 70, 90))
	}
}

// Others come first: with one core of two taken by another process, what is used stays within the target, and the others get what they
// want within a second.
func TestLimitLeavesRoomForOthers(t *testing.T) {
	t.Parallel()
	p := one(plantLane{kinds: []kind{{class: "A", cpu: 0.008, io: 0.02, random: true}}}, 4)()
	var oursUnder, oursAlone, samples, alone float64
	changes := p.run(t, 120, func(now float64) {
		p.others = 0
		if now >= 40 && now < 80 {
			p.others = 2
		}
		switch { // before sample resets it
		case now >= 45 && now < 80:
			oursUnder += p.oursAt / 0.25
			samples++
		case now >= 20 && now < 40 || now >= 90:
			oursAlone += p.oursAt / 0.25
			alone++
		}
	})
	// A kernel without priorities gives the others no more than their share while we have more threads than are free.
	if got := oursUnder / samples; got > 2 || got < 1.4 {
		t.Errorf("%.2f cores beside a process that wants 2 of 4", got)
		logChanges(t, changes)
	}
	if got := oursAlone / alone; got < 0.97*4 {
		t.Errorf("%.2f cores of 4 when nobody else wants them", got)
	}
}

// Demand that swings, rises slowly, or comes in bursts is served as it comes, by limits that do not swing with it.
func TestLimitUnderMovingDemand(t *testing.T) {
	t.Parallel()
	for name, rate := range map[string]func(float64) float64{
		"oscillation": func(t float64) float64 { return 500 + 400*math.Sin(t/5) },
		"ramp":        func(t float64) float64 { return 10 * t },
		"bursts": func(t float64) float64 {
			if math.Mod(t, 20) < 2 {
				return 3000
			}
			return 50
		},
		"steady":          func(float64) float64 { return 300 },
		"one every 20 s":  func(float64) float64 { return 0.05 },
		"nothing at all":  func(float64) float64 { return 0 },
		"one burst, then": func(t float64) float64 { return 5000 * math.Exp(-t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := one(plantLane{kinds: []kind{{class: "Delivery", cpu: 0.0004, io: 0.2, random: true}}, rate: rate}, 2)()
			p.run(t, 180, nil)
			l := p.lanes[0]
			in, out := 0.0, 0.0
			for s := range 180 {
				in += rate(float64(s) + 0.5)
			}
			for _, n := range l.done {
				out += n
			}
			if out < 0.93*in-20 || l.backlog > 0.07*in+20 {
				t.Errorf("%.0f of %.0f done, %.0f wait", out, in, l.backlog)
			}
			if name == "steady" && cov(l.limits, 60, 180) > 0.15 {
				t.Errorf("coefficient of variation %.3f under steady load", cov(l.limits, 60, 180))
			}
			if name == "one burst, then" && l.limits[179] > 128 {
				t.Errorf("limit %.0f long after a burst", l.limits[179])
			}
		})
	}
}

// Two lanes of one host: each gets its work done, and neither takes everything.
func TestLimitsOfTwoLanes(t *testing.T) {
	t.Parallel()
	p := &plant{cores: 2, overhead: 0.01, noise: 0.02, lanes: []*plantLane{
		{name: "native", max: 512, kinds: []kind{{class: "Delivery", cpu: 0.002, io: 0.2, random: true}}, rate: func(float64) float64 { return 300 }},
		{name: "ruby", max: 50, cores: 2, kinds: []kind{{class: "Feed", cpu: 0.006, io: 0.010, random: true}}},
	}}
	p.run(t, 120, nil)
	native, ruby := mean(p.lanes[0].done, 30, 120), mean(p.lanes[1].done, 30, 120)
	t.Logf("native %.0f/s at %.0f, Ruby %.0f/s at %.0f", native, mean(p.lanes[0].limits, 30, 120), ruby, mean(p.lanes[1].limits, 30, 120))
	if native < 0.97*300 {
		t.Errorf("native jobs: %.0f/s of 300", native)
	}
	if want := (2 - 300*0.002) / 0.006; ruby < 0.9*want {
		t.Errorf("Ruby jobs: %.0f/s, the rest of the processors is worth %.0f", ruby, want)
	}
}

// A lane that hardly computes is not cut for the processors that another of ours uses.
func TestLimitOfALaneThatDoesNotCompute(t *testing.T) {
	t.Parallel()
	c, err := NewController(ControllerConfig{Lanes: []LaneConfig{{Name: "native", Max: 512, Start: 200}, {Name: "ruby", Max: 50, Start: 20}}})
	if err != nil {
		t.Fatal(err)
	}
	now := t0
	for range 40 {
		now = now.Add(250 * time.Millisecond)
		c.Step(now, Host{Cores: 4, Busy: 4, Ours: 3, Pressure: 0.9, Throttled: Unknown, MemoryAvailable: Unknown, MemoryTotal: Unknown, MemoryPressure: Unknown}, []Lane{
			{Name: "native", Running: 200, Full: 1, Done: 250, Wall: 0.2, CPU: 0.1},
			{Name: "ruby", Running: float64(c.Limit("ruby")), Full: 1, Done: 50, Wall: 0.1, CPU: 2.9},
		})
	}
	if got := c.Limit("native"); got < 100 {
		t.Errorf("the lane that uses 0.1 of 3 cores was cut to %d", got)
	}
	if got := c.Limit("ruby"); got > 10 {
		t.Errorf("the lane that uses the processors still has %d", got)
	}
}

// A lane that knows what its jobs want gives way to others at once and by as much as they need, and has all of it back as soon as they are done. On
// two cores a job more or less is half of everything, so nothing is left to trial.
func TestLimitGivesWayByWhatJobsWant(t *testing.T) {
	t.Parallel()
	for seed := range uint64(5) {
		p := one(plantLane{kinds: []kind{{class: "Feed", cpu: 0.010, io: 0.002, random: true}}, cores: 2, max: 32, first: 32, inner: 8, wants: true}, 2)()
		p.seed, p.overhead = seed, 0.005
		var ours, others [3]float64
		changes := p.run(t, 90, func(now float64) {
			p.others = 0.2 // what Redis and Postgres do for our jobs
			if now >= 30 && now < 60 {
				p.others = 1.2
			}
			for i, from := range []float64{10, 32, 65} {
				if now > from && now <= from+20 {
					ours[i] += p.oursAt / 20
					others[i] += p.othersAt / 20
				}
			}
		})
		if ours[0] < 1.6 || ours[2] < 1.6 || others[1] < 1 {
			t.Errorf("seed %d: we use %.2f, %.2f and %.2f cores, others %.2f, %.2f and %.2f of what they want", seed, ours[0], ours[1], ours[2], others[0], others[1], others[2])
		}
		l := p.lanes[0]
		if v := cov(l.limits, 10, 29); v > 0.15 {
			t.Errorf("seed %d: coefficient of variation %.2f in steady load", seed, v)
			logChanges(t, changes)
		}
		if before, after := mean(l.done, 10, 30), mean(l.done, 63, 71); after < 0.9*before {
			t.Errorf("seed %d: %.0f/s before, %.0f/s from three seconds after the others have ended", seed, before, after)
		}
	}
}

// The hypervisor takes nearly all of the host for a quarter of a second now and then. By such a look others would use all that there is, and a lane
// that gives way to them by calculation would have one slot, and all of them again at the next.
func TestLimitDoesNotFollowSingleLooksAtWhatIsStolen(t *testing.T) {
	t.Parallel()
	c, err := NewController(ControllerConfig{Lanes: []LaneConfig{{Name: "ruby", Max: 50, Start: 32}}})
	if err != nil {
		t.Fatal(err)
	}
	now := t0
	for i := range 80 {
		now = now.Add(250 * time.Millisecond)
		h := Host{Cores: 2, Busy: 1.8, Ours: 1, Pressure: 0.5, Throttled: Unknown, MemoryAvailable: Unknown, MemoryTotal: Unknown, MemoryPressure: Unknown}
		if i%8 == 7 {
			h.Cores, h.Busy, h.Ours = 0.3, 0.3, 0.2
		}
		running := float64(c.Limit("ruby"))
		c.Step(now, h, []Lane{{Name: "ruby", Running: running, Full: 1, Done: 10, Wall: 0.5, CPU: h.Ours, Want: running / 40}})
		if got := c.Limit("ruby"); i > 20 && got < 8 {
			t.Fatalf("%d slots at look %d", got, i)
		}
	}
}
