package status

import (
	"fmt"
	"io"
	"strings"
)

// Destinations is what a worker knows of the hosts that it delivers to.
type Destinations struct {
	Known     int           `json:"known"`
	Down      int           `json:"down"`            // broken: only probes go there
	Holding   int           `json:"holding"`         // asked for patience
	Reopening int           `json:"reopening"`       // came back lately and get their requests at a growing rate
	Limited   int           `json:"limited"`         // had as many requests at once as they may, in the last ten seconds, and more waited
	Bound     []Destination `json:"bound,omitempty"` // some that could have got more, and what binds them
}

// Destination is one that could have got more requests lately, and why it did not.
type Destination struct {
	Host      string   `json:"host"`
	Bound     string   `json:"bound"` // limit, reopening, retry-after or down
	Value     float64  `json:"value"` // of what binds, in units
	Unit      string   `json:"unit"`  // request at once, request a second, second (until the next try)
	Gain      *float64 `json:"gain,omitempty"`
	InFlight  int      `json:"in_flight"`
	Waiting   int      `json:"waiting"`              // jobs in the worker's hands
	Retries   int      `json:"retries"`              // of these, jobs that have failed before
	Peak      float64  `json:"peak_per_second"`      // the most it answered in its last good minute; 0: nothing is known
	LastError string   `json:"last_error,omitempty"` // kind, where it is down or asked for patience
}

// Retries is what jobs that have failed before take of a worker. Shares are of 1.
type Retries struct {
	Share   float64 `json:"share"` // of starts and slots, while others want them
	Used    float64 `json:"used"`  // of the time that slots were held, lately
	Running int     `json:"running"`
	Waiting int     `json:"waiting"`
	Slots   int     `json:"slots"`  // that they may hold now
	Scarce  bool    `json:"scarce"` // others have had to wait for slots lately
}

// shownBound is how many destinations are shown of each worker.
const shownBound = 5

// renderDestinations shows, below a worker, what holds deliveries back: nothing when nothing does.
func renderDestinations(w io.Writer, worker *Worker) {
	if d := worker.Destinations; d != nil && d.Down+d.Holding+d.Reopening+d.Limited > 0 {
		var parts []string
		for _, p := range []struct {
			n    int
			what string
		}{{d.Limited, "limited"}, {d.Reopening, "reopening"}, {d.Holding, "asked for patience"}, {d.Down, "down"}} {
			if p.n > 0 {
				parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
			}
		}
		_, _ = fmt.Fprintf(w, "  its destinations\t\t%d\t%s\t\t-\n", d.Known, strings.Join(parts, ", "))
		for i := range d.Bound[:min(len(d.Bound), shownBound)] {
			b := &d.Bound[i]
			_, _ = fmt.Fprintf(w, "    %s\t\t%d (+%d waiting)\t%s\t\t-\n", name(b.Host), b.InFlight, b.Waiting, cut(b.explain(), noteRunes))
		}
	}
	if r := worker.Retries; r != nil && (r.Running > 0 || r.Waiting > 0) {
		text := fmt.Sprintf("%.0f %% of the slots' time", 100*r.Used)
		if r.Scarce {
			text += fmt.Sprintf("; at most %d slots, for others wait (%.0f %%)", r.Slots, 100*r.Share)
		}
		_, _ = fmt.Fprintf(w, "  its retries\t\t%d (+%d waiting)\t%s\t\t-\n", r.Running, r.Waiting, text)
	}
}

// explain says what binds a destination, and what more of it would give.
func (d *Destination) explain() string {
	var text string
	switch d.Bound {
	case "limit":
		text = fmt.Sprintf("%.0f at once", d.Value)
		if d.Gain != nil {
			text += fmt.Sprintf("; one more: about %+.1f/s", *d.Gain)
		}
	case "reopening":
		text = fmt.Sprintf("came back: %.1f/s, %.1f/s before", d.Value, d.Peak)
	default:
		text = fmt.Sprintf("%s (%s), next try in %s", printable(d.Bound), printable(d.LastError), latency(min(max(d.Value, 0), 1e6)))
	}
	if d.Retries > 0 {
		text += fmt.Sprintf("; %d of those waiting are retries", d.Retries)
	}
	return text
}
