package queues

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/queueville/queueville/internal/redistest"
)

const leaderKey = "queueville:leader:cron"

func newLeader(client redis.UniversalClient, name string, ttl time.Duration) *Leader {
	l := NewLeader(NewStore(client, ""), "cron", name)
	l.TTL = ttl
	return l
}

// tryUntil tries every few milliseconds until the lease is had.
func tryUntil(t *testing.T, l *Leader, limit time.Duration) time.Duration {
	t.Helper()
	begin := time.Now()
	for time.Since(begin) < limit {
		until, err := l.Try(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !until.IsZero() {
			return time.Since(begin)
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("no leadership within %v", limit)
	return 0
}

func TestLeaderIsOne(t *testing.T) {
	client := redistest.Client(t)
	const ttl = 800 * time.Millisecond
	a, b := newLeader(client, "a", ttl), newLeader(client, "b", ttl)
	if until, err := a.Try(t.Context()); err != nil || !until.IsZero() {
		t.Errorf("the first look at an absent lease = %v, %v", until, err)
	}
	if took := tryUntil(t, a, time.Minute); took < ttl/leaderAbsence/2 {
		t.Errorf("taken after %v", took)
	}
	before := time.Now()
	until, err := a.Try(t.Context())
	if left := until.Sub(before); err != nil || left < ttl/2 || left > ttl-ttl/leaderMargin+100*time.Millisecond {
		t.Errorf("renewed for %v, %v", left, err)
	}
	if until, err := b.Try(t.Context()); err != nil || !until.IsZero() {
		t.Errorf("b leads too: %v, %v", until, err)
	}
	if value, err := client.Get(t.Context(), leaderKey).Result(); err != nil || value != "1 a" {
		t.Errorf("lease = %q, %v", value, err)
	}
	if err := b.Release(t.Context()); err != nil {
		t.Errorf("releasing what one has not = %v", err)
	}
	// a is dead: b takes over after the lease and the absence.
	if took := tryUntil(t, b, 10*ttl); took < ttl/2 || took > 8*ttl {
		t.Errorf("taken over after %v", took)
	}
	if until, err := a.Try(t.Context()); err != nil || !until.IsZero() {
		t.Errorf("a came back and leads: %v, %v", until, err)
	}
	if b.Fence() <= a.Fence() {
		t.Errorf("fences: %d, then %d", a.Fence(), b.Fence())
	}
	if err := b.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	if until, err := a.Try(t.Context()); err != nil || until.IsZero() {
		t.Errorf("after a release = %v, %v", until, err)
	}
	if ttl, err := client.PTTL(t.Context(), leaderKey).Result(); err != nil || ttl <= 0 {
		t.Errorf("expiry = %v, %v", ttl, err)
	}
}

// Never two at once, by their own clocks, whatever candidates come and go and Redis forgets.
func TestLeaderNeverTwo(t *testing.T) {
	client := redistest.Client(t)
	const ttl = 400 * time.Millisecond
	var (
		mu     sync.Mutex
		leader string
		till   time.Time
		terms  int
		wg     sync.WaitGroup
	)
	end := time.Now().Add(4 * time.Second)
	for _, name := range []string{"a", "b", "c"} {
		wg.Go(func() {
			l := newLeader(client, name, ttl)
			for n := 0; time.Now().Before(end); n++ {
				until, err := l.Try(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if !until.IsZero() {
					if leader != name && time.Now().Before(till) {
						t.Errorf("%s leads while %s does for another %v", name, leader, time.Until(till))
					}
					if leader != name {
						terms++
					}
					leader, till = name, until
				} else if leader == name {
					till = time.Time{} // it knows that it has lost
				}
				mu.Unlock()
				pause := 10 * time.Millisecond
				if n%60 == 59 {
					pause = 2 * ttl // as if it hung
				}
				time.Sleep(pause)
			}
		})
	}
	for time.Now().Before(end) {
		time.Sleep(700 * time.Millisecond)
		if err := client.Del(t.Context(), leaderKey).Err(); err != nil { // Redis forgets
			t.Error(err)
		}
	}
	wg.Wait()
	if terms < 3 {
		t.Errorf("only %d terms", terms)
	}
}

func TestLeaderKeepsWhatItHasWhenRedisIsAway(t *testing.T) {
	server := redistest.Start(t)
	client := redistest.NewClient(server.Addr(), 0)
	t.Cleanup(func() { _ = client.Close() })
	l := newLeader(client, "a", time.Minute)
	l.TTL = 400 * time.Millisecond
	tryUntil(t, l, time.Minute)
	until, err := l.Try(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	if got, err := l.Try(t.Context()); err == nil || !got.Equal(until) || !strings.Contains(err.Error(), leaderKey) {
		t.Errorf("Try without Redis = %v, %v; want %v and an error", got, err, until)
	}
}

func TestCountPoison(t *testing.T) {
	store, client := newStore(t)
	for n, want := range []int{1, 2, 2, 3} {
		death := []string{"p1", "p2", "p2", "p3"}[n]
		if got, err := store.CountPoison(t.Context(), "j", death); err != nil || got != want {
			t.Errorf("death %d = %d, %v, want %d", n, got, err, want)
		}
	}
	old := float64(time.Now().Add(-73 * time.Hour).UnixMilli())
	if err := client.ZAdd(t.Context(), "queueville:poison:old", redis.Z{Score: old, Member: "p0"}).Err(); err != nil {
		t.Fatal(err)
	}
	if got, err := store.CountPoison(t.Context(), "old", "p1"); err != nil || got != 1 {
		t.Errorf("with one that is too old = %d, %v", got, err)
	}
	for n := range 3 * poisonKept {
		if _, err := store.CountPoison(t.Context(), "many", string(rune('A'+n))); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := client.ZCard(t.Context(), "queueville:poison:many").Result(); err != nil || n != poisonKept {
		t.Errorf("%d are kept, %v", n, err)
	}
}
