package demo

import (
	"fmt"
	"io"
	"strconv"
	"strings"
)

// aboutWidth is the columns from which the table has room to say what the classes do.
const aboutWidth = 108

// writeText prints the summary for a person.
func writeText(o *Options, s *Summary) error {
	p := &page{w: o.Out, style: style{on: o.OutIsTerminal && !o.NoColor}}
	p.headline(s)
	p.fates(s)
	p.checks(s)
	p.speed(s)
	p.classes(s, o.Width >= aboutWidth)
	p.next(s)

	return p.err
}

// page writes lines and keeps the first error.
type page struct {
	w     io.Writer
	style style
	err   error
}

func (p *page) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format, args...)
	}
}

func (p *page) headline(s *Summary) {
	switch {
	case s.Interrupted:
		p.printf("%s after %.1f s. What follows is true, but of a part.\n\n", p.style.yellow("Interrupted"), s.TotalSeconds)
	case s.Clean:
		p.printf("%s in %.1f s: every job is accounted for.\n\n", p.style.green("Done"), s.TotalSeconds)
	default:
		p.printf("%s after %.1f s.\n\n", p.style.red("NOT CLEAN"), s.TotalSeconds)
	}
}

func (p *page) fates(s *Summary) {
	line := func(name string, n int, about string) {
		share := ""
		if s.Jobs > 0 {
			share = fmt.Sprintf("%.1f %%", 100*float64(n)/float64(s.Jobs))
		}
		p.printf("  %-12s %9s %8s   %s\n", name, count(n), share, p.style.dim(about))
	}
	line("delivered", s.Delivered, "taken by a receiver, signature right")
	line("retrying", s.Retrying, "tried, failed; in Sidekiq's retry set")
	line("held", s.Held, "host down or busy: stored untried")
	line("given up", s.GivenUp+s.Unavailable, "a final no (4xx, 501), or unavailable")
	if s.Waiting > 0 {
		line("waiting", s.Waiting, "in its queue when the worker stopped")
	}
	name, number := "lost", count(s.Lost)
	about := p.style.dim("each looked for in Redis and outside")
	paint := p.style.green
	if s.Lost > 0 {
		paint = p.style.red
	}
	p.printf("  %s %s %8s   %s\n", paint(fmt.Sprintf("%-12s", name)), paint(fmt.Sprintf("%9s", number)), "", about)
	for i, jid := range s.LostJIDs {
		if i == 10 {
			p.printf("    … and %s more\n", count(s.Lost-i))

			break
		}
		p.printf("    %s\n", jid)
	}
	p.printf("\n")
}

func (p *page) checks(s *Summary) {
	number := func(n uint64, what string) string {
		text := count(int(n)) + " " + what
		if n > 0 {
			return p.style.red(text)
		}

		return text
	}
	parts := []string{
		number(s.BadSignatures, "bad signatures"), number(s.BadDigests, "bad digests"), number(s.Duplicates, "duplicates"),
	}
	if n := len(s.DoubledJIDs); n > 0 {
		parts = append(parts, p.style.red(count(n)+" jobs in two places"))
	}
	if s.Untried > 0 {
		parts = append(parts, p.style.red(count(s.Untried)+" untried"))
	}
	p.printf("  checked        %s\n", strings.Join(parts, " · "))
	if s.Requests > 0 {
		p.printf("  requests       %s · %d %% over HTTP/2 · %s second knocks\n",
			count(int(s.Requests)), s.HTTP2Requests*100/s.Requests, count(int(s.SecondKnocks)))
	}
}

func (p *page) speed(s *Summary) {
	p.printf("  speed          %s deliveries/s%s\n", p.style.bold(count(int(s.DeliveriesPerSecond))), signedBy(s.Signer))
	p.printf("  first outcome  p50 %s · p99 %s %s\n", duration(s.FirstOutcomeP50Ms), duration(s.FirstOutcomeP99Ms), p.style.dim("(from enqueueing)"))
	p.printf("  request        p50 %s · p99 %s %s\n\n", duration(s.RequestP50Ms), duration(s.RequestP99Ms), p.style.dim("(measured by the "+s.RequestMeasuredBy+")"))
}

func signedBy(signer string) string {
	if signer == "" {
		return ""
	}

	return ", signed by " + signer
}

// classes prints the table; about adds a column that says what the hosts of a class do.
func (p *page) classes(s *Summary, about bool) {
	head := fmt.Sprintf("  %-12s %5s %7s %9s %8s %6s %8s %8s %6s", "hosts", "", "jobs", "delivered", "retrying", "held", "given up", "median", "peak")
	if about {
		head += "  these hosts"
	}
	p.printf("%s\n", p.style.dim(head))
	for i := range s.Classes {
		c := &s.Classes[i]
		row := fmt.Sprintf("  %-12s %5s %7s %9s %8s %6s %8s %8s %6s",
			c.Name, count(c.Hosts), count(c.Jobs), cell(c.Delivered), cell(c.Retrying), cell(c.Held), cell(c.GivenUp+c.Unavailable),
			median(c), cell(int(c.PeakInFlight)))
		if about {
			row += "  " + p.style.dim(c.About)
		}
		p.printf("%s\n", row)
	}
	p.printf("\n")
	p.downHosts(s)
}

// downHosts says what the jobs for hosts that are down cost: the point of holding them.
func (p *page) downHosts(s *Summary) {
	var hosts, tried, held int
	for i := range s.Classes {
		if c := &s.Classes[i]; c.Delivered == 0 && c.Held > 0 {
			hosts, tried, held = hosts+c.Hosts, tried+c.Retrying, held+c.Held
		}
	}
	if held > 0 {
		p.printf("  %s hosts took nothing: %s of %s jobs for them were tried at all.\n\n",
			count(hosts), count(tried), count(tried+held))
	}
}

// next says where to go from here.
func (p *page) next(s *Summary) {
	p.printf("%s\n", p.style.bold("What to look at next"))
	item := func(command, about string) { p.printf("  %-41s %s\n", command, p.style.dim(about)) }
	if s.Dir != "" {
		item(s.Dir+"/worker.log", "what the worker had to say")
	}
	item("queueville work --check --mastodon DIR", "is your configuration fit?")
	item("queueville work --shadow --mastodon DIR", "looks and signs, sends nothing")
	item("queueville demo --jobs 50000 --hosts 1000", "the same, larger")
	item("docs/demo.md", "what each line above means")
}

// cell writes a number of the table: nothing is a dot, so that the eye finds what there is.
func cell(n int) string {
	if n == 0 {
		return "·"
	}

	return count(n)
}

// median writes a class's median time, a dot when nothing was measured.
func median(c *ClassSummary) string {
	if c.Requests == 0 {
		return "·"
	}

	return duration(c.MedianMs)
}

// duration writes milliseconds with two digits that matter: 0.4 ms, 12 ms, 1.3 s.
func duration(ms float64) string {
	switch {
	case ms < 1:
		return strconv.FormatFloat(ms, 'f', 1, 64) + " ms"
	case ms < 1000:
		return strconv.FormatFloat(ms, 'f', 0, 64) + " ms"
	default:
		return strconv.FormatFloat(ms/1000, 'f', 1, 64) + " s"
	}
}
