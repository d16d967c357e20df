package status

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"
)

// Render writes s for people.
func Render(w io.Writer, s *Status) error {
	var b strings.Builder
	renderQueues(&b, s)
	fmt.Fprintf(&b, "\nscheduled %s   retries %s   dead %s   processed %s   failed %s\n\n", group(s.Sets.Scheduled), group(s.Sets.Retries), group(s.Sets.Dead),
		group(s.Sets.Processed), group(s.Sets.Failed))
	renderProcesses(&b, s)
	for _, note := range s.Notes {
		fmt.Fprintf(&b, "note: %s\n", cut(note, noteRunes))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func renderQueues(b *strings.Builder, s *Status) {
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', tabwriter.AlignRight|tabwriter.StripEscape)
	_, _ = fmt.Fprintln(t, "QUEUE\tBACKLOG\tLATENCY\tSERVED BY\t")
	for _, q := range s.Queues {
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t\n", name(q.Name), group(q.Backlog), latency(q.LatencySeconds), servedBy(q))
	}
	_ = t.Flush()
	if len(s.Queues) == 0 {
		b.WriteString("  no queue yet\n")
	}
}

func servedBy(q Queue) string {
	var parts []string
	if n := len(q.Owned); n > 0 {
		parts = append(parts, fmt.Sprintf("%d queueville", n))
	}
	if n := len(q.Shared); n > 0 {
		parts = append(parts, fmt.Sprintf("%d queueville (shared)", n))
	}
	if q.Ruby > 0 {
		parts = append(parts, fmt.Sprintf("%d ruby", q.Ruby))
	}
	if q.Paused {
		parts = append(parts, "paused")
	}
	if q.Of != "" {
		parts = append(parts, "beside "+name(q.Of))
	}
	if len(parts) == 0 {
		return "nobody"
	}
	return strings.Join(parts, ", ")
}

func renderProcesses(b *strings.Builder, s *Status) {
	if len(s.Processes) == 0 {
		b.WriteString("no process is running\n")
		return
	}
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "PROCESS\tKIND\tBUSY\tQUEUES\tMEMORY\tBEAT")
	fed := map[fedBy]*Process{}
	for i := range s.Processes {
		if p := &s.Processes[i]; p.FedBy != "" {
			fed[fedBy{p.FedBy, p.PID}] = p
		}
	}
	for i := range s.Processes {
		p := &s.Processes[i]
		if p.FedBy != "" {
			continue // shown below its worker
		}
		kind, busy, served := "ruby", fmt.Sprintf("%d/%d", p.Busy, p.Concurrency), p.Queues
		if p.Worker != nil {
			kind = "queueville"
			busy = fmt.Sprintf("%d/%d (+%d waiting)", p.Worker.Running, p.Worker.Concurrency, p.Worker.Waiting)
			served = slices.Clone(p.Worker.Owned)
			for _, q := range p.Worker.Shared {
				served = append(served, q+" (shared)")
			}
		}
		if p.Quiet {
			kind += ", quiet"
		}
		if p.silent() {
			kind += ", silent"
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d MiB\t%.0f s ago\n", name(p.Identity), kind, busy, names(served), p.RSSKB/1024, p.BeatAge)
		if p.Worker != nil {
			for i := range p.Worker.Limits {
				_, _ = fmt.Fprintf(t, "  its limit: %s\t\t%d\t%s\t\t-\n", name(p.Worker.Limits[i].Lane), p.Worker.Limits[i].Limit, cut(p.Worker.Limits[i].explain(), noteRunes))
			}
		}
		if p.Worker != nil {
			renderDestinations(t, p.Worker)
		}
		if p.Worker != nil && p.Worker.Database != nil {
			renderLease(t, p.Worker.Database)
		}
		if p.Worker != nil && p.Worker.Ruby != nil {
			renderRuby(t, p, fed)
		}
	}
	_ = t.Flush()
	b.WriteByte('\n')
}

// fedBy names a Ruby process by its worker and pid.
type fedBy struct {
	worker string
	pid    int
}

// explain says what binds a lane, and what more of it would give.
func (l *Limit) explain() string {
	if l.Bound == "demand" {
		return fmt.Sprintf("not needed: %.1f running, %.1f jobs/s", l.Running, l.Rate)
	}
	value := fmt.Sprintf("%.4g", l.Value)
	switch l.Unit {
	case "core":
		value = fmt.Sprintf("%.0f %%", 100*l.Value)
	case "GiB":
		value = mib(int64(min(max(l.Value, 0), 1<<60))) + " left"
	}
	text := fmt.Sprintf("%s (%s), %.1f jobs/s", printable(l.Bound), value, l.Rate)
	if l.Gain != nil && l.Unit != "" {
		text += fmt.Sprintf("; one more %s: about %+.1f", printable(l.Unit), *l.Gain)
	}
	return text
}

// renderLease shows a worker's part of the connection budget below it.
func renderLease(w io.Writer, d *Lease) {
	text := fmt.Sprintf("%d leased of %d", d.Leased, d.Budget)
	if d.Limit != d.Leased {
		text += fmt.Sprintf(" (%d may be open)", d.Limit)
	}
	text += fmt.Sprintf(": %d open, %d in use", d.Open, d.InUse)
	if d.Ruby > 0 {
		text += fmt.Sprintf(", %d for Ruby", d.Ruby)
	}
	if d.Waiting > 0 {
		text += fmt.Sprintf(", %d waited for", d.Waiting)
	}
	_, _ = fmt.Fprintf(w, "  its database connections\t\t\t%s\t\t-\n", text)
}

// renderRuby shows the Ruby processes of a worker below it: one line for what they do together, one for each.
func renderRuby(w io.Writer, p *Process, fed map[fedBy]*Process) {
	r := p.Worker.Ruby
	var total int64
	for i := range r.Processes {
		total += max(0, r.Processes[i].PSSBytes)
	}
	_, _ = fmt.Fprintf(w, "  its Ruby\t\t%d/%d (+%d waiting)\t\t%s\t-\n", r.Running, r.Threads, r.Waiting, mib(total))
	shown := r.Processes[:min(len(r.Processes), rubyRows)]
	for i := range shown {
		c := &shown[i]
		id, most, beat := fmt.Sprintf("pid %d", c.PID), "", "-"
		if q := fed[fedBy{p.Identity, c.PID}]; q != nil {
			id, most, beat = name(q.Identity), fmt.Sprintf("/%d", q.Concurrency), fmt.Sprintf("%.0f s ago", q.BeatAge)
		} else if c.PID <= 0 {
			id = "not started yet"
		}
		kind := "ruby"
		if c.State != "serving" {
			kind += ", " + name(c.State)
		}
		if c.Cron {
			kind += ", cron"
		}
		_, _ = fmt.Fprintf(w, "    %s\t%s\t%d%s\t\t%s\t%s\n", id, kind, c.Running, most, mib(c.PSSBytes), beat)
	}
	if more := len(r.Processes) - len(shown); more > 0 {
		_, _ = fmt.Fprintf(w, "    and %d more\n", more)
	}
}

// mib prints the memory of a Ruby process. PSS counts what processes share once, so the parts may be added up.
func mib(bytes int64) string {
	if bytes <= 0 {
		return "-"
	}
	return fmt.Sprintf("%d MiB", bytes>>20)
}

// latency prints seconds the way people say them.
func latency(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case seconds == 0:
		return "-"
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%.1f s", seconds)
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0f min", d.Minutes())
	default:
		return fmt.Sprintf("%.1f h", d.Hours())
	}
}

// group prints a number with thousands separated.
func group(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// How much of a name, of a note and of a list is shown: real ones are shorter, and a long one would break every line of its table.
const (
	nameRunes = 80
	noteRunes = 400
	rubyRows  = 100 // Ruby processes of one worker
)

// name is printable, and short enough for a table.
func name(s string) string { return cut(s, nameRunes) }

// cut is s printable, and at most n characters of it.
func cut(s string, n int) string {
	for i := range s {
		if n--; n < 0 {
			return printable(s[:i]) + "…"
		}
	}
	return printable(s)
}

// names are several of them.
func names(list []string) string {
	short := make([]string, len(list))
	for i := range list {
		short[i] = name(list[i])
	}
	return strings.Join(short, " ")
}

// printable keeps names that come from Redis from steering the terminal: no control characters, none that turn the direction of
// writing, none that are invisible, no broken UTF-8.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}
