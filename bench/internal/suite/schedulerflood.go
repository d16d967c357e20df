package suite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/queueville/queueville/internal/rubyapp"
	"github.com/queueville/queueville/scheduler"
	"github.com/redis/go-redis/v9"

	"github.com/queueville/queueville/bench/internal/chart"
	"github.com/queueville/queueville/bench/internal/measure"
)

// stream is jobs of one class on one queue that come at a steady rate, at random moments.
type stream struct {
	class string
	queue string // "": the class's own
	rate  float64
	flood float64 // rate while the flood lasts; 0: the same
	args  []any   // nil: as the mix makes them
}

// floodStreams is a server with a good deal to do: without the flood two fifths of what one Ruby process manages are asked of it by default
// alone. What push holds computes, as deliveries in Ruby do.
func floodStreams() []stream {
	return []stream{
		{class: rubyapp.FeedInsert, rate: 70},
		{class: rubyapp.PushUpdate, rate: 70},
		{class: rubyapp.Burn, queue: "push", rate: 10, args: []any{5}},
		{class: rubyapp.Processing, rate: 10, flood: 500},
		{class: rubyapp.LinkCrawl, rate: 3},
	}
}

// arrival is one job of the trace.
type arrival struct {
	at  float64 // seconds
	job rubyapp.Job
}

// trace is what arrives: for every contender the same.
type trace struct {
	arrivals   []arrival
	begin, end float64 // of the flood
	length     float64
}

func makeTrace(mixes map[string]*rubyapp.Mix, length float64) trace {
	t := trace{begin: 5, end: length - 8, length: length}
	rng := rand.New(rand.NewPCG(4, 2)) //nolint:gosec // the same for all
	for _, s := range floodStreams() {
		mix := mixes[s.class]
		for at := 0.0; ; {
			rate := s.rate
			if s.flood > 0 && at >= t.begin && at < t.end {
				rate = s.flood
			}
			if at += rng.ExpFloat64() / rate; at >= length {
				break
			}
			j := mix.Next()
			j.Queue, j.JID = s.queue, fmt.Sprintf("%024x", rng.Uint64())
			if s.args != nil {
				j.Args = s.args
			}
			t.arrivals = append(t.arrivals, arrival{at, j})
		}
	}
	slices.SortStableFunc(t.arrivals, func(a, b arrival) int {
		switch {
		case a.at < b.at:
			return -1
		case a.at > b.at:
			return 1
		}
		return 0
	})
	return t
}

// waited is what became of one job.
type waited struct {
	enqueued float64 // seconds of the trace
	wait     float64 // until it started, or until the end if it did not
	started  bool
	goal     float64
	queue    string
}

// flooded is what one contender made of the trace.
type flooded struct {
	name    string
	jobs    []waited
	backlog []chart.Point // of ingress
	done    int
}

// runFlood floods ingress and looks how long the jobs of default wait for their start: by goals, and in stock Sidekiq.
func runFlood(ctx context.Context, o Options, report *Report) error {
	b, err := newBed(ctx, o)
	if err != nil {
		return err
	}
	defer b.close()
	length := 50.0
	if o.Quick {
		length = 28
	}
	mixes := map[string]*rubyapp.Mix{}
	for i, s := range floodStreams() {
		mixes[s.class] = rubyapp.NewMix(uint64(i)+1, b.db.data.Accounts, rubyapp.Share{Class: s.class, Parts: 1}) //nolint:gosec // small
	}
	t := makeTrace(mixes, length)
	contenders := []struct {
		name string
		s    setting
	}{{fullSidekiq, setting{1, 25}}, {fullQueueville, setting{}}}
	if !o.Quick {
		contenders = append(contenders, struct {
			name string
			s    setting
		}{fullSidekiq, setting{2, 25}})
	}
	goals := scheduler.MastodonGoals()
	rows := [][]string{{"ingress flooded", "jobs started", "default within 5 s", "its p99 s", "push within 10 s", "pull within 5 min"}}
	var list []flooded
	for _, c := range contenders {
		got, err := b.flood(ctx, c.name, c.s, t, goals)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		got.name = "Queueville, by goals"
		if c.name == fullSidekiq {
			got.name = fmt.Sprintf("stock Sidekiq, %v", c.s)
		}
		share, p99 := within(got.jobs, "default")
		push, _ := within(got.jobs, "push")
		pull, _ := within(got.jobs, "pull")
		o.logf("flood %-24s %d jobs started, default within its goal: %.1f %%, p99 %.1f s", got.name, got.done, share, p99)
		rows = append(rows, []string{
			got.name, fmt.Sprint(got.done), fmt.Sprintf("%.1f %%", share), fmt.Sprintf("%.2f", p99), fmt.Sprintf("%.1f %%", push), fmt.Sprintf("%.1f %%", pull),
		})
		if c.name == fullQueueville {
			report.Targets = append(report.Targets, measure.Target{What: "ingress flooded, by goals: default jobs started within their goal, %", Want: "≥ 99", Got: share, Limit: 99})
		} else if c.s.processes == 1 {
			report.Targets = append(report.Targets, measure.Target{
				What: "the same trace, one stock Sidekiq -c 25 with Mastodon's weights, % (the trace must be hard for it)", Want: "< 99", Got: share, Limit: 99, Most: true,
			})
		}
		list = append(list, got)
	}
	report.Tables = append(report.Tables, Table{
		Title: fmt.Sprintf("Flood of ingress: 500/s from second %.0f to %.0f beside default 140/s, push 10/s, pull 3/s; all of it in Ruby", t.begin, t.end), Rows: rows,
	})
	return drawFlood(o, t, list)
}

// within is the share of a queue's jobs that started within their goal, in percent, and the 99th percentile of their wait. Those of which it is not known count not.
func within(list []waited, queue string) (share, p99 float64) {
	var waits []float64
	met := 0
	for _, w := range list {
		if w.queue != queue || !w.started && w.wait <= w.goal {
			continue
		}
		waits = append(waits, w.wait)
		if w.wait <= w.goal {
			met++
		}
	}
	if len(waits) == 0 {
		return 100, 0
	}
	slices.Sort(waits)
	return 100 * float64(met) / float64(len(waits)), waits[len(waits)*99/100]
}

// flood runs one contender through the trace.
func (b *bed) flood(ctx context.Context, name string, s setting, t trace, goals scheduler.Goals) (got flooded, err error) {
	ctx, cancel := context.WithTimeout(ctx, seconds(t.length+60))
	defer cancel()
	if err := errors.Join(b.client.FlushDB(ctx).Err(), b.reset(ctx)); err != nil {
		return got, fmt.Errorf("begin anew: %w", err)
	}
	env := append(b.env(b.server), "RUBYAPP_RECORD=all")
	var list []*process
	defer func() {
		for _, p := range list {
			p.stop(15 * time.Second)
		}
	}()
	if name == fullQueueville {
		p, err := b.startQueueville(ctx, env, s, "--policy", "goals", "--limits", "adaptive")
		if err != nil {
			return got, err
		}
		list = append(list, p)
	} else if list, err = b.startSidekiq(ctx, env, s); err != nil {
		return got, err
	}
	if err := up(ctx, b.client, list); err != nil {
		return got, err
	}
	const warm = 100
	r := runner{f: b.full, name: name, client: b.client, processes: list, mix: rubyapp.NewMix(99, b.db.data.Accounts, rubyapp.Mixed()...)}
	if _, err := r.work(ctx, warm); err != nil {
		return got, err
	}
	start := time.Now()
	if got.backlog, err = b.play(ctx, t, start, list); err != nil {
		return got, err
	}
	return b.judge(ctx, t, start, goals, got)
}

// play enqueues the trace, each job at its moment.
func (b *bed) play(ctx context.Context, t trace, start time.Time, list []*process) (backlog []chart.Point, err error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	next, looked := 0, -1.0
	for {
		now := time.Since(start).Seconds()
		pipe := b.client.Pipeline()
		for ; next < len(t.arrivals) && t.arrivals[next].at <= now; next++ {
			payload, _, queue := t.arrivals[next].job.Payload(time.Now())
			pipe.SAdd(ctx, "queues", queue)
			pipe.LPush(ctx, "queue:"+queue, payload)
		}
		waiting := pipe.LLen(ctx, "queue:ingress")
		if _, err := pipe.Exec(ctx); err != nil {
			return backlog, fmt.Errorf("enqueue: %w", err)
		}
		if now-looked >= lookEvery.Seconds() {
			looked = now
			backlog = append(backlog, chart.Point{X: now, Y: float64(waiting.Val())})
		}
		if now >= t.length {
			return backlog, nil
		}
		select {
		case <-ctx.Done():
			return backlog, ctx.Err()
		case <-tick.C:
		}
		if err := alive(list); err != nil {
			return backlog, err
		}
	}
}

// judge reads when each job started.
func (b *bed) judge(ctx context.Context, t trace, start time.Time, goals scheduler.Goals, got flooded) (flooded, error) {
	texts, err := b.client.LRange(ctx, "ran:started", 0, -1).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return got, fmt.Errorf("read what started: %w", err)
	}
	started := make(map[string]float64, len(texts))
	for _, text := range texts {
		var begun rubyapp.Begun
		if err := json.Unmarshal([]byte(text), &begun); err != nil {
			return got, fmt.Errorf("read what started: %w", err)
		}
		if _, again := started[begun.JID]; !again {
			started[begun.JID] = begun.At - float64(start.UnixMicro())/1e6
		}
	}
	for _, a := range t.arrivals {
		_, _, queue := a.job.Payload(start)
		at, yes := started[a.job.JID]
		w := waited{enqueued: a.at, wait: t.length - a.at, goal: goals.Place(queue, a.job.Class, "[]").Goal.Seconds(), queue: queue}
		if yes && at <= t.length {
			w.wait, w.started = max(0, at-a.at), true
			got.done++
		}
		got.jobs = append(got.jobs, w)
	}
	return got, nil
}

// drawFlood draws how long default waited, and what waited in ingress.
func drawFlood(o Options, t trace, list []flooded) error {
	colours := []int{chart.Orange, chart.Blue, chart.Grey}
	waits := chart.Panel{
		Title: "longest wait of default jobs, seconds", X: "seconds, by when they were enqueued", Bands: []chart.Band{{From: t.begin, To: t.end}}, To: t.length,
		Guides: []chart.Curve{{Name: "goal", Colour: chart.Green, Points: []chart.Point{{Y: 5}}}},
	}
	backlog := chart.Panel{Title: "jobs waiting in ingress", X: "seconds", Bands: waits.Bands, To: t.length}
	for i, c := range list {
		worst := make([]float64, int(t.length)+1)
		known := int(t.length) - 1 // the last second all of whose jobs have started
		for _, w := range c.jobs {
			if w.queue != "default" {
				continue
			}
			second := int(w.enqueued)
			worst[second] = max(worst[second], w.wait)
			if !w.started {
				known = min(known, second)
			}
		}
		var points []chart.Point
		for second, v := range worst[:known] {
			points = append(points, chart.Point{X: float64(second) + 0.5, Y: v})
		}
		waits.Curves = append(waits.Curves, chart.Curve{Name: c.name, Colour: colours[i], Points: points})
		backlog.Curves = append(backlog.Curves, chart.Curve{Colour: colours[i], Points: c.backlog})
	}
	return o.draw("scheduler-flood", chart.Figure{Title: "Ingress flooded: how long default waits", Columns: 2, Panels: []chart.Panel{waits, backlog}})
}
