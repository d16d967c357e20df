package workmetrics

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/queueville/queueville/worker"
	"github.com/queueville/queueville/worker/ruby"
)

// bootBuckets reach from a fork of a preloaded parent to a Mastodon that loads on a slow disk.
var bootBuckets = []float64{.1, .25, .5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320}

// rubyMetrics are those of full mode: what happens to the Ruby processes, and what the jobs in them cost. It is a ruby.Observer and a
// prometheus.Collector of what is a state and not a count.
type rubyMetrics struct {
	look             func() (ruby.Load, []ruby.Process)
	classes, entries *labels

	jobs             *prometheus.CounterVec
	wall, cpu, db    *prometheus.CounterVec
	boot             prometheus.Histogram
	bootFailures     prometheus.Counter
	ended            *prometheus.CounterVec
	stuck, poisoned  *prometheus.CounterVec
	ticksLost        *prometheus.CounterVec
	processes, pss   *prometheus.Desc
	threads, running *prometheus.Desc
	waiting, cron    *prometheus.Desc
	problem, waits   *prometheus.Desc
	held             *prometheus.Desc
}

func newRubyMetrics(m *Metrics, look func() (ruby.Load, []ruby.Process)) *rubyMetrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	r := &rubyMetrics{
		look: look, classes: m.classes, entries: newLabels(maxClasses),
		jobs:         m.counter("queueville_ruby_jobs_total", "Jobs that came back from Ruby, by what became of them.", "class", "label"),
		wall:         m.counter("queueville_ruby_run_seconds_total", "Wall time of jobs in Ruby.", "class"),
		cpu:          m.counter("queueville_ruby_cpu_seconds_total", "CPU time of jobs in Ruby, of their thread.", "class"),
		db:           m.counter("queueville_ruby_db_seconds_total", "Time that jobs in Ruby waited for SQL.", "class"),
		ended:        m.counter("queueville_ruby_processes_ended_total", "Ruby processes that ended, by why.", "why"),
		stuck:        m.counter("queueville_ruby_stuck_jobs_total", "Jobs that ran far longer than their class does.", "class"),
		poisoned:     m.counter("queueville_ruby_poison_deaths_total", "Deaths of Ruby processes counted against a job that ran in them.", "class"),
		ticksLost:    m.counter("queueville_ruby_cron_ticks_lost_total", "Ticks of cron entries that an earlier leader did not push.", "entry", "made_up"),
		boot:         prometheus.NewHistogram(prometheus.HistogramOpts{Name: "queueville_ruby_boot_seconds", Help: "From the start of a Ruby process to its first request for a job.", Buckets: bootBuckets}),
		bootFailures: prometheus.NewCounter(prometheus.CounterOpts{Name: "queueville_ruby_boot_failures_total", Help: "Ruby processes that ended before they asked for a job."}),
		processes:    desc("queueville_ruby_processes", "Ruby processes, by state.", "state"),
		pss:          desc("queueville_ruby_process_pss_bytes", "Memory of a Ruby process, its part of what it shares with others.", "slot"),
		threads:      desc("queueville_ruby_threads", "Threads of the Ruby processes that take jobs."),
		running:      desc("queueville_ruby_jobs_running", "Jobs that Ruby processes have."),
		waiting:      desc("queueville_ruby_jobs_waiting", "Jobs fetched for Ruby that no process has yet."),
		cron:         desc("queueville_ruby_cron_leader", "1 when the cron scheduler runs in a Ruby process of this worker."),
		problem:      desc("queueville_ruby_boot_problem", "1 while Ruby does not start."),
		waits:        desc("queueville_ruby_waits", "1 while the next Ruby process waits for its database connections."),
		held:         desc("queueville_ruby_held", "1 while no Ruby job starts because PostgreSQL is away."),
	}
	m.registry.MustRegister(r.boot, r.bootFailures, r)
	return r
}

// Describe implements prometheus.Collector.
func (r *rubyMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{r.processes, r.pss, r.threads, r.running, r.waiting, r.cron, r.problem, r.waits, r.held} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (r *rubyMetrics) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		if metric, err := prometheus.NewConstMetric(d, prometheus.GaugeValue, v, labels...); err == nil {
			ch <- metric
		}
	}
	load, list := r.look()
	gauge(r.processes, float64(load.Booting), "booting")
	gauge(r.processes, float64(load.Processes), "serving")
	gauge(r.processes, float64(load.Leaving), "leaving")
	gauge(r.threads, float64(load.Threads))
	gauge(r.running, float64(load.Running))
	gauge(r.waiting, float64(load.Waiting))
	gauge(r.cron, oneIf(load.Cron))
	gauge(r.problem, oneIf(load.Problem != ""))
	gauge(r.waits, oneIf(load.Waits != ""))
	gauge(r.held, oneIf(load.Held != ""))
	seen := map[int]bool{}
	for _, p := range list {
		if p.PSS > 0 && !seen[p.Slot] {
			seen[p.Slot] = true
			gauge(r.pss, float64(p.PSS), strconv.Itoa(p.Slot))
		}
	}
}

// jobEnded counts a job that Ruby had, under its bounded class.
func (r *rubyMetrics) jobEnded(class string, e *worker.End) {
	r.jobs.WithLabelValues(class, e.Label).Inc()
	r.wall.WithLabelValues(class).Add(max(0, e.Run.Seconds()))
	r.cpu.WithLabelValues(class).Add(max(0, e.CPU.Seconds()))
	r.db.WithLabelValues(class).Add(max(0, e.DB.Seconds()))
}

// ProcessReady implements ruby.Observer.
func (r *rubyMetrics) ProcessReady(boot time.Duration) { r.boot.Observe(boot.Seconds()) }

// ProcessEnded implements ruby.Observer.
func (r *rubyMetrics) ProcessEnded(why string) { r.ended.WithLabelValues(why).Inc() }

// BootFailed implements ruby.Observer.
func (r *rubyMetrics) BootFailed() { r.bootFailures.Inc() }

// Stuck implements ruby.Observer.
func (r *rubyMetrics) Stuck(class string) { r.stuck.WithLabelValues(r.classes.bound(class)).Inc() }

// Poisoned implements ruby.Observer. How many deaths there were is in the log: as a label it would be without bound.
func (r *rubyMetrics) Poisoned(class string, _ int) {
	r.poisoned.WithLabelValues(r.classes.bound(class)).Inc()
}

// TickLost implements ruby.Observer.
func (r *rubyMetrics) TickLost(entry string, madeUp bool) {
	r.ticksLost.WithLabelValues(r.entries.bound(entry), strconv.FormatBool(madeUp)).Inc()
}
