package ruby

import (
	"fmt"
	"math"
	"testing"
	"time"
)

func TestCosts(t *testing.T) {
	now := time.Now()
	c := newCosts()
	if got := c.share("new"); got != unknownShare {
		t.Errorf("share of an unknown class = %v", got)
	}
	for range 50 {
		c.note("cpu", 200*time.Millisecond, 100*time.Millisecond, around{jobs: 2, used: 1, host: 0.5, delayed: -1}, now)                     // two at once: each has half
		c.note("crowd", 2500*time.Millisecond, 100*time.Millisecond, around{jobs: 25, used: 1, host: 0.5, delayed: -1}, now)                 // too many at once do not seem to wait
		c.note("host", 390*time.Millisecond, 100*time.Millisecond, around{jobs: 1, used: 0.26, host: 1, delayed: -1}, now)                   // nor does one on a host that has no time
		c.note("doubt", 330*time.Millisecond, 10*time.Millisecond, around{jobs: 5, used: 0.2, host: 1, crowd: 5, delayed: -1}, now)          // it may wait: as much as it computes, but who knows
		c.note("io", 210*time.Millisecond, 5*time.Millisecond, around{jobs: 2, used: 1, host: 0.5, delayed: -1}, now)                        // beside a computing one
		c.note("busy io", 600*time.Millisecond, 5*time.Millisecond, around{jobs: 10, used: 1, host: 1, crowd: 5, delayed: -1}, now)          // where nobody has time
		c.note("mixed", 100*time.Millisecond, 50*time.Millisecond, around{jobs: 1, used: 0.5, host: 0.5, delayed: -1}, now)                  // by itself
		c.note("pair", 100*time.Millisecond, 30*time.Millisecond, around{jobs: 2, used: 0.6, host: 0.5, delayed: -1}, now)                   // two with time to spare
		c.note("later", 100*time.Millisecond, 30*time.Millisecond, around{jobs: 1, used: 0.3, host: 0.5, delayed: -1}, now)                  // known from better times,
		c.note("later", 2*time.Second, 30*time.Millisecond, around{jobs: 8, used: 0.2, host: 1, crowd: 32, delayed: -1}, now.Add(time.Hour)) // it does not get lighter in a crowd
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

// While a thread is idle, jobs that compute and jobs that wait do not take each other's room. When none is, they wait for the same thing, and
// what is in hand for one kind is enough: which comes next is decided by goals, not by whose kind has the more room.
func TestRoomWithoutIdleThreads(t *testing.T) {
	t.Parallel()
	const light, heavy = "pull", "ingress"
	for name, c := range map[string]struct {
		idle    int
		waiting int // jobs of pull
		want    [2]bool
	}{
		"one is idle, nothing waits":   {1, 0, [2]bool{true, true}},
		"one is idle, light ones wait": {1, 3, [2]bool{false, true}},
		"none is idle, nothing waits":  {0, 0, [2]bool{true, true}},
		"none is idle, some wait":      {0, 3, [2]bool{false, false}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &Supervisor{costs: newCosts(), typical: map[string]float64{light: 0.05, heavy: 0.9}, state: runs}
			s.costs.note("Crawl", time.Second, 50*time.Millisecond, around{jobs: 1}, time.Now())
			p := &process{state: serving, seats: 2 + c.idle, jobs: map[uint64]*running{}, lines: map[*line]struct{}{}}
			for n := range uint64(2) {
				p.add(&running{job: Job{Class: "Crawl"}, number: n, line: &line{}, share: 0.05}, time.Now())
			}
			for range c.idle {
				p.ask(&line{proc: p})
			}
			s.procs = []*process{p}
			for range c.waiting {
				s.waiting = append(s.waiting, &waitingJob{job: Job{Class: "Crawl", Queue: light}})
			}
			room := s.Room([]string{light, heavy})
			if got := [2]bool{room[0] > 0, room[1] > 0}; got != c.want {
				t.Errorf("room %v", room)
			}
			told := s.roomGrew()
			if told != (c.want[0] || c.want[1]) {
				t.Errorf("roomGrew() = %v", told)
			}
			if told && s.roomGrew() {
				t.Error("told twice, and nobody asked meanwhile")
			}
			s.Room([]string{light})
			if got := s.roomGrew(); got != c.want[0] {
				t.Errorf("roomGrew() = %v for one queue", got)
			}
		})
	}
}

// Whoever asked for room while there could be none hears of it when there is.
func TestRoomIsToldToWhoAskedTooEarly(t *testing.T) {
	t.Parallel()
	for name, early := range map[string]func(*Supervisor){
		"held":       func(s *Supervisor) { s.hold.why = "no database" },
		"not run":    func(s *Supervisor) { s.state = notRun },
		"no process": func(s *Supervisor) { s.procs = nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := &process{state: serving, seats: 2, jobs: map[uint64]*running{}, lines: map[*line]struct{}{}}
			p.ask(&line{proc: p})
			s := &Supervisor{costs: newCosts(), typical: map[string]float64{}, state: runs, procs: []*process{p}}
			early(s)
			if room := s.Room([]string{"ingress"}); room[0] != 0 || s.roomGrew() {
				t.Fatalf("room %v", room)
			}
			s.state, s.hold.why, s.procs = runs, "", []*process{p}
			if !s.roomGrew() {
				t.Error("nobody is told")
			}
		})
	}
}
