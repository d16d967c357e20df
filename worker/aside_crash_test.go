package worker

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/queueville/queueville/queues"
	"github.com/queueville/queueville/scheduler"
)

// lowBehind are the goals of tests in which jobs of one class differ by their first argument: those that say low go behind.
func lowBehind() scheduler.Goals {
	return scheduler.Goals{
		Queues: map[string]scheduler.Goal{"push": 10 * time.Second},
		Rules:  []scheduler.Rule{{Queue: "push", Arg: &scheduler.ArgMatch{Prefix: "low", Exact: true}, Behind: true}},
	}
}

func byGoals(c *Config) { c.Policy, c.Goals = scheduler.PolicyGoals, lowBehind() }

// fill pushes jobs, every other one low, the oldest first, and returns their jids.
func (r *rig) fill(jobs int) []string {
	r.t.Helper()
	ids := make([]string, jobs)
	r.push("push", many(0, jobs, func(n int) string {
		ids[n] = jid(n)
		return of(native, n, float64(jobs-n), []string{`"low"`, `"high"`}[n%2])
	})...)
	return ids
}

// everywhere asserts that each job is in one place, except those of gone.
func (r *rig) everywhere(ids, gone []string) {
	r.t.Helper()
	where := r.where("push", "push:behind")
	for _, id := range ids {
		if slices.Contains(gone, id) {
			continue
		}
		require.Len(r.t, where[id], 1, "job %s is in %v", id, where[id])
	}
}

// kill -9 while jobs are being put aside, fetched from beside and run: none is lost, none is doubled, whoever comes after.
func TestKilledWithSideLists(t *testing.T) {
	t.Parallel()
	for name, after := range map[string]func(*Config){
		"adopted by a worker with goals":         byGoals,
		"adopted by one without":                 func(*Config) {},
		"adopted by one with goals and no rules": func(c *Config) { c.Policy = scheduler.PolicyGoals },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, f := newRig(t), newFake()
			const jobs = 3000
			ids := r.fill(jobs)
			c := r.startChild(childSpec{Concurrency: 20, Work: 5 * time.Millisecond, Goals: true})
			r.eventually("some are beside, and some have run", func() bool { return len(r.queue("push:behind")) > 200 && len(r.list("ended")) > 50 })
			c.kill()
			ended, started := r.list("ended"), r.list("started")
			r.everywhere(ids, ended)
			w := r.start(f, elsewhere, after, func(c *Config) { c.Handlers = []Handler{f} })
			r.eventually("the rest is run", func() bool {
				done := map[string]bool{}
				for _, id := range append(f.started(), ended...) {
					done[id] = true
				}
				return len(done) == jobs
			})
			r.eventually("and acknowledged", func() bool { return len(r.where("push", "push:behind")) == 0 })
			f.mu.Lock()
			for id, n := range f.runs {
				require.Equal(t, 1, n, "job %s", id)
				if slices.Contains(ended, id) {
					// It had ended, but that was not in Redis yet: at least once. The completer writes within milliseconds.
					require.GreaterOrEqual(t, slices.Index(ended, id), len(ended)-200)
				}
			}
			f.mu.Unlock()
			require.NotEmpty(t, started)
			w.stop()
			names, err := r.client.SMembers(r.ctx(), "queues").Result()
			require.NoError(t, err)
			require.Equal(t, []string{"push"}, names, "the last worker has taken the side list off Sidekiq's")
		})
	}
}

// The last worker that stops gives back what waits beside; one of several leaves it to the others.
func TestStopGivesSideListsBack(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	block := func(f *fake) {
		f.do = func(ctx context.Context, _ *queues.Job) Outcome { <-ctx.Done(); return Outcome{Kind: Returned} }
	}
	const jobs = 2000
	ids := r.fill(jobs)
	f1, f2 := newFake(), newFake()
	block(f1)
	block(f2)
	short := func(c *Config) { c.StopTimeout = 50 * time.Millisecond }
	w1 := r.start(f1, byGoals, short)
	w2 := r.start(f2, byGoals, short, elsewhere)
	r.eventually("much is beside", func() bool { return len(r.queue("push:behind")) > 100 })
	w1.stop()
	require.NotEmpty(t, r.queue("push:behind"), "another serves it")
	w2.stop()
	require.Empty(t, r.queue("push:behind"))
	r.everywhere(ids, nil)
	back := r.queue("push")
	require.Len(t, back, jobs)
	var lows []string
	for _, p := range back {
		j, err := queues.ParseJob(p)
		require.NoError(t, err)
		if j.Args == `["low"]` {
			lows = append(lows, j.JID)
		}
	}
	late := 0
	for i := 1; i < len(lows); i++ {
		if lows[i] < lows[i-1] {
			late++
		}
	}
	require.LessOrEqual(t, late, 4, "the oldest first, but for what was in hand")
	names, err := r.client.SMembers(r.ctx(), "queues").Result()
	require.NoError(t, err)
	require.Equal(t, []string{"push"}, names)
}

// Of two that stop at once, one gives everything back.
func TestTwoStopAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ids := r.fill(1000)
	var live []*live
	for range 2 {
		f := newFake()
		f.do = func(ctx context.Context, _ *queues.Job) Outcome { <-ctx.Done(); return Outcome{Kind: Returned} }
		live = append(live, r.start(f, byGoals, func(c *Config) { c.StopTimeout = 50 * time.Millisecond }))
	}
	r.eventually("some are beside", func() bool { return len(r.queue("push:behind")) > 50 })
	for _, l := range live {
		l.Stop()
	}
	for _, l := range live {
		l.wait()
	}
	require.Empty(t, r.queue("push:behind"))
	require.Len(t, r.queue("push"), len(ids))
	r.everywhere(ids, nil)
}

// A worker with goals that does not own the queue does not serve what is beside it.
func TestStopBesideAnotherQueuesWorker(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	other := newFake()
	r.start(other, byGoals, func(c *Config) { c.Owned = []scheduler.Queue{{Name: "other"}} })
	ids := r.fill(500)
	f := newFake()
	f.do = func(ctx context.Context, _ *queues.Job) Outcome { <-ctx.Done(); return Outcome{Kind: Returned} }
	w := r.start(f, byGoals, func(c *Config) { c.StopTimeout = 50 * time.Millisecond })
	r.eventually("some are beside", func() bool { return len(r.queue("push:behind")) > 50 })
	w.stop()
	require.Empty(t, r.queue("push:behind"))
	require.Len(t, r.queue("push"), len(ids))
}

// A quiet worker serves nothing, so what waits beside goes back while it still runs.
func TestQuietGivesSideListsBack(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	release := make(chan struct{})
	f.do = func(context.Context, *queues.Job) Outcome { <-release; return Outcome{Kind: Done} }
	ids := r.fill(1000)
	w := r.start(f, byGoals)
	r.eventually("some are beside", func() bool { return len(r.queue("push:behind")) > 50 })
	w.Quiet()
	r.eventually("they are back", func() bool { return len(r.queue("push:behind")) == 0 && len(r.queue("push")) == len(ids)-16 })
	close(release)
	r.eventually("what ran has ended", func() bool { return f.results()[Acked] == 16 })
}

// release without any worker: everything is in its queue again, of several lists the oldest first, and nobody else's queue is touched.
func TestReleaseMergesSideLists(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const jobs = 600
	at := func(n int) string { return of(native, n, float64(jobs-n)) }
	lists := []string{"push:behind", "push:within-15m", "push:within-1h"}
	var want []string
	for i := range jobs {
		r.push(lists[i*i%3], at(i)) // of the first two only, as it happens; the third has one that says nothing of its age
		want = append(want, jid(i))
	}
	r.push("push:within-1h", "not json")
	r.push("push", at(jobs))
	r.push("strange:behind", at(5000))
	report, err := Release(r.ctx(), r.store)
	require.NoError(t, err)
	require.Equal(t, []Merged{{"push", jobs + 1}}, report.Merged)
	var got []string
	for _, p := range r.queue("push") {
		if j, err := queues.ParseJob(p); err == nil {
			got = append(got, j.JID)
		}
	}
	require.Equal(t, append(want, jid(jobs)), got)
	require.Len(t, r.queue("strange:behind"), 1)
	names, err := r.client.SMembers(r.ctx(), "queues").Result()
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"push", "strange:behind"}, names)

	// A live worker that serves it keeps it.
	f := newFake()
	f.do = func(ctx context.Context, _ *queues.Job) Outcome { <-ctx.Done(); return Outcome{Kind: Returned} }
	w := r.start(f, byGoals, func(c *Config) { c.StopTimeout = time.Millisecond })
	r.push("push:behind", at(6000))
	report, err = Release(r.ctx(), r.store)
	require.NoError(t, err)
	require.Empty(t, report.Merged)
	w.stop()
}
