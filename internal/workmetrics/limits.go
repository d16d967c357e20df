package workmetrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/queueville/queueville/scheduler"
)

// limitMetrics are those of limits that are found by trial. Names of lanes and bounds are the scheduler's own.
type limitMetrics struct {
	decisions                              func() []scheduler.Decision
	limit, running, rate, bound, gain, cpu *prometheus.Desc
}

func newLimitMetrics(m *Metrics, decisions func() []scheduler.Decision) {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("queueville_lane_"+name, help, append([]string{"lane"}, labels...), nil)
	}
	m.registry.MustRegister(&limitMetrics{
		decisions: decisions,
		limit:     desc("limit", "Jobs that may run at once."),
		running:   desc("running", "Jobs that ran at once, on average, in the last quarter of a second."),
		rate:      desc("jobs_per_second", "Jobs that ended, lately."),
		bound:     desc("bound", "1 for what binds the lane.", "by"),
		gain:      desc("gain_jobs_per_second", "What one more unit of what binds would give, about.", "unit"),
		cpu:       desc("cores", "Processors used by its jobs; absent if not known."),
	})
}

// Describe implements prometheus.Collector.
func (l *limitMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{l.limit, l.running, l.rate, l.bound, l.gain, l.cpu} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (l *limitMetrics) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		if metric, err := prometheus.NewConstMetric(d, prometheus.GaugeValue, v, labels...); err == nil {
			ch <- metric
		}
	}
	for _, d := range l.decisions() {
		gauge(l.limit, float64(d.Limit), d.Lane)
		gauge(l.running, d.View.Running, d.Lane)
		gauge(l.rate, d.Rate, d.Lane)
		gauge(l.bound, 1, d.Lane, string(d.Bound))
		if d.Unit != "" && d.Gain >= 0 {
			gauge(l.gain, d.Gain, d.Lane, d.Unit)
		}
		if d.View.CPU >= 0 {
			gauge(l.cpu, d.View.CPU, d.Lane)
		}
	}
}
