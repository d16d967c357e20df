package demo

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
)

const (
	lineEvery = 3 * time.Second // without a terminal
	barWidth  = 24
	rateSpan  = 2 * time.Second // that the shown rate is of
)

// reporter tells on Err how far the demo is: a bar on a terminal, else a line every few seconds. It is used by one goroutine.
type reporter struct {
	o       *Options
	style   style
	bar     *progressbar.ProgressBar
	since   time.Time // the current step's start
	running string    // the current step's words, "" between steps
	lastOut time.Time

	rateAt time.Time
	rateOf int
	rate   float64
}

func newReporter(o *Options) *reporter {
	return &reporter{o: o, style: style{on: o.IsTerminal && !o.NoColor}}
}

func (r *reporter) printf(format string, args ...any) {
	_, _ = fmt.Fprintf(r.o.Err, format, args...) // a closed pipe must not end the demo: its cleaning up matters more
}

// title says what is about to happen.
func (r *reporter) title() {
	r.printf("%s %s deliveries to %s synthetic hosts, seed %d\n\n", r.style.bold("queueville demo"), count(r.o.Jobs), count(r.o.Hosts), r.o.Seed)
}

// start begins a step; on a terminal its words stand there until done replaces them.
func (r *reporter) start(what string) {
	if r.since.IsZero() || r.running == "" {
		r.since = time.Now()
	}
	r.running = what
	if r.o.IsTerminal {
		r.printf("\r\033[K  %s %s …", r.style.dim("·"), what)
	}
}

// done ends the current step.
func (r *reporter) done(what string) {
	if r.o.IsTerminal {
		r.printf("\r\033[K")
	}
	r.printf("  %s %-52s %s\n", r.style.green("✓"), what, r.style.dim(seconds(time.Since(r.since))))
	r.since, r.running = time.Now(), ""
}

// abort leaves the terminal's line usable.
func (r *reporter) abort() {
	if r.o.IsTerminal && (r.running != "" || r.bar != nil) {
		r.printf("\r\033[K")
	}
}

// progress shows how many jobs have had their first outcome: what the receivers accepted, and what the last look found besides.
func (r *reporter) progress(t *tracker, stats WorkerStats) {
	total := t.site.fedi.Total()
	settled := min(max(int(total.Accepted-total.Duplicates)+t.others, len(t.jobs)-len(t.pending)), len(t.jobs))
	if len(t.pending) > 0 {
		settled = min(settled, len(t.jobs)-1)
	}
	now := time.Now()
	if r.rateAt.IsZero() {
		r.rateAt, r.lastOut = now, now
	}
	if span := now.Sub(r.rateAt); span >= rateSpan {
		r.rate, r.rateAt, r.rateOf = float64(int(total.Accepted)-r.rateOf)/span.Seconds(), now, int(total.Accepted)
	}
	words := fmt.Sprintf("%s delivered · %s retrying · %s held · %s/s",
		count(int(total.Accepted-total.Duplicates)), count(int(stats.Retrying)), count(int(stats.Held)), count(int(r.rate)))
	if r.o.IsTerminal {
		r.drawBar(len(t.jobs), settled, words)

		return
	}
	if now.Sub(r.lastOut) >= lineEvery {
		r.lastOut = now
		r.printf("  %3d %%  %s\n", settled*100/len(t.jobs), words)
	}
}

func (r *reporter) drawBar(jobs, settled int, words string) {
	if r.bar == nil {
		r.bar = progressbar.NewOptions(
			jobs,
			progressbar.OptionSetWriter(r.o.Err), progressbar.OptionSetWidth(min(barWidth, max(r.o.Width-66, 8))),
			progressbar.OptionEnableColorCodes(r.style.on), progressbar.OptionUseANSICodes(true),
			progressbar.OptionShowDescriptionAtLineEnd(), progressbar.OptionSetElapsedTime(false), progressbar.OptionSetPredictTime(false),
			progressbar.OptionClearOnFinish(),
			progressbar.OptionSetTheme(progressbar.Theme{
				Saucer: r.style.code("[green]") + "━" + r.style.code("[reset]"), SaucerPadding: r.style.code("[dark_gray]") + "─" + r.style.code("[reset]"),
				BarStart: " ", BarEnd: " ",
			}),
		)
	}
	// The bar ends when it is full, and the demo when the worker has stopped.
	r.bar.Describe(words)
	_ = r.bar.Set(min(settled, jobs-1)) // fails only when the terminal is gone
}

// stopping says that the worker is being stopped.
func (r *reporter) stopping() {
	if r.bar != nil {
		r.bar.Describe("stopping the worker")
	}
}

// delivered ends the bar's line.
func (r *reporter) delivered(left int) {
	if r.bar != nil {
		_ = r.bar.Clear() // fails only when the terminal is gone
	}
	if left == 0 {
		r.done("every job had its first outcome, worker stopped")
	} else {
		r.done("worker stopped, " + count(left) + " jobs still to be tried")
	}
	r.printf("\n")
}

// style writes in colours, or not.
type style struct{ on bool }

func (s style) paint(code, text string) string {
	if !s.on {
		return text
	}

	return "\033[" + code + "m" + text + "\033[0m"
}

func (s style) bold(text string) string   { return s.paint("1", text) }
func (s style) dim(text string) string    { return s.paint("2", text) }
func (s style) red(text string) string    { return s.paint("31", text) }
func (s style) green(text string) string  { return s.paint("32", text) }
func (s style) yellow(text string) string { return s.paint("33", text) }

// code is a colour code of the progress bar's own kind.
func (s style) code(code string) string {
	if !s.on {
		return ""
	}

	return code
}

// count writes a number with its thousands apart: 12,345.
func count(n int) string {
	digits := strconv.Itoa(n)
	if n < 0 {
		return "-" + count(-n)
	}
	var b strings.Builder
	for i, digit := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(digit)
	}

	return b.String()
}

// seconds writes a duration as 1.2 s.
func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + " s" }
