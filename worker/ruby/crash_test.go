package ruby

import (
	"encoding/json"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/queueville/queueville/queues"
)

func TestRubyKilledProcessReturnsItsJobsOnce(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, noPreload bool) { //nolint:thelper // it is the test itself
		r := newRig(t, func(c *Config) {
			c.NoPreload = noPreload
			c.MaxProcs, c.MinProcs = 2, 2
		})
		r.ready(2)
		r.s.Submit([]Job{job("Nap", "a", "[30]"), job("Nap", "b", "[30]"), job("Nap", "c", "[0.5]")})
		victim := r.started("a")
		for _, jid := range []string{"b", "c"} {
			r.started(jid)
		}
		kill(t, victim, syscall.SIGKILL)
		res := r.result("a")
		if res.Kind != Returned || res.Label != LabelCrashed || res.PID != victim || res.Payload != "" {
			t.Errorf("result of a job whose process was killed = %+v", res)
		}
		for _, jid := range []string{"b", "c"} {
			if pid := r.started(jid); pid == victim {
				if res := r.result(jid); res.Kind != Returned || res.Label != LabelCrashed {
					t.Errorf("result of %s = %+v", jid, res)
				}
			}
		}
		r.ready(2) // another one has taken its place
		r.stop()
		for jid := range r.trace("started") {
			if all := r.results(jid); len(all) != 1 {
				t.Errorf("%s has %d results: %+v", jid, len(all), all)
			}
		}
	})
}

func TestRubyPoisonRunsAloneAndIsBuried(t *testing.T) {
	t.Parallel()
	var store *queues.Store
	r := newRig(t, func(c *Config) { c.MaxProcs, c.MinProcs = 2, 2 })
	store = queues.NewStore(r.redis, "")
	r.s.cfg.Poison = store // before any death
	r.ready(2)
	j := job("Die", "poison", "[109301234567890123]")
	var res Result
	for death := 1; death <= 4; death++ {
		r.s.Submit([]Job{j})
		r.await("death", func() bool { return len(r.results("poison")) == death })
		res = r.results("poison")[death-1]
		wantKind, wantLabel := Returned, LabelCrashed
		if death == 4 {
			wantKind, wantLabel = Dead, LabelPoison
		}
		if res.Kind != wantKind || res.Label != wantLabel {
			t.Fatalf("death %d: %+v", death, res)
		}
		if marked := res.Payload != ""; marked != (death >= 2) {
			t.Fatalf("death %d: payload %q", death, res.Payload)
		}
		if res.Payload != "" {
			j.Payload = res.Payload
			if !mustBeAlone(j.Payload) {
				t.Errorf("death %d: %s need not be alone", death, j.Payload)
			}
		}
		r.ready(2)
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal([]byte(res.Payload), &fields); err != nil {
		t.Fatal(err)
	}
	if string(fields["args"]) != "[109301234567890123]" || string(fields["error_class"]) != `"Queueville::PoisonJob"` || !strings.Contains(string(fields[queues.PoisonField]), `"deaths":4`) {
		t.Errorf("buried payload = %s", res.Payload)
	}
	if ttl, err := r.redis.PTTL(t.Context(), "queueville:poison:poison").Result(); err != nil || ttl < 71*time.Hour || ttl > 72*time.Hour {
		t.Errorf("expiry of the count = %v, %v", ttl, err)
	}
}

func TestRubyAloneMeansAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.MaxProcs = 1 })
	r.ready(1)
	alone := job("Nap", "alone", "[0.5]")
	alone.Payload = marked(alone.Payload, 2, LabelCrashed, time.Now())
	r.s.Submit([]Job{job("Nap", "before", "[0.5]"), alone, job("Noop", "after", "[]")})
	for _, jid := range []string{"before", "alone", "after"} {
		r.result(jid)
	}
	started, err := r.redis.LRange(t.Context(), "ended", 0, -1).Result()
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, l := range started {
		jid, _, _ := strings.Cut(l, " ")
		order = append(order, jid)
	}
	if !slices.Equal(order, []string{"before", "alone", "after"}) {
		t.Errorf("order of ends = %v", order)
	}
}

func TestRubyOurKillsAreNotCounted(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.StopTimeout = time.Second })
	r.s.cfg.Poison = queues.NewStore(r.redis, "")
	r.ready(1)
	r.s.Submit([]Job{job("Nap", "long", "[60]")})
	r.started("long")
	r.stop()
	if res := r.result("long"); res.Kind != Returned || res.Label != LabelStopping {
		t.Errorf("result of a job that was stopped = %+v", res)
	}
	if n, err := r.redis.Exists(t.Context(), "queueville:poison:long").Result(); err != nil || n != 0 {
		t.Errorf("it was counted: %d, %v", n, err)
	}
	if n, err := r.redis.LLen(t.Context(), "queue:default").Result(); err != nil || n != 0 {
		t.Errorf("Sidekiq put %d jobs back by itself, %v", n, err)
	}
}

func TestRubyAbandonedJobsComeBackAndAreBuried(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.ready(1)
	for n := 1; n <= abandonLimit; n++ {
		r.s.Submit([]Job{job("Abandon", "x", "[]")})
		r.await("its return", func() bool { return len(r.results("x")) == n })
		res := r.results("x")[n-1]
		if n < abandonLimit && (res.Kind != Returned || res.Label != LabelAbandoned) || n == abandonLimit && (res.Kind != Dead || res.Payload == "") {
			t.Errorf("result %d = %+v", n, res)
		}
	}
}

func TestRubyChildrenOutliveTheirParent(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.ready(1)
	r.s.Submit([]Job{job("Nap", "a", "[1]")})
	pid := r.started("a")
	r.s.mu.Lock()
	parent := r.s.zygote.pid
	r.s.mu.Unlock()
	kill(t, parent, syscall.SIGKILL)
	if res := r.result("a"); res.Kind != Acked {
		t.Errorf("result of a job whose process lost its parent = %+v", res)
	}
	r.s.Submit([]Job{job("Nap", "b", "[30]")})
	if got := r.started("b"); got != pid {
		t.Errorf("b runs in %d, want %d", got, pid)
	}
	kill(t, pid, syscall.SIGKILL)
	if res := r.result("b"); res.Kind != Returned || res.Label != LabelVanished {
		t.Errorf("result = %+v", res)
	}
	r.ready(1) // from a new parent
	r.s.Submit([]Job{job("Noop", "c", "[]")})
	if res := r.result("c"); res.Kind != Acked {
		t.Errorf("result = %+v", res)
	}
}
