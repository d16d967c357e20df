package scheduler

import (
	"container/heap"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// plant is a model of a host, for trying the controller: jobs compute, sharing the processors with each other and with other processes, and
// wait for something outside, which may itself have a capacity that no sensor shows.
type plant struct {
	cores    float64
	overhead float64 // more computing, relative, for each runnable job per core beyond the first
	others   float64 // threads of other processes that always want a processor
	nice     float64 // what a thread of others gets of a processor for each that one of ours gets; 0: three, as beside niceness 5
	noise    float64 // relative error of the sensors
	jump     float64 // share of the processors by which readings of all that is in use are wrong, at most
	blind    bool    // there are no sensors

	seed     uint64
	lanes    []*plantLane
	rnd      *rand.Rand // of jobs: the same ones, whatever the limits
	errs     *rand.Rand // of the sensors
	othersAt float64    // core-seconds used by others since the last sample
	oursAt   float64
	pressed  float64 // seconds of this sample in which somebody waited for a processor
	sampled  float64
	now      float64
}

type kind struct {
	class   string
	weight  float64
	cpu, io float64 // seconds, means
	random  bool    // exponential, otherwise ± 10 %
	spread  float64 // sigma of a lognormal distribution instead; 0: none
}

type plantLane struct {
	name    string
	kinds   []kind
	rate    func(t float64) float64 // jobs a second; nil: there is always something to do
	remote  float64                 // requests at once that the outside serves at full speed; 0: any number
	cores   float64                 // processors that it can use at most; 0: all
	max     int
	first   int
	inner   int     // jobs at once at most, whatever the limit: a rule of the executor's own; 0: none
	wants   bool    // the executor knows what its jobs want
	own     float64 // cores that the lane uses beside its jobs: to fetch for another
	static  int     // if not 0 the limit, and no controller
	limit   int
	backlog float64
	came    float64 // jobs, altogether

	computing, waiting crowd
	pace               pace
	free               []*plantJob
	due                float64
	cpu                float64 // since the last sample
	meter              *Meter
	done               []float64 // jobs, by second
	got                []float64 // seconds of computing and waiting that jobs got on by, by second: throughput without the noise of counting
	limits             []float64 // by second
	looks              []float64 // limits, four a second
}

// plantJob first computes, then waits.
type plantJob struct {
	kind    int
	cpu, io float64
	began   float64
	due     float64 // on the clock of its crowd
}

// crowd is jobs that all get on at the same pace: those that compute, or those that wait. Its clock goes by what each of them has had.
type crowd struct {
	clock float64
	jobs  []*plantJob // a heap: the next to be done first
}

func (c *crowd) Len() int           { return len(c.jobs) }
func (c *crowd) Less(i, j int) bool { return c.jobs[i].due < c.jobs[j].due }
func (c *crowd) Swap(i, j int)      { c.jobs[i], c.jobs[j] = c.jobs[j], c.jobs[i] }
func (c *crowd) Push(x any)         { c.jobs = append(c.jobs, x.(*plantJob)) }
func (c *crowd) Pop() any {
	n := len(c.jobs) - 1
	j := c.jobs[n]
	c.jobs = c.jobs[:n]
	return j
}

func (c *crowd) join(j *plantJob, need float64) {
	j.due = c.clock + need
	heap.Push(c, j)
}

// next takes out one that is done, or nil.
func (c *crowd) next() *plantJob {
	if len(c.jobs) == 0 || c.jobs[0].due > c.clock+1e-9 {
		return nil
	}
	return heap.Pop(c).(*plantJob)
}

const tick = 0.001

func (p *plant) draw(mean float64, random bool) float64 {
	if random {
		return mean * p.rnd.ExpFloat64()
	}
	return mean * (0.9 + 0.2*p.rnd.Float64())
}

func (l *plantLane) start(p *plant) {
	x, i := p.rnd.Float64(), 0
	for i < len(l.kinds)-1 && x >= l.kinds[i].weight {
		x -= l.kinds[i].weight
		i++
	}
	j := &plantJob{}
	if n := len(l.free); n > 0 {
		j, l.free = l.free[n-1], l.free[:n-1]
	}
	k := &l.kinds[i]
	*j = plantJob{kind: i, cpu: p.draw(k.cpu, k.random), io: p.draw(k.io, k.random), began: p.now}
	if k.spread > 0 { // lognormal about the means
		f := math.Exp(k.spread*p.rnd.NormFloat64() - k.spread*k.spread/2)
		j.cpu, j.io = k.cpu*f, k.io*math.Exp(k.spread*p.rnd.NormFloat64()-k.spread*k.spread/2)
	}
	if j.cpu > 0 {
		l.computing.join(j, j.cpu)
	} else {
		l.waiting.join(j, j.io)
	}
}

func (l *plantLane) running() int { return l.computing.Len() + l.waiting.Len() }

// advance lets a millisecond pass, in pieces that end when a job has computed what it has to: the next one has the rest.
func (p *plant) advance() {
	for _, l := range p.lanes {
		if l.rate == nil {
			l.backlog = 1000
		} else {
			l.due += l.rate(p.now) * tick
			for l.due > 0 {
				l.due -= p.rnd.ExpFloat64()
				l.backlog++
				l.came++
			}
		}
	}
	for left := tick; left > 1e-9; {
		left -= p.piece(left)
	}
}

// pace is how fast jobs of a lane get on: of what they use of a processor, of what they do with it, and of what they wait for.
type pace struct{ mine, useful, io float64 }

func (p *plant) piece(most float64) float64 {
	runnable, nice := 0.0, p.nice
	if nice == 0 {
		nice = 3
	}
	for _, l := range p.lanes {
		for l.running() < l.limit && (l.inner == 0 || l.running() < l.inner) && l.backlog >= 1 {
			l.backlog--
			l.start(p)
		}
		runnable += min(float64(l.computing.Len()), l.most()) + l.own
	}
	speed, theirs := 1.0, 1.0
	if runnable+p.others > p.cores {
		speed = p.cores / (runnable + nice*p.others)
		if theirs = nice * speed; theirs > 1 {
			theirs, speed = 1, min(1, (p.cores-p.others)/runnable)
		}
	}
	for _, l := range p.lanes {
		computing, waiting := float64(l.computing.Len()), float64(l.waiting.Len())
		l.pace = pace{mine: speed, io: 1}
		if computing > l.most() {
			l.pace.mine *= l.most() / computing
		}
		if l.remote > 0 && waiting > l.remote {
			l.pace.io = l.remote / waiting
		}
		l.pace.useful = l.pace.mine / (1 + p.overhead*max(0, computing/p.cores-1))
		if l.computing.Len() > 0 {
			most = min(most, max(1e-6, (l.computing.jobs[0].due-l.computing.clock)/l.pace.useful))
		}
	}
	p.now += most
	if speed < 1 || theirs < 1 {
		p.pressed += most
	}
	p.othersAt += p.others * theirs * most
	for _, l := range p.lanes {
		computing, waiting := float64(l.computing.Len()), float64(l.waiting.Len())
		used := (computing*l.pace.mine + l.own*speed) * most
		l.cpu += used
		p.oursAt += used
		for s := int(p.now); len(l.got) <= s; {
			l.got, l.done = append(l.got, 0), append(l.done, 0)
		}
		l.got[int(p.now)] += (computing*l.pace.useful + waiting*l.pace.io) * most
		l.computing.clock += l.pace.useful * most
		l.waiting.clock += l.pace.io * most
		for j := l.waiting.next(); j != nil; j = l.waiting.next() {
			l.end(p, j)
		}
		for j := l.computing.next(); j != nil; j = l.computing.next() {
			if j.io > 0 {
				l.waiting.join(j, j.io)
			} else {
				l.end(p, j)
			}
		}
		l.meter.Level(p.clock(), l.running(), l.running() >= l.limit-l.limit/50-1 && l.backlog >= 1)
	}
	return most
}

func (l *plantLane) most() float64 {
	if l.cores > 0 {
		return l.cores
	}
	return math.Inf(1)
}

func (l *plantLane) end(p *plant, j *plantJob) {
	wall := time.Duration((p.now - j.began) * float64(time.Second))
	l.meter.Ended(p.clock(), Run{Class: l.kinds[j.kind].class, Wall: wall, CPU: Unknown, DB: Unknown})
	l.done[int(p.now)]++
	l.free = append(l.free, j)
}

func (p *plant) clock() time.Time { return t0.Add(time.Duration(p.now * float64(time.Second))) }

// sample is what sensors and executors say, and begins the next sample.
func (p *plant) sample() (Host, []Lane) {
	dt := p.now - p.sampled
	p.sampled = p.now
	h := UnknownHost()
	err := func() float64 { return 1 + p.noise*(2*p.errs.Float64()-1) }
	if !p.blind {
		h.Cores, h.Ours = p.cores, p.oursAt/dt*err()
		h.Busy = (p.oursAt + p.othersAt) / dt * err()
	}
	if p.jump > 0 { // two clocks that do not agree
		h.Busy += p.jump * p.cores * (2*p.errs.Float64() - 1)
		h.Pressure = p.pressed / dt
	}
	p.oursAt, p.othersAt, p.pressed = 0, 0, 0
	var views []Lane
	for _, l := range p.lanes {
		v := l.meter.Sample(p.clock())
		v.CPU, v.Cores, v.Backlog = l.cpu/dt*err(), l.cores, l.backlog
		if l.wants {
			want := 0.0 // as the executor reckons: each running job by its class
			for _, j := range slices.Concat(l.computing.jobs, l.waiting.jobs) {
				k := &l.kinds[j.kind]
				want += k.cpu / (k.cpu + k.io)
			}
			if n := l.running(); n > 0 {
				v.Want = want / float64(n) * v.Running * err()
			}
		}
		if p.blind {
			v.CPU = Unknown
		}
		l.cpu = 0
		views = append(views, v)
	}
	return h, views
}

// change is a decision and when it was taken.
type change struct {
	at float64 // seconds
	Decision
}

// run lets the plant work for some seconds of virtual time, stepping the controller four times a second. at is called before every step.
func (p *plant) run(t *testing.T, seconds float64, at func(now float64)) (changes []change) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p.rnd, p.errs = rand.New(rand.NewPCG(1, p.seed)), rand.New(rand.NewPCG(2, p.seed))
		cfg := ControllerConfig{}
		for _, l := range p.lanes {
			l.meter = NewMeter(l.name, t0)
			cfg.Lanes = append(cfg.Lanes, LaneConfig{Name: l.name, Max: l.max, Start: l.first})
		}
		c, err := NewController(cfg)
		if err != nil {
			t.Fatal(err)
		}
		decide := func() {
			if at != nil {
				at(p.now)
			}
			host, views := p.sample()
			for i, d := range c.Step(time.Now(), host, views) {
				l := p.lanes[i]
				if l.limit = d.Limit; l.static > 0 {
					l.limit = l.static
				}
				l.looks = append(l.looks, float64(l.limit))
				if d.Changed() {
					changes = append(changes, change{p.now, d})
				}
				for s := int(p.now); len(l.limits) <= s; {
					l.limits = append(l.limits, float64(l.limit))
				}
			}
		}
		decide()
		steps := int(seconds/tick + 0.5)
		for i := 1; i <= steps; i++ {
			p.advance()
			if i%250 == 0 {
				time.Sleep(250 * time.Millisecond)
				decide()
			}
		}
	})
	return changes
}

// mean is the mean over the seconds from a up to b.
func mean(list []float64, a, b int) float64 {
	sum := 0.0
	for i := a; i < b && i < len(list); i++ {
		sum += list[i]
	}
	return sum / float64(b-a)
}

// cov is the coefficient of variation over the seconds from a up to b.
func cov(list []float64, a, b int) float64 {
	m, sum := mean(list, a, b), 0.0
	for i := a; i < b; i++ {
		sum += (list[i] - m) * (list[i] - m)
	}
	return math.Sqrt(sum/float64(b-a)) / m
}

// bestStatic sweeps over fixed limits and returns the best throughput, in jobs a second.
func bestStatic(t *testing.T, fresh func() *plant) (rate float64, limit int) {
	t.Helper()
	most := fresh().lanes[0].max
	for n := 1; n <= most; {
		p := fresh()
		p.lanes[0].static = n
		p.run(t, 120, nil)
		if got := mean(p.lanes[0].done, 30, 120); got > rate {
			rate, limit = got, n
		}
		if n == most {
			break
		}
		n = min(most, max(n+1, n*4/3))
	}
	return rate, limit
}
