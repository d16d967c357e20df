package ruby

import (
	"fmt"
	"testing"
	"time"

	"github.com/queueville/queueville/scheduler"
)

// No more jobs run at once than the bound from outside lets, whatever the policy would start; less takes nothing away from what runs, and more
// starts at once. What the lane says of itself tells which of the two it was.
func TestOuterLimit(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.Threads = 8 })
	r.ready(1)
	r.s.Sample(time.Now())
	r.s.Resize(3)
	for i := range 8 { // they hardly compute, so the policy would start all of them
		r.s.Submit([]Job{job("Nap", fmt.Sprintf("first%d", i), "[0.05]")})
	}
	for i := range 8 {
		r.result(fmt.Sprintf("first%d", i))
	}
	var jobs []Job
	for i := range 12 {
		jobs = append(jobs, job("Nap", fmt.Sprint("s", i), "[1.5]"))
	}
	r.s.Submit(jobs)
	r.await("three run", func() bool { return r.s.Load().Running == 3 })
	r.s.Sample(time.Now())
	until := time.Now().Add(500 * time.Millisecond)
	for time.Now().Before(until) {
		if n := r.s.Load().Running; n > 3 {
			t.Fatalf("%d run, 3 may", n)
		}
		time.Sleep(5 * time.Millisecond)
	}
	v := r.s.Sample(time.Now())
	if v.Running < 2.9 || v.Running > 3.01 || v.Full < 0.95 || v.Cores != 1 || v.Held.By != "" {
		t.Errorf("with 3 of 12 running: %+v", v)
	}
	r.s.Resize(6)
	r.await("six run", func() bool { return r.s.Load().Running == 6 })
	r.s.Resize(1)
	if n := r.s.Load().Running; n != 6 {
		t.Errorf("%d run after a cut, want 6 to go on", n)
	}
	if room := r.s.Room([]string{"default"})[0]; room != 0 {
		t.Errorf("room for %d with 6 running, 6 waiting and a limit of 1", room)
	}
	r.s.Resize(0)
	r.await("all threads have a job", func() bool { return r.s.Load().Running == 8 })
	r.s.Sample(time.Now())
	time.Sleep(200 * time.Millisecond)
	if v = r.s.Sample(time.Now()); v.Full != 0 || v.Held.By != scheduler.ByThreads && v.Held.By != scheduler.ByCPU { // other tests may compute
		t.Errorf("with 8 of 12 on all threads: %+v", v)
	}
	for i := range 12 {
		if res := r.result(fmt.Sprint("s", i)); res.Kind != Acked {
			t.Errorf("s%d: %+v", i, res)
		}
	}
	if v = r.s.Sample(time.Now()); v.Done == 0 || v.Wall < 1.4 || v.CPU < 0 {
		t.Errorf("after the end: %+v", v)
	}
}
