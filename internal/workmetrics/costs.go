package workmetrics

import (
	"cmp"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/queueville/queueville/scheduler"
)

// maxCosts is how many classes are shown in one scrape: those that take most time. A class that comes later than the hundredth of all is not
// shown, as with the other metrics by class.
const maxCosts = 50

// costMetrics are what runs of a class cost lately.
type costMetrics struct {
	costs                                  func() []scheduler.Cost
	classes                                *labels
	wall, cpu, db, failed, arrivals, rates *prometheus.Desc
}

func newCostMetrics(m *Metrics, costs func() []scheduler.Cost) {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("queueville_class_"+name, help, []string{"class"}, nil)
	}
	m.registry.MustRegister(&costMetrics{
		costs: costs, classes: m.classes,
		wall: desc("run_seconds", "Run time of a job, on average, lately."), cpu: desc("cpu_seconds", "Processor time of a job, on average, lately; absent if not measured."),
		db: desc("db_seconds", "Time of a job in SQL, on average, lately; absent if not measured."), failed: desc("failure_share", "Share of the runs that failed, lately."),
		arrivals: desc("arrivals_per_second", "Jobs that this worker fetched, lately."), rates: desc("runs_per_second", "Runs that ended, lately."),
	})
}

// Describe implements prometheus.Collector.
func (c *costMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.wall, c.cpu, c.db, c.failed, c.arrivals, c.rates} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *costMetrics) Collect(ch chan<- prometheus.Metric) {
	list := slices.DeleteFunc(c.costs(), func(k scheduler.Cost) bool { return k.Weight == 0 })
	slices.SortStableFunc(list, func(a, b scheduler.Cost) int { return cmp.Compare(b.Rate*b.Wall, a.Rate*a.Wall) })
	seen := map[string]bool{otherLabel: true} // what is beyond the bound cannot be averaged
	for _, k := range list[:min(len(list), maxCosts)] {
		class := c.classes.bound(k.Class)
		if seen[class] {
			continue
		}
		seen[class] = true
		gauge := func(d *prometheus.Desc, v float64) {
			if metric, err := prometheus.NewConstMetric(d, prometheus.GaugeValue, v, class); err == nil {
				ch <- metric
			}
		}
		gauge(c.wall, k.Wall)
		if k.CPUKnown {
			gauge(c.cpu, k.CPU)
		}
		if k.DBKnown {
			gauge(c.db, k.DB)
		}
		gauge(c.failed, k.FailureShare)
		gauge(c.arrivals, k.Arrivals)
		gauge(c.rates, k.Rate)
	}
}
