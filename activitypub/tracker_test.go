package activitypub

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// TestTracker: spec 3.3.
func TestTracker(t *testing.T) {
	b := setup(t, "4.7.0")
	ctx := t.Context()
	day := func(n int) time.Time { return time.Date(2026, 11, 1+n, 23, 30, 0, 0, time.FixedZone("", -3600)) }
	must(t, b.redis.Set(ctx, "cache:unavailable_domains", "x", 0).Err())
	for n := range 6 {
		for range 3 {
			b.tracker.failure("a.test", day(n))
		}
		if got := b.tracked("a.test"); len(got) != n+1 {
			t.Fatalf("after %d days: %v", n+1, got)
		}
	}
	if days := b.tracked("a.test"); days[0][:6] != "202611" || b.redis.SIsMember(ctx, "exhausted_deliveries:a.test", "20261102").Val() != true {
		t.Errorf("days = %v, want days of UTC", days)
	}
	if b.redis.TTL(ctx, "exhausted_deliveries:a.test").Val() != -1 {
		t.Error("the key expires")
	}
	if b.listed("a.test") || b.redis.Exists(ctx, "cache:unavailable_domains").Val() != 1 {
		t.Error("unavailable after six days")
	}
	b.tracker.failure("a.test", day(9)) // the seventh day, not in a row
	if !b.listed("a.test") {
		t.Error("not unavailable after seven days")
	}
	if b.redis.Exists(ctx, "cache:unavailable_domains").Val() != 0 {
		t.Error("Rails' cache key is still there after an insert")
	}
	if listed, err := b.unavailable.lists(ctx, "a.test"); err != nil || !listed {
		t.Errorf("our own insert is not seen: %v, %v", listed, err)
	}
	b.tracker.failure("a.test", day(10)) // again: the row exists already
	must(t, b.Flush(ctx))

	must(t, b.redis.Set(ctx, "cache:unavailable_domains", "x", 0).Err())
	b.tracker.success("a.test")
	if b.listed("a.test") || len(b.tracked("a.test")) != 0 || b.redis.Exists(ctx, "cache:unavailable_domains").Val() != 0 {
		t.Error("a success left something behind")
	}
	must(t, b.redis.Set(ctx, "cache:unavailable_domains", "x", 0).Err())
	b.tracker.success("b.test")
	must(t, b.Flush(ctx))
	if b.redis.Exists(ctx, "cache:unavailable_domains").Val() != 1 {
		t.Error("a success that changed no row dropped Rails' cache key")
	}
	// Ruby beside us added failure days since: a success is written through all the same.
	must(t, b.redis.SAdd(ctx, "exhausted_deliveries:b.test", "20261101").Err())
	b.tracker.success("b.test")
	if len(b.tracked("b.test")) != 0 {
		t.Error("the second success was skipped")
	}
}

// TestTrackerOrder: events of one host between two writes keep their order.
func TestTrackerOrder(t *testing.T) {
	b := setup(t, "4.7.0")
	ctx := t.Context()
	now := time.Now()
	must(t, b.redis.SAdd(ctx, "exhausted_deliveries:a.test", "20200101").Err())
	b.tracker.success("a.test")
	b.tracker.failure("a.test", now)
	if got := b.tracked("a.test"); len(got) != 1 || got[0] == "20200101" {
		t.Errorf("success, failure: %v, want today only", got)
	}
	b.tracker.failure("a.test", now)
	b.tracker.success("a.test")
	if got := b.tracked("a.test"); len(got) != 0 {
		t.Errorf("failure, success: %v, want none", got)
	}
}

// TestTrackerAway: what cannot be written waits, bounded, and newer events win.
func TestTrackerAway(t *testing.T) {
	b := setup(t, "4.7.0")
	good := b.tracker.base
	dead := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1, DialerRetries: 1, DialTimeout: time.Second})
	defer func() { _ = dead.Close() }()
	b.tracker.base = dead
	b.tracker.failure("a.test", time.Now().Add(-24*time.Hour))
	b.tracker.failure("b.test", time.Now())
	if err := b.Flush(t.Context()); err == nil {
		t.Error("Flush said nothing")
	}
	b.tracker.failure("a.test", time.Now())
	b.tracker.success("b.test")
	b.tracker.base = good
	must(t, b.redis.SAdd(t.Context(), "exhausted_deliveries:b.test", "20200101").Err())
	if got := b.tracked("a.test"); len(got) != 2 {
		t.Errorf("a.test: %v, want both days", got)
	}
	if got := b.tracked("b.test"); len(got) != 0 {
		t.Errorf("b.test: %v, want none", got)
	}
	for i := range maxTracked + 10 {
		b.tracker.success(fmt.Sprint(i))
	}
	if s := b.Stats(); s.TrackerPending != maxTracked || s.TrackerDropped != 10 {
		t.Errorf("Stats = %+v", s)
	}
	begun := time.Now()
	must(t, b.Flush(t.Context()))
	t.Logf("%d hosts written in %v", maxTracked, time.Since(begun))
}

// TestNamespace: keys of a Mastodon up to 4.3 with REDIS_NAMESPACE.
func TestNamespace(t *testing.T) {
	b := setup(t, "4.3.0", func(c *Config) { c.BasePrefix, c.CachePrefix = "ns:", "ns_cache:" })
	must(t, b.redis.Set(t.Context(), "ns_cache:unavailable_domains", "x", 0).Err())
	for n := range 7 {
		b.tracker.failure("a.test", time.Now().AddDate(0, 0, -n))
		must(t, b.Flush(t.Context()))
	}
	if n := b.redis.SCard(t.Context(), "ns:exhausted_deliveries:a.test").Val(); n != 7 || !b.listed("a.test") {
		t.Errorf("%d days", n)
	}
	if b.redis.Exists(t.Context(), "ns_cache:unavailable_domains").Val() != 0 {
		t.Error("Rails' cache key is still there")
	}
}

// TestRun: written within a second, and what is left at the end too; rows that others write are seen within ten seconds.
func TestRun(t *testing.T) {
	t.Parallel()
	b := setup(t, "4.7.0")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = b.Run(ctx) }()
	b.tracker.failure("a.test", time.Now())
	deadline := time.Now().Add(time.Second)
	for b.redis.SCard(t.Context(), "exhausted_deliveries:a.test").Val() == 0 {
		if time.Now().After(deadline) {
			t.Fatal("not written within a second")
		}
		time.Sleep(10 * time.Millisecond)
	}
	b.exec(`INSERT INTO unavailable_domains (domain, created_at, updated_at) VALUES ('x.test', now(), now())`)
	for deadline = time.Now().Add(unavailableRefresh); ; time.Sleep(100 * time.Millisecond) {
		if listed, err := b.unavailable.lists(t.Context(), "x.test"); err == nil && listed {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a row of another process is not seen within ten seconds")
		}
	}
	b.tracker.failure("b.test", time.Now())
	cancel()
	<-done
	if b.redis.SCard(t.Context(), "exhausted_deliveries:b.test").Val() != 1 {
		t.Error("what was left at the end is lost")
	}
}
