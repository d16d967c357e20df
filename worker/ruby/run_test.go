package ruby

import (
	"strings"
	"testing"
	"time"
)

// modes runs a test with preloaded processes and with plain ones.
func modes(t *testing.T, run func(t *testing.T, noPreload bool)) {
	t.Helper()
	for name, noPreload := range map[string]bool{"preloaded": false, "plain": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(t, noPreload)
		})
	}
}

func TestRubyRunsJobs(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, noPreload bool) { //nolint:thelper // it is the test itself
		r := newRig(t, func(c *Config) { c.NoPreload = noPreload })
		r.ready(1)
		if got := r.s.Room([]string{"default"})[0]; got < 1 {
			t.Errorf("Room() of an idle process = %d", got)
		}
		jobs := []Job{job("Noop", "n1", "[]"), job("Nap", "nap", "[0.3]"), job("Spin", "spin", "[0.2]"), job("Fail", "fail", `["ü<>&"]`)}
		r.s.Submit(jobs)
		for _, jid := range []string{"n1", "nap", "spin"} {
			if res := r.result(jid); res.Kind != Acked || res.Label != LabelDone || res.Failed || res.PID <= 1 {
				t.Errorf("result of %s = %+v", jid, res)
			}
		}
		if res := r.result("nap"); res.Run < 290*time.Millisecond || res.CPU > 100*time.Millisecond {
			t.Errorf("a nap of 0.3 s: %+v", res)
		}
		if res := r.result("spin"); res.CPU < 190*time.Millisecond {
			t.Errorf("0.2 s of computing: %+v", res)
		}
		if res := r.result("fail"); res.Kind != Acked || !res.Failed || res.Label != LabelFailed {
			t.Errorf("result of a job that raises = %+v", res)
		}
		retry, err := r.redis.ZRange(t.Context(), "retry", 0, -1).Result()
		if err != nil || len(retry) != 1 || !strings.Contains(retry[0], `"retry_count":0`) || !strings.Contains(retry[0], `ü<>&`) {
			t.Errorf("retry set = %q, %v", retry, err)
		}
		r.stop()
		if n, err := r.redis.SCard(t.Context(), "processes").Result(); err != nil || n != 0 {
			t.Errorf("%d processes left in Redis, %v", n, err)
		}
	})
}

func TestRubyReportsDatabaseTime(t *testing.T) {
	t.Parallel()
	needRuby(t, "active_support", "active_support/notifications")
	modes(t, func(t *testing.T, noPreload bool) { //nolint:thelper // it is the test itself
		r := newRig(t, func(c *Config) { c.NoPreload = noPreload })
		r.ready(1)
		r.s.Submit([]Job{job("Query", "q", "[0.2]"), job("Noop", "n", "[]")})
		res := r.result("q")
		if res.Failed || res.DB < 195*time.Millisecond || res.DB > res.Run-190*time.Millisecond {
			t.Errorf("0.2 s in SQL and as much from its cache: %+v", res)
		}
		if res := r.result("n"); res.DB != 0 {
			t.Errorf("no SQL: %+v", res)
		}
	})
}
