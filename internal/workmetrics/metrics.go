// Package workmetrics shows a worker to Prometheus: it is a worker.Observer, a collector of what Redis holds, and the small HTTP server
// with /metrics, /healthz and /readyz.
//
// Two families of names: those that Mastodon 4.4 and later export for Sidekiq, where the meaning is the same (so that existing dashboards
// go on working), and queueville_… for the rest. Labels are bounded: of classes, queues and cron entries the first hundred are named,
// destinations are the top few, everything else is from fixed lists.
package workmetrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/queueville/queueville/activitypub"
	"github.com/queueville/queueville/dbpool"
	"github.com/queueville/queueville/queues"
	"github.com/queueville/queueville/scheduler"
	"github.com/queueville/queueville/worker"
	"github.com/queueville/queueville/worker/ruby"
)

// latencyBuckets suit both a delivery (tens of milliseconds to the 30 s deadline) and a wait in a queue (up to hours).
var latencyBuckets = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200}

// Metrics is a worker.Observer that counts for Prometheus.
type Metrics struct {
	worker.NopObserver
	registry        *prometheus.Registry
	classes, queues *labels // what payloads and Redis say, bounded

	jobs, failed, restarted, dead *prometheus.CounterVec // Sidekiq's names
	duration                      *prometheus.SummaryVec

	ended       *prometheus.CounterVec
	wait        *prometheus.HistogramVec
	fetched     *prometheus.CounterVec
	fetchTime   *prometheus.HistogramVec
	delivered   *prometheus.CounterVec
	wire        *prometheus.HistogramVec
	signTime    prometheus.Histogram
	secondKnock prometheus.Counter
	leaseLost   *prometheus.CounterVec
	adopted     prometheus.Counter
	redisErrors *prometheus.CounterVec

	ruby *rubyMetrics // nil without full mode
}

// Config names what Metrics reads from.
type Config struct {
	Prefix  string        // before Sidekiq's names; Mastodon's exporter uses "ruby_" unless told otherwise
	Store   *queues.Store // queue and set sizes are read from it at each scrape
	Load    func() worker.Load
	Hosts   *activitypub.Hosts
	Outage  func() (bool, time.Time, string) // "it is us"
	Signer  string                           // openssl or go
	Version string
	TopK    int // destinations shown; default 20
	Stated  int // the stated concurrency, as Sidekiq shows it

	Ruby func() (ruby.Load, []ruby.Process) // the Ruby side in full mode; nil without

	Database    func() dbpool.Stats // of the connection budget; nil without a lease
	LeaseEvents *LeaseEvents        // begins to count; nil with a nil Database

	Retries func() worker.RetryLoad // what retries take; nil: not shown

	Limits func() []scheduler.Decision // of lanes whose limits are found by trial; nil without
	Costs  func() []scheduler.Cost     // of classes; nil: not shown
}

// New makes the metrics and registers them.
func New(cfg Config) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), classes: newLabels(maxClasses), queues: newLabels(maxQueues)}
	sidekiq := func(name, help string, labels ...string) *prometheus.CounterVec {
		return m.counter(cfg.Prefix+name, help, labels...)
	}
	m.jobs = sidekiq("sidekiq_jobs_total", "Jobs run.", "job_name", "queue")
	m.failed = sidekiq("sidekiq_failed_jobs_total", "Jobs that failed.", "job_name", "queue")
	m.restarted = sidekiq("sidekiq_restarted_jobs_total", "Jobs that a stop interrupted and gave back.", "job_name", "queue")
	m.dead = sidekiq("sidekiq_dead_jobs_total", "Jobs that failed for the last time.", "job_name", "queue")
	m.duration = prometheus.NewSummaryVec(prometheus.SummaryOpts{
		Name: cfg.Prefix + "sidekiq_job_duration_seconds", Help: "Run time of jobs.",
		Objectives: map[float64]float64{0.5: 0.05, 0.9: 0.01, 0.99: 0.001},
	}, []string{"job_name", "queue"})
	m.registry.MustRegister(m.duration)

	m.ended = m.counter("queueville_jobs_ended_total", "Jobs that left this worker, by result.", "queue", "class", "result")
	m.wait = m.histogram("queueville_job_wait_seconds", "From enqueue to start.", "queue")
	m.fetched = m.counter("queueville_jobs_fetched_total", "Jobs fetched, from owned or shared queues.", "kind")
	m.fetchTime = m.histogram("queueville_fetch_seconds", "Time of one fetch call.", "kind")
	m.delivered = m.counter("queueville_deliveries_total", "Deliveries tried, by outcome and kind of failure.", "class", "outcome", "kind")
	m.wire = m.histogram("queueville_delivery_wire_seconds", "Time of the request, connection and answer.", "outcome")
	m.signTime = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "queueville_sign_seconds", Help: "Time of one signature, waiting for a processor included.",
		Buckets: []float64{.0001, .0002, .0003, .0005, .001, .002, .005, .01, .05, .1},
	})
	m.secondKnock = prometheus.NewCounter(prometheus.CounterOpts{Name: "queueville_second_knocks_total", Help: "Deliveries sent again with the other signature scheme."})
	m.leaseLost = m.counter("queueville_lease_lost_total", "Times this worker lost its lease.", "reason")
	m.adopted = prometheus.NewCounter(prometheus.CounterOpts{Name: "queueville_jobs_adopted_total", Help: "Jobs of dead workers given back to their queues."})
	m.redisErrors = m.counter("queueville_redis_errors_total", "Calls to Redis that failed.", "during")
	m.registry.MustRegister(m.signTime, m.secondKnock, m.adopted,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), newSnapshot(cfg))
	if cfg.Ruby != nil {
		m.ruby = newRubyMetrics(m, cfg.Ruby)
	}
	if cfg.Database != nil {
		cfg.LeaseEvents.to.Store(newDatabaseMetrics(m, cfg.Database))
	}
	if cfg.Hosts != nil || cfg.Retries != nil {
		newDestinationMetrics(m, &cfg)
	}
	if cfg.Limits != nil {
		newLimitMetrics(m, cfg.Limits)
	}
	if cfg.Costs != nil {
		newCostMetrics(m, cfg.Costs)
	}
	return m
}

// Ruby is the observer of the Ruby processes; one that does nothing without Config.Ruby.
func (m *Metrics) Ruby() ruby.Observer {
	if m.ruby == nil {
		return ruby.NoObserver{}
	}
	return m.ruby
}

func (m *Metrics) counter(name, help string, labels ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	m.registry.MustRegister(c)
	return c
}

func (m *Metrics) histogram(name, help string, labels ...string) *prometheus.HistogramVec {
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: latencyBuckets}, labels)
	m.registry.MustRegister(h)
	return h
}

// Fetched implements worker.Observer.
func (m *Metrics) Fetched(kind string, jobs int, took time.Duration) {
	m.fetched.WithLabelValues(kind).Add(float64(jobs))
	m.fetchTime.WithLabelValues(kind).Observe(took.Seconds())
}

// Ended implements worker.Observer.
func (m *Metrics) Ended(e worker.End) {
	class, queue := e.Class, m.queues.bound(e.Queue)
	if e.Result == worker.Forwarded || e.Label == "malformed" || e.Label == "foreign class" {
		class = "" // not ours to count by name
	}
	class = m.classes.bound(class) // even a native job can say "wrapped"
	m.ended.WithLabelValues(queue, class, e.Result.String()).Inc()
	if e.Result == worker.Requeued && e.Wait >= 0 { // it had started
		m.restarted.WithLabelValues(class, queue).Inc()
	}
	if e.Foreign && m.ruby != nil {
		m.ruby.jobEnded(class, &e)
	}
	if !ran(&e) {
		return
	}
	m.jobs.WithLabelValues(class, queue).Inc()
	if e.Run > 0 {
		m.duration.WithLabelValues(class, queue).Observe(e.Run.Seconds())
	}
	if e.Wait >= 0 {
		m.wait.WithLabelValues(queue).Observe(e.Wait.Seconds())
	}
	switch e.Result {
	case worker.Retried:
		m.failed.WithLabelValues(class, queue).Inc()
	case worker.Dead, worker.Discarded:
		m.failed.WithLabelValues(class, queue).Inc()
		m.dead.WithLabelValues(class, queue).Inc()
	default:
		if e.Failed { // acknowledged, for Sidekiq has written the retry or buried the job itself
			m.failed.WithLabelValues(class, queue).Inc()
		}
	}
}

// ran tells whether a job counts as run. One of Ruby's that is buried has no run time: its process did not live to report it.
func ran(e *worker.End) bool {
	return e.Run > 0 || e.Foreign && (e.Result == worker.Acked || e.Result == worker.Dead)
}

// LeaseLost implements worker.Observer.
func (m *Metrics) LeaseLost(reason string) { m.leaseLost.WithLabelValues(reason).Inc() }

// Adopted implements worker.Observer.
func (m *Metrics) Adopted(_ string, jobs int) { m.adopted.Add(float64(jobs)) }

// RedisError implements worker.Observer.
func (m *Metrics) RedisError(during string) { m.redisErrors.WithLabelValues(during).Inc() }

// Delivered counts one delivery; give it to deliveryjobs.NewHandler.
func (m *Metrics) Delivered(class string, r activitypub.Result) {
	kind := ""
	if r.Outcome == activitypub.Failed || r.Outcome == activitypub.Deferred {
		kind = r.Kind.String()
	}
	m.delivered.WithLabelValues(m.classes.bound(class), r.Outcome.String(), kind).Inc()
	if r.WireTime > 0 {
		m.wire.WithLabelValues(r.Outcome.String()).Observe(r.WireTime.Seconds())
	}
	if r.SignTime > 0 {
		m.signTime.Observe(r.SignTime.Seconds())
	}
	if r.SecondKnock {
		m.secondKnock.Inc()
	}
}
