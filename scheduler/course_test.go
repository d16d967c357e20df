package scheduler

import (
	"math"
	"testing"
)

// One course with all that happens to a host, one after the other: deliveries that come in at a rate, and Ruby jobs that would take whatever is left.
// Ten seconds after each change deliveries are served as they come, the processors that others leave are in use, and others have what they want.
func TestLimitsOverAWholeCourse(t *testing.T) {
	t.Parallel()
	const length = 40 // seconds of each part
	parts := []struct {
		name   string
		rate   func(t float64) float64 // deliveries a second, by seconds of the part
		others float64                 // threads of other processes
		stolen float64                 // cores that the hypervisor takes
		dead   float64                 // of the deliveries, to hosts that answer after ten seconds; the breaker leaves no more
		cost   float64                 // factor of what Ruby jobs compute
		loose  bool                    // what comes in swings too much for means to be close
	}{
		{name: "steady", rate: func(float64) float64 { return 150 }},
		{name: "a step", rate: func(float64) float64 { return 450 }},
		{name: "a step back", rate: func(float64) float64 { return 100 }},
		{name: "a ramp", rate: func(t float64) float64 { return 100 + 10*t }},
		{name: "oscillation", rate: func(t float64) float64 { return 300 + 200*math.Sin(t/3) }, loose: true},
		{name: "a burst", rate: func(t float64) float64 {
			if t < 2 {
				return 1500
			}
			return 150
		}, loose: true},
		{name: "dead hosts", rate: func(float64) float64 { return 200 }, dead: 0.02},
		{name: "they are back", rate: func(float64) float64 { return 200 }},
		{name: "a core is taken by another process", rate: func(float64) float64 { return 200 }, others: 1},
		{name: "and given back", rate: func(float64) float64 { return 200 }},
		{name: "half a core is stolen", rate: func(float64) float64 { return 200 }, stolen: 0.5},
		{name: "and is there again", rate: func(float64) float64 { return 200 }},
		{name: "Ruby jobs compute three times as much", rate: func(float64) float64 { return 200 }, cost: 3},
		{name: "and as before", rate: func(float64) float64 { return 200 }},
	}
	at := func(now float64) (part int, since float64) {
		part = min(int(now/length), len(parts)-1)
		return part, now - float64(part*length)
	}
	for seed := range uint64(*plantSeeds) {
		kinds := []kind{{class: "Delivery", cpu: 0.0015, io: 0.2, spread: 0.8}, {class: "Dead", io: 10}}
		ruby := append([]kind(nil), rubyMix...)
		p := worker(plantLane{kinds: kinds, rate: func(now float64) float64 {
			part, since := at(now)
			return parts[part].rate(since)
		}}, plantLane{kinds: ruby})
		p.seed, p.jump = seed, 0.05
		native := p.lanes[0]
		type sums struct{ in, out, ours, others, backlog float64 }
		got := make([]sums, len(parts))
		came := 0.0
		changes := p.run(t, float64(len(parts)*length), func(now float64) {
			part, since := at(max(0, now-1e-6))
			if since > 10 { // what the last quarter of a second was
				s := &got[part]
				s.ours += p.oursAt
				s.others += p.othersAt
				s.in += native.came - came
				s.backlog = max(s.backlog, native.backlog)
			}
			came = native.came
			part, _ = at(now)
			w := parts[part]
			p.others, p.cores = w.others, 2-w.stolen
			native.kinds[0].weight = 1 - w.dead
			for i := range ruby {
				p.lanes[1].kinds[i].cpu = rubyMix[i].cpu * max(1, w.cost)
			}
		})
		for i, w := range parts {
			s, from := &got[i], i*length
			s.out = mean(native.done, from+10, from+length) * (length - 10)
			span := float64(length - 10)
			free := 2 - w.stolen
			t.Logf("seed %d: %-40s %4.0f of %4.0f deliveries, at most %4.0f wait; ours %.2f, others %.2f of %.1f cores; limits %.0f (%.2f) and %.0f (%.2f); Ruby %.0f/s", seed, w.name, s.out, s.in, s.backlog,
				s.ours/span, s.others/span, free, mean(native.limits, from+10, from+length), cov(native.limits, from+10, from+length), mean(p.lanes[1].limits, from+10, from+length),
				cov(p.lanes[1].limits, from+10, from+length), mean(p.lanes[1].done, from+10, from+length))
			least := 0.96
			if w.loose {
				least = 0.93
			}
			if s.out < least*s.in-30 || s.backlog > 0.5*s.in/span+150 {
				t.Errorf("seed %d, %s: %.0f of %.0f deliveries done, at times %.0f wait", seed, w.name, s.out, s.in, s.backlog)
			}
			if s.others < 0.9*w.others*span {
				t.Errorf("seed %d, %s: others get %.2f of the %.2f cores that they want", seed, w.name, s.others/span, w.others)
			}
			if used := (s.ours + s.others) / span; used < 0.85*free {
				t.Errorf("seed %d, %s: %.2f of %.2f cores in use, and Ruby always has more to do", seed, w.name, used, free)
			}
			if t.Failed() && seed == 0 {
				for _, d := range changes {
					if int(d.at)/length == i {
						logChanges(t, []change{d})
					}
				}
			}
		}
	}
}
