package suite

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/queueville/queueville/internal/rubyapp"

	"github.com/queueville/queueville/bench/internal/measure"
	"github.com/queueville/queueville/bench/internal/receiver"
)

// sweepLoad is a load that is run with fixed concurrencies and with adaptive limits.
type sweepLoad struct {
	part      string
	title     string
	receivers []receiver.Config // deliveries; none: Ruby
	shares    []rubyapp.Share
	slots     []int     // fixed settings of deliveries
	settings  []setting // fixed settings of Ruby processes and threads
	computes  bool      // the speed of the machine decides on the throughput, whatever the setting
}

func (l *sweepLoad) native() bool { return len(l.receivers) > 0 }

const (
	quickHosts = 50
	slowHosts  = 200 // so many that no host is asked for more than it is trusted with
)

// sweeps are the loads. The slowest deliveries take so long that with the default bound of 512 processors do not count.
func sweeps() []sweepLoad {
	quick := receiver.Config{Hosts: quickHosts}
	slow := func(d time.Duration) receiver.Config { return receiver.Config{Hosts: slowHosts, Latency: d} }
	waiting := []rubyapp.Share{{Class: rubyapp.ThreadResolve, Parts: 1}, {Class: rubyapp.LinkCrawl, Parts: 1}}
	return []sweepLoad{
		{
			part: "sweep-native-cpu", title: "deliveries that compute (answers at once)", receivers: []receiver.Config{quick}, computes: true,
			slots: []int{1, 2, 4, 8, 32, 512},
		},
		{
			part: "sweep-native-io", title: "deliveries that wait (answers after 800 ms)", receivers: []receiver.Config{slow(800 * time.Millisecond)},
			slots: []int{16, 64, 128, 256, 512},
		},
		{
			part: "sweep-native-mixed", title: "deliveries, half answered at once, half after 300 ms", receivers: []receiver.Config{quick, slow(300 * time.Millisecond)},
			slots: []int{8, 32, 64, 128, 256, 512},
		},
		{
			part: "sweep-ruby-cpu", title: "Ruby jobs that compute (ingress)", shares: rubyapp.Ingress(), computes: true,
			settings: []setting{{1, 1}, {2, 1}, {2, 2}, {4, 1}, {4, 2}, {8, 1}},
		},
		{
			part: "sweep-ruby-io", title: "Ruby jobs that wait (other servers answer after 500 ms)", shares: waiting,
			settings: []setting{{2, 5}, {2, 10}, {2, 25}, {4, 25}, {8, 25}, {8, 50}},
		},
		{
			part: "sweep-ruby-mixed", title: "Ruby jobs, half computing, half waiting", shares: rubyapp.Mixed(),
			settings: []setting{{2, 2}, {2, 5}, {2, 10}, {4, 10}, {8, 5}, {8, 25}},
		},
	}
}

func (l *sweepLoad) ways() (list []way) {
	for _, n := range l.slots {
		list = append(list, way{name: l.part, native: true, slots: n})
	}
	for _, s := range l.settings {
		list = append(list, way{name: l.part, setting: s})
	}
	return list
}

// concurrency is how many jobs may run at once.
func (w way) concurrency() float64 {
	if w.native {
		return float64(w.slots)
	}
	return float64(w.setting.processes * w.setting.threads)
}

// pace is how long runs of a sweep last, in seconds.
type pace struct {
	warm    float64 // of a fixed setting
	window  float64 // of a fixed setting, measured, in the sweep
	settle  float64 // of adaptive limits, from the first job's end: by then they are to be steady
	measure float64 // in the rounds
	rounds  int
}

func paceOf(o Options) pace {
	if o.Quick {
		return pace{warm: 1.5, window: 2.5, settle: 10, measure: 5, rounds: 1}
	}
	return pace{warm: 2, window: 2.5, settle: 10, measure: 7, rounds: o.Rounds}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// tried is one setting of a sweep.
type tried struct {
	way
	look   float64        // jobs a second in the sweep
	yard   float64        // processor seconds that making a job took meanwhile
	rounds measure.Series // in the rounds
	yards  measure.Series
	cpu    measure.Series // cores in use by everybody
	stolen measure.Series
}

// even is the throughput at an even speed of the machine: where making a job took twice the processor time, running it did too. Of jobs that wait it is
// what was counted.
func (l *sweepLoad) even(rate, yard, usual float64) float64 {
	if !l.computes || yard <= 0 || usual <= 0 {
		return rate
	}
	return rate * yard / usual
}

// evens are the rounds at an even speed.
func (t *tried) evens(l *sweepLoad, usual float64) (list measure.Series) {
	for i, v := range t.rounds {
		list = append(list, l.even(v, t.yards[i], usual))
	}
	return list
}

// runSweep looks once at every fixed setting; then the best two of them and adaptive limits take turns.
func runSweep(ctx context.Context, o Options, l sweepLoad, report *Report) error {
	b, err := newBed(ctx, o, l.receivers...)
	if err != nil {
		return err
	}
	defer b.close()
	p := paceOf(o)
	ways := l.ways()
	if o.Quick { // every other one, and the last
		ways = slices.DeleteFunc(slices.Clone(ways), func(w way) bool { return slices.Index(ways, w)%2 == 0 })
	}
	list := make([]*tried, len(ways))
	for i, w := range ways {
		r, begins, err := b.run(ctx, w, phase{feeds: b.load(&l), length: seconds(p.warm + p.window)})
		if err != nil {
			return err
		}
		a, z := begins[0]+p.warm, begins[0]+p.warm+p.window
		list[i] = &tried{way: w, look: r.rate(a, z), yard: r.yard(a, z)}
		o.logf("%-20s sweep  %-8v %7.1f jobs/s  %.2f cores, ours %.2f, stolen %.2f, yard %.1f µs", l.part, w, list[i].look, r.mean(a, r.end(), busyCores),
			r.mean(a, r.end(), ourCores), r.mean(a, r.end(), stolenCores), 1e6*list[i].yard)
	}
	best := slices.Clone(list)
	slices.SortStableFunc(best, func(x, y *tried) int { return cmp.Compare(l.even(y.look, y.yard, 1), l.even(x.look, x.yard, 1)) })
	best = best[:min(2, len(best))]
	ours := &tried{way: way{name: l.part, native: l.native(), adaptive: true}}
	var last *record
	var from float64
	var cold measure.Series
	lane := ""
	for round := range p.rounds {
		for _, t := range append(slices.Clone(best), ours) {
			warm := p.warm
			if t.adaptive {
				warm = p.settle
			}
			r, begins, err := b.run(ctx, t.way, phase{feeds: b.load(&l), length: seconds(warm + p.measure)})
			if err != nil {
				return err
			}
			a, z := begins[0]+warm, begins[0]+warm+p.measure
			t.add(r, a, z)
			var text strings.Builder
			if t.adaptive {
				last, from = r, begins[0]
				cold = append(cold, r.settled(begins[0], z, r.rate(a, z)))
				for _, name := range r.lanes() {
					mean, cv := r.limit(name, a, z)
					lane = name
					fmt.Fprintf(&text, "  limit of %s %.0f ± %.0f %%, steady after %.1f s: %s", name, mean, 100*cv, cold[len(cold)-1], r.reasons(name, a, z))
				}
			}
			o.logf("%-20s round %d %-8v %6.1f jobs/s  %.2f cores, stolen %.2f, yard %.1f µs%s", l.part, round+1, t.way, t.rounds[round], t.cpu[round], t.stolen[round],
				1e6*t.yards[round], &text)
		}
	}
	return sweepReport(o, &l, list, best, ours, cold, sweepRun{last, from, lane}, report)
}

func (t *tried) add(r *record, from, to float64) {
	t.rounds = append(t.rounds, r.rate(from, to))
	t.yards = append(t.yards, r.yard(from, to))
	t.cpu = append(t.cpu, r.mean(from, to, busyCores))
	t.stolen = append(t.stolen, r.mean(from, to, stolenCores))
}

func busyCores(s *sight) float64   { return s.busy }
func stolenCores(s *sight) float64 { return s.stolen }
func ourCores(s *sight) float64    { return s.ours }

// load feeds what the load is made of.
func (b *bed) load(l *sweepLoad) []feed {
	if !l.native() {
		return []feed{b.ruby(l.part, l.shares)}
	}
	to := make([]int, len(b.receivers))
	for i := range to {
		to[i] = i
	}
	return []feed{b.deliver(1, to...)}
}

// sweepRun is the run with adaptive limits that is drawn.
type sweepRun struct {
	*record
	from float64
	lane string
}

func sweepReport(o Options, l *sweepLoad, list, best []*tried, ours *tried, cold measure.Series, run sweepRun, report *Report) error {
	what := "deliveries at once"
	if !l.native() {
		what = "processes × threads"
	}
	var yards measure.Series
	for _, t := range append(slices.Clone(list), ours) {
		yards = append(yards, t.yards...)
	}
	usual := yards.Median()
	rows := [][]string{{what, "jobs/s in the sweep", "in the rounds (least–most)", "at an even speed of the machine", "cores in use", "stolen"}}
	for _, t := range append(slices.Clone(list), ours) {
		row := []string{t.String(), "", "", "", "", ""}
		if t.look > 0 {
			row[1] = fmt.Sprintf("%.0f", t.look)
		}
		if len(t.rounds) > 0 {
			row[2], row[3], row[4], row[5] = t.rounds.Range("%.0f"), t.evens(l, usual).Range("%.0f"), fmt.Sprintf("%.2f", t.cpu.Median()), fmt.Sprintf("%.2f", t.stolen.Median())
			for _, v := range t.rounds {
				report.Values[l.part+", "+t.String()] = append(report.Values[l.part+", "+t.String()], Figure{PerSecond: v})
			}
		}
		rows = append(rows, row)
	}
	report.Tables = append(report.Tables, Table{Title: "Fixed concurrency and adaptive limits: " + l.title, Rows: rows})
	mine, ratio, against := ours.evens(l, usual), math.Inf(1), ""
	for _, t := range best {
		var each, bare measure.Series
		for i, v := range t.evens(l, usual) {
			each = append(each, 100*mine[i]/max(v, 1e-9))
			bare = append(bare, 100*ours.rounds[i]/max(t.rounds[i], 1e-9))
		}
		counted := ""
		if l.computes {
			counted = "; at an even speed of the machine, as counted " + bare.Range("%.0f")
		}
		if m := each.Median(); m < ratio {
			ratio, against = m, fmt.Sprintf("%v (%s%s)", t.way, each.Range("%.0f"), counted)
		}
	}
	report.Targets = append(report.Targets,
		measure.Target{What: l.title + ": jobs/s of adaptive limits against the best fixed, " + against + ", %", Want: "≥ 95", Got: ratio, Limit: 95},
		measure.Target{What: l.title + ": seconds from the first job to within 10 % of the steady throughput", Want: "≤ 10", Got: cold.Median(), Limit: 10, Most: true})
	return drawSweep(o, l, list, best, ours, run)
}
