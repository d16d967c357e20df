package worker

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/queueville/queueville/queues"
	"github.com/queueville/queueville/scheduler"
)

const (
	lowClass = "ActivityPub::LowPriorityDeliveryWorker"
	crawl    = "LinkCrawlWorker"
)

// runs is a handler of other classes.
type runs struct {
	*fake
	classes []string
}

func (h runs) Classes() []string { return h.classes }

// of is a job of a class that was enqueued some seconds ago.
func of(class string, n int, seconds float64, args ...string) string {
	now := float64(time.Now().UnixMilli()) / 1000
	return strings.Replace(job(class, n, strings.Join(args, ",")), `"enqueued_at":1795291060.2779928`, fmt.Sprintf(`"enqueued_at":%.3f`, now-seconds), 1)
}

func many(from, n int, payload func(n int) string) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = payload(from + i)
	}
	return out
}

// pulls makes a worker of the queue pull that goes by Mastodon's goals and runs both classes itself.
func pulls(f *fake) func(*Config) {
	return func(c *Config) {
		c.Owned, c.Policy, c.Goals = []scheduler.Queue{{Name: "pull"}}, scheduler.PolicyGoals, scheduler.MastodonGoals()
		c.Handlers = []Handler{runs{f, []string{lowClass, crawl, native}}}
	}
}

// countBelow counts the jids of jobs with a number below n.
func countBelow(ids []string, n int) int {
	count := 0
	for _, id := range ids {
		if id <= jid(n-1) {
			count++
		}
	}
	return count
}

// Ten thousand low-priority deliveries are in front of a hundred link previews: those start first.
func TestBehindEverythingElse(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	f.do = func(context.Context, *queues.Job) Outcome {
		time.Sleep(time.Millisecond)
		return Outcome{Kind: Done, Label: "done"}
	}
	const low, crawls = 10_000, 100
	r.push("pull", many(0, low, func(n int) string { return of(lowClass, n, 60) })...)
	r.push("pull", many(low, crawls, func(n int) string { return of(crawl, n, 30) })...)
	w := r.start(f, pulls(f), func(c *Config) { c.Concurrency = 8 })
	r.eventually("the link previews have started", func() bool { s := f.started(); return len(s)-countBelow(s, low) == crawls })
	before := countBelow(f.started(), low)
	t.Logf("%d of %d low-priority deliveries started before the last link preview", before, low)
	require.LessOrEqual(t, before, 200, "a window at most")
	r.eventually("the worker knows what waits beside", func() bool {
		return slices.ContainsFunc(w.SideLists(), func(l SideList) bool {
			return l.Name == "pull:behind" && l.Backlog > 1000 && l.HeadAge > 30*time.Second
		})
	})
	r.eventually("all are run", func() bool { return f.results()[Acked] == low+crawls })
	require.Equal(t, map[int]int{1: low + crawls}, f.runsOf(), "once each")
	ids := slices.DeleteFunc(f.started(), func(id string) bool { return id > jid(low-1) })
	late := 0 // how often one started before an older one
	for i := 1; i < len(ids); i++ {
		if ids[i] < ids[i-1] {
			late++
		}
	}
	require.Less(t, late, low/4, "in about the order they came in, by eight at once")
}

// Low-priority deliveries that have waited too long start although others keep coming.
func TestBehindAges(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	f.do = func(context.Context, *queues.Job) Outcome {
		time.Sleep(time.Millisecond)
		return Outcome{Kind: Done, Label: "done"}
	}
	const low = 500
	r.push("pull", many(0, low, func(n int) string { return of(lowClass, n, 7200) })...)
	r.push("pull", many(10_000, 4000, func(n int) string { return of(crawl, n, 0) })...)
	r.start(f, pulls(f), one, func(c *Config) { c.Window = 8 })
	r.eventually("two thousand others are run", func() bool { s := f.started(); return len(s)-countBelow(s, low) >= 2000 })
	behind := countBelow(f.started(), low)
	t.Logf("%d low-priority deliveries among 2,000 others", behind)
	require.Greater(t, behind, 50, "they have a share")
	require.Less(t, behind, low, "and no more")
}

// What nobody is in the way of is run at once, without going beside.
func TestAloneNothingGoesBeside(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	w := r.start(f, pulls(f))
	r.eventually("the queue was looked at", func() bool { return w.Queues()[0].Backlog == 0 })
	for i := range 20 {
		r.push("pull", of(lowClass, i, 0))
		r.eventually("run", func() bool { return f.results()[Acked] == i+1 })
	}
	require.Zero(t, f.results()[Aside])
	require.Zero(t, r.client.Exists(r.ctx(), "queue:pull:behind").Val())
}

// Sidekiq's own policies are exactly Sidekiq's: nothing is put aside.
func TestOtherPoliciesPutNothingAside(t *testing.T) {
	t.Parallel()
	for _, policy := range []scheduler.Policy{"", scheduler.PolicyStrict, scheduler.PolicyWeighted} {
		t.Run("policy "+string(policy), func(t *testing.T) {
			t.Parallel()
			r, f := newRig(t), newFake()
			r.push("pull", many(0, 300, func(n int) string { return of([]string{lowClass, crawl}[n%2], n, 0) })...)
			w := r.start(f, pulls(f), one, func(c *Config) { c.Policy = policy; c.Watch = true })
			r.eventually("all are run", func() bool { return f.results()[Acked] == 300 })
			require.True(t, slices.IsSorted(f.started()))
			require.Empty(t, w.SideLists())
		})
	}
}

// A rule by argument, a looser goal, and a job whose retry belongs to its queue.
func TestRulesByArgument(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	f.do = func(_ context.Context, job *queues.Job) Outcome {
		if job.JID == jid(0) {
			return Outcome{Kind: Failed, ErrorClass: "Oops", ErrorMessage: "on purpose"}
		}
		return Outcome{Kind: Done, Label: "done"}
	}
	r.push("push", many(0, 300, func(n int) string { return of(native, n, 0, "1", `"https://slow.example/inbox"`) })...)
	r.push("push", many(1000, 50, func(n int) string { return of(native, n, 0, "1", `"https://fast.example/inbox"`) })...)
	r.start(f, one, func(c *Config) {
		c.Policy = scheduler.PolicyGoals
		c.Goals = scheduler.Goals{
			Queues: map[string]scheduler.Goal{"push": 10 * time.Second},
			Rules:  []scheduler.Rule{{Queue: "push", Class: native, Arg: &scheduler.ArgMatch{Index: 1, Prefix: "https://slow.example/"}, Goal: time.Hour}},
		}
	})
	r.eventually("all are run", func() bool { res := f.results(); return res[Acked] == 349 && res[Retried] == 1 })
	require.Equal(t, 0, countBelow(f.started()[:50], 1000), "the fast host's first")
	retry := r.members("retry")
	require.Len(t, retry, 1)
	require.Contains(t, retry[0], `"queue":"push"`, "a retry comes back to the queue, for Ruby may run it")
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range f.ends {
		require.Equal(t, "push", e.Queue, "it is counted as the queue's")
	}
}

// A flood of odd classes makes no more lists than the rules do.
func TestHostileClassesMakeNoLists(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	odd := []string{`BackupWorker:within-1h`, `Admin::*`, `Admin::\u0000`, `pull:behind`, strings.Repeat("A", 5000), `*`, ``, lowClass + " "}
	for i := range 800 {
		class := odd[i%len(odd)]
		if i > 400 {
			class = fmt.Sprintf("Admin::%d:within-%dm", i, i)
		}
		r.push("pull", fmt.Sprintf(`{"class":"%s","queue":"pull:within-%dm","args":[],"jid":%q,"retry":0}`, class, i, jid(i)))
	}
	r.start(f, pulls(f), func(c *Config) {
		c.Goals.Rules = append(c.Goals.Rules, scheduler.Rule{Queue: "pull", Class: "*", Behind: true})
	})
	r.eventually("all have left", func() bool { res := f.results(); return res[Forwarded]+res[Dead] >= 800 })
	keys, err := r.client.Keys(r.ctx(), "queue:*").Result()
	require.NoError(t, err)
	require.Subset(t, []string{"queue:ruby", "queue:pull:behind", "queue:pull:within-15m", "queue:pull:within-1h", "queue:pull"}, keys)
}

// A list that another worker's rules have made is served by one that has none.
func TestAnotherWorkersList(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	r.push("push:within-2h", natives(0, 20, "")...)
	r.push("push:behind", natives(20, 20, "")...)
	r.push("push:within-120m", natives(100, 5, "")...)  // not as we write it: somebody else's queue
	r.push("other:within-2h", natives(200, 5, "")...)   // not a queue of ours
	r.push("push:within-1000h", natives(300, 5, "")...) // no goal
	w := r.start(f, func(c *Config) { c.Policy = scheduler.PolicyGoals })
	r.eventually("the lists are served", func() bool { return f.results()[Acked] == 40 })
	require.Len(t, w.SideLists(), 2)
	require.Len(t, r.queue("push:within-120m"), 5)
	require.Len(t, r.queue("other:within-2h"), 5)
	require.Len(t, r.queue("push:within-1000h"), 5)
	r.push("push:within-2h", natives(50, 5, "")...)
	r.eventually("what another puts there is found", func() bool { return f.results()[Acked] == 45 })
}

// A paused queue is paused with all its lists.
func TestPauseHoldsForSideLists(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	require.NoError(t, r.client.SAdd(r.ctx(), "paused", "pull").Err())
	r.push("pull:behind", many(0, 10, func(n int) string { return of(lowClass, n, 9000) })...)
	r.push("pull", many(10, 10, func(n int) string { return of(crawl, n, 0) })...)
	r.start(f, pulls(f))
	time.Sleep(time.Second)
	require.Empty(t, f.started())
	require.NoError(t, r.client.SRem(r.ctx(), "paused", "pull").Err())
	r.eventually("all are run", func() bool { return f.results()[Acked] == 20 })
}

// With a foreign engine: what it runs can be put aside too, it hears of the queue only, and native jobs beside it do not wait for its jobs.
func TestAsideWithForeign(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	release := make(chan struct{})
	e := &engine{slots: 4, work: func(j ForeignJob) ForeignResult {
		if j.Class == ruby {
			<-release
		}
		require.Equal(t, "pull", j.Queue)
		return ForeignResult{Kind: Done}
	}}
	const low, slow, backups = 1000, 60, 40
	r.push("pull", many(0, low, func(n int) string { return of(lowClass, n, 0) })...)
	r.push("pull", many(2000, backups, func(n int) string { return of("BackupWorker", n, 0) })...)
	r.push("pull", many(3000, slow, func(n int) string { return of(ruby, n, 0) })...)
	e.with(r, f, pulls(f))
	r.eventually("native jobs behind the others do not wait for Ruby's", func() bool { return f.results()[Acked] == low })
	e.mu.Lock()
	order := slices.Clone(e.order)
	e.mu.Unlock()
	require.Equal(t, []string{jid(3000), jid(3001), jid(3002), jid(3003)}, order, "before those with a looser goal that were in front")
	close(release)
	r.eventually("all are run", func() bool { return f.results()[Acked] == low+slow+backups })
	require.Len(t, e.ran(), slow+backups)
}
