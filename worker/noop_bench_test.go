package worker

import (
	"context"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/queueville/queueville/internal/redistest"
	"github.com/queueville/queueville/queues"
	"github.com/queueville/queueville/scheduler"
)

// noop does nothing, and counts what has been settled.
type noop struct {
	NopObserver
	left atomic.Int64
	done chan struct{}
}

func (*noop) Classes() []string                          { return []string{native} }
func (*noop) Destination(string, string) (string, error) { return "", nil }
func (*noop) Run(context.Context, *queues.Job) Outcome   { return Outcome{Label: "done"} }
func (*noop) RetryDelay(string, int) time.Duration       { return 0 }
func (*noop) GiveUpAfter(string) time.Duration           { return 0 }

func (n *noop) Ended(End) {
	if n.left.Add(-1) == 0 {
		close(n.done)
	}
}

// cpuTime is what this process has used.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkWorkerNoop runs jobs of 2 kB that do nothing, with crash-safe fetch and all accounting, with queues in Sidekiq's order and by goals. Redis
// has to share the machine.
func BenchmarkWorkerNoop(b *testing.B) {
	for name, policy := range map[string]scheduler.Policy{"order=queues": "", "order=goals": scheduler.PolicyGoals} {
		b.Run(name, func(b *testing.B) { benchmarkNoop(b, policy) })
	}
}

func benchmarkNoop(b *testing.B, policy scheduler.Policy) {
	b.Helper()
	server := redistest.Start(b)
	r := rigOn(b, server.Addr())
	// As in Mastodon: most of a payload is the activity, a string full of escaped quotes.
	activity := `"` + strings.Repeat(`{\"type\":\"Create\",\"to\":[\"https://host.example/users/a\"]}`, 28) + `",109301234567890123,"https://host7.example/inbox",{}`
	b.ReportAllocs()
	const batch = 50_000
	var took, cpu time.Duration
	var allocs, jobs uint64
	calls := 0
	for b.Loop() {
		b.StopTimer()
		for i := range batch / 1000 {
			r.push("push", natives(i*1000, 1000, activity)...)
		}
		n := &noop{done: make(chan struct{})}
		n.left.Store(batch)
		cfg := r.config(newFake())
		cfg.Handlers, cfg.Observer = []Handler{n}, n
		cfg.Concurrency, cfg.Window = 0, 0
		if policy != "" {
			cfg.Policy, cfg.Goals = policy, scheduler.MastodonGoals()
		}
		cfg.LeaseTTL, cfg.RenewEvery, cfg.AdoptEvery = 0, 0, 0
		w, err := New(cfg)
		require.NoError(b, err)
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		callsBefore, cpuBefore, began := r.calls("evalsha", "eval", "blmove", "llen"), cpuTime(b), time.Now()
		b.StartTimer()
		over := make(chan struct{})
		go func() { defer close(over); _ = w.Run(context.WithoutCancel(b.Context())) }()
		<-n.done
		b.StopTimer()
		took += time.Since(began)
		cpu += cpuTime(b) - cpuBefore
		runtime.ReadMemStats(&after)
		allocs += after.Mallocs - before.Mallocs
		calls += r.calls("evalsha", "eval", "blmove", "llen") - callsBefore
		jobs += batch
		w.Stop()
		<-over
		b.StartTimer()
	}
	b.ReportMetric(float64(jobs)/took.Seconds(), "jobs/s")
	b.ReportMetric(float64(cpu.Nanoseconds())/float64(jobs), "cpu-ns/job")
	b.ReportMetric(float64(allocs)/float64(jobs), "mallocs/job")
	b.ReportMetric(float64(calls)/float64(jobs), "calls/job")
}
