package suite

import (
	"context"
	"fmt"
	"time"

	"github.com/queueville/queueville/internal/throwaway"

	"github.com/queueville/queueville/bench/internal/measure"
	"github.com/queueville/queueville/bench/internal/peers"
)

// series collects one figure over the rounds of a contender.
func series(list []Figure, value func(Figure) float64) measure.Series {
	out := make(measure.Series, len(list))
	for i, f := range list {
		out[i] = value(f)
	}
	return out
}

func perSecond(f Figure) float64 { return f.PerSecond }
func cpuPerJob(f Figure) float64 { return f.CPU }

// noopReport makes the table and the targets.
func noopReport(r *Report, list []contender) {
	ours := r.Values[peers.Queueville]
	rows := [][]string{{"contender", "jobs/s (least–most)", "CPU µs/job", "Redis µs/job", "round trips/job", "peak MiB", "jobs/s, ours ÷ its", "CPU, its ÷ ours"}}
	for _, c := range list {
		f := r.Values[c.name]
		name := c.name
		if len(c.concurrency) == 1 && c.concurrency[0] > 1 {
			name = fmt.Sprintf("%s, concurrency %d", name, c.concurrency[0])
		}
		row := []string{
			name, series(f, perSecond).Range("%.0f"), series(f, cpuPerJob).Range("%.1f"),
			fmt.Sprintf("%.1f", series(f, func(f Figure) float64 { return f.RedisCPU }).Median()),
			fmt.Sprintf("%.3f", series(f, func(f Figure) float64 { return f.RoundTrips }).Median()),
			fmt.Sprintf("%.0f", series(f, func(f Figure) float64 { return f.PeakMiB }).Median()), "", "",
		}
		if len(ours) > 0 && c.name != peers.Queueville {
			row[6] = fmt.Sprintf("%.2f", series(ours, perSecond).Median()/series(f, perSecond).Median())
			row[7] = fmt.Sprintf("%.2f", series(f, cpuPerJob).Median()/series(ours, cpuPerJob).Median())
		}
		rows = append(rows, row)
	}
	r.Tables = append(r.Tables, Table{Title: "No-op jobs with payloads of 1.3 to 4.4 kB, all enqueued before the start", Rows: rows})
	if len(ours) == 0 {
		return
	}
	target := func(what, want, peer string, limit float64, most bool, value func(Figure) float64) {
		if f := r.Values[peer]; len(f) > 0 {
			r.Targets = append(r.Targets, measure.Target{
				What: what, Want: want, Got: series(ours, value).Median() / series(f, value).Median(), Limit: limit, Most: most,
			})
		}
	}
	target("jobs/s against one Sidekiq process", "≥ 10×", sidekiqOne, 10, false, perSecond)
	target("jobs/s against two Sidekiq processes", "≥ 4×", sidekiqTwo, 4, false, perSecond)
	target("CPU per job against Sidekiq", "≤ 0.125", sidekiqOne, 0.125, true, cpuPerJob)
	target("jobs/s against gocraft/work", "≥ 2.5×", peers.Gocraft, 2.5, false, perSecond)
	r.Targets = append(r.Targets, measure.Target{
		What: "Redis round trips per job under load", Want: "≤ 0.1", Limit: 0.1, Most: true,
		Got: series(ours, func(f Figure) float64 { return f.RoundTrips }).Median(),
	})
}

// idle runs our worker with nothing to do and returns the share of a core that it takes.
func idle(ctx context.Context, o Options) (share float64, err error) {
	settle, length := 3*time.Second, 20*time.Second
	if o.Quick {
		length = 8 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	server, err := throwaway.Redis(ctx, throwaway.RedisConfig{Dir: o.Dir})
	if err != nil {
		return 0, err
	}
	defer func() { _ = server.Stop() }()
	p, err := o.startNoop(ctx, contender{name: peers.Queueville}, server, 512)
	if err != nil {
		return 0, err
	}
	defer p.stop(10 * time.Second)
	list := []*process{p}
	if err := pause(ctx, settle); err != nil {
		return 0, err
	}
	before, _, err := usage(list)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if err := pause(ctx, length); err != nil {
		return 0, err
	}
	after, _, err := usage(list)
	if err != nil {
		return 0, err
	}
	if err := p.failed(); err != nil {
		return 0, err
	}
	return (after - before).Seconds() / time.Since(start).Seconds(), nil
}

// pause waits.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
