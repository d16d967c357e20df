package suite

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/queueville/queueville/internal/rubyapp"

	"github.com/queueville/queueville/bench/internal/chart"
	"github.com/queueville/queueville/bench/internal/measure"
	"github.com/queueville/queueville/bench/internal/web"
)

const (
	visitCPU   = 7 * time.Millisecond
	visitRate  = 40.0 // a second: 0.28 of a processor
	burnSettle = 12.0 // seconds with us before anything is measured
	burnBefore = 8.0  // seconds measured before the burn
)

// burning is what one round of the burn part saw.
type burning struct {
	alone, beside []web.Visit // while one processor was burned: without us, and with
	calm          []web.Visit // with us, nothing burned
	r             *record
	from          float64 // first job
	begin, end    float64 // of the burn
	before, after float64 // our jobs a second
	during        float64
	recovery      float64 // seconds
}

// runBurn burns one processor beside a web server: how long its requests take with us at work, against how long they take without us under
// the same burn; and how soon we are back when it ends.
func runBurn(ctx context.Context, o Options, report *Report) error {
	b, err := newBed(ctx, o)
	if err != nil {
		return err
	}
	defer b.close()
	site, err := startWeb(ctx, o)
	if err != nil {
		return err
	}
	defer site.stop(5 * time.Second)
	burn, after, rounds := 30.0, 20.0, min(2, o.Rounds)
	if o.Quick {
		burn, after = 14, 12
	}
	var list []*burning
	var ratio, recovery measure.Series
	rows := [][]string{{"round", "burned, without us: p50 / p99 ms", "burned, with us: p50 / p99 ms", "not burned, with us: p50 / p99 ms", "our jobs/s before, during, after", "recovery s"}}
	for round := range rounds {
		got, err := b.burn(ctx, site.url, burn, after, uint64(round)+1) //nolint:gosec // small
		if err != nil {
			return err
		}
		list = append(list, got)
		ratio = append(ratio, percentile(got.beside, 99)/percentile(got.alone, 99))
		recovery = append(recovery, got.recovery)
		ms := func(v []web.Visit) string {
			return fmt.Sprintf("%.1f / %.1f", 1000*percentile(v, 50), 1000*percentile(v, 99))
		}
		rows = append(rows, []string{
			fmt.Sprint(round + 1), ms(got.alone), ms(got.beside), ms(got.calm), fmt.Sprintf("%.0f, %.0f, %.0f", got.before, got.during, got.after), fmt.Sprintf("%.1f", got.recovery),
		})
		var text strings.Builder
		for _, lane := range got.r.lanes() {
			mean, cv := got.r.limit(lane, got.begin, got.end)
			fmt.Fprintf(&text, "; limit of %s %.0f ± %.0f %%: %s", lane, mean, 100*cv, got.r.reasons(lane, got.begin, got.end))
		}
		o.logf("burn round %d: web ms without us %s, with us %s (not burned %s), our jobs/s %s, recovery %.1f s%s", round+1, ms(got.alone), ms(got.beside), ms(got.calm), rows[round+1][4], got.recovery, &text)
	}
	report.Tables = append(report.Tables, Table{
		Title: fmt.Sprintf("One of the processors burned for %.0f s beside a web server with %.0f requests a second of %v processor time each; Ruby jobs always waiting", burn, visitRate, visitCPU), Rows: rows,
	})
	report.Targets = append(report.Targets,
		measure.Target{What: "one processor burned: p99 of the web server with us ÷ without us", Want: "≤ 1.5", Got: ratio.Median(), Limit: 1.5, Most: true},
		measure.Target{What: "seconds after the burn until our throughput is within 10 % of what it was before", Want: "≤ 10", Got: recovery.Median(), Limit: settleLimit, Most: true})
	return drawBurn(o, list[len(list)-1])
}

// burn is one round: first without us, then with us.
func (b *bed) burn(ctx context.Context, url string, burn, after float64, seed uint64) (got *burning, err error) {
	got = &burning{}
	if got.alone, err = b.visitBurned(ctx, url, burn, seed); err != nil {
		return nil, err
	}
	var wg sync.WaitGroup
	var visitErr error
	r, begins, err := b.run(ctx, way{name: partBurn, adaptive: true},
		phase{feeds: []feed{b.ruby("burn", rubyapp.Mixed())}, length: seconds(burnSettle)},
		phase{feeds: []feed{b.ruby("burn", rubyapp.Mixed())}, length: seconds(burnBefore), keep: true, begins: func() {
			wg.Go(func() {
				visits, err := b.o.visit(ctx, url, burnBefore, seed+100)
				if err != nil {
					visitErr = err
				}
				got.calm = visits
			})
		}},
		phase{feeds: []feed{b.ruby("burn", rubyapp.Mixed())}, length: seconds(burn), keep: true, begins: func() {
			wg.Go(func() {
				visits, err := b.visitBurned(ctx, url, burn, seed)
				if err != nil {
					visitErr = err
				}
				got.beside = visits
			})
		}},
		phase{feeds: []feed{b.ruby("burn", rubyapp.Mixed())}, length: seconds(after), keep: true})
	wg.Wait()
	if err != nil || visitErr != nil {
		return nil, fmt.Errorf("beside a web server: %w", cmp.Or(err, visitErr))
	}
	got.r, got.from, got.begin, got.end = r, begins[0], begins[2], begins[3]
	got.before = r.rate(begins[1], begins[2])
	got.during = r.rate(begins[2]+5, begins[3])
	got.after = r.rate(begins[3]+10, r.end())
	got.recovery = r.settled(begins[3], r.end(), got.before)
	return got, nil
}

// visitBurned visits the web server while a processor is burned.
func (b *bed) visitBurned(ctx context.Context, url string, length float64, seed uint64) ([]web.Visit, error) {
	ctx, cancel := context.WithTimeout(ctx, seconds(length+30))
	defer cancel()
	p, err := start(ctx, "burner", nil, b.o.Self, "burn", "-for", seconds(length).String())
	if err != nil {
		return nil, err
	}
	defer p.stop(time.Second)
	return b.o.visit(ctx, url, length, seed)
}

// visit visits the web server from a process of its own.
func (o Options) visit(ctx context.Context, url string, length float64, seed uint64) (list []web.Visit, err error) {
	ctx, cancel := context.WithTimeout(ctx, seconds(length+30))
	defer cancel()
	//nolint:gosec // ourselves
	out, err := exec.CommandContext(ctx, o.Self, "visit", "-url", url, "-rate", fmt.Sprint(visitRate), "-for", seconds(length).String(), "-seed", fmt.Sprint(seed)).Output()
	if err != nil {
		return nil, fmt.Errorf("visit the web server: %w", err)
	}
	if err := json.NewDecoder(bytes.NewReader(out)).Decode(&list); err != nil {
		return nil, fmt.Errorf("visit the web server: %w", err)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("nobody visited the web server: %w", errLost)
	}
	slices.SortFunc(list, func(x, y web.Visit) int {
		if x.At < y.At {
			return -1
		}
		return 1
	})
	return list, nil
}

// site is the web server's process.
type site struct {
	*process
	url string
}

func startWeb(ctx context.Context, o Options) (*site, error) {
	reader, writer := io.Pipe()
	p, err := startTo(ctx, "web server", writer, nil, o.Self, "web", "-cpu", visitCPU.String())
	if err != nil {
		return nil, err
	}
	line := make(chan string, 1)
	go func() {
		text, _ := bufio.NewReader(reader).ReadString('\n')
		line <- strings.TrimSpace(text)
		_, _ = io.Copy(io.Discard, reader)
	}()
	select {
	case url := <-line:
		return &site{p, url}, nil
	case <-p.done:
		return nil, p.failed()
	case <-time.After(10 * time.Second):
		p.stop(time.Second)
		return nil, fmt.Errorf("the web server does not listen: %w", errLost)
	}
}

// percentile is the time that so many percent of the visits took at most, in seconds.
func percentile(list []web.Visit, p int) float64 {
	took := make([]float64, len(list))
	for i, v := range list {
		took[i] = v.Took
	}
	slices.Sort(took)
	return took[min(len(took)-1, len(took)*p/100)]
}

// drawBurn draws one round.
func drawBurn(o Options, got *burning) error {
	panel := chart.Panel{Title: "web server, milliseconds", X: "seconds", To: got.r.end() - got.from, Bands: []chart.Band{{From: got.begin - got.from, To: got.end - got.from}}}
	add := func(name string, colour int, list []web.Visit, from float64) {
		const span = 3.0 // seconds of which the slowest twentieth shows
		var points []chart.Point
		for at := 0.0; at < list[len(list)-1].At; at += span {
			var part []web.Visit
			for _, v := range list {
				if v.At >= at && v.At < at+span {
					part = append(part, v)
				}
			}
			if len(part) > 0 {
				points = append(points, chart.Point{X: from - got.from + at + span/2, Y: 1000 * percentile(part, 95)})
			}
		}
		panel.Curves = append(panel.Curves, chart.Curve{Name: name, Colour: colour, Points: points, Dots: true})
	}
	add("p95 with us", chart.Blue, got.beside, got.begin)
	add("p95 without us", chart.Orange, got.alone, got.begin)
	add("", chart.Blue, got.calm, got.begin-burnBefore)
	return drawRun(o, "scheduler-burn", "One processor burned by another process", got.r, got.from, []band{{from: got.begin, to: got.end}}, []chart.Panel{panel})
}
