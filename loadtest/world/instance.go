package world

import (
	"math"
	"sort"
	"time"
)

// Temper is how an instance answers.
type Temper string

// Tempers.
const (
	Quick     Temper = "quick"     // 20 to 200 ms
	Medium    Temper = "medium"    // some 400 ms
	Slow      Temper = "slow"      // some 3 s
	Flaky     Temper = "flaky"     // one answer in five is a 503
	Limiting  Temper = "limiting"  // takes 5 requests a second, answers others 429
	Rejecting Temper = "rejecting" // 403, 404, 410: final
	Broken    Temper = "broken"    // 500 or 502, at once
	Refused   Temper = "refused"   // nothing listens, or no such name: fails in milliseconds
	Dark      Temper = "dark"      // packets vanish: connecting times out after 5 s per address
	Hanging   Temper = "hanging"   // takes the request and never answers: 10 s
	Loris     Temper = "loris"     // answers byte by byte, until the client's 30 s are over
)

// Tempers are all of them, the healthy ones first.
var Tempers = []Temper{Quick, Medium, Slow, Flaky, Limiting, Rejecting, Broken, Refused, Dark, Hanging, Loris}

// Healthy reports whether an instance of the temper takes deliveries.
func (t Temper) Healthy() bool {
	switch t {
	case Quick, Medium, Slow, Flaky, Limiting:
		return true
	default:
		return false
	}
}

// Timeouts of Mastodon's client (spec/mastodon.md §3.6). Two addresses, tried one after the other by older versions, make 10 s of 5.
const (
	connectTimeout = 5 * time.Second
	readTimeout    = 10 * time.Second
	totalTimeout   = 30 * time.Second
)

// limitPerSecond is what a limiting instance takes.
const limitPerSecond = 5

// instances are the instances in columns: a hundred thousand of them are a few megabytes.
type instances struct {
	weights []float64 // share of all remote people, summed to 1
	sums    []float64 // running sums of weights
	guide   []int32   // first instance whose running sum is above k/len: makes picking O(1) on average
	medians []float32 // of a usual answer, in what is usual for its temper
	temper  []uint8   // index into Tempers, at the beginning
	turned  []turn
}

// turn is a change of tempers: instances whose lot is below of are temper from at to until.
type turn struct {
	at, until time.Duration
	of        float64
	temper    uint8
	salt      uint64
}

func temperNumber(t Temper) uint8 {
	for i, name := range Tempers {
		if name == t {
			return uint8(i)
		}
	}
	return 0
}

func newInstances(c *Config) *instances {
	n := c.Fedi.Instances
	in := &instances{weights: make([]float64, n), sums: make([]float64, n), guide: make([]int32, n), medians: make([]float32, n), temper: make([]uint8, n)}
	total := 0.0
	for i := range n {
		d := NewDice(c.Seed^0x696e7374, uint64(i))
		lot := d.Float64()
		temper := uint8(0)
		for _, s := range c.Fedi.Tempers {
			if lot -= s.Of; lot < 0 {
				temper = temperNumber(s.Temper)
				break
			}
		}
		// Sizes: a shifted Zipf law, so that the largest has a few percent of all people, not a fifth.
		w := math.Pow(float64(i)+8, -c.Fedi.Tail)
		t := Tempers[temper]
		if !t.Healthy() && !c.Fedi.Flat {
			w *= 0.3 // people have left, and their followers with them
		}
		in.weights[i], in.temper[i] = w, temper
		// Latency between servers: medians are log-normal themselves; the tail of one instance is drawn per request.
		in.medians[i] = float32(math.Exp(0.6 * d.Norm()))
		total += w
	}
	sum := 0.0
	for i := range in.weights {
		in.weights[i] /= total
		sum += in.weights[i]
		in.sums[i] = sum
	}
	at := 0
	for k := range in.guide {
		for at < n-1 && in.sums[at] < float64(k)/float64(n) {
			at++
		}
		in.guide[k] = int32(at)
	}
	for i, e := range c.Events {
		if e.Kind == Turn {
			in.turned = append(in.turned, turn{at: e.At, until: e.At + e.For, of: e.Of, temper: temperNumber(e.Temper), salt: uint64(i) + 77})
		}
	}
	sort.SliceStable(in.turned, func(a, b int) bool { return in.turned[a].at < in.turned[b].at })
	return in
}

// pick draws an instance by size.
func (in *instances) pick(d *Dice) int32 {
	u := d.Float64()
	n := len(in.sums)
	i := int(in.guide[min(n-1, int(u*float64(n)))])
	for i < n-1 && in.sums[i] < u {
		i++
	}
	return int32(i)
}

// temperAt is what an instance is like at a time.
func (in *instances) temperAt(seed uint64, dest int32, now time.Duration) Temper {
	t := in.temper[dest]
	for k := range in.turned {
		e := &in.turned[k]
		if now < e.at {
			break
		}
		if now < e.until {
			d := NewDice(seed^e.salt, uint64(dest))
			if d.Chance(e.of) {
				t = e.temper
			}
		}
	}
	return Tempers[t]
}

// Verdict is how a request ended.
type Verdict uint8

// Verdicts. Final is a refusal that trying again will not change: the job is done.
const (
	Accepted Verdict = iota
	Final
	Failed   // an answer that asks for another try: 5xx, 429, 401
	TimedOut // no answer
	NoPath   // refused, no name, no route
)

// Answer is one request's end.
type Answer struct {
	Took    time.Duration
	Verdict Verdict
	Limited bool // a 429
}

// Attempt is what the far side does to the request of job at now. busy is how many requests the server has sent to that instance within
// the last second, this one included: limiting instances count.
func (w *World) Attempt(job *Job, now time.Duration, busy int) Answer {
	c := &ClassTable[job.Class]
	d := NewDice(job.ID, uint64(job.Retries)<<8|2)
	var a Answer
	switch c.Net {
	case NetNone:
		return Answer{}
	case NetWeb: // link cards: any web site; one in twenty does not answer in time
		if d.Chance(0.05) {
			a = Answer{Took: readTimeout, Verdict: Accepted} // the job swallows it
		} else {
			a = Answer{Took: seconds(0.5 * d.LogNorm(0.9))}
		}
	case NetPush:
		if d.Chance(0.002) {
			a = Answer{Took: readTimeout, Verdict: TimedOut}
		} else {
			a = Answer{Took: seconds(0.12 * d.LogNorm(0.6))}
		}
	case NetMail:
		a = Answer{Took: seconds(0.35 * d.LogNorm(0.6))}
	default:
		a = w.ask(job.Dest, now, busy, &d)
	}
	if a.Verdict != TimedOut { // time-outs are the client's and do not stretch
		a.Took = scale(a.Took, w.cfg.Costs.Net)
	}
	return a
}

// ask draws an instance's answer.
func (w *World) ask(dest int32, now time.Duration, busy int, d *Dice) Answer {
	if dest < 0 {
		return Answer{}
	}
	temper := w.in.temperAt(w.cfg.Seed, dest, now)
	usual := 0.09
	switch temper {
	case Medium:
		usual = 0.4
	case Slow:
		usual = 3
	default:
	}
	took := seconds(min(8, usual*float64(w.in.medians[dest])*d.LogNorm(0.5)))
	switch temper {
	case Flaky:
		if d.Chance(0.2) {
			return Answer{Took: took, Verdict: Failed}
		}
	case Limiting:
		if busy > limitPerSecond {
			return Answer{Took: took, Verdict: Failed, Limited: true}
		}
	case Rejecting:
		return Answer{Took: took, Verdict: Final}
	case Broken:
		return Answer{Took: took, Verdict: Failed}
	case Refused:
		return Answer{Took: seconds(0.02 + 0.1*d.Float64()), Verdict: NoPath}
	case Dark:
		return Answer{Took: connectTimeout * time.Duration(1+d.IntN(2)), Verdict: TimedOut}
	case Hanging:
		return Answer{Took: readTimeout, Verdict: TimedOut}
	case Loris:
		return Answer{Took: totalTimeout, Verdict: TimedOut}
	default:
	}
	return Answer{Took: took}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
