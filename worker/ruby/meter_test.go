package ruby

import (
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A thread that waits for a processor is seen to wait, and only a thread of the process that it is said to belong to.
func TestDelaysOfAThread(t *testing.T) {
	t.Parallel()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own := openSchedule(os.Getpid(), unix.Gettid())
	defer own.close()
	before, ok := own.delayed()
	if !ok {
		missing(t, "this kernel does not count for how long threads wait (CONFIG_SCHED_INFO)")
	}
	if now, ok := own.delayed(); !ok || now < before {
		t.Errorf("%v, then %v (%v)", before, now, ok)
	}
	for name, s := range map[string]schedule{
		"nobody's thread":    openSchedule(os.Getpid(), 0),
		"another's thread":   openSchedule(os.Getppid(), unix.Gettid()),
		"no process of ours": openSchedule(1, 1),
		"nothing":            {},
	} {
		if delayed, ok := s.delayed(); ok {
			t.Errorf("%s has waited %v", name, delayed)
		}
		s.close()
	}
}

// What goes on beside a real run is measured: the processor time of its process, and for how long its thread had no processor.
func TestRunsAreMeasured(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, noPreload bool) { //nolint:thelper // it is the test itself
		r := newRig(t, func(c *Config) { c.NoPreload = noPreload })
		r.ready(1)
		r.s.Submit([]Job{job("Spin", "s", "[0.3]")})
		r.started("s")
		time.Sleep(50 * time.Millisecond)
		r.s.mu.Lock()
		var a around
		for _, p := range r.s.procs {
			for _, run := range p.jobs {
				a = r.s.around(run, time.Now())
			}
		}
		r.s.mu.Unlock()
		if a.used <= 0.02 || a.delayed < 0 || a.jobs < 1 {
			t.Errorf("beside a job that computes: %+v", a)
		}
		r.result("s")
	})
}
