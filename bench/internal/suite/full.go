package suite

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/queueville/queueville/internal/rubyapp"
)

// Names of the contenders of the full suite.
const (
	fullSidekiq    = "sidekiq"
	fullQueueville = "queueville --full"
)

// load is what the full suite's contenders have to do.
type load struct {
	part       string // FullParts'
	name       string
	shares     []rubyapp.Share // nil: jobs that do nothing
	deliveries float64         // share of the jobs, 0 to 1; the rest is as shares says
	jobs       int             // of one round
	sweep      int             // of one run of the sweep; enough for the end, when only waiting is left, not to decide
	want       float64         // of stock Sidekiq's throughput; 0 if nothing is promised
}

// Parts with a say in others: the memory of both comes after the loads.
const (
	mixedPart  = "mixed"
	memoryPart = "memory"
	fetchPart  = "fetch" // what fetching and acknowledging a job costs
)

// FullParts are the parts of the full suite: its loads, and the memory of both.
func FullParts() []string { return []string{"ingress", mixedPart, "ruby", memoryPart, fetchPart} }

// pushShare is how many of all jobs are deliveries in an ordinary hour of the load tests' model of a server (docs/loadtest.md), rounded.
const pushShare = 0.3

func fullLoads(o Options) []load {
	list := []load{
		{part: "ingress", name: "ingress, bound by the processor", shares: rubyapp.Ingress(), jobs: 3000, sweep: 400, want: 1},
		{part: mixedPart, name: "all queues, processor and waiting", shares: rubyapp.Mixed(), deliveries: pushShare, jobs: 6000, sweep: 1200, want: 1.3},
		{part: "ruby", name: "the same without push", shares: rubyapp.Mixed(), jobs: 6000, sweep: 1200},
	}
	for i := range list {
		if o.Quick {
			list[i].jobs /= 5
		}
		if o.Jobs > 0 {
			list[i].jobs = o.Jobs
		}
	}
	return list
}

// setting is one way to run stock Sidekiq, or what Queueville is told; 0 leaves it to the contender.
type setting struct{ processes, threads int }

// tries is how many jobs of a load a sweep runs with a setting: where a few threads wait for others nearly all the time, fewer show as much.
func (l *load) tries(s setting) int { return min(l.sweep, max(100, 30*s.processes*s.threads)) }

func (s setting) String() string { return fmt.Sprintf("%d × -c %d", s.processes, s.threads) }

// The memory of both is compared with so many processes, and with as many threads each as the sweep of the mixed load found best, or, where
// there was none, as many as Mastodon's unit has.
const memoryProcesses, memoryThreads = 8, 25

const (
	fullLimit   = 4 * time.Minute        // one contender in one round
	fullLatency = 500 * time.Millisecond // of other servers, unless told otherwise: a name, a connection, TLS and a request, each a way around half the world

	// A run during which other machines took more than calm of the processors is done again, whoever ran, at most so many times in all; if none
	// was calm, the calmest counts.
	calm       = 0.05
	calmTries  = 4
	calmSweeps = 2 // of the sweep's: it chooses among settings that are far apart
)

// fullFigure is what one contender did in one round of one load.
type fullFigure struct {
	Figure
	pss       float64 // MiB, of all processes when the work is done
	processes int
	stolen    float64 // share of this machine's processor time that other machines on the same host took, 0 to 1
	idle      float64 // share of it that nobody used
}

// runFull compares Ruby jobs in supervised processes with the same jobs in stock Sidekiq processes that a person has tuned.
func runFull(ctx context.Context, o Options) (*Report, error) {
	f, err := newFull(ctx, o)
	if err != nil {
		return nil, err
	}
	defer f.close()
	if err := f.receive(ctx); err != nil {
		return nil, err
	}
	defer f.inboxes.stop(5 * time.Second)
	report := &Report{Values: map[string][]Figure{}}
	ours := o.wants(fullQueueville)
	if ours && !f.supported(ctx) {
		report.Notes = append(report.Notes, "this queueville has no work --full: only stock Sidekiq was measured")
		ours = false
	}
	results := map[string][]fullFigure{}
	threads := memoryThreads
	for _, l := range fullLoads(o) {
		if !o.has(l.part) {
			continue
		}
		best := setting{o.Static[0], o.Static[1]}
		if o.wants(fullSidekiq) && best == (setting{}) {
			if best, err = f.sweep(ctx, l, report); err != nil {
				return nil, fmt.Errorf("%s: %w", l.name, err)
			}
		}
		if l.part == mixedPart && best.threads > 0 {
			threads = best.threads
		}
		if err := f.turns(ctx, l, best, ours, results, report); err != nil {
			return nil, err
		}
	}
	if o.has(memoryPart) {
		loads := fullLoads(o)
		l := loads[slices.IndexFunc(loads, func(l load) bool { return l.part == mixedPart })]
		l.name = memoryLoad
		same := setting{memoryProcesses, threads}
		if err := f.rounds(ctx, l, same, same, 7, ours, results, report); err != nil {
			return nil, err
		}
	}
	if o.has(fetchPart) {
		same := setting{1, 5}
		if err := f.rounds(ctx, load{part: fetchPart, name: fetchLoad, jobs: 10_000}, same, same, 0, ours, results, report); err != nil {
			return nil, err
		}
	}
	fullReport(o, report, results)
	return report, nil
}

// rounds runs the contenders one after the other, each alone and with its setting. Seeds count from seed.
func (f *full) rounds(ctx context.Context, l load, theirs, own setting, seed uint64, ours bool, into map[string][]fullFigure, report *Report) error {
	for range f.o.Rounds {
		if f.o.wants(fullSidekiq) {
			if err := f.round(ctx, l, fullSidekiq, theirs, seed, l.jobs, into, report); err != nil {
				return err
			}
		}
		if ours {
			if err := f.round(ctx, l, fullQueueville, own, seed, l.jobs, into, report); err != nil {
				return err
			}
		}
		seed++
	}
	return nil
}

// round runs one contender once and keeps the result.
func (f *full) round(ctx context.Context, l load, name string, s setting, seed uint64, jobs int, into map[string][]fullFigure, report *Report) error {
	got, err := f.calmRun(ctx, l, name, s, seed, jobs, calmTries)
	if err != nil {
		return fmt.Errorf("%s, %s: %w", l.name, name, err)
	}
	f.o.logf("%-34s %-18s %-12s %6.1f jobs/s  %7.0f µs cpu  %5.0f MiB PSS of %d processes, %2.0f %% idle, %2.0f %% stolen", l.name, name, describe(s), got.PerSecond,
		got.CPU, got.pss, got.processes, 100*got.idle, 100*got.stolen)
	key := l.name + ", " + name
	into[key] = append(into[key], got)
	report.Values[key] = append(report.Values[key], got.Figure)
	return nil
}

// calmRun runs one contender until the machine was its own.
func (f *full) calmRun(ctx context.Context, l load, name string, s setting, seed uint64, jobs, tries int) (calmest fullFigure, err error) {
	for try := range tries {
		got, err := f.run(ctx, l, name, s, seed, jobs)
		if err != nil {
			return got, err
		}
		if try == 0 || got.stolen < calmest.stolen {
			calmest = got
		}
		if calmest.stolen <= calm || f.o.Quick {
			break
		}
		f.o.logf("         %s %s: %2.0f %% of the processors stolen, %.1f jobs/s; again", name, describe(s), 100*got.stolen, got.PerSecond)
	}
	return calmest, nil
}

func describe(s setting) string {
	if s == (setting{}) {
		return "as it likes"
	}
	return s.String()
}

// sweep finds the number of processes and threads with which stock Sidekiq does most, and keeps a table of all that were tried: threads first,
// with a process for each core; then more processes, with as many threads in all, with half as many each, and with as many each.
func (f *full) sweep(ctx context.Context, l load, report *Report) (best setting, err error) {
	threads, processes := []int{2, 3, 5, 10, 25, 50, 100}, []int{f.cores + 1, 2 * f.cores, 4 * f.cores}
	if f.o.Quick {
		threads, processes = []int{5, 25, 50}, []int{4 * f.cores}
	}
	rows := [][]string{{"stock Sidekiq, " + l.name, "jobs/s", "CPU µs/job", "PSS MiB"}}
	top := 0.0
	try := func(s setting) error {
		got, err := f.calmRun(ctx, l, fullSidekiq, s, 99, l.tries(s), calmSweeps)
		if err != nil {
			return fmt.Errorf("%v: %w", s, err)
		}
		f.o.logf("sweep    %-12v %6.1f jobs/s  %7.0f µs cpu  %5.0f MiB, %2.0f %% idle, %2.0f %% stolen", s, got.PerSecond, got.CPU, got.pss, 100*got.idle, 100*got.stolen)
		rows = append(rows, []string{s.String(), fmt.Sprintf("%.0f", got.PerSecond), fmt.Sprintf("%.0f", got.CPU), fmt.Sprintf("%.0f", got.pss)})
		if got.PerSecond > top {
			top, best = got.PerSecond, s
		}
		return nil
	}
	for _, c := range threads {
		if err := try(setting{f.cores, c}); err != nil {
			return best, err
		}
	}
	each := best.threads
	for _, p := range processes {
		tries := slices.Compact([]setting{{p, max(1, each*f.cores/p)}, {p, max(1, each/2)}, {p, each}})
		if f.o.Quick {
			tries = tries[:1]
		}
		for _, s := range tries {
			if err := try(s); err != nil {
				return best, err
			}
		}
	}
	report.Tables = append(report.Tables, Table{Title: "Sweep: the best is taken", Rows: rows})
	return best, nil
}
