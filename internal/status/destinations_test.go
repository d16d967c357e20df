package status

import (
	"fmt"
	"math"
	"strings"
	"testing"
)

// What binds a destination is said in words; names come from payloads, so they are hostile.
func TestDestinationsInWords(t *testing.T) {
	t.Parallel()
	gain := 20.0
	for want, d := range map[string]Destination{
		"8 at once; one more: about +20.0/s":                           {Bound: "limit", Value: 8, Gain: &gain},
		"8 at once; 3 of those waiting are retries":                    {Bound: "limit", Value: 8, Retries: 3},
		"came back: 4.2/s, 37.5/s before":                              {Bound: "reopening", Value: 4.2, Peak: 37.5},
		"down (timeout), next try in 40 min":                           {Bound: "down", LastError: "timeout", Value: 2400},
		"retry-after (429), next try in 15.0 s":                        {Bound: "retry-after", LastError: "429", Value: 15},
		"?[2J (?), next try in -":                                      {Bound: "\x1b[2J", LastError: "\n"},
		"?[2J (), next try in 277.8 h; 2 of those waiting are retries": {Bound: "\x1b[2J", Value: math.Inf(1), Retries: 2},
	} {
		if got := d.explain(); got != want {
			t.Errorf("explain() = %q, want %q", got, want)
		}
	}
}

func TestDestinationsAreShown(t *testing.T) {
	t.Parallel()
	d := &Destinations{Known: 900, Down: 30, Limited: 2, Reopening: 1}
	for i := range 10 {
		d.Bound = append(d.Bound, Destination{Host: fmt.Sprintf("\x1b[31mh%d.example", i), Bound: "limit", Value: 8, InFlight: 8, Waiting: 120})
	}
	show := func(w *Worker) string {
		var b strings.Builder
		if err := Render(&b, &Status{Processes: []Process{{Identity: "h:1:a", Worker: w}}}); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	text := show(&Worker{Destinations: d, Retries: &Retries{Share: 0.2, Used: 0.18, Running: 100, Waiting: 9, Slots: 102, Scarce: true}})
	for _, want := range []string{"2 limited, 1 reopening, 30 down", "h4.example", "8 (+120 waiting)", "18 % of the slots' time; at most 102 slots, for others wait (20 %)", "100 (+9 waiting)"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	if strings.Contains(text, "\x1b") || strings.Contains(text, "h5.example") {
		t.Errorf("too much in\n%s", text)
	}
	if text := show(&Worker{Destinations: &Destinations{Known: 900}, Retries: &Retries{Share: 0.2}}); strings.Contains(text, "destinations") || strings.Contains(text, "retries ") && strings.Contains(text, "its retries") {
		t.Errorf("nothing holds anything back, and yet\n%s", text)
	}
}
