package activitypub

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func testHosts(most int) *Hosts {
	return newHosts(most, 8, 2, newOutage(slog.New(slog.DiscardHandler)))
}

// run makes n requests to dest, one after another, that all end the same way. A host that has come back lately is waited for.
func (h *Hosts) run(now *time.Time, dest string, n int, kind FailureKind, retryAfter time.Duration) {
	for range n {
		a := h.Acquire(dest, *now)
		for a.Verdict == Later {
			*now = a.Until
			a = h.Acquire(dest, *now)
		}
		if a.Verdict != Start {
			return
		}
		started := *now
		*now = now.Add(time.Second)
		h.observe(dest, started, *now, kind, retryAfter)
		h.Release(dest, *now)
	}
}

func (h *Hosts) limitOf(dest string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.entries[dest].limit
}

// TestLimit: two at first, one more after each success up to eight, half after strain, never none.
func TestLimit(t *testing.T) {
	h := testHosts(100)
	now := time.Now()
	for i := range 2 {
		if got := h.Acquire("a", now); got.Verdict != Start || got.Probe {
			t.Fatalf("Acquire %d = %+v", i, got)
		}
	}
	if got := h.Acquire("a", now); got.Verdict != Full {
		t.Fatalf("a third at once = %+v, want Full", got)
	}
	if got := h.Acquire("b", now); got.Verdict != Start {
		t.Fatalf("another host = %+v", got)
	}
	h.Release("a", now)
	if got := h.Acquire("a", now); got.Verdict != Start {
		t.Fatalf("after one ended = %+v", got)
	}
	h.Release("a", now)
	h.Release("a", now)
	h.Release("a", now) // one too many does no harm
	for i, want := range []int{3, 4, 5, 6, 7, 8, 8} {
		h.run(&now, "a", 1, KindNone, 0)
		if got := h.limitOf("a"); got != want {
			t.Errorf("after %d successes the limit is %d, want %d", i+1, got, want)
		}
	}
	h.run(&now, "a", 1, Kind5xx, 0)
	if got := h.limitOf("a"); got != 4 {
		t.Errorf("after a 5xx the limit is %d, want 4", got)
	}
	h.run(&now, "a", 1, Kind429, 0)
	h.run(&now, "a", 1, Kind4xx, 0)
	if got := h.limitOf("a"); got != 2 {
		t.Errorf("after a 429 and a 404 the limit is %d, want 2", got)
	}
	h.run(&now, "a", 1, KindTimeout, 0)
	h.run(&now, "a", 1, Kind4xx, 0)
	h.run(&now, "a", 1, KindTimeout, 0)
	if got := h.limitOf("a"); got != 1 {
		t.Errorf("after time-outs the limit is %d, want 1", got)
	}
}

// TestBreaker: how many failures in a row break a host, by kind.
func TestBreaker(t *testing.T) {
	for kind, want := range map[FailureKind]int{
		KindTimeout: 2, KindDNS: 3, KindRefused: 3, KindTLS: 3, KindNetwork: 3, Kind5xx: 5, Kind429: 5, KindClock: 5,
		Kind4xx: 0, KindPrivate: 0, KindLocal: 0, KindNone: 0,
	} {
		h := testHosts(100)
		now := time.Now()
		n := 0
		for ; n < 20 && h.Acquire("a", now).Verdict == Start; n++ {
			h.Release("a", now)
			h.run(&now, "a", 1, kind, 0)
		}
		if want == 0 {
			want = 20
		}
		if n != want {
			t.Errorf("%v: broken after %d failures, want %d", kind, n, want)
		}
	}
}

// TestOneOutage: ten failures at once count as one.
func TestOneOutage(t *testing.T) {
	h := testHosts(100)
	now := time.Now()
	h.run(&now, "a", 8, KindNone, 0)
	started := now
	for range 8 {
		h.Acquire("a", now)
	}
	for i := range 8 {
		h.observe("a", started, now.Add(time.Duration(1+i)*time.Millisecond), Kind5xx, 0)
	}
	if s := h.Snapshot(now, 1)[0]; s.Failures != 1 || s.Limit != 4 || s.State != "failing" {
		t.Errorf("after eight failures at once = %+v, want one, the limit halved once", s)
	}
}

// TestProbe: a broken host gets one probe at a time, at growing distances, and starts over gently.
func TestProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := testHosts(100)
		now := time.Now()
		h.run(&now, "a", 3, KindRefused, 0)
		wait := time.Minute
		for range 9 {
			adm := h.Acquire("a", now)
			if adm.Verdict != Held || adm.Reason != "refused" {
				t.Fatalf("Acquire of a broken host = %+v", adm)
			}
			if d := adm.Until.Sub(now); d < wait*9/10-time.Second || d > wait*11/10 {
				t.Errorf("held for %v, want about %v", d, wait)
			}
			time.Sleep(adm.Until.Sub(now))
			now = adm.Until
			if adm = h.Acquire("a", now); adm.Verdict != Start || !adm.Probe {
				t.Fatalf("Acquire when the wait is over = %+v, want a probe", adm)
			}
			if other := h.Acquire("a", now); other.Verdict != Held || !other.Until.After(now) {
				t.Fatalf("a second one beside the probe = %+v", other)
			}
			h.observe("a", now, now, KindRefused, 0)
			h.Release("a", now)
			wait = min(2*wait, time.Hour)
		}
		adm := h.Acquire("a", now)
		now = adm.Until
		h.Acquire("a", now)
		h.Release("a", now) // the probe was given back untried
		if adm = h.Acquire("a", now); !adm.Probe {
			t.Fatalf("after a probe that was given back = %+v", adm)
		}
		if c := h.Counts(now); c.Down != 1 || c.Known != 1 || c.InFlight != 1 {
			t.Errorf("Counts = %+v", c)
		}
		h.observe("a", now, now, KindNone, 0)
		h.Release("a", now)
		if got := h.limitOf("a"); got != 1 {
			t.Errorf("limit after recovery = %d, want 1", got)
		}
		h.Acquire("a", now)
		if got := h.Acquire("a", now); got.Verdict != Full {
			t.Errorf("a second one after recovery = %+v, want Full", got)
		}
		h.Release("a", now)
		// A relapse keeps the long back-off, a long good time forgets it.
		now = now.Add(time.Second)
		h.run(&now, "a", 3, KindRefused, 0)
		if d := h.Acquire("a", now).Until.Sub(now); d < 50*time.Minute {
			t.Errorf("after a relapse held for %v", d)
		}
		now = now.Add(2 * time.Hour)
		h.run(&now, "a", 1, KindNone, 0)
		now = now.Add(relapse + time.Second)
		h.run(&now, "a", 1, KindNone, 0)
		h.run(&now, "a", 3, KindRefused, 0)
		if d := h.Acquire("a", now).Until.Sub(now); d > 70*time.Second {
			t.Errorf("after a good time held for %v", d)
		}
	})
}

// TestLostProbe: a probe that never reports does not hold the host for ever.
func TestLostProbe(t *testing.T) {
	h := testHosts(100)
	now := time.Now()
	h.run(&now, "a", 2, KindTimeout, 0)
	now = now.Add(70 * time.Second)
	h.Acquire("a", now)
	if adm := h.Acquire("a", now.Add(probeLimit)); !adm.Probe {
		t.Errorf("Acquire = %+v", adm)
	}
}

func TestRetryAfterHolds(t *testing.T) {
	h := testHosts(100)
	now := time.Now()
	h.run(&now, "a", 1, Kind429, 5*time.Minute)
	adm := h.Acquire("a", now)
	if adm.Verdict != Held || adm.Reason != "retry-after" || adm.Until.Sub(now) != 5*time.Minute {
		t.Errorf("Acquire = %+v", adm)
	}
	if s := h.Snapshot(now, 9)[0]; s.State != "held" || s.HeldUntil.IsZero() || s.LastError != Kind429 {
		t.Errorf("Snapshot = %+v", s)
	}
	if got := h.Acquire("a", now.Add(5*time.Minute)); got.Verdict != Start || got.Probe {
		t.Errorf("Acquire after that = %+v", got)
	}
	h.Release("a", now)
	h.observe("a", now, now, Kind429, 48*time.Hour)
	if got := h.Acquire("a", now.Add(time.Hour)); got.Verdict != Start {
		t.Errorf("Retry-After of two days holds beyond one hour: %+v", got)
	}
}

// TestHostBounds: made-up names cannot grow it, and cannot wash out what is known of broken hosts.
func TestHostBounds(t *testing.T) {
	h := testHosts(100)
	now := time.Now()
	for i := range 20 {
		at := now
		h.run(&at, fmt.Sprintf("broken%d", i), 3, KindDNS, 0)
	}
	now = now.Add(10 * time.Second)
	h.Acquire("busy", now)
	for i := range 10_000 {
		h.run(&now, fmt.Sprintf("made-up%d", i), 1, KindNone, 0)
		now = now.Add(-time.Second)
	}
	if len(h.entries) != 100 || h.healthy.len+h.broken.len != 100 {
		t.Errorf("%d entries, %d + %d in lists, want 100", len(h.entries), h.healthy.len, h.broken.len)
	}
	if _, ok := h.entries["busy"]; !ok {
		t.Error("a host with a request in flight was forgotten")
	}
	for i := range 20 {
		if got := h.Acquire(fmt.Sprintf("broken%d", i), now); got.Verdict != Held {
			t.Errorf("broken%d = %+v", i, got)
		}
	}
	h.sweep(now.Add(idleHealthy + time.Hour))
	if len(h.entries) != 21 {
		t.Errorf("%d entries after the healthy ones went unused, want 21", len(h.entries))
	}
	h.Release("busy", now)
	h.sweep(now.Add(idleBroken + time.Hour))
	if len(h.entries) != 0 || h.healthy.first != nil || h.broken.last != nil {
		t.Errorf("%d entries after a day", len(h.entries))
	}
}

func TestSnapshotOrder(t *testing.T) {
	h := testHosts(100)
	now := time.Now()
	h.run(&now, "fine", 5, KindNone, 0)
	h.run(&now, "down", 3, KindDNS, 0)
	h.run(&now, "failing", 1, Kind5xx, 0)
	h.run(&now, "held", 1, Kind429, 10*time.Minute)
	var got strings.Builder
	for _, s := range h.Snapshot(now, 10) {
		got.WriteString(s.Host + "=" + s.State + " ")
	}
	if want := "down=down held=held failing=failing fine=ok "; got.String() != want {
		t.Errorf("Snapshot = %s, want %s", got.String(), want)
	}
	if n := len(h.Snapshot(now, 2)); n != 2 || len(h.Snapshot(now, -1)) != 0 {
		t.Errorf("%d states, want 2", n)
	}
}

func BenchmarkHosts(b *testing.B) {
	h := testHosts(20_000)
	names := make([]string, 10_000)
	for i := range names {
		names[i] = fmt.Sprintf("host%d.example", i)
	}
	now := time.Now()
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		name := names[i%len(names)]
		h.Acquire(name, now)
		h.observe(name, now, now, KindNone, 0)
		h.Release(name, now)
		i++
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(3*b.N), "ns/call")
}
