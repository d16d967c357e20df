package suite

import (
	"context"
	"fmt"
	"time"

	"github.com/queueville/queueville/bench/internal/measure"
	"github.com/queueville/queueville/bench/internal/receiver"
)

const (
	healthyHosts = 70
	deadHosts    = 30
	deadJobs     = 40_000
	deadLatency  = 50 * time.Millisecond
)

// runDeadHosts compares deliveries to healthy hosts with and without 30 % of hosts that accept connections and never answer.
func runDeadHosts(ctx context.Context, o Options) (*Report, error) {
	total := o.Jobs
	if total == 0 {
		total = deadJobs
		if o.Quick {
			total = 15_000
		}
	}
	db, err := startDatabase(ctx, o)
	if err != nil {
		return nil, err
	}
	defer func() { _ = db.server.Stop() }()
	report := &Report{Values: map[string][]Figure{}}
	cases := []struct {
		name string
		dead int
	}{{"all healthy", 0}, {"30 % hang", deadHosts}}
	for round := range o.Rounds {
		for _, c := range cases {
			out, err := o.deliver(ctx, db, run{
				sender: sender{name: withOpenSSL, concurrency: 512, perHost: 8},
				cfg:    receiver.Config{Hosts: healthyHosts, Dead: c.dead, TLS: true, Latency: deadLatency},
				jobs:   total, body: deliveryBytes, seed: uint64(round), limit: runLimit, warm: 0.02, //nolint:gosec // small
			})
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			o.logf("round %d  %-12s %7.0f/s to healthy hosts, %.1f s", round+1, c.name, out.PerSecond, out.took.Seconds())
			report.Values[c.name] = append(report.Values[c.name], out.Figure)
		}
	}
	rows := [][]string{{"", "deliveries/s to healthy hosts (least–most)", "CPU µs/delivery"}}
	for _, c := range cases {
		rows = append(rows, []string{c.name, series(report.Values[c.name], perSecond).Range("%.0f"), series(report.Values[c.name], cpuPerJob).Range("%.0f")})
	}
	report.Tables = append(report.Tables, Table{
		Title: fmt.Sprintf("Deliveries to %d healthy hosts (50 ms), alone and with %d more that accept connections and never answer", healthyHosts, deadHosts), Rows: rows,
	})
	report.Targets = append(report.Targets, measure.Target{
		What: "deliveries/s to healthy hosts with 30 % hanging, against none", Want: "≥ 0.97", Limit: 0.97,
		Got: series(report.Values[cases[1].name], perSecond).Median() / series(report.Values[cases[0].name], perSecond).Median(),
	})
	return report, runDeadWaits(ctx, o, db, report)
}
