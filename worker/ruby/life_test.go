package ruby

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestRubyGrowsAndShrinks(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) {
		c.MaxProcs, c.ShrinkAfter = 2, 300*time.Millisecond
		c.Connections = newLender(3)
		c.DBPool = 7
	})
	r.ready(1)
	var jobs []Job
	for n := range 24 {
		jobs = append(jobs, job("Nap", fmt.Sprint("nap", n), "[0.4]"))
	}
	r.s.Submit(jobs)
	r.await("a second process", func() bool { return r.s.Load().Processes == 2 })
	for _, j := range jobs {
		if res := r.result(j.JID); res.Kind != Acked || res.Failed {
			t.Errorf("%s: %+v", j.JID, res)
		}
	}
	pids := map[int]bool{}
	for _, list := range r.trace("ended") {
		if len(list) != 1 {
			t.Errorf("a job ran %d times", len(list))
		}
		pids[list[0]] = true
	}
	if len(pids) != 2 {
		t.Errorf("jobs ran in %d processes, want 2", len(pids))
	}
	r.await("one process less", func() bool { return len(r.s.Processes()) == 1 })
	r.s.Submit([]Job{job("Tell", "t", "[]")})
	r.result("t")
	told, err := r.redis.LRange(t.Context(), "told", 0, -1).Result()
	if err != nil || len(told) != 1 || !strings.HasPrefix(told[0], "qv-") || !strings.HasSuffix(told[0], " 7 default+low true") {
		t.Errorf("environment of a process = %q, %v", told, err)
	}
}

// Jobs of a class nobody knows that only wait all start before the first of them has ended: their process shows that it is idle.
func TestRubyUnknownClassThatWaits(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.Threads = 10 })
	r.ready(1)
	var jobs []Job
	for n := range 10 {
		jobs = append(jobs, job("Nap", fmt.Sprint("nap", n), "[8]"))
	}
	r.s.Submit(jobs)
	r.await("ten at once", func() bool { return r.s.Load().Running == 10 })
	if ended := r.trace("ended"); len(ended) > 0 {
		t.Errorf("%d had ended before the last began", len(ended))
	}
}

func TestRubyQuiet(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.ready(1)
	r.s.Submit([]Job{job("Nap", "runs", "[0.7]")})
	r.started("runs")
	r.s.Quiet()
	r.s.Submit([]Job{job("Noop", "late", "[]")})
	if res := r.result("late"); res.Kind != Returned || res.Label != LabelStopping || res.PID != 0 {
		t.Errorf("result of a job that came too late = %+v", res)
	}
	if res := r.result("runs"); res.Kind != Acked {
		t.Errorf("result of a job that ran = %+v", res)
	}
	if got := r.s.Room([]string{"default"})[0]; got != 0 {
		t.Errorf("Room() = %d", got)
	}
	r.await("no process", func() bool { return len(r.s.Processes()) == 0 })
}

func TestRubyWithdraw(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.s.Submit([]Job{job("Noop", "1", "[]"), job("Noop", "2", "[]")}) // nothing is ready yet
	got := r.s.Withdraw()
	if len(got) != 2 || got[0].JID != "1" || got[1].JID != "2" {
		t.Errorf("Withdraw() = %+v", got)
	}
	r.ready(1)
	r.stop()
	if len(r.results("1"))+len(r.results("2")) != 0 {
		t.Error("Done was called for a job that was withdrawn")
	}
}

func TestRubyToldQuietByOthersIsReplaced(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.ready(1)
	r.s.Submit([]Job{job("Nap", "runs", "[1]")})
	old := r.started("runs")
	kill(t, old, syscall.SIGTSTP)
	r.await("another process", func() bool {
		for _, p := range r.s.Processes() {
			if p.PID != old && p.State == "serving" {
				return true
			}
		}
		return false
	})
	r.s.Submit([]Job{job("Noop", "next", "[]")})
	if res := r.result("next"); res.Kind != Acked || res.PID == old {
		t.Errorf("result = %+v", res)
	}
	if res := r.result("runs"); res.Kind != Acked || res.PID != old {
		t.Errorf("result = %+v", res)
	}
	r.gone(old)
}

func TestRubyOverItsMemoryIsReplaced(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.MemoryLimit = 150 << 20 })
	r.ready(1)
	r.s.Submit([]Job{job("Nap", "runs", "[2]"), job("Hog", "hog", "[200000000]")})
	old := r.result("hog").PID
	r.said("over its memory limit")
	r.await("another process", func() bool {
		l := r.s.Processes()
		return len(l) == 2 && (l[0].State == "serving" || l[1].State == "serving") && (l[0].State == "leaving" || l[1].State == "leaving")
	})
	if res := r.result("runs"); res.Kind != Acked || res.PID != old {
		t.Errorf("job in the old process: %+v", res)
	}
	r.gone(old)
	r.await("one process", func() bool { return len(r.s.Processes()) == 1 })
}

func TestRubyStuckJob(t *testing.T) {
	t.Parallel()
	stuck := StuckPolicy{Ceiling: 500 * time.Millisecond, Floor: 500 * time.Millisecond}
	t.Run("is reported with its backtrace, once", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, func(c *Config) { c.Stuck = stuck })
		r.ready(1)
		r.s.Submit([]Job{job("Nap", "slow", "[3]")})
		r.said("app.rb")
		if res := r.result("slow"); res.Kind != Acked {
			t.Errorf("result = %+v", res)
		}
		if n := strings.Count(r.log.String(), "job is stuck"); n != 1 {
			t.Errorf("reported %d times", n)
		}
	})
	t.Run("is killed when nothing else runs there", func(t *testing.T) {
		t.Parallel()
		stuck := stuck
		stuck.Action = Kill
		r := newRig(t, func(c *Config) { c.Stuck = stuck })
		r.ready(1)
		r.s.Submit([]Job{job("Nap", "slow", "[60]")})
		if res := r.result("slow"); res.Kind != Returned || res.Label != LabelStuck {
			t.Errorf("result = %+v", res)
		}
		r.ready(1)
	})
}

func TestRubyThatDoesNotBoot(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		change func(*Config)
		env    string
		hint   string
	}{
		"a gem is missing":      {env: "APP_BROKEN=gem", hint: "bundle complete"},
		"it raises":             {env: "APP_BROKEN=raise", hint: "broken on purpose"},
		"there is no such file": {change: func(c *Config) { c.Command.Require = filepath.Join(c.Command.Dir, "nothing.rb") }, hint: "no Rails application is there"},
		"there is no Ruby":      {change: func(c *Config) { c.Command.Ruby = []string{"/nonexistent/ruby"} }, hint: "/nonexistent/ruby"},
		"plain":                 {change: func(c *Config) { c.NoPreload = true }, env: "APP_BROKEN=gem", hint: "bundle complete"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, c.change, c.env)
			r.mayFallBack = true
			r.said("ruby does not start")
			r.said(c.hint)
			begin := time.Now()
			r.await("a second attempt", func() bool {
				r.s.mu.Lock()
				defer r.s.mu.Unlock()
				return r.s.boots.failures >= 2
			})
			if took := time.Since(begin); took < firstBackoff/2 {
				t.Errorf("tried again after %v", took)
			}
			if p := r.s.Load().Problem; p == "" {
				t.Error("Load says nothing of it")
			}
			if n := strings.Count(r.log.String(), "level=ERROR"); n > 2 { // once for each way of starting
				t.Errorf("%d errors in the log", n)
			}
			r.s.Submit([]Job{job("Noop", "j", "[]")})
			r.stop()
			if res := r.result("j"); res.Kind != Returned {
				t.Errorf("result = %+v", res)
			}
		})
	}
}

func TestRubyOutputIsLogged(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, noPreload bool) { //nolint:thelper // it is the test itself
		r := newRig(t, func(c *Config) { c.NoPreload = noPreload })
		r.ready(1)
		r.s.Submit([]Job{job("Shout", "s", `["hello `+strings.Repeat("o", 10_000)+`\nsecond\u001b[31m line"]`)})
		pid := r.result("s").PID
		r.said(fmt.Sprintf(`msg=ruby pid=%d line="second line"`, pid))
		r.said(fmt.Sprintf(`msg=ruby pid=%d line="SECOND LINE"`, pid))
		r.said(" …")
	})
}
