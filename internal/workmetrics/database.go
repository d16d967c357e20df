package workmetrics

import (
	"strings"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/queueville/queueville/dbpool"
)

const maxRoles = 20 // roles of ended connections that have names; they come from pg_stat_activity

// LeaseEvents is the dbpool.Observer of a worker. It exists before the metrics do, and counts once they are there. The zero value is ready.
type LeaseEvents struct {
	to atomic.Pointer[databaseMetrics]
}

// Leased implements dbpool.Observer.
func (*LeaseEvents) Leased(int, int) {}

// LeaseLost implements dbpool.Observer.
func (e *LeaseEvents) LeaseLost(reason string) {
	if m := e.to.Load(); m != nil {
		m.lost.WithLabelValues(reason).Inc()
	}
}

// BackendEnded implements dbpool.Observer.
func (e *LeaseEvents) BackendEnded(x dbpool.Ended) {
	if m := e.to.Load(); m != nil {
		role, _, _ := strings.Cut(x.Role, ".") // children have a number
		m.ended.WithLabelValues(m.roles.bound(role)).Inc()
	}
}

// Failed implements dbpool.Observer.
func (e *LeaseEvents) Failed(what string, _ error) {
	if m := e.to.Load(); m != nil {
		m.failed.WithLabelValues(what).Inc()
	}
}

// databaseMetrics are those of the connection budget. Its host is Prometheus' instance, so there is no label for it.
type databaseMetrics struct {
	stats func() dbpool.Stats
	roles *labels

	lost, ended, failed *prometheus.CounterVec

	budget, leased, limit, share, demand, recovering, confirms, calls   *prometheus.Desc
	open, inUse, reserved, waiting, acquired, waits, waitTime, refusals *prometheus.Desc
}

func newDatabaseMetrics(m *Metrics, stats func() dbpool.Stats) *databaseMetrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("queueville_db_"+name, help, labels, nil)
	}
	d := &databaseMetrics{
		stats: stats, roles: newLabels(maxRoles),
		lost:       m.counter("queueville_db_lease_lost_total", "Times that the lease of database connections was lost, and all were closed.", "reason"),
		ended:      m.counter("queueville_db_backends_ended_total", "Connections of ended leases, of any host, that this worker has ended.", "role"),
		failed:     m.counter("queueville_db_lease_errors_total", "Times that the ledger could not be called (redis), or nothing be confirmed (postgres).", "with"),
		budget:     desc("budget", "Connections that all workers may have together; 0: none is stored."),
		leased:     desc("leased", "Connections that the ledger counts for this worker."),
		limit:      desc("limit", "Of these, what it may open now; 0 while the lease is in doubt."),
		share:      desc("share", "What it should have by what all workers want."),
		demand:     desc("demand", "What it could have used in the last seconds."),
		recovering: desc("recovering", "1: Redis may have forgotten, and nothing is granted until PostgreSQL has shown what is open."),
		confirms:   desc("confirms", "1: this worker asks PostgreSQL for the cluster. At most one does."),
		calls:      desc("lease_calls_total", "Calls of the ledger."),
		open:       desc("open", "Connections of this worker's own pools, idle ones included.", "role"),
		inUse:      desc("in_use", "Connections that are used.", "role"),
		reserved:   desc("reserved", "Connections that Ruby processes may open.", "role"),
		waiting:    desc("waiting", "Connections that are waited for.", "role"),
		acquired:   desc("acquired_total", "Times that connections were got.", "role"),
		waits:      desc("wait_seconds_count", "Times that one had to wait for the lease.", "role"),
		waitTime:   desc("wait_seconds_sum", "Time waited for the lease.", "role"),
		refusals:   desc("refused_total", "Times that the wait ended without a connection.", "role"),
	}
	m.registry.MustRegister(d)
	return d
}

// Describe implements prometheus.Collector.
func (d *databaseMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, x := range []*prometheus.Desc{
		d.budget, d.leased, d.limit, d.share, d.demand, d.recovering, d.confirms, d.calls,
		d.open, d.inUse, d.reserved, d.waiting, d.acquired, d.waits, d.waitTime, d.refusals,
	} {
		ch <- x
	}
}

// Collect implements prometheus.Collector.
func (d *databaseMetrics) Collect(ch chan<- prometheus.Metric) {
	send := func(kind prometheus.ValueType, x *prometheus.Desc, v float64, labels ...string) {
		if metric, err := prometheus.NewConstMetric(x, kind, v, labels...); err == nil {
			ch <- metric
		}
	}
	gauge := func(x *prometheus.Desc, v int, labels ...string) {
		send(prometheus.GaugeValue, x, float64(v), labels...)
	}
	count := func(x *prometheus.Desc, v float64, labels ...string) {
		send(prometheus.CounterValue, x, v, labels...)
	}
	s := d.stats()
	gauge(d.budget, s.Budget.Connections)
	gauge(d.leased, s.Leased)
	gauge(d.limit, s.Limit)
	gauge(d.share, s.Share)
	gauge(d.demand, s.Demand)
	gauge(d.recovering, int(oneIf(s.Recovering)))
	gauge(d.confirms, int(oneIf(s.Confirms)))
	count(d.calls, float64(s.Calls))
	for role, r := range s.Roles { // our own names: worker, ruby, ask
		gauge(d.open, r.Open, role)
		gauge(d.inUse, r.InUse, role)
		gauge(d.reserved, r.Reserved, role)
		gauge(d.waiting, r.Waiting, role)
		count(d.acquired, float64(r.Acquired), role)
		count(d.waits, float64(r.Waited), role)
		count(d.waitTime, r.WaitTime.Seconds(), role)
		count(d.refusals, float64(r.Refused), role)
	}
}
