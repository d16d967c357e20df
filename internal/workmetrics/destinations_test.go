package workmetrics

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/queueville/queueville/activitypub"
	"github.com/queueville/queueville/internal/redistest"
	"github.com/queueville/queueville/worker"
)

// noDatabase is never asked.
type noDatabase struct{ activitypub.DB }

func TestDestinationMetrics(t *testing.T) {
	t.Parallel()
	d, err := activitypub.New(activitypub.Config{Version: "4.5.0", LocalDomain: "a.test", DB: noDatabase{}, BaseRedis: redistest.Client(t)})
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"busy.test", "busier.test", "idle.test"} {
		for d.Hosts().Acquire(host, time.Now()).Verdict == activitypub.Start && host != "idle.test" {
		}
	}
	metrics := &Metrics{registry: prometheus.NewRegistry()}
	newDestinationMetrics(metrics, &Config{Hosts: d.Hosts(), TopK: 1, Retries: func() worker.RetryLoad {
		return worker.RetryLoad{Share: 0.2, Used: 0.1, Running: 3, Waiting: 4, Slots: 102, Scarce: true, Started: 5, Tried: 60}
	}})
	families, err := metrics.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, metric := range f.GetMetric() {
			words := []string{strings.TrimPrefix(f.GetName(), "queueville_")}
			for _, l := range metric.GetLabel() {
				words = append(words, l.GetValue())
			}
			got[strings.Join(words, " ")] = metric.GetGauge().GetValue() + metric.GetCounter().GetValue()
		}
	}
	want := map[string]float64{
		"destinations known": 3, "destinations down": 0, "destinations held": 0, "destinations reopening": 0, "destinations failing": 0, "destinations limited": 2,
		"destination_bound limit busier.test": 1, "retry_share_limit": 0.2, "retry_share": 0.1, "retries_running": 3, "retries_waiting": 4, "retry_slots": 102,
		"slots_scarce": 1, "native_starts_total first": 60, "native_starts_total retry": 5,
	}
	if !maps.Equal(got, want) {
		t.Errorf("metrics %v, want %v", got, want)
	}
}
