package league

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/queueville/queueville/loadtest/scenario"
	"github.com/queueville/queueville/loadtest/simulate"
)

// page collects what is written and the first error.
type page struct {
	w   io.Writer
	err error
}

func (p *page) say(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format, args...)
	}
}

func find(rows []Row, name string, engine simulate.EngineName) *Row {
	for i := range rows {
		if rows[i].Scenario == name && rows[i].Engine == engine {
			return &rows[i]
		}
	}
	return nil
}

// reading says why some rows look as they do.
const reading = `
What to know when reading it:

- duplicate-storm: nearly everything is due at one instance, 300 a second for ten minutes. Stock Sidekiq sends it as many requests at once as it has threads; Queueville up to 64, as long as it
  answers within a second and no slower than with few ([ADR 4](adr/0004-hosts-and-holding.md)). What is beyond waits outside of the queue, so the backlog does not show it, and is late.
- slow-loris: the 99th percentile is of what is due at the slow instances. They are back after two hours; whoever was held back is asked again with an interval of up to an hour. “In time” is about all others.
- two-hour-outage: what comes in while the machines that run jobs have no power cannot start in time under any engine. Two of ten hours are that; ` + "`ingress`" + ` has most of its jobs in them. The scenario's thresholds
  are about what happens after.
- relay-firehose: nearly all jobs are Ruby's, and cost what they cost in Ruby. The worker's hand-over comes on top, about 1 ms a job; what deliveries save is little there.
`

// WritePage writes docs/league.md.
func WritePage(w io.Writer, sims, reals []Row) error {
	p := &page{w: w}
	p.say("# The league\n\n<!-- Written by `make loadtest` (queueville loadtest league). Changes are lost. -->\n\n")
	p.say("Every scenario under stock Sidekiq and under Queueville in full mode: the same jobs, costs, answers of other servers, processors, and number of database connections.\n")
	p.say("What each scenario is, what is modelled and what is assumed: [loadtest.md](loadtest.md). “In time” is the share of what was due at healthy instances and was accepted within 20 s.\n")
	p.say("\n## Simulated\n\n")
	if len(sims) > 0 {
		p.say("Each in full length on its own hardware, seed %s. Stock Sidekiq as shipped: one process, `-c 25`.\n\n", seeds(sims))
		p.say("![deliveries in time](img/league-in-time.svg)\n\n")
		table(p, sims)
		missedOf(p, sims)
		p.say(reading)
	}
	p.say("\n## Real\n\n")
	if len(reals) == 0 {
		p.say("Not run yet.\n")
		return p.err
	}
	p.say("Each in short form: its whole course squeezed into %.0f s, then at most two thirds of that to drain, on one machine that also runs Redis, PostgreSQL, the receivers and the generator. "+
		"Debian's Sidekiq against Queueville's worker, one after the other. Not Mastodon: jobs compute, ask and wait as much as the scenario says. "+
		"In so short a form most scenarios hardly load a machine: they show that every job is accounted for rather than who is faster, and whatever else the machine does shows in them. "+
		"Fairness is not judged where an instance is due fewer than ten deliveries on average: one that is late would decide. Queueville begins with two requests at once to an instance and grows, "+
		"stock Sidekiq takes all its threads: in a burst of two seconds for one instance (duplicate-storm) that is quicker. Seed %s; %s.\n\n", reals[0].Length, seeds(reals), environment(reals))
	p.say("![deliveries in time, real runs](img/league-in-time-real.svg)\n\n")
	table(p, reals)
	p.say("\n| real run | jobs/s, Sidekiq | Queueville | drained after, Sidekiq | Queueville | others took of the machine |\n|---|--:|--:|--:|--:|--:|\n")
	for _, name := range scenario.Names() {
		a, b := find(reals, name, simulate.Sidekiq), find(reals, name, simulate.Queueville)
		if a == nil && b == nil {
			continue
		}
		p.say("| %s | %s | %s | %s | %s | %s, %s |\n", name, of(a, rate), of(b, rate), of(a, drain), of(b, drain), of(a, stolen), of(b, stolen))
	}
	missedOf(p, reals)
	return p.err
}

func table(p *page, rows []Row) {
	p.say("| scenario | in time, Sidekiq | Queueville | delivered, 99 of 100, Sidekiq | Queueville | peak backlog, Sidekiq | Queueville | lost, Sidekiq | Queueville | CPU a job, Sidekiq | Queueville |\n")
	p.say("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, name := range scenario.Names() {
		a, b := find(rows, name, simulate.Sidekiq), find(rows, name, simulate.Queueville)
		if a == nil && b == nil {
			continue
		}
		p.say("| %s ", name)
		for _, f := range []func(*Row) string{inTime, p99, backlog, lost, cpu} {
			p.say("| %s | %s ", of(a, f), of(b, f))
		}
		p.say("|\n")
	}
}

// of is a figure of a run, a dash where there is none.
func of(r *Row, f func(*Row) string) string {
	if r == nil {
		return "–"
	}
	return f(r)
}

func inTime(r *Row) string  { return percent(r.InTime) }
func p99(r *Row) string     { return span(r.P99) }
func backlog(r *Row) string { return thousands(r.Backlog) }
func lost(r *Row) string    { return thousands(r.Lost) }
func cpu(r *Row) string     { return fmt.Sprintf("%.1f ms", r.CPU) }
func rate(r *Row) string    { return fmt.Sprintf("%.1f", r.Rate) }
func stolen(r *Row) string  { return fmt.Sprintf("%.0f %%", 100*r.Steal) }

func drain(r *Row) string {
	if r.Drain == nil {
		return "not"
	}
	return span(*r.Drain)
}

// missedOf lists the thresholds that were missed, and queues that kept their goal least.
func missedOf(p *page, rows []Row) {
	var list []string
	for i := range rows {
		if r := &rows[i]; len(r.Missed) > 0 {
			list = append(list, fmt.Sprintf("%s, %s: %s", r.Scenario, r.Engine, strings.Join(r.Missed, ", ")))
		}
	}
	if len(list) > 0 {
		p.say("\nThresholds of the scenario that were missed:\n\n- %s\n", strings.Join(list, "\n- "))
	}
	list = nil
	for i := range rows {
		if r := &rows[i]; r.Engine == simulate.Queueville && r.Within < 0.99 {
			list = append(list, fmt.Sprintf("%s (`%s`: %s)", r.Scenario, r.Queue, percent(r.Within)))
		}
	}
	if len(list) > 0 {
		p.say("\nWhere less than 99 %% of a queue's jobs started within its goal under Queueville, and how many did: %s.\n", strings.Join(list, ", "))
	}
}

func seeds(rows []Row) string {
	var list []string
	for i := range rows {
		if s := fmt.Sprint(rows[i].Seed); !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return strings.Join(list, ", ")
}

func environment(rows []Row) string {
	var list []string
	for i := range rows {
		r := &rows[i]
		if s := fmt.Sprintf("%d × %s, %s, version %s", r.Machine.Cores, r.Machine.CPU, r.Machine.System, r.Version); !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return strings.Join(list, "; ")
}

func percent(x float64) string {
	switch {
	case x == 1:
		return "100 %"
	case x > 0.985:
		return fmt.Sprintf("%.1f %%", min(99.9, 100*x))
	}
	return fmt.Sprintf("%.0f %%", 100*x)
}

func span(s float64) string {
	switch {
	case s < 0.0095:
		return "0 s"
	case s < 9.95:
		return fmt.Sprintf("%.2g s", s)
	case s < 100:
		return fmt.Sprintf("%.0f s", s)
	case s < 6000:
		return fmt.Sprintf("%.0f min", s/60)
	}
	return fmt.Sprintf("%.1f h", s/3600)
}

func thousands(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// WritePage writes what docs/loadtest.md has of it.
func (f *Fidelity) WritePage(w io.Writer) error {
	p := &page{w: w}
	p.say("Calibrated, in processor time:\n\n| engine | Ruby, a job | the worker, a job of Ruby | more than estimated, a delivery | PostgreSQL, a query | Redis, generator and conductor, a job | " +
		"receivers, a delivery | at rest, of a processor |\n|---|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, engine := range Engines {
		if c := f.Calibration[engine]; c != nil {
			p.say("| %s | %v | %v | %v | %v | %v | %v | %.0f %% |\n", engine, max(0, c.Fetch), max(0, c.HandOver), c.Delivery, c.Query, c.Beside, c.Receive, 100*c.Rest)
		}
	}
	p.say("\n| scenario | engine | jobs/s, real | simulated | | drain, real | simulated | | p99 of deliveries, real | simulated | | others took |\n|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	for i := range f.Compared {
		c := &f.Compared[i]
		m, s := &c.Median, &c.Simulated
		p.say("| %s | %s | %.1f | %.1f | %s ", c.Scenario, c.Engine, m.Throughput, s.Throughput, off(s.Throughput, m.Throughput))
		if m.Drained && s.Drained {
			p.say("| %.1f s | %.1f s | %s ", m.Drain, s.Drain, off(s.Drain, m.Drain))
		} else {
			p.say("| %s | %s | ", drained(m), drained(s))
		}
		p.say("| %.2f s | %.2f s | %s | %.0f %% |\n", m.P99, s.P99, off(s.P99, m.P99), 100*m.Steal)
	}
	p.say("\nThe 99th percentiles of the waits in queues, in seconds, which are not part of what is promised:\n\n| scenario | engine | queue | real | simulated | |\n|---|---|---|--:|--:|--:|\n")
	for i := range f.Compared {
		c := &f.Compared[i]
		var names []string
		for q := range c.Median.Waits {
			names = append(names, q)
		}
		slices.Sort(names)
		for _, q := range names {
			p.say("| %s | %s | %s | %.2f | %.2f | %s |\n", c.Scenario, c.Engine, q, c.Median.Waits[q], c.Simulated.Waits[q], off(c.Simulated.Waits[q], c.Median.Waits[q]))
		}
	}
	if len(f.Compared) == 0 {
		return errors.Join(p.err, errors.New("nothing was compared"))
	}
	return p.err
}

func drained(m *Measured) string {
	if m.Drained {
		return fmt.Sprintf("%.1f s", m.Drain)
	}
	return "not"
}

func off(simulated, measured float64) string {
	return fmt.Sprintf("%+.0f %%", 100*Off(simulated, measured))
}
