package placement

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestPlace(t *testing.T) {
	cpu := func(class string) JobView { return JobView{Class: class, Share: 1} }
	io := func(class string) JobView { return JobView{Class: class, Share: 0.05} }
	alone := JobView{Class: "a", Share: 0.5, Alone: true}
	idle := func(threads int) ProcView { return ProcView{Idle: threads} }
	busy := func(threads, running int, load float64) ProcView {
		return ProcView{Idle: threads, Running: running, Load: load}
	}
	cases := map[string]struct {
		jobs  []JobView
		procs []ProcView
		want  []Assignment
	}{
		"nothing to do":                                   {nil, []ProcView{idle(5)}, nil},
		"nobody asks":                                     {[]JobView{io("i")}, []ProcView{busy(0, 5, 0.2)}, nil},
		"one computing job per process":                   {[]JobView{cpu("c"), cpu("c"), cpu("c")}, []ProcView{idle(5), idle(5)}, []Assignment{{0, 0}, {1, 1}}},
		"many waiting ones in one":                        {slices.Repeat([]JobView{io("i")}, 4), []ProcView{idle(3)}, []Assignment{{0, 0}, {1, 0}, {2, 0}}},
		"a class that cannot start blocks only itself":    {[]JobView{cpu("c"), cpu("c"), io("i"), cpu("c")}, []ProcView{idle(5)}, []Assignment{{0, 0}, {2, 0}}},
		"light jobs ride with a computing one":            {slices.Repeat([]JobView{io("i")}, 30), []ProcView{busy(30, 1, 1)}, seq(17)},
		"a computing one rides with light ones":           {[]JobView{cpu("c"), cpu("c")}, []ProcView{{Idle: 5, Running: 18, Load: 0.9, Light: 0.9}}, []Assignment{{0, 0}}},
		"not beside more of them than there is time for":  {[]JobView{cpu("c")}, []ProcView{{Idle: 5, Running: 30, Load: 1.1, Light: 1.1}}, nil},
		"the emptier process first":                       {[]JobView{io("i")}, []ProcView{busy(3, 1, 1), busy(3, 2, 0.1)}, []Assignment{{0, 1}}},
		"the first job of a process always starts":        {[]JobView{{Class: "x", Share: 5}}, []ProcView{idle(1)}, []Assignment{{0, 0}}},
		"alone in an empty process, which gets no others": {[]JobView{alone, io("i"), io("i")}, []ProcView{idle(5), idle(5)}, []Assignment{{0, 0}, {1, 1}, {2, 1}}},
		"alone empties the process with the fewest jobs":  {[]JobView{io("i"), alone, io("i")}, []ProcView{busy(5, 1, 0.1), busy(5, 3, 0.3)}, []Assignment{{0, 0}, {2, 1}}},
		"two alone in two processes":                      {[]JobView{alone, alone}, []ProcView{idle(2), idle(2)}, []Assignment{{0, 0}, {1, 1}}},
		"nothing beside one that is alone":                {[]JobView{io("i")}, []ProcView{{Idle: 4, Running: 1, Alone: true}}, nil},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := Place(c.jobs, slices.Clone(c.procs)); !slices.Equal(got, c.want) {
				t.Errorf("Place() = %v, want %v", got, c.want)
			}
		})
	}
}

func seq(n int) []Assignment {
	var out []Assignment
	for i := range n {
		out = append(out, Assignment{Job: i})
	}
	return out
}

// Whatever waits and runs: nobody gets more than asks, a class keeps its order, and what must be alone is alone.
func TestPlaceKeepsItsPromises(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		jobs := make([]JobView, rnd.IntN(20))
		for i := range jobs {
			class := rnd.IntN(4)
			jobs[i] = JobView{Class: fmt.Sprint(class), Share: float64(class) / 3, Alone: rnd.IntN(10) == 0}
		}
		procs := make([]ProcView, rnd.IntN(4))
		for i := range procs {
			procs[i] = ProcView{Idle: rnd.IntN(6), Running: rnd.IntN(3)}
			procs[i].Load = float64(procs[i].Running) / 2
		}
		before := slices.Clone(procs)
		placed := Place(jobs, procs)
		got := make([]int, len(procs))
		for i, a := range placed {
			got[a.Proc]++
			if i > 0 && a.Job <= placed[i-1].Job {
				t.Fatalf("not in order: %v", placed)
			}
			if jobs[a.Job].Alone && (before[a.Proc].Running > 0 || procs[a.Proc].Running != 1) {
				t.Fatalf("%+v is not alone: %v of %+v", jobs[a.Job], placed, before)
			}
		}
		for i := range procs {
			if got[i] > before[i].Idle {
				t.Fatalf("process %d got %d jobs for %d threads", i, got[i], before[i].Idle)
			}
			if before[i].Running == 0 && before[i].Idle > 0 && got[i] == 0 && len(placed) < len(jobs) && !slices.ContainsFunc(jobs, func(j JobView) bool { return j.Alone }) {
				t.Fatalf("process %d is idle and jobs wait: %v", i, placed)
			}
		}
	}
}

func TestRoom(t *testing.T) {
	cases := map[string]struct {
		waiting int
		procs   []ProcView
		typical float64
		want    int
	}{
		"no process":                {0, nil, 0.5, 0},
		"idle, computing jobs":      {0, []ProcView{{Idle: 25}}, 1, 1 + Ahead},
		"idle, waiting jobs":        {0, []ProcView{{Idle: 25}}, 0.01, 25 + Ahead},
		"busy with a computing":     {0, []ProcView{{Idle: 24, Running: 1, Load: 1}}, 1, Ahead},
		"busy with light ones":      {0, []ProcView{{Idle: 7, Running: 18, Load: 0.9, Light: 0.9}}, 1, 1 + Ahead},
		"enough waits":              {3, []ProcView{{Idle: 24, Running: 1, Load: 1}}, 1, 0},
		"one more would do":         {1, []ProcView{{Idle: 24, Running: 1, Load: FullLoad}}, 1, 0},
		"half of the spare is gone": {2, slices.Repeat([]ProcView{{Idle: 24, Running: 1, Load: FullLoad}}, 4), 1, 6},
		"all threads are in use":    {0, []ProcView{{Running: 25, Load: 0.3}}, 0.01, Ahead},
		"a job that must be alone":  {0, []ProcView{{Idle: 24, Running: 1, Alone: true}}, 0.01, Ahead},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := Room(c.waiting, c.procs, c.typical, Ahead); got != c.want {
				t.Errorf("Room() = %d, want %d", got, c.want)
			}
		})
	}
}

func TestSpare(t *testing.T) {
	for ending, want := range map[float64]int{0: Ahead, 10: Ahead, 40: 4, 150: 15, 160: mostAhead, 1e9: mostAhead} {
		if got := Spare(ending); got != want {
			t.Errorf("Spare(%v) = %d, want %d", ending, got, want)
		}
	}
}

func TestSize(t *testing.T) {
	plenty := math.MaxInt32
	cases := map[string]struct {
		v    SizeView
		want int
	}{
		"nothing to do":              {SizeView{Current: 1, Threads: 5, Min: 1, Max: 4, Memory: plenty}, 1},
		"one computing job":          {SizeView{Current: 1, Threads: 5, Min: 1, Max: 4, Memory: plenty, Load: 0.7, Jobs: 1}, 1},
		"more than a CPU":            {SizeView{Current: 1, Threads: 5, Min: 1, Max: 4, Memory: plenty, Load: 1.6, Jobs: 2}, 3},
		"more jobs than threads":     {SizeView{Current: 1, Threads: 5, Min: 1, Max: 4, Memory: plenty, Load: 0.1, Jobs: 11}, 3},
		"at most":                    {SizeView{Current: 1, Threads: 5, Min: 1, Max: 2, Memory: plenty, Load: 9, Jobs: 90}, 2},
		"memory stops growth":        {SizeView{Current: 2, Threads: 5, Min: 1, Max: 8, Memory: 1, Load: 9}, 3},
		"memory shrinks nothing":     {SizeView{Current: 4, Threads: 5, Min: 1, Max: 8, Memory: 0, Load: 2.5}, 4},
		"memory does not forbid min": {SizeView{Current: 0, Threads: 5, Min: 1, Max: 8}, 1},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := Size(c.v); got != c.want {
				t.Errorf("Size(%+v) = %d, want %d", c.v, got, c.want)
			}
		})
	}
}
