package status

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/queueville/queueville/internal/governor"
	"github.com/queueville/queueville/queues"
)

// JournalKey is the stream of changed limits, below Queueville's prefix.
const JournalKey = "scheduler:journal"

// Explanation is what binds the lanes of every worker, and the last changes of their limits, newest first.
type Explanation struct {
	At      time.Time         `json:"at"`
	Workers []ExplainedWorker `json:"workers"`
	Changes []governor.Change `json:"changes"`
}

// ExplainedWorker is one worker. Without limits they are fixed: Concurrency is that of deliveries.
type ExplainedWorker struct {
	Identity    string  `json:"identity"`
	BeatAge     float64 `json:"beat_age_seconds"`
	Concurrency int     `json:"concurrency_limit"`
	Lanes       []Limit `json:"lanes,omitempty"`
	Sides       []Side  `json:"side_lists,omitempty"` // in which something waits
}

// Explain takes one look. lane, if not "", is the only one to be shown; changes at most are listed.
func Explain(ctx context.Context, store *queues.Store, lane string, changes int) (*Explanation, error) {
	s, err := Read(ctx, store)
	if err != nil {
		return nil, err
	}
	e := &Explanation{At: s.At, Workers: []ExplainedWorker{}}
	for i := range s.Processes {
		p := &s.Processes[i]
		if p.Worker == nil {
			continue
		}
		w := ExplainedWorker{Identity: p.Identity, BeatAge: p.BeatAge, Concurrency: p.Worker.Concurrency}
		for _, l := range p.Worker.Limits {
			if lane == "" || l.Lane == lane {
				w.Lanes = append(w.Lanes, l)
			}
		}
		for _, side := range p.Worker.Sides {
			if side.Backlog > 0 && lane == "" {
				w.Sides = append(w.Sides, side)
			}
		}
		e.Workers = append(e.Workers, w)
	}
	if e.Changes, err = governor.ReadJournal(ctx, store.Client(), store.OwnKey(JournalKey), lane, changes); err != nil {
		return nil, err
	}
	return e, nil
}

// meanings say in a sentence what binds a lane.
var meanings = map[string]string{
	"demand":           "everything that could start has started: there is no more to do",
	"starting":         "it is still being found out how much at once does good",
	"no gain":          "more at once brought nothing: what limits it is outside, such as a remote service or a lock",
	"cpu":              "the processors are in use, by this worker's own jobs",
	"cpu of others":    "the processors are in use, and other programs on the host come first",
	"cpu of lanes":     "the processors are in use, and the worker's other jobs have not got their part of them",
	"cpu pressure":     "other programs wait for processors",
	"cpu quota":        "the control group's quota stops its processes time and again",
	"memory":           "memory is short on the host, or in its control group",
	"configured limit": "it stands at what the options allow (--concurrency; --ruby-processes × --ruby-threads)",
	"db connections":   "the lease of database connections has no more; queueville budget shows the sum",
	"ruby threads":     "all threads of the Ruby processes have a job",
	"ruby processes":   "each Ruby process computes on one processor at a time, and there may not be more of them",
	"ruby starts":      "no Ruby process is ready, or another one is starting",
}

// RenderExplanation writes e for people.
func RenderExplanation(w io.Writer, e *Explanation) error {
	var b strings.Builder
	if len(e.Workers) == 0 {
		b.WriteString("no worker is running\n")
	}
	for i := range e.Workers {
		if i > 0 {
			b.WriteByte('\n')
		}
		renderWorker(&b, &e.Workers[i])
	}
	renderChanges(&b, e)
	_, err := io.WriteString(w, b.String())
	return err
}

func renderWorker(b *strings.Builder, w *ExplainedWorker) {
	fmt.Fprintf(b, "%s, as of %.0f s ago\n", name(w.Identity), w.BeatAge)
	if len(w.Lanes) == 0 {
		fmt.Fprintf(b, "  its limits are fixed (%d deliveries at once); --limits adaptive finds them\n", w.Concurrency)
	}
	for i := range w.Lanes {
		l := &w.Lanes[i]
		fmt.Fprintf(b, "  %s: %.4g of at most %d at once, %.4g jobs/s\n", name(l.Lane), l.Running, l.Limit, l.Rate)
		fmt.Fprintf(b, "    bound by %s: %s\n", name(l.Bound), cmp.Or(meanings[l.Bound], "a bound that this version does not know"))
		if v := l.value(); v != "" {
			fmt.Fprintf(b, "    at %s\n", v)
		}
		if l.Gain != nil && l.Unit != "" {
			fmt.Fprintf(b, "    one more %s: about %+.3g jobs/s\n", name(l.Unit), *l.Gain)
		}
		if in := l.Inputs; in != nil {
			fmt.Fprintf(b, "    decided on: %s\n", strings.Join(inputWords(in), ", "))
		}
	}
	renderSides(b, w.Sides)
}

// renderSides says what waits beside its queue, and for what.
func renderSides(b *strings.Builder, sides []Side) {
	for i := range sides {
		s := &sides[i]
		goal := latency(s.GoalSeconds)
		why := "they have " + goal + ", more than others of " + name(s.Queue)
		switch {
		case s.Behind && s.AgeSeconds >= s.GoalSeconds:
			why = "they go behind all others of " + name(s.Queue) + ", but have waited more than " + goal + " and take turns with them"
		case s.Behind:
			why = "they start when no others of " + name(s.Queue) + " wait, or after " + goal
		}
		fmt.Fprintf(b, "  beside %s: %s waiting in %s, the oldest for %s\n    %s\n", name(s.Queue), group(int64(s.Backlog)), name(s.Name), latency(s.AgeSeconds), why)
	}
}

// value is that of what binds, with its unit; "" where the line above says it.
func (l *Limit) value() string {
	switch {
	case l.Bound == "demand":
		return ""
	case l.Unit == "core" && l.Value >= 0:
		return fmt.Sprintf("%.0f %% of the processors", 100*l.Value)
	case l.Unit == "GiB" && l.Value >= 0:
		return mib(int64(min(l.Value, 1<<60))) + " left"
	case l.Unit != "" && l.Value >= 0:
		return fmt.Sprintf("%.4g %s", l.Value, plural(name(l.Unit), l.Value))
	}
	return ""
}

func plural(word string, n float64) string {
	switch {
	case n == 1 || word == "":
		return word
	case strings.HasSuffix(word, "s"):
		return word + "es"
	}
	return word + "s"
}

// inputWords say what is known of what a decision was made on.
func inputWords(in *Inputs) []string {
	var list []string
	add := func(v float64, format string, args ...any) {
		if v >= 0 {
			list = append(list, fmt.Sprintf(format, args...))
		}
	}
	if in.Full > 0 {
		list = append(list, fmt.Sprintf("full %.0f %% of the time", 100*min(in.Full, 1)))
	}
	if in.Wall > 0 {
		list = append(list, fmt.Sprintf("%.3g s a job", in.Wall))
	}
	add(in.Backlog, "%.0f waiting", in.Backlog)
	add(in.Arrivals, "%.3g/s come in", in.Arrivals)
	if in.Goal > 0 && in.Backlog >= 1 {
		list = append(list, fmt.Sprintf("goal %.3g s", in.Goal))
	}
	add(in.CPU, "%.2f cores used", in.CPU)
	add(in.Want, "%.2f wanted", in.Want)
	add(in.HostCPU, "host %.2f of %.4g cores", in.HostCPU, in.Cores)
	add(in.Ours, "%.2f of it ours", in.Ours)
	add(in.Pressure, "CPU pressure %.0f %%", 100*in.Pressure)
	add(in.Quota, "throttled %.0f %%", 100*in.Quota)
	return list
}

func renderChanges(b *strings.Builder, e *Explanation) {
	if len(e.Changes) == 0 {
		return
	}
	b.WriteString("\nlast changes, newest first\n")
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	for i := range e.Changes {
		c := &e.Changes[i]
		_, _ = fmt.Fprintf(t, "  %s\t%s\t%s\t%d → %d\t%s\n", ago(e.At.Sub(c.At)), name(c.Worker), name(c.Lane), c.From, c.To, name(c.Why))
	}
	_ = t.Flush()
}

func ago(d time.Duration) string { return cmp.Or(latency(max(0, d.Seconds())), "-") + " ago" }
