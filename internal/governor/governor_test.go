package governor

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/queueville/queueville/internal/redistest"
	"github.com/queueville/queueville/scheduler"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := redistest.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "stop the shared redis-server:", err)
		code = 1
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, "goroutines left over:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// waits is a lane whose jobs wait a fifth of a second each; there is always another.
type waits struct {
	mu    sync.Mutex
	limit int
	last  time.Time
}

func (l *waits) Sample(now time.Time) scheduler.Lane {
	l.mu.Lock()
	defer l.mu.Unlock()
	dt := now.Sub(l.last).Seconds()
	l.last = now
	return scheduler.Lane{Running: float64(l.limit), Full: 1, Done: float64(l.limit) * dt / 0.2, Wall: 0.2, CPU: 0.0001 * float64(l.limit), Arrivals: scheduler.Unknown, Backlog: scheduler.Unknown}
}

func (l *waits) Resize(limit int) {
	l.mu.Lock()
	l.limit = limit
	l.mu.Unlock()
}

func TestGovernorSetsLimitsAndTellsWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &waits{}
		var changes []scheduler.Decision
		g, err := New(Config{
			Lanes: []Limited{{LaneConfig: scheduler.LaneConfig{Name: "native", Max: 300}, Lane: l, Complete: func(v *scheduler.Lane) { v.Backlog = 1000 }}},
			Host: func(time.Time) scheduler.Host {
				h := scheduler.UnknownHost()
				h.Cores, h.Busy, h.Ours = 4, 0.2, 0.1
				return h
			},
			Changed: func(_ time.Time, d scheduler.Decision) { changes = append(changes, d) },
		})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- g.Run(ctx) }()
		time.Sleep(20 * time.Second)
		synctest.Wait()
		require.Greater(t, l.limit, 250, "it found out that more helps")
		last := g.Decisions()
		require.Len(t, last, 1)
		require.Equal(t, l.limit, last[0].Limit)
		require.NotEmpty(t, changes)
		require.Equal(t, l.limit, changes[len(changes)-1].Limit)
		require.InDelta(t, 1000, changes[len(changes)-1].View.Backlog, 0)
		cancel()
		require.NoError(t, <-done)
	})
}

func TestGovernorReportsEveryProblem(t *testing.T) {
	t.Parallel()
	_, err := New(Config{Every: -1, Lanes: []Limited{{LaneConfig: scheduler.LaneConfig{Name: "a"}}}})
	for _, want := range []string{"no host", "every", `lane "a" is none`, `lane "a": 1`} {
		require.ErrorContains(t, err, want)
	}
}

func TestJournalIsWrittenAndBounded(t *testing.T) {
	t.Parallel()
	client := redistest.Client(t)
	j := NewJournal(client, "queueville:scheduler:journal", "host:1:abc", slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- j.Run(ctx) }()
	at := time.UnixMilli(1_795_000_000_123)
	j.Add(at, scheduler.Decision{
		Lane: "native", Was: 8, Limit: 16, Why: "trying more", Bound: scheduler.ByStart, Rate: 40,
		View: scheduler.Lane{Running: 7.5, Full: 1, Wall: 0.2, CPU: 0.01, Backlog: 900, Goal: 5 * time.Second, Want: -1}, Host: scheduler.Host{Cores: 2, Busy: 0.5, Ours: 0.1, Pressure: scheduler.Unknown},
	})
	require.Eventually(t, func() bool { return client.XLen(context.WithoutCancel(ctx), "queueville:scheduler:journal").Val() == 1 }, 5*time.Second, 5*time.Millisecond)
	cancel()
	require.NoError(t, <-done)
	entries, err := client.XRange(context.WithoutCancel(ctx), "queueville:scheduler:journal", "-", "+").Result()
	require.NoError(t, err)
	v := entries[0].Values
	require.Equal(t, "host:1:abc native 8 16 trying more starting 1795000000123", fmt.Sprint(v["worker"], " ", v["lane"], " ", v["from"], " ", v["to"], " ", v["why"], " ", v["bound"], " ", v["at"]))
	var in Inputs
	require.NoError(t, json.Unmarshal([]byte(v["inputs"].(string)), &in))
	require.Equal(t, Inputs{Running: 7.5, Full: 1, Rate: 40, Wall: 0.2, CPU: 0.01, Backlog: 900, HostCPU: 0.5, Ours: 0.1, Cores: 2, Pressure: -1, Goal: 5, Want: -1}, in)
	ctx = context.WithoutCancel(ctx)
	for i := range 700 { // others' entries and nonsense in between
		values := []any{"worker", "w", "at", "1795000000200", "lane", "ruby", "from", "3", "to", fmt.Sprint(i), "inputs", "{}"}
		if i%7 == 0 {
			values = []any{"at", "x"}
		}
		require.NoError(t, client.XAdd(ctx, &redis.XAddArgs{Stream: j.key, Values: values}).Err())
	}
	list, err := ReadJournal(ctx, client, j.key, "native", 3)
	require.NoError(t, err)
	require.Equal(t, []Change{{At: at.UTC(), Worker: "host:1:abc", Lane: "native", From: 8, To: 16, Why: "trying more", Bound: "starting", Inputs: in}}, list)
	list, err = ReadJournal(ctx, client, j.key, "", 3)
	require.NoError(t, err)
	require.Len(t, list, 3)
	require.Equal(t, []int{699, 698, 697}, []int{list[0].To, list[1].To, list[2].To})
	for range journalWaiting + 10 { // nobody writes any more
		j.Add(at, scheduler.Decision{})
	}
	require.Equal(t, int64(10), j.Dropped())
}
