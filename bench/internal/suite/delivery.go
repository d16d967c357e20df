package suite

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"time"

	"github.com/queueville/queueville/bench/internal/measure"
	"github.com/queueville/queueville/bench/internal/peers"
	"github.com/queueville/queueville/bench/internal/receiver"
	"github.com/queueville/queueville/bench/internal/ruby"
)

// Names of the delivery contenders.
const (
	withOpenSSL = "queueville OpenSSL"
	withGo      = "queueville pure Go"
	withRuby    = "sidekiq Ruby"
)

const (
	deliveryBytes = 4 << 10
	deliveryHosts = 50
	deliveryJobs  = 10_000
	rubyShare     = 6 // Ruby gets a sixth of the jobs
	runLimit      = 3 * time.Minute
)

func writeRuby(o Options) (string, error) { return ruby.Write(o.Dir, ruby.Delivery) }
func writeNoop(o Options) (string, error) { return ruby.Write(o.Dir, ruby.Noop) }

// runDelivery compares signed deliveries over kept connections, by http and by https.
func runDelivery(ctx context.Context, o Options) (*Report, error) {
	total := o.Jobs
	if total == 0 {
		total = deliveryJobs
		if o.Quick {
			total = 3000
		}
	}
	db, err := startDatabase(ctx, o)
	if err != nil {
		return nil, err
	}
	defer func() { _ = db.server.Stop() }()

	senders := []sender{
		{name: withOpenSSL, concurrency: 512, perHost: 8},
		{name: withGo, concurrency: 512, perHost: 8, noCgo: true},
		{name: withRuby, ruby: true},
	}
	report := &Report{Values: map[string][]Figure{}}
	signatures := map[string]measure.Series{}
	for _, useTLS := range []bool{false, true} {
		scheme := "http"
		if useTLS {
			scheme = "https"
		}
		cfg := receiver.Config{Hosts: deliveryHosts, TLS: useTLS}
		if o.wants(withRuby) && senders[2].concurrency == 0 {
			if senders[2].concurrency, err = bestRuby(ctx, o, db, cfg, senders[2], total/rubyShare); err != nil {
				return nil, err
			}
		}
		for round := range o.Rounds {
			if err := sign(ctx, o, signatures); err != nil {
				return nil, err
			}
			for _, s := range senders {
				if !o.wants(s.name) {
					continue
				}
				n := total
				if s.ruby {
					n /= rubyShare
				}
				out, err := o.deliver(ctx, db, run{
					sender: s, cfg: cfg, jobs: n, body: deliveryBytes, seed: uint64(round), limit: runLimit, warm: 0.1, //nolint:gosec // small
				})
				if err != nil {
					return nil, err
				}
				o.logf("round %d  %-5s %-20s %7.0f/s  %7.0f µs cpu  (%d signatures checked, %d connections)", round+1, scheme, s.name, out.PerSecond,
					out.CPU, out.counts.Verified, out.counts.Opened)
				report.Values[scheme+" "+s.name] = append(report.Values[scheme+" "+s.name], out.Figure)
			}
		}
	}
	deliveryReport(report, senders, signatures)
	return report, nil
}

// bestRuby finds the concurrency at which the Ruby contender delivers most.
func bestRuby(ctx context.Context, o Options, db *database, cfg receiver.Config, s sender, n int) (best int, err error) {
	top := 0.0
	for _, c := range []int{1, 2, 5, 10, 25} {
		s.concurrency = c
		out, err := o.deliver(ctx, db, run{sender: s, cfg: cfg, jobs: max(300, n/3), body: deliveryBytes, seed: 99, limit: runLimit, warm: 0.1})
		if err != nil {
			return 0, err
		}
		o.logf("sweep    %-16s -c %-4d %7.0f/s  %7.0f µs cpu", s.name, c, out.PerSecond, out.CPU)
		if out.PerSecond > top {
			top, best = out.PerSecond, c
		}
	}
	return best, nil
}

// Names of the bare signature's series.
const (
	signOpenSSL = "OpenSSL, alone"
	signBusy    = "OpenSSL, on every CPU at once"
	signGo      = "crypto/rsa, alone"
)

// sign measures bare signatures, in processes of their own like the contenders.
func sign(ctx context.Context, o Options, into map[string]measure.Series) error {
	length := "2s"
	if o.Quick {
		length = "700ms"
	}
	for name, args := range map[string][]string{signOpenSSL: {"-threads", "1"}, signBusy: {"-threads", "0"}, signGo: {"-threads", "1", "-go"}} {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		out, err := exec.CommandContext(ctx, o.Self, append([]string{"sign", "-length", length}, args...)...).Output() //nolint:gosec // ourselves
		cancel()
		if err != nil {
			return fmt.Errorf("measure signatures: %w", err)
		}
		var s peers.Signed
		if err := json.Unmarshal(out, &s); err != nil {
			return fmt.Errorf("measure signatures: %w", err)
		}
		into[name] = append(into[name], s.CPU)
		o.logf("         bare signature, %-32s %6.0f µs cpu  (%s)", name, s.CPU, s.Signer)
	}
	return nil
}

func deliveryReport(r *Report, senders []sender, signatures map[string]measure.Series) {
	bare := signatures[signOpenSSL].Median()
	rows := [][]string{{"contender", "deliveries/s (least–most)", "CPU µs/delivery", "deliveries per CPU second", "÷ one bare signature", "peak MiB", "CPU, its ÷ ours"}}
	for _, scheme := range []string{"http", "https"} {
		ours := series(r.Values[scheme+" "+withOpenSSL], cpuPerJob).Median()
		for _, s := range senders {
			f := r.Values[scheme+" "+s.name]
			if len(f) == 0 {
				continue
			}
			cpu := series(f, cpuPerJob)
			name := scheme + ", " + s.name
			if s.ruby {
				name = fmt.Sprintf("%s, concurrency %d", name, s.concurrency)
			}
			row := []string{
				name, series(f, perSecond).Range("%.0f"), cpu.Range("%.0f"), fmt.Sprintf("%.0f", 1e6/cpu.Median()), fmt.Sprintf("%.2f", cpu.Median()/bare),
				fmt.Sprintf("%.0f", series(f, func(f Figure) float64 { return f.PeakMiB }).Median()), "",
			}
			if ours > 0 && s.name != withOpenSSL {
				row[6] = fmt.Sprintf("%.2f", cpu.Median()/ours)
			}
			rows = append(rows, row)
		}
		if peer := r.Values[scheme+" "+withRuby]; ours > 0 && len(peer) > 0 {
			r.Targets = append(r.Targets, measure.Target{
				What: scheme + " deliveries per CPU second against Ruby", Want: "≥ 7×", Got: series(peer, cpuPerJob).Median() / ours, Limit: 7,
			})
		}
		if ours > 0 {
			r.Targets = append(r.Targets, measure.Target{
				What: scheme + ": CPU per delivery against one bare OpenSSL signature", Want: "≤ 1.8", Got: ours / bare, Limit: 1.8, Most: true,
			})
		}
	}
	r.Tables = append(r.Tables, Table{Title: fmt.Sprintf("Signed deliveries of 4 kB to %d local hosts over kept connections", deliveryHosts), Rows: rows})
	bares := [][]string{{"bare RSA-2048 signature", "CPU µs"}}
	for _, name := range []string{signOpenSSL, signBusy, signGo} {
		bares = append(bares, []string{name, signatures[name].Range("%.0f")})
	}
	r.Tables = append(r.Tables, Table{Title: "What a signature alone costs", Rows: bares})
}
