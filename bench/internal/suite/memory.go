package suite

import (
	"context"
	"fmt"
	"time"

	"github.com/queueville/queueville/bench/internal/measure"
	"github.com/queueville/queueville/bench/internal/receiver"
)

const (
	slowLatency = 200 * time.Millisecond
	slowJobs    = 25_000
	inFlight    = 1000
)

// runMemory has 1,000 deliveries in flight against receivers that take 200 ms, over TLS. After a tenth of the run, in which the worker finds
// out how much each host takes, the receivers answer only when 1,000 requests have come together: two cores do not sign the 5,000 a second that
// would keep as many in flight.
func runMemory(ctx context.Context, o Options) (*Report, error) {
	total := o.Jobs
	if total == 0 {
		total = slowJobs
		if o.Quick {
			total = 10_000
		}
	}
	db, err := startDatabase(ctx, o)
	if err != nil {
		return nil, err
	}
	defer func() { _ = db.server.Stop() }()
	rows := [][]string{{"destinations", "peak resident MiB (least–most)", "most in flight", "connections", "deliveries/s", "CPU µs/delivery"}}
	report := &Report{Values: map[string][]Figure{}}
	cases := []struct {
		name    string
		hosts   int
		http2   bool
		limit   float64 // MiB; 0: no promise
		perHost int
	}{
		{"100 hosts, HTTP/1.1", 100, false, 130, 16},
		{"1,000 hosts, HTTP/1.1", 1000, false, 170, 8},
		{"1,000 hosts, HTTP/2", 1000, true, 0, 8},
	}
	for _, c := range cases {
		var figures []Figure
		var last outcome
		most := int64(0)
		for round := range o.Rounds {
			out, err := o.deliver(ctx, db, run{
				sender: sender{name: withOpenSSL, concurrency: inFlight, perHost: c.perHost},
				cfg:    receiver.Config{Hosts: c.hosts, TLS: true, HTTP2: c.http2, Latency: slowLatency, Sample: 512, Gather: inFlight, Warm: int64(total) / 10},
				jobs:   total, body: deliveryBytes, seed: uint64(round), limit: runLimit, warm: 0.1, //nolint:gosec // small
			})
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			o.logf("round %d  %-24s %6.1f MiB  %d in flight, %d connections, %.0f/s", round+1, c.name, out.PeakMiB, out.counts.Peak, out.counts.Conns, out.PerSecond)
			figures = append(figures, out.Figure)
			last, most = out, max(most, out.counts.Peak)
		}
		report.Values[c.name] = figures
		report.Targets = append(report.Targets, measure.Target{
			What: "most in flight at once, " + c.name, Want: fmt.Sprintf("≥ %d", inFlight), Got: float64(most), Limit: inFlight,
		})
		peak := series(figures, func(f Figure) float64 { return f.PeakMiB })
		rows = append(rows, []string{
			c.name, peak.Range("%.0f"), fmt.Sprint(most), fmt.Sprint(last.counts.Opened), series(figures, perSecond).Range("%.0f"),
			series(figures, cpuPerJob).Range("%.0f"),
		})
		if c.limit > 0 {
			report.Targets = append(report.Targets, measure.Target{
				What: "resident memory, 1,000 in flight to " + c.name + ", MiB", Want: fmt.Sprintf("< %.0f", c.limit), Got: peak.Median(), Limit: c.limit, Most: true,
			})
		}
	}
	report.Tables = append(report.Tables, Table{Title: "1,000 deliveries in flight against TLS receivers that take 200 ms", Rows: rows})
	return report, nil
}
