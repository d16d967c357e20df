package workmetrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// destinationMetrics are what holds deliveries back, destination by destination, and what retries take. Hosts that have a label are a few
// (Config.TopK), of those that could have got more requests lately.
type destinationMetrics struct {
	cfg                                                      *Config
	count, bound, rate                                       *prometheus.Desc
	share, used, running, waiting, slots, scarce, startTotal *prometheus.Desc
}

func newDestinationMetrics(m *Metrics, cfg *Config) {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("queueville_"+name, help, labels, nil)
	}
	c := *cfg
	if c.TopK == 0 {
		c.TopK = defaultTopK
	}
	m.registry.MustRegister(&destinationMetrics{
		cfg:        &c,
		count:      desc("destinations", "Destinations with a state, by what holds them back; of \"known\" all.", "state"),
		bound:      desc("destination_bound", "1 for what keeps a destination from getting more requests (a few of them).", "host", "by"),
		rate:       desc("destination_rate_limit", "Requests a second that a destination may get that came back lately (a few of them).", "host"),
		share:      desc("retry_share_limit", "Share of starts and slots that retries may take while first tries want them."),
		used:       desc("retry_share", "Share of the time that slots were held which retries held them, lately."),
		running:    desc("retries_running", "Retries that run."),
		waiting:    desc("retries_waiting", "Retries fetched and not started."),
		slots:      desc("retry_slots", "Slots that retries may hold now."),
		scarce:     desc("slots_scarce", "1 when first tries have had to wait for slots in the last ten seconds."),
		startTotal: desc("native_starts_total", "Native jobs that were started: first tries and retries.", "kind"),
	})
}

// Describe implements prometheus.Collector.
func (d *destinationMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{d.count, d.bound, d.rate, d.share, d.used, d.running, d.waiting, d.slots, d.scarce, d.startTotal} {
		ch <- desc
	}
}

// Collect implements prometheus.Collector.
func (d *destinationMetrics) Collect(ch chan<- prometheus.Metric) {
	send := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		if metric, err := prometheus.NewConstMetric(d, kind, v, labels...); err == nil {
			ch <- metric
		}
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) { send(d, prometheus.GaugeValue, v, labels...) }
	if d.cfg.Hosts != nil {
		now := time.Now()
		c := d.cfg.Hosts.Counts(now)
		for state, n := range map[string]int{"known": c.Known, "down": c.Down, "held": c.Holding, "reopening": c.Reopening, "failing": c.Failing, "limited": c.Limited} {
			gauge(d.count, float64(n), state)
		}
		seen := map[string]bool{}
		for _, h := range d.cfg.Hosts.Bound(now, d.cfg.TopK) {
			host := labelValue(h.Host)
			if seen[host] { // a page with one sample twice would be refused as a whole
				continue
			}
			seen[host] = true
			gauge(d.bound, 1, host, h.Bound)
			if h.Rate > 0 {
				gauge(d.rate, h.Rate, host)
			}
		}
	}
	if d.cfg.Retries == nil {
		return
	}
	r := d.cfg.Retries()
	gauge(d.share, r.Share)
	gauge(d.used, r.Used)
	gauge(d.running, float64(r.Running))
	gauge(d.waiting, float64(r.Waiting))
	gauge(d.slots, float64(r.Slots))
	gauge(d.scarce, oneIf(r.Scarce))
	send(d.startTotal, prometheus.CounterValue, float64(r.Tried), "first")
	send(d.startTotal, prometheus.CounterValue, float64(r.Started), "retry")
}
