package rubyapp_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/queueville/queueville/internal/rubyapp"
)

const limit = 60 * time.Second

// all are the queues of config/sidekiq.yml but the one that makes a process push recurring jobs.
var all = []string{"-q", "default", "-q", "push", "-q", "ingress", "-q", "mailers", "-q", "pull", "-c", "5", "-t", "5"}

// TestEveryClassRunsOnce: a mix pushed without Ruby, and what only Ruby can push, under a stock Sidekiq started as the units do.
func TestEveryClassRunsOnce(t *testing.T) {
	t.Parallel()
	a := rubyapp.Start(t)
	mix := a.NewMix(1, rubyapp.Share{Class: rubyapp.Processing, Parts: 4}, rubyapp.Share{Class: rubyapp.FeedInsert, Parts: 2},
		rubyapp.Share{Class: rubyapp.PushUpdate, Parts: 2}, rubyapp.Share{Class: rubyapp.ThreadResolve, Parts: 2},
		rubyapp.Share{Class: rubyapp.LinkCrawl, Parts: 2}, rubyapp.Share{Class: rubyapp.Burn, Parts: 1},
		rubyapp.Share{Class: rubyapp.Wait, Parts: 1}, rubyapp.Share{Class: rubyapp.Query, Parts: 1})
	jids := a.PushMix(mix, 80)
	jids = append(jids, a.Push(
		rubyapp.Job{Class: rubyapp.Announcement, Args: []any{7, 5, 1}}, rubyapp.Job{Class: rubyapp.Print, Args: []any{"hello from a job"}},
		rubyapp.Job{Class: rubyapp.Hog, Args: []any{1}},
	)...)
	fanned := a.Push(rubyapp.Job{Class: rubyapp.Distribution, Args: []any{1, map[string]any{"fan": 3}}})
	ruby := a.PushRuby(
		`ResolveAccountWorker.perform_async("one@remote.test")`, `ResolveAccountWorker.perform_async("one@remote.test")`,
		`Mail.call("hello")`, `PollExpirationNotifyWorker.perform_async(1)`,
	)
	if ruby[0] == "" || ruby[1] != "" || ruby[2] == "" || ruby[3] == "" {
		t.Fatalf("pushed by Ruby: %q; only the second, which is locked out, is to be refused", ruby)
	}
	if locks := a.Locks(); len(locks) != 2 {
		t.Errorf("locks after pushing = %q, want 2", locks)
	}
	p := a.Sidekiq([]string{"RUBYAPP_REMOTE_MS=10"}, all...)
	jids = append(jids, fanned...)
	jids = append(jids, ruby[0], ruby[2], ruby[3])
	a.WaitRuns(limit, jids...)
	waitFor(t, "fanned out", func() bool {
		n := 0
		for _, r := range a.Runs(rubyapp.FeedInsert) {
			if !slices.Contains(jids, r.JID) {
				n++
			}
		}
		return n == 3
	})
	a.Once(jids...)
	waitFor(t, "no locks", func() bool { return len(a.Locks()) == 0 })
	if mails := a.Notes("mail"); len(mails) != 1 || !strings.Contains(mails[0], `"text":"hello"`) {
		t.Errorf("mails = %q", mails)
	}
	if steps := a.Notes("announcement:7"); !slices.Equal(steps, []string{"0", "1", "2", "3", "4"}) {
		t.Errorf("steps = %q", steps)
	}
	if n, err := a.Redis.ZCard(t.Context(), "retry").Result(); n != 0 || err != nil {
		members, _ := a.Redis.ZRange(t.Context(), "retry", 0, -1).Result()
		t.Errorf("%d jobs to be tried again: %q", n, members)
	}
	p.Stop()
	if !strings.Contains(p.Output(), "hello from a job") {
		t.Error("a job's own output is not in the process's")
	}
	if launches := a.Launches(); !strings.Contains(launches[len(launches)-1], " sidekiq -q default") {
		t.Errorf("launches = %q", launches)
	}
	wrong := map[string]bool{}
	for _, r := range a.Runs() {
		if r.PID != p.PID() || r.End < r.Start {
			wrong[r.Class] = true
		}
	}
	if len(wrong) > 0 {
		t.Errorf("runs of another process than %d, or of negative length: %v", p.PID(), wrong)
	}
}

// TestIngressWrites: the jobs do what their weights are made of, instead of leaving early.
func TestIngressWrites(t *testing.T) {
	t.Parallel()
	a := rubyapp.Start(t)
	jids := a.PushMix(a.NewMix(3, rubyapp.Ingress()...), 40)
	a.Sidekiq(nil, "-q", "ingress", "-c", "1")
	by := a.WaitRuns(limit, jids...)
	took := 0.0
	for _, runs := range by {
		took += runs[0].End - runs[0].Start
	}
	t.Logf("an ingress job took %.1f ms on the average", 1000*took/float64(len(jids)))
	out := a.Eval(`print [Status.where.not(digest: nil).count, Account.connection.select_value("SELECT sum(statuses_count) FROM account_stats").to_i].inspect`)
	var counts []int
	if err := json.Unmarshal([]byte(out), &counts); err != nil {
		t.Fatalf("%q: %v", out, err)
	}
	deleted, err := a.Redis.Keys(t.Context(), "delete_upon_arrival:*").Result()
	if err != nil {
		t.Fatal(err)
	}
	if counts[0] == 0 || counts[0] != counts[1] || counts[0]+len(deleted) != len(jids) {
		t.Errorf("%d statuses, counted as %d, and %d deletions of %d activities", counts[0], counts[1], len(deleted), len(jids))
	}
}

func TestFailures(t *testing.T) {
	t.Parallel()
	a := rubyapp.Start(t)
	jids := a.Push(
		rubyapp.Job{Class: rubyapp.RefreshAccount, Args: []any{1}}, rubyapp.Job{Class: rubyapp.BulkImport, Args: []any{1}},
		rubyapp.Job{Class: rubyapp.LinkCrawl, Args: []any{1, "http://127.0.0.1:1/"}}, rubyapp.Job{Class: rubyapp.LinkCrawl, Args: []any{1, "http://example.test/"}},
		rubyapp.Job{Class: rubyapp.Raise, Args: []any{"ouch"}, Retry: 0},
	)
	a.Sidekiq(nil, all...)
	by := a.WaitRuns(limit, jids...)
	for i, want := range []string{"ActiveRecord::RecordNotFound", "ArgumentError", "Errno::ECONNREFUSED", "Mastodon::HostValidationError", "RuntimeError"} {
		if got := by[jids[i]][0].Error; got != want {
			t.Errorf("job %d raised %q, want %q", i, got, want)
		}
	}
	waitFor(t, "failures written: "+strings.Join(jids, " "), func() bool {
		retries, dead := members(t, a.Redis, "retry"), members(t, a.Redis, "dead")
		return slices.Equal(retries, jids[:1]) && slices.Equal(dead, sorted(jids[2], jids[4]))
	})
}

// TestLockOfAFailingJob: up to 8.0 of the gem it is given back after every attempt, from 8.1 it is kept until success or death.
func TestLockOfAFailingJob(t *testing.T) {
	t.Parallel()
	if os.Getenv("RUBYAPP_REAL_GEMS") == "1" {
		t.Skip("the gem decides")
	}
	for release, want := range map[string]int{"always": 0, "success": 1} {
		t.Run(release, func(t *testing.T) {
			t.Parallel()
			a := rubyapp.Start(t)
			jid := a.PushRuby(`AccountRefreshWorker.perform_async(1)`)[0]
			a.Sidekiq([]string{"RUBYAPP_UNIQUE=" + release}, all...)
			a.WaitRuns(limit, jid)
			waitFor(t, "a retry", func() bool { return slices.Equal(members(t, a.Redis, "retry"), []string{jid}) })
			if got := len(a.Locks()); got != want {
				t.Errorf("locks = %d, want %d", got, want)
			}
		})
	}
}

// TestDeathReleasesTheLock: for 8.1's behaviour, in which only the death handler can.
func TestDeathReleasesTheLock(t *testing.T) {
	t.Parallel()
	a := rubyapp.Start(t)
	jid := a.PushRuby(`AccountRefreshWorker.set(retry: 0).perform_async(1)`)[0]
	if len(a.Locks()) != 1 {
		t.Fatalf("locks = %q", a.Locks())
	}
	a.Sidekiq([]string{"RUBYAPP_UNIQUE=success"}, all...)
	a.WaitRuns(limit, jid)
	waitFor(t, "no locks", func() bool { return len(a.Locks()) == 0 })
}

// TestCron: only a process that listens to scheduler pushes, and of two that do, one.
func TestCron(t *testing.T) {
	t.Parallel()
	a := rubyapp.Start(t)
	const class = "Scheduler::ScheduledStatusesScheduler"
	env := []string{"RUBYAPP_TICK=2s"}
	if os.Getenv("RUBYAPP_REAL_GEMS") == "1" {
		env[0] = "RUBYAPP_TICK=10s"
	}
	p := a.Sidekiq(env, all...)
	time.Sleep(5 * time.Second)
	if n := len(a.Runs(class)); n != 0 {
		t.Errorf("%d runs without a listener", n)
	}
	p.Stop()
	a.Sidekiq(env, "-q", "scheduler", "-c", "2")
	waitFor(t, "two ticks", func() bool { return len(a.Runs(class)) >= 2 })
	pushed, err := a.Redis.ZCard(t.Context(), "sidekiq-scheduler:pushed:scheduled_statuses_scheduler").Result()
	if err != nil {
		t.Fatal(err)
	}
	runs := a.Runs(class)
	if len(runs) > int(pushed) {
		t.Errorf("%d runs of %d ticks", len(runs), pushed)
	}
	for _, r := range runs {
		if r.Queue != "scheduler" {
			t.Errorf("ran from queue %q", r.Queue)
		}
	}
	next, err := a.Redis.HLen(t.Context(), "sidekiq-scheduler:next_times").Result()
	if err != nil || next == 0 {
		t.Errorf("next_times holds %d: %v", next, err)
	}
}

// TestUnitsWay: the directory alone is enough, with nothing in the environment but what a unit sets.
func TestUnitsWay(t *testing.T) {
	t.Parallel()
	a := rubyapp.Start(t)
	jid := a.PushRuby(`Mail.call("hi")`)[0]
	p := a.Launch([]string{"REDIS_URL=", "DATABASE_URL=", "DB_POOL=3", "SIDEKIQ_CONCURRENCY=3"}) // empty values count as not set
	a.WaitRuns(limit, jid)
	waitFor(t, "registered", func() bool {
		ids, err := a.Redis.SMembers(t.Context(), "processes").Result()
		if err != nil || len(ids) != 1 {
			return false
		}
		info, err := a.Redis.HGet(t.Context(), ids[0], "info").Result()
		return err == nil && strings.Contains(info, `"concurrency":3`) && strings.Contains(info, `"scheduler"`) && strings.Contains(info, `"ingress"`)
	})
	p.Stop()
}

func TestBootFailures(t *testing.T) {
	t.Parallel()
	for kind, want := range map[string]string{"raise": "does not boot", "gem": "a_gem_that_is_not_installed", "exit": ""} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			p := rubyapp.Start(t).Launch([]string{"RUBYAPP_BOOT=" + kind}, all...)
			select {
			case <-p.Done():
			case <-time.After(limit):
				t.Fatal("it does not end")
			}
			if !strings.Contains(p.Output(), want) {
				t.Errorf("output %q does not hold %q", p.Output(), want)
			}
		})
	}
}

func TestBootThatHangs(t *testing.T) {
	t.Parallel()
	p := rubyapp.Start(t).Launch([]string{"RUBYAPP_BOOT=hang"}, all...)
	select {
	case <-p.Done():
		t.Errorf("it ended\n%s", p.Output())
	case <-time.After(2 * time.Second):
	}
	p.Kill()
}

// TestCrash: what Sidekiq alone loses, and what is seen of it.
func TestCrash(t *testing.T) {
	t.Parallel()
	a := rubyapp.Start(t)
	for _, j := range []rubyapp.Job{{Class: rubyapp.Crash, Args: []any{"KILL"}}, {Class: rubyapp.Exit, Args: []any{4}}} {
		jid := a.Push(j)[0]
		p := a.Launch(nil, all...)
		select {
		case <-p.Done():
		case <-time.After(limit):
			t.Fatalf("%s: the process goes on\n%s", j.Class, p.Output())
		}
		if begun := a.Started(); len(begun) == 0 || begun[len(begun)-1].JID != jid || begun[len(begun)-1].PID != p.PID() || len(a.Runs(j.Class)) != 0 {
			t.Errorf("%s began as %+v and ended as %+v", j.Class, begun, a.Runs(j.Class))
		}
	}
}

// TestShutdownInterruptsAnIterableJob, which goes on at the step where it was (7.3 and later).
func TestShutdownInterruptsAnIterableJob(t *testing.T) {
	t.Parallel()
	a := rubyapp.Start(t)
	if a.Eval(`print defined?(Sidekiq::IterableJob) ? 1 : 0`) == "0" {
		t.Skip("this Sidekiq has no iterable jobs")
	}
	a.Push(rubyapp.Job{Class: rubyapp.Announcement, Args: []any{1, 40, 100}})
	p := a.Sidekiq(nil, all...)
	waitFor(t, "some steps", func() bool { return len(a.Notes("announcement:1")) > 3 })
	p.Signal(syscall.SIGTERM)
	<-p.Done()
	a.Sidekiq(nil, all...)
	waitFor(t, "all steps", func() bool { return len(a.Notes("announcement:1")) >= 40 })
	for i, step := range a.Notes("announcement:1") {
		if step != fmt.Sprint(i) {
			t.Fatalf("steps = %q", a.Notes("announcement:1"))
		}
	}
}

func TestWriteTwice(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "live")
	for range 2 {
		bundle, err := rubyapp.Write(dir)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(bundle); err != nil || info.Mode()&0o111 == 0 {
			t.Errorf("bundle: %v, %v", info, err)
		}
	}
	for _, name := range []string{"config/environment.rb", "config/application.rb", "config/sidekiq.yml", "app.rb", "lib/stand_in/rails.rb"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
}

// members lists the jids in a sorted set, sorted.
func members(t *testing.T, c *redis.Client, set string) []string {
	t.Helper()
	texts, err := c.ZRange(t.Context(), set, 0, -1).Result()
	if err != nil {
		t.Fatal(err)
	}
	jids := make([]string, len(texts))
	for i, text := range texts {
		var job struct{ JID string }
		if err := json.Unmarshal([]byte(text), &job); err != nil {
			t.Fatal(err)
		}
		jids[i] = job.JID
	}
	return sorted(jids...)
}

func sorted(list ...string) []string {
	slices.Sort(list)
	return list
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not seen in %v: %s", limit, what)
		}
	}
}
