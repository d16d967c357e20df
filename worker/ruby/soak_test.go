package ruby

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"
)

// Processes are killed while they work, grown and shrunk: every submission has one result, and every job is acknowledged in the end.
func TestRubySoak(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) {
		c.MaxProcs, c.ShrinkAfter, c.GrowAfter = 2, 200*time.Millisecond, 100*time.Millisecond
	})
	r.mayFallBack = true // three kills in a row can hit children that boot
	r.ready(1)
	const n = 400
	submitted := make([]int, n)
	name := func(i int) string { return fmt.Sprint("j", i) }
	submit := func(i int) {
		submitted[i]++
		class, args := "Noop", "[]"
		switch i % 4 {
		case 1:
			class, args = "Nap", "[0.05]"
		case 2:
			class, args = "Spin", "[0.005]"
		}
		r.s.Submit([]Job{job(class, name(i), args)})
	}
	for i := range n {
		submit(i)
	}
	kills, last := 0, time.Now()
	r.await("every job's end", func() bool {
		if list := r.s.Processes(); kills < 4 && time.Since(last) > 300*time.Millisecond && len(list) > 0 {
			if p := list[rand.IntN(len(list))]; p.State == "serving" && p.Running > 0 {
				kill(t, p.PID, syscall.SIGKILL)
				kills, last = kills+1, time.Now()
			}
		}
		left := 0
		for i := range n {
			results := r.results(name(i))
			if len(results) > submitted[i] {
				t.Fatalf("job %d was submitted %d times and has results %+v", i, submitted[i], results)
			}
			if len(results) < submitted[i] {
				left++
				continue
			}
			switch end := results[len(results)-1]; end.Kind {
			case Acked:
			case Returned:
				left++
				submit(i)
			case Dead:
				t.Fatalf("job %d: %+v", i, end)
			}
		}
		return left == 0
	})
	r.stop()
	ran := r.trace("ended")
	for i := range n {
		if results := r.results(name(i)); len(results) != submitted[i] || len(ran[name(i)]) == 0 || len(ran[name(i)]) > submitted[i] {
			t.Errorf("job %d: submitted %d times, ran %d times, results %+v", i, submitted[i], len(ran[name(i)]), results)
		}
	}
	if kills == 0 {
		t.Error("nothing was killed")
	}
}
