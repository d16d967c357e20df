package activitypub

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestOutage(t *testing.T) {
	// fail lets hosts fail at once and returns how many failures were ours.
	fail := func(ctx context.Context, o *outage, known bool, hosts ...string) int {
		var ours atomic.Int64
		var wg sync.WaitGroup
		started := time.Now()
		for _, host := range hosts {
			wg.Go(func() {
				if o.blames(ctx, host, KindDNS, started, known) {
					ours.Add(1)
				}
			})
		}
		wg.Wait()
		return int(ours.Load())
	}
	some := func(prefix string, n int) (list []string) {
		for i := range n {
			list = append(list, fmt.Sprint(prefix, i))
		}
		return list
	}
	in := func(t *testing.T, name string, f func(t *testing.T, o *outage, log *strings.Builder)) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log strings.Builder
				f(t, newOutage(slog.New(slog.NewTextHandler(&log, nil))), &log)
			})
		})
	}
	in(t, "one failing host is the host's fault", func(t *testing.T, o *outage, _ *strings.Builder) {
		t.Helper()
		begun := time.Now()
		if n := fail(t.Context(), o, false, "a", "a", "a", "a", "a", "a"); n != 0 {
			t.Errorf("%d of 6 failures of one host were ours", n)
		}
		if waited := time.Since(begun); waited != evidenceWait {
			t.Errorf("waited %v for evidence", waited)
		}
	})
	in(t, "six at once and nothing else works: ours, one alarm", func(t *testing.T, o *outage, log *strings.Builder) {
		t.Helper()
		if n := fail(t.Context(), o, false, some("h", 6)...); n != 6 {
			t.Errorf("%d of 6 were ours", n)
		}
		if on, since, reason, count := o.state(); !on || since.IsZero() || reason != "dns" || count != 1 {
			t.Errorf("state = %v %v %v %v", on, since, reason, count)
		}
		begun := time.Now()
		if n := fail(t.Context(), o, true, some("h", 9)...); n != 9 || time.Since(begun) != 0 {
			t.Errorf("during an outage %d of 9 were ours, after %v", n, time.Since(begun))
		}
		if n := strings.Count(log.String(), "level=ERROR"); n != 1 {
			t.Errorf("%d alarms, want 1", n)
		}
		o.answered(t.Context(), "z", time.Now())
		if on, _, _, _ := o.state(); on {
			t.Error("the first success did not end it")
		}
		if n := fail(t.Context(), o, false, "a", "b"); n != 0 {
			t.Errorf("after it %d of 2 were ours", n)
		}
	})
	in(t, "a success soon after shows that it is them", func(t *testing.T, o *outage, _ *strings.Builder) {
		t.Helper()
		time.AfterFunc(30*time.Millisecond, func() {
			for _, host := range some("good", 10) {
				o.answered(context.Background(), host, time.Now()) //nolint:usetesting // after the subtest's own goroutine
			}
		})
		begun := time.Now()
		if n := fail(t.Context(), o, false, some("h", 30)...); n != 0 {
			t.Errorf("%d of 30 were ours", n)
		}
		if waited := time.Since(begun); waited != 30*time.Millisecond {
			t.Errorf("waited %v", waited)
		}
	})
	in(t, "one success among forty failures is hardly any", func(t *testing.T, o *outage, _ *strings.Builder) {
		t.Helper()
		time.AfterFunc(30*time.Millisecond, func() { o.answered(context.Background(), "good", time.Now()) }) //nolint:usetesting // as above
		if n := fail(t.Context(), o, false, some("h", 40)...); n != 40 {
			t.Errorf("%d of 40 were ours", n)
		}
	})
	in(t, "where others just answered nothing waits", func(t *testing.T, o *outage, _ *strings.Builder) {
		t.Helper()
		time.Sleep(time.Hour)
		for _, host := range some("good", 60) {
			o.answered(t.Context(), host, time.Now())
		}
		begun := time.Now()
		if n := fail(t.Context(), o, false, some("h", 20)...); n != 0 || time.Since(begun) != 0 {
			t.Errorf("%d of 20 were ours, after %v", n, time.Since(begun))
		}
	})
	in(t, "hosts known to be broken are no evidence", func(t *testing.T, o *outage, _ *strings.Builder) {
		t.Helper()
		if n := fail(t.Context(), o, true, some("h", 20)...); n != 0 {
			t.Errorf("%d of 20 were ours", n)
		}
	})
	in(t, "failures far apart are no outage", func(t *testing.T, o *outage, _ *strings.Builder) {
		t.Helper()
		for _, host := range some("h", 20) {
			if n := fail(t.Context(), o, false, host); n != 0 {
				t.Errorf("%s was ours", host)
			}
			time.Sleep(outageWindow / 4)
		}
	})
	in(t, "one probe a second goes out", func(t *testing.T, o *outage, _ *strings.Builder) {
		t.Helper()
		h := newHosts(100, 8, 2, o)
		fail(t.Context(), o, false, some("h", 6)...)
		started := 0
		for range 100 {
			adm := h.Acquire(fmt.Sprint(started), time.Now())
			switch {
			case adm.Verdict == Start:
				started++
			case adm.Verdict != Held || adm.Reason != "local outage" || !adm.Until.After(time.Now()):
				t.Fatalf("Acquire = %+v", adm)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if started != 10 {
			t.Errorf("%d started in 10 s, want 10", started)
		}
	})
	in(t, "evidence is bounded", func(t *testing.T, o *outage, _ *strings.Builder) {
		t.Helper()
		fail(t.Context(), o, true, "x")
		o.mu.Lock()
		for i := range 10 * maxFailing {
			o.note(fmt.Sprint(i), time.Now())
		}
		n := len(o.failing)
		o.mu.Unlock()
		if n != maxFailing {
			t.Errorf("%d hosts remembered", n)
		}
	})
}

// TestLocalOutage: through Deliver. Nothing is tracked, no breaker opens, and the first success ends it.
func TestLocalOutage(t *testing.T) {
	t.Parallel()
	b := setup(t, "4.7.0")
	r := b.receiver("good.test", nil)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			got := b.deliver(b.job(fmt.Sprintf("https://nowhere%d.test/inbox", i)))
			if got.Outcome != Deferred || got.Kind != KindDNS {
				t.Errorf("Deliver = %+v, want Deferred", got)
			}
		})
	}
	wg.Wait()
	if on, _, reason := b.LocalOutage(); !on || reason != "dns" {
		t.Errorf("LocalOutage = %v, %s", on, reason)
	}
	if s := b.Stats(); s.TrackerPending != 0 || s.LocalOutages != 1 {
		t.Errorf("Stats = %+v", s)
	}
	if c := b.Hosts().Counts(time.Now()); c.Down+c.Failing != 0 {
		t.Errorf("Counts = %+v", c)
	}
	if got := b.deliver(b.job(r.inbox())); got.Outcome != Delivered {
		t.Errorf("Deliver = %+v", got)
	}
	if on, _, _ := b.LocalOutage(); on {
		t.Error("the outage goes on after a success")
	}
}
