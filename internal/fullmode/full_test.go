package fullmode

import (
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/queueville/queueville/internal/rubyapp"
	"github.com/queueville/queueville/internal/sidecar"
	"github.com/queueville/queueville/queues"
)

func binDir(app *rubyapp.App) string { return filepath.Dir(app.Bundle) }

// processes are the names of all processes on the application's Redis with the queues they say they serve.
func processes(t *testing.T, app *rubyapp.App) (ours, children []queues.ProcessState) {
	t.Helper()
	list, err := queues.NewStore(app.Redis, "").Processes(t.Context())
	require.NoError(t, err)
	for _, p := range list {
		if slices.Contains(p.Labels, "queueville") {
			ours = append(ours, p)
		} else {
			children = append(children, p)
		}
	}
	return ours, children
}

// Every job of every queue runs once, whoever runs it.
func TestEverythingRuns(t *testing.T) {
	t.Parallel()
	app := rubyapp.Start(t)
	var jids []string
	jids = append(jids, app.PushMix(app.NewMix(1, rubyapp.Ingress()...), 60)...)
	jids = append(jids, app.PushMix(app.NewMix(2, rubyapp.Mixed()...), 200)...)
	unique := app.PushRuby(`ResolveAccountWorker.perform_async("a@b.test")`, `ResolveAccountWorker.perform_async("a@b.test")`, `Mail.call("hello")`)
	require.Empty(t, unique[1], "the lock refuses the second")
	require.NotEmpty(t, app.Locks())
	jids = append(jids, unique[0], unique[2])
	w := start(t, app, spec{})
	app.WaitRuns(2*time.Minute, jids...)
	app.Once(jids...)
	require.Empty(t, app.Locks())
	require.Len(t, app.Notes("mail"), 1)

	eventually(t, "the process list", 30*time.Second, func() bool {
		ours, children := processes(t, app)
		return len(ours) == 1 && len(children) >= 1
	})
	ours, children := processes(t, app)
	require.ElementsMatch(t, []string{"default", "push", "ingress", "mailers", "pull", "scheduler", "fasp"}, ours[0].Queues)
	cron := 0
	for _, c := range children {
		require.Subset(t, c.Queues, []string{"default", "push", "ingress", "mailers", "pull", "fasp"})
		if slices.Contains(c.Queues, "scheduler") {
			cron++
		}
	}
	require.LessOrEqual(t, cron, 1)
	w.stop()
	ours, children = processes(t, app)
	require.Empty(t, ours)
	require.Empty(t, children)
	processed, err := app.Redis.Get(t.Context(), "stat:processed").Int()
	require.NoError(t, err)
	require.GreaterOrEqual(t, processed, len(jids))
	keys, err := app.Redis.Keys(t.Context(), "queueville:*").Result()
	require.NoError(t, err)
	for _, k := range keys {
		require.NotContains(t, k, "inflight")
		require.NotContains(t, k, "batches")
	}
}

// What fails is retried by Sidekiq's own code, and runs again.
func TestRubyRetries(t *testing.T) {
	t.Parallel()
	app := rubyapp.Start(t)
	id := app.Push(rubyapp.Job{Class: rubyapp.Raise, Args: []any{"no luck"}, Retry: 3})[0]
	start(t, app, spec{})
	eventually(t, "a retry entry", time.Minute, func() bool {
		list, err := app.Redis.ZRange(t.Context(), "retry", 0, -1).Result()
		require.NoError(t, err)
		return len(list) == 1 && strings.Contains(list[0], id) && strings.Contains(list[0], "no luck")
	})
	eventually(t, "nothing in flight", 20*time.Second, func() bool { return inFlight(t, app) == 0 })
}

func inFlight(t *testing.T, app *rubyapp.App) int {
	t.Helper()
	store := queues.NewStore(app.Redis, "")
	holders, err := store.Holders(t.Context())
	require.NoError(t, err)
	n := 0
	for _, h := range holders {
		n += h.InFlight
	}
	return n
}

// kill -9 of a Ruby process: its jobs run again at once, all others once.
func TestKilledRuby(t *testing.T) {
	t.Parallel()
	app := rubyapp.Start(t)
	var jobs []rubyapp.Job
	for range 30 {
		jobs = append(jobs, rubyapp.Job{Class: rubyapp.Wait, Args: []any{1500}})
	}
	jids := app.Push(jobs...)
	start(t, app, spec{Processes: 2, Threads: 10})
	victim := 0
	eventually(t, "some run in one process", time.Minute, func() bool { victim = busy(app, 3); return victim != 0 })
	killed := time.Now()
	require.NoError(t, syscall.Kill(victim, syscall.SIGKILL))
	app.WaitRuns(time.Minute, jids...)
	require.Less(t, time.Since(killed), 45*time.Second)
	ended := map[string]int{}
	for _, r := range app.Runs() {
		ended[r.JID]++
	}
	for _, id := range jids {
		require.Equal(t, 1, ended[id], "job %s ended", id)
	}
	began := map[string]int{}
	twice := 0
	for _, b := range app.Started() {
		if began[b.JID]++; began[b.JID] == 2 {
			twice++
		}
	}
	require.Positive(t, twice, "those that ran in it began a second time")
	require.LessOrEqual(t, twice, 10)
}

// busy is a process in which at least n jobs have begun and not ended; 0 if there is none. What was only handed over to it has not begun.
func busy(app *rubyapp.App, n int) int {
	begun := app.Started()
	over := map[string]bool{}
	for _, r := range app.Runs() {
		over[r.JID] = true
	}
	running := map[int]int{}
	for _, b := range begun {
		if over[b.JID] {
			continue
		}
		if running[b.PID]++; running[b.PID] == n {
			return b.PID
		}
	}
	return 0
}

// kill -9 of the worker: its Ruby processes end themselves, and the next worker runs what they had.
func TestKilledWorker(t *testing.T) {
	t.Parallel()
	app := rubyapp.Start(t)
	var jobs []rubyapp.Job
	for range 12 {
		jobs = append(jobs, rubyapp.Job{Class: rubyapp.Wait, Args: []any{3000}})
	}
	jids := app.Push(jobs...)
	w := start(t, app, spec{Processes: 1, Threads: 6})
	eventually(t, "some run", time.Minute, func() bool { return len(app.Started()) >= 6 })
	pids := map[int]bool{}
	for _, b := range app.Started() {
		pids[b.PID] = true
	}
	w.kill()
	eventually(t, "the orphans end themselves", 20*time.Second, func() bool {
		for pid := range pids {
			if alive(pid) {
				return false
			}
		}
		return true
	})
	start(t, app, spec{Processes: 1, Threads: 6})
	app.WaitRuns(time.Minute, jids...)
	poison, err := app.Redis.Keys(t.Context(), "queueville:poison*").Result()
	require.NoError(t, err)
	require.Empty(t, poison, "a worker's death is nobody's fault")
}

func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	state, err := readState(pid)
	return err == nil && state != "Z"
}

// A job that kills its process by itself is counted, and buried after the fourth time.
func TestPoison(t *testing.T) {
	t.Parallel()
	app := rubyapp.Start(t)
	bad := app.Push(rubyapp.Job{Class: rubyapp.Crash, Args: []any{"KILL"}})[0]
	good := app.Push(rubyapp.Job{Class: rubyapp.Wait, Args: []any{10}}, rubyapp.Job{Class: rubyapp.Wait, Args: []any{10}})
	start(t, app, spec{Processes: 1, Threads: 5})
	eventually(t, "it is buried", 2*time.Minute, func() bool {
		dead, err := app.Redis.ZRange(t.Context(), "dead", 0, -1).Result()
		require.NoError(t, err)
		return len(dead) == 1 && strings.Contains(dead[0], bad) && strings.Contains(dead[0], queues.PoisonField)
	})
	began := 0
	for _, b := range app.Started() {
		if b.JID == bad {
			began++
		}
	}
	require.Equal(t, 4, began)
	app.WaitRuns(time.Minute, good...)
	eventually(t, "nothing in flight", 20*time.Second, func() bool { return inFlight(t, app) == 0 })
}

// A Mastodon that does not boot: one clear error, and its jobs stay where they are.
func TestBootFailure(t *testing.T) {
	app := rubyapp.Start(t)
	t.Setenv("RUBYAPP_BOOT", "gem")
	j := rubyapp.Job{Class: rubyapp.Wait, Args: []any{1}}
	app.Push(j, j, j, j, j, j, j, j, j, j)
	w := start(t, app, spec{})
	time.Sleep(8 * time.Second)
	launches := len(app.Launches())
	require.Positive(t, launches)
	require.Less(t, launches, 8, "it does not spin")
	queued := func() int {
		n, err := app.Redis.LLen(t.Context(), "queue:default").Result()
		require.NoError(t, err)
		return int(n)
	}
	require.GreaterOrEqual(t, queued(), 7, "but for a first taste, jobs are left to workers whose Ruby runs")
	w.stop()
	require.Equal(t, 10, queued())
}

// Sidekiq's numbers add up: a job that Ruby runs is busy in its Ruby process and nowhere else, and each slot is stated once.
func TestNothingCountsTwice(t *testing.T) {
	t.Parallel()
	app := rubyapp.Start(t)
	const jobs = 3
	for range jobs {
		app.Push(rubyapp.Job{Class: rubyapp.Query, Args: []any{20_000}})
	}
	start(t, app, spec{Processes: 2, Threads: 5, Stop: time.Second})
	eventually(t, "three jobs are busy, in Ruby", time.Minute, func() bool {
		ours, children := processes(t, app)
		busy, work := 0, int64(0)
		for _, c := range children {
			busy += c.Busy
			work += app.Redis.HLen(t.Context(), c.Identity+":work").Val() + app.Redis.HLen(t.Context(), c.Identity+":workers").Val()
		}
		return len(ours) == 1 && ours[0].Busy == 0 && busy == jobs && work == jobs
	})
	ours, children := processes(t, app)
	require.Zero(t, app.Redis.HLen(t.Context(), ours[0].Identity+":work").Val()+app.Redis.HLen(t.Context(), ours[0].Identity+":workers").Val())
	require.Equal(t, sidecar.DefaultOptions().Stated, ours[0].Concurrency)
	for _, c := range children {
		require.Equal(t, 5, c.Concurrency)
	}
}
