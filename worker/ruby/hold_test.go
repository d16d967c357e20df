package ruby

import (
	"strings"
	"testing"
)

// While jobs are held back none starts and no room is shown; what waited goes back, what comes meanwhile waits, what runs goes on. Each change is
// logged once.
func TestHold(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.Threads = 1 })
	r.ready(1)
	r.s.Submit([]Job{job("Nap", "runs", "[1]"), job("Nap", "waits", "[0]")})
	r.started("runs")
	for range 3 {
		r.s.Hold("the database is away")
	}
	if res := r.result("waits"); res.Kind != Returned || res.Label != LabelHeld {
		t.Errorf("a job that waited: %+v", res)
	}
	r.s.Submit([]Job{job("Nap", "later", "[0]")})
	if res := r.result("runs"); res.Kind != Acked || res.Failed {
		t.Errorf("a job that ran: %+v", res)
	}
	if room := r.s.Room([]string{"default"}); room[0] != 0 {
		t.Errorf("room for %d", room[0])
	}
	if l := r.s.Load(); l.Held != "the database is away" || l.Waiting != 1 {
		t.Errorf("load: %+v", l)
	}
	if n := len(r.results("later")); n != 0 {
		t.Errorf("a job was started: %+v", r.results("later"))
	}
	for range 3 {
		r.s.Hold("")
	}
	if res := r.result("later"); res.Kind != Acked {
		t.Errorf("a job that was held back: %+v", res)
	}
	for _, line := range []string{"ruby jobs are held back", "ruby jobs start again"} {
		if n := strings.Count(r.log.String(), line); n != 1 {
			t.Errorf("%q was logged %d times", line, n)
		}
	}
}
