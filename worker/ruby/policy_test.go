package ruby

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
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
		"idle, computing jobs":      {0, []ProcView{{Idle: 25}}, 1, 1 + ahead},
		"idle, waiting jobs":        {0, []ProcView{{Idle: 25}}, 0.01, 25 + ahead},
		"busy with a computing":     {0, []ProcView{{Idle: 24, Running: 1, Load: 1}}, 1, ahead},
		"enough waits":              {3, []ProcView{{Idle: 24, Running: 1, Load: 1}}, 1, 0},
		"one more would do":         {1, []ProcView{{Idle: 24, Running: 1, Load: fullLoad}}, 1, 0},
		"half of the spare is gone": {2, slices.Repeat([]ProcView{{Idle: 24, Running: 1, Load: fullLoad}}, 4), 1, 6},
		"all threads are in use":    {0, []ProcView{{Running: 25, Load: 0.3}}, 0.01, ahead},
		"a job that must be alone":  {0, []ProcView{{Idle: 24, Running: 1, Alone: true}}, 0.01, ahead},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := Room(c.waiting, c.procs, c.typical); got != c.want {
				t.Errorf("Room() = %d, want %d", got, c.want)
			}
		})
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

func TestCosts(t *testing.T) {
	now := time.Now()
	c := newCosts()
	if got := c.share("new"); got != unknownShare {
		t.Errorf("share of an unknown class = %v", got)
	}
	for range 50 {
		c.note("cpu", 200*time.Millisecond, 100*time.Millisecond, around{jobs: 2, used: 1, host: 0.5}, now)                     // two at once: each has half
		c.note("crowd", 2500*time.Millisecond, 100*time.Millisecond, around{jobs: 25, used: 1, host: 0.5}, now)                 // too many at once do not seem to wait
		c.note("host", 390*time.Millisecond, 100*time.Millisecond, around{jobs: 1, used: 0.26, host: 1}, now)                   // nor does one on a host that has no time
		c.note("doubt", 330*time.Millisecond, 10*time.Millisecond, around{jobs: 5, used: 0.2, host: 1, crowd: 5}, now)          // it may wait: as much as it computes, but who knows
		c.note("io", 210*time.Millisecond, 5*time.Millisecond, around{jobs: 2, used: 1, host: 0.5}, now)                        // beside a computing one
		c.note("busy io", 600*time.Millisecond, 5*time.Millisecond, around{jobs: 10, used: 1, host: 1, crowd: 5}, now)          // where nobody has time
		c.note("mixed", 100*time.Millisecond, 50*time.Millisecond, around{jobs: 1, used: 0.5, host: 0.5}, now)                  // by itself
		c.note("pair", 100*time.Millisecond, 30*time.Millisecond, around{jobs: 2, used: 0.6, host: 0.5}, now)                   // two with time to spare
		c.note("later", 100*time.Millisecond, 30*time.Millisecond, around{jobs: 1, used: 0.3, host: 0.5}, now)                  // known from better times,
		c.note("later", 2*time.Second, 30*time.Millisecond, around{jobs: 8, used: 0.2, host: 1, crowd: 32}, now.Add(time.Hour)) // it does not get lighter in a crowd
	}
	for class, want := range map[string]float64{"cpu": 1, "crowd": 1, "host": 1, "doubt": 0.5, "io": 0.024, "busy io": 0.012, "mixed": 0.5, "pair": 0.344, "later": 0.3} {
		if got := c.share(class); math.Abs(got-want) > 0.01 {
			t.Errorf("share of %s = %.3f, want %.3f", class, got, want)
		}
	}
	if got := c.p99("io", 50); got < 210*time.Millisecond || got > 300*time.Millisecond {
		t.Errorf("p99 = %v", got)
	}
	policy := StuckPolicy{Factor: 10, Floor: time.Second, Ceiling: time.Hour, MinRuns: 50}
	if got := c.limit("io", policy); got < 2*time.Second || got > 3*time.Second {
		t.Errorf("limit = %v", got)
	}
	if got := c.limit("new", policy); got != time.Hour {
		t.Errorf("limit of an unknown class = %v", got)
	}
	for n := range 2 * maxClasses {
		c.note(fmt.Sprint("class", n), time.Second, 0, around{jobs: 1}, now.Add(time.Duration(n)*time.Second))
	}
	if len(c.classes) > maxClasses {
		t.Errorf("%d classes are remembered", len(c.classes))
	}
}

// What a process uses beyond its known jobs is divided among the others, unless it uses all there is or one of them has just begun.
func TestGuess(t *testing.T) {
	start := time.Now()
	cases := map[string]struct {
		used  float64
		known bool          // a job beside them whose class takes 0.4
		late  time.Duration // when the second unknown one began, after the first look
		want  float64
	}{
		"idle":                {0, false, -1, (unknownShare + guessLow) / 2},
		"each a tenth":        {0.2, false, -1, (unknownShare + 0.1) / 2},
		"beside a known one":  {0.6, true, -1, (unknownShare + 0.1) / 2},
		"less than the known": {0.2, true, -1, (unknownShare + guessLow) / 2},
		"nobody can tell":     {0.97, false, -1, unknownShare},
		"one has just begun":  {0, false, time.Millisecond, unknownShare},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := &Supervisor{costs: newCosts(), typical: map[string]float64{}}
			p := &process{jobs: map[uint64]*running{}}
			begin := func(n uint64, class string, at time.Time) {
				p.add(&running{job: Job{Class: class}, number: n, line: &line{}, share: s.costs.share(class)}, at)
			}
			if c.known {
				s.costs.note("known", time.Second, 400*time.Millisecond, around{jobs: 1, used: 0.4}, start)
				begin(1, "known", start)
			}
			begin(2, "new", start)
			begin(3, "new", start.Add(c.late))
			s.learnFrom(p, start, c.used, start.Add(sampleEvery))
			if got := s.costs.share("new"); math.Abs(got-c.want) > 0.13 || (got == unknownShare) != (c.want == unknownShare) {
				t.Errorf("share = %v, want about %v", got, c.want)
			}
			sum, light := 0.0, 0.0
			for _, r := range p.jobs {
				sum += r.share
				if r.share < lightShare {
					light += r.share
				}
			}
			if math.Abs(p.load-sum) > 1e-9 || math.Abs(p.light-light) > 1e-9 {
				t.Errorf("load %v, light %v: its jobs have %v, %v", p.load, p.light, sum, light)
			}
		})
	}
}
