package ruby

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/queueville/queueville/internal/redistest"
	"github.com/queueville/queueville/queues"
)

// leads gives a supervisor a candidate for the cron leadership with a short lease on client.
func leads(client *redis.Client, name string) func(*Config) {
	return func(c *Config) {
		l := queues.NewLeader(queues.NewStore(client, ""), "cron", name)
		l.TTL = 2 * time.Second
		c.Leader, c.CronEvery, c.CronSeed = l, 100*time.Millisecond, 7
	}
}

func (r *rig) cronPID() int {
	for _, p := range r.s.Processes() {
		if p.Cron && p.State == "serving" {
			return p.PID
		}
	}
	return 0
}

func TestRubyOneCronProcessInTheFleet(t *testing.T) {
	t.Parallel()
	shared := redistest.Client(t)
	a := newRig(t, leads(shared, "a"))
	a.await("a leads", func() bool { return a.cronPID() != 0 })
	b := newRig(t, leads(shared, "b"))
	b.ready(1)
	for range 20 {
		if a.cronPID() != 0 && b.cronPID() != 0 {
			t.Fatal("two cron processes")
		}
		time.Sleep(20 * time.Millisecond)
	}
	a.await("one process, that of cron", func() bool { l := a.s.Processes(); return len(l) == 1 && l[0].Cron })
	a.s.Submit([]Job{job("Tell", "tell", "[]"), job("Nap", "nap", "[1]")})
	a.result("tell")
	if told, err := a.redis.LRange(t.Context(), "told", 0, -1).Result(); err != nil || len(told) != 1 || !strings.Contains(told[0], "default+low+scheduler") {
		t.Errorf("queues of the cron process = %q, %v", told, err)
	}
	a.started("nap")
	a.stop()
	if res := a.result("nap"); res.Kind != Acked {
		t.Errorf("job of the cron process at a stop: %+v", res)
	}
	b.await("b leads", func() bool { return b.cronPID() != 0 })
}

func TestRubyCronEndsWithTheLeadership(t *testing.T) {
	t.Parallel()
	shared := redistest.Client(t)
	r := newRig(t, func(c *Config) { leads(shared, "a")(c); c.MaxProcs, c.MinProcs = 2, 2 })
	r.await("it leads", func() bool { return r.cronPID() != 0 })
	r.ready(2)
	r.await("one of them is that of cron", func() bool { return len(r.s.Processes()) == 2 && r.cronPID() != 0 }) // a third one may be leaving still
	pid := r.cronPID()
	jobs := []Job{}
	for n := range 4 {
		jobs = append(jobs, job("Nap", fmt.Sprint("nap", n), "[3]"))
	}
	r.s.Submit(jobs)
	for _, j := range jobs {
		r.started(j.JID)
	}
	if err := shared.Set(t.Context(), "queueville:leader:cron", "99 other", time.Minute).Err(); err != nil {
		t.Fatal(err)
	}
	r.gone(pid)
	kinds := map[Kind]int{}
	for _, j := range jobs {
		res := r.result(j.JID)
		kinds[res.Kind]++
		if want := r.started(j.JID) == pid; want != (res.Kind == Returned) || want && res.Label != LabelStopping {
			t.Errorf("%s: %+v", j.JID, res)
		}
	}
	if kinds[Returned] == 0 || kinds[Acked] == 0 {
		t.Errorf("results: %v", kinds)
	}
	r.ready(2)
	if r.cronPID() != 0 {
		t.Error("there is a cron process without a leadership")
	}
}

type ticks struct {
	NoObserver
	mu   sync.Mutex
	lost []string
}

func (o *ticks) TickLost(entry string, madeUp bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lost = append(o.lost, fmt.Sprint(entry, " ", madeUp))
}

func TestRubyMakesUpLostTicks(t *testing.T) {
	t.Parallel()
	shared := redistest.Client(t)
	seen := &ticks{}
	var prepared sync.Once
	r := newRig(t, func(c *Config) {
		leads(shared, "a")(c)
		c.Observer = seen
		text, err := os.ReadFile("testdata/cron.rb")
		if err != nil {
			t.Fatal(err)
		}
		c.Command.Require = filepath.Join(c.Command.Dir, "cron.rb")
		if err := os.WriteFile(c.Command.Require, text, 0o600); err != nil {
			t.Fatal(err)
		}
	})
	prepared.Do(func() {
		at := func(ago time.Duration) string { return time.Now().Add(-ago).UTC().Format("2006-01-02 15:04:05 +0000") }
		pipe := r.redis.Pipeline()
		due := time.Now().Add(-10 * time.Minute)
		pipe.HSet(t.Context(), "sidekiq-scheduler:next_times", "daily", at(10*time.Minute), "often", at(10*time.Minute), "off", at(10*time.Minute), "pushed", at(10*time.Minute), "removed", at(time.Minute), "future", at(-time.Hour))
		pipe.HSet(t.Context(), "sidekiq-scheduler:last_times", "daily", at(24*time.Hour), "often", at(15*time.Minute), "off", at(24*time.Hour))
		pipe.HSet(t.Context(), "sidekiq-scheduler:states", "off", `{"enabled":false}`)
		pipe.ZAdd(t.Context(), "sidekiq-scheduler:pushed:pushed", redis.Z{Score: float64(due.Unix()), Member: due.Unix()})
		if _, err := pipe.Exec(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	r.await("two lost ticks", func() bool { seen.mu.Lock(); defer seen.mu.Unlock(); return len(seen.lost) >= 2 })
	slices.Sort(seen.lost)
	if !slices.Equal(seen.lost, []string{"daily true", "often false"}) {
		t.Errorf("lost ticks = %q", seen.lost)
	}
	if n, err := r.redis.LLen(t.Context(), "queue:scheduler").Result(); err != nil || n != 1 {
		t.Errorf("%d jobs pushed, %v", n, err)
	}
}
