package scheduler

import (
	"fmt"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// strange draws what a sensor must not say, and sometimes what it may.
func strange(t *rapid.T, name string) float64 {
	return rapid.OneOf(
		rapid.SampledFrom([]float64{math.NaN(), math.Inf(1), math.Inf(-1), -1, 0, 1, 1e300, math.MaxFloat64, math.SmallestNonzeroFloat64}),
		rapid.Float64Range(0, 64), rapid.Float64(),
	).Draw(t, name)
}

// Whatever sensors, executors and the clock say, limits stay within their bounds, decisions are numbers, and the same inputs give the same
// decisions.
func TestControllerWithNonsense(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		cfg := ControllerConfig{MemoryKeep: rapid.Float64Range(-1, 1e12).Draw(t, "keep")}
		for i := range rapid.IntRange(1, 3).Draw(t, "lanes") {
			least := rapid.IntRange(1, 10).Draw(t, "min")
			cfg.Lanes = append(cfg.Lanes, LaneConfig{Name: fmt.Sprint(i), Min: least, Max: least + rapid.IntRange(0, 1000).Draw(t, "max"), Start: rapid.IntRange(0, 2000).Draw(t, "start")})
		}
		c, err := NewController(cfg)
		if err != nil {
			t.Fatal(err)
		}
		twin, _ := NewController(cfg)
		now := t0
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			if rapid.IntRange(0, 9).Draw(t, "clock") == 0 {
				now = now.Add(time.Duration(rapid.Int64Range(int64(-1000*time.Hour), int64(1000*time.Hour)).Draw(t, "jump")))
			}
			now = now.Add(250 * time.Millisecond)
			host := Host{
				Cores: strange(t, "cores"), Busy: strange(t, "busy"), Ours: strange(t, "ours"), Pressure: strange(t, "pressure"), Throttled: strange(t, "throttled"),
				MemoryTotal: strange(t, "memory"), MemoryAvailable: strange(t, "available"), MemoryPressure: strange(t, "memory pressure"),
			}
			var views []Lane
			for i := range rapid.IntRange(0, 4).Draw(t, "views") {
				views = append(views, Lane{
					Name: fmt.Sprint(i), Running: strange(t, "running"), Full: strange(t, "full"), Done: strange(t, "done"), Work: strange(t, "work"), Wall: strange(t, "wall"),
					CPU: strange(t, "cpu"), Cores: strange(t, "lane cores"), Arrivals: strange(t, "arrivals"), Backlog: strange(t, "backlog"),
					Goal: time.Duration(rapid.Int64().Draw(t, "goal")), Weight: strange(t, "weight"),
					Caps: []Cap{{By: ByDB, Slots: strange(t, "cap")}},
				})
			}
			got, again := c.Step(now, host, views), twin.Step(now, host, views)
			for i, d := range got {
				if d.Limit < cfg.Lanes[i].Min || d.Limit > cfg.Lanes[i].Max {
					t.Fatalf("limit %d is outside of %+v", d.Limit, cfg.Lanes[i])
				}
				if math.IsNaN(d.Value) || math.IsNaN(d.Gain) || math.IsNaN(d.Rate) || math.IsInf(d.Value, 0) || math.IsInf(d.Gain, 0) {
					t.Fatalf("%+v", d)
				}
				if fmt.Sprintf("%+v", d) != fmt.Sprintf("%+v", again[i]) {
					t.Fatalf("the same inputs: %+v and %+v", d, again[i])
				}
			}
		}
	})
}

func TestControllerClockJumps(t *testing.T) {
	t.Parallel()
	for name, jump := range map[string]time.Duration{"an hour forth": time.Hour, "an hour back": -time.Hour, "a second back": -time.Second, "no time at all": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := NewController(ControllerConfig{Lanes: []LaneConfig{{Name: "a", Max: 100, Start: 10}}})
			if err != nil {
				t.Fatal(err)
			}
			now := t0
			busy := Lane{Name: "a", Running: 10, Full: 1, Done: 50, Wall: 0.05, CPU: 0.1}
			for range 20 {
				now = now.Add(250 * time.Millisecond)
				c.Step(now, UnknownHost(), []Lane{busy})
			}
			was := c.Limit("a")
			c.Step(now.Add(jump), Host{Cores: 2, Busy: 2, Ours: 0.5}, []Lane{busy})
			if got := c.Limit("a"); got != was {
				t.Errorf("limit %d → %d on a jump", was, got)
			}
		})
	}
}

func TestControllerConfigIsChecked(t *testing.T) {
	t.Parallel()
	_, err := NewController(ControllerConfig{TargetCPU: 2, MinShare: math.NaN(), Lanes: []LaneConfig{{Name: "a", Max: 1}, {Name: "a", Max: 1}, {Name: "b"}, {Name: "c", Min: 5, Max: 4}}})
	if err == nil || len(err.(interface{ Unwrap() []error }).Unwrap()) != 5 {
		t.Errorf("NewController = %v, want five problems", err)
	}
}

// What binds is named, with its value and what more of it would give.
func TestDecisionExplains(t *testing.T) {
	t.Parallel()
	run := func(host Host, v Lane, steps int) Decision {
		c, err := NewController(ControllerConfig{Lanes: []LaneConfig{{Name: "a", Max: 40, Start: 20}}})
		if err != nil {
			t.Fatal(err)
		}
		now, d := t0, []Decision(nil)
		v.Name = "a"
		for range steps {
			now = now.Add(250 * time.Millisecond)
			v := v
			if most := float64(max(1, c.Limit("a"))); v.Running > most && v.Wall >= 0.1 {
				v.Done, v.CPU, v.Running = v.Done*most/v.Running, v.CPU*most/v.Running, most
			}
			d = c.Step(now, host, []Lane{v})
		}
		return d[0]
	}
	idle := Host{Cores: 4, Busy: 1, Ours: 1, MemoryTotal: 8 << 30, MemoryAvailable: 4 << 30}
	with := func(change func(*Host)) Host { h := idle; change(&h); return h }
	busy := Lane{Running: 40, Full: 1, Done: 25, Wall: 0.2, CPU: 0.8}
	for name, c := range map[string]struct {
		host Host
		lane Lane
		want Bound
		unit string
	}{
		"nothing waits":                         {idle, Lane{Running: 3, Done: 10, Wall: 0.1, CPU: 0.1}, ByDemand, ""},
		"processors are in use":                 {with(func(h *Host) { h.Busy, h.Ours = 4, 4 }), busy, ByCPU, "core"},
		"others use processors":                 {with(func(h *Host) { h.Busy, h.Ours = 4, 2 }), busy, ByOthers, "core"},
		"memory is short":                       {with(func(h *Host) { h.MemoryAvailable = 100 << 20 }), busy, ByMemory, "GiB"},
		"memory is nearly short":                {with(func(h *Host) { h.MemoryAvailable = 600 << 20 }), busy, ByMemory, "GiB"},
		"everybody waits for memory":            {with(func(h *Host) { h.MemoryPressure = 0.4 }), busy, ByMemory, "GiB"},
		"the cgroup is throttled":               {with(func(h *Host) { h.Throttled = 0.3 }), busy, ByQuota, "core"},
		"others wait for processors":            {with(func(h *Host) { h.Busy, h.Ours, h.Pressure = 3.5, 2, 0.95 }), busy, ByPressure, "core"},
		"the database lease is lost":            {idle, Lane{Running: 5, Full: 1, Done: 25, Wall: 0.2, CPU: 0.2, Caps: []Cap{{By: ByDB, Slots: 0}}}, ByDB, "connection"},
		"the lease of connections is used up":   {idle, Lane{Running: 40, Full: 1, Done: 400, Wall: 0.2, CPU: 0.2, Caps: []Cap{{By: ByDB, Slots: 5}}}, ByDB, "connection"},
		"more brings nothing, without a sensor": {UnknownHost(), Lane{Running: 20, Full: 1, Done: 100, Wall: 0.05, CPU: Unknown}, ByGain, "slot"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := run(c.host, c.lane, 40)
			if d.Bound != c.want || d.Unit != c.unit {
				t.Errorf("bound %q (%v %q), want %q %q; limit %d", d.Bound, d.Value, d.Unit, c.want, c.unit, d.Limit)
			}
		})
	}
}

// A lost lease takes the lane to its least at once.
func TestLimitFollowsACapAtOnce(t *testing.T) {
	t.Parallel()
	c, err := NewController(ControllerConfig{Lanes: []LaneConfig{{Name: "a", Max: 100, Start: 50}}})
	if err != nil {
		t.Fatal(err)
	}
	v := Lane{Name: "a", Running: 50, Full: 1, Done: 100, Wall: 0.1}
	c.Step(t0, UnknownHost(), []Lane{v})
	v.Caps = []Cap{{By: ByDB, Slots: 7.9}}
	if d := c.Step(at(0.25), UnknownHost(), []Lane{v})[0]; d.Limit != 7 || !d.Changed() || d.Bound != ByStart && d.Bound != ByDB {
		t.Errorf("%+v", d)
	}
	v.Caps[0].Slots = 0
	if d := c.Step(at(0.5), UnknownHost(), []Lane{v})[0]; d.Limit != 1 {
		t.Errorf("limit %d without a connection, want the least", d.Limit)
	}
}
