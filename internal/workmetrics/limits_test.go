package workmetrics

import (
	"maps"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/queueville/queueville/scheduler"
)

func TestLimitMetrics(t *testing.T) {
	t.Parallel()
	m := &Metrics{registry: prometheus.NewRegistry()}
	newLimitMetrics(m, func() []scheduler.Decision {
		return []scheduler.Decision{
			{Lane: "native", Limit: 96, Rate: 480, Bound: scheduler.ByCPU, Unit: "core", Gain: 250, View: scheduler.Lane{Running: 95.5, CPU: 1.9}},
			{Lane: "ruby", Limit: 12, Rate: 30, Bound: scheduler.ByDemand, Gain: 0, View: scheduler.Lane{Running: 3, CPU: scheduler.Unknown}},
		}
	})
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, metric := range f.GetMetric() {
			words := []string{strings.TrimPrefix(f.GetName(), "queueville_lane_")}
			for _, l := range metric.GetLabel() {
				words = append(words, l.GetValue())
			}
			got[strings.Join(words, " ")] = metric.GetGauge().GetValue()
		}
	}
	want := map[string]float64{
		"limit native": 96, "running native": 95.5, "jobs_per_second native": 480, "bound cpu native": 1, "gain_jobs_per_second native core": 250, "cores native": 1.9,
		"limit ruby": 12, "running ruby": 3, "jobs_per_second ruby": 30, "bound demand ruby": 1,
	}
	if !maps.Equal(got, want) {
		t.Errorf("metrics %v, want %v", got, want)
	}
}
