package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/queueville/queueville/queues"
)

// entry is what tests read of a payload in a set.
type entry struct {
	JID          string          `json:"jid"`
	Queue        string          `json:"queue"`
	RetryCount   *int            `json:"retry_count"`
	ErrorClass   string          `json:"error_class"`
	ErrorMessage string          `json:"error_message"`
	FailedAt     json.Number     `json:"failed_at"`
	RetriedAt    json.Number     `json:"retried_at"`
	Hold         json.RawMessage `json:"queueville_hold"`
	HeldSince    json.Number     `json:"queueville_held_since"`
}

func parseEntry(tb testing.TB, payload string) entry {
	tb.Helper()
	var e entry
	require.NoError(tb, json.Unmarshal([]byte(payload), &e), payload)
	return e
}

// behave is a handler that does what the first argument says.
func behave(_ context.Context, job *queues.Job) Outcome {
	var args []string
	if err := json.Unmarshal([]byte(job.Args), &args); err != nil || len(args) == 0 {
		return Outcome{Kind: Done, Label: "done"}
	}
	switch args[0] {
	case "fail":
		return Outcome{Kind: Failed, Label: "failed", ErrorClass: "TestError", ErrorMessage: "on purpose"}
	case "panic":
		panic("on purpose")
	case "hold":
		return Outcome{Kind: Held, Label: "held", Until: time.Now().Add(time.Minute), Reason: "not now"}
	case "return":
		return Outcome{Kind: Returned}
	}
	return Outcome{Kind: Done, Label: "done"}
}

func unless(ok bool, what string) string {
	if ok {
		return ""
	}
	return "wrong: " + what
}

func TestOutcomes(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		args   string
		fields []string
		want   Result
		place  string               // "" for nowhere
		count  int                  // retry_count in the entry
		check  func(e entry) string // what is wrong with it
	}{
		"done":                     {args: `"ok"`, want: Acked},
		"fails for the first time": {args: `"fail"`, want: Retried, place: "retry", check: func(e entry) string { return unless(e.RetriedAt == "" && e.FailedAt != "", "times") }},
		"panics":                   {args: `"panic"`, want: Retried, place: "retry", check: func(e entry) string { return unless(e.ErrorMessage == "panic: on purpose", e.ErrorMessage) }},
		"fails again":              {args: `"fail"`, fields: []string{`"retry":16`, `"retry_count":3`, `"failed_at":1795291000.5`}, want: Retried, place: "retry", count: 4, check: func(e entry) string { return unless(e.RetriedAt != "" && e.FailedAt == "1795291000.5", "times") }},
		"fails after retry now":    {args: `"fail"`, fields: []string{`"retry":16`, `"retry_count":-1`, `"failed_at":1795291000.5`}, want: Retried, place: "retry"},
		"fails for the last time":  {args: `"fail"`, fields: []string{`"retry":3`, `"retry_count":2`, `"failed_at":1795291000.5`}, want: Dead, place: "dead", count: 3},
		"retry 0":                  {args: `"fail"`, fields: []string{`"retry":0`}, want: Dead, place: "dead"},
		"retry false":              {args: `"fail"`, fields: []string{`"retry":false`}, want: Discarded},
		"last time and dead false": {args: `"fail"`, fields: []string{`"retry":0`, `"dead":false`}, want: Discarded},
		"held before it ever failed": {args: `"hold"`, want: Deferred, place: "schedule", count: -100, check: func(e entry) string {
			return unless(strings.Contains(string(e.Hold), "not now") && e.HeldSince != "", "hold")
		}},
		"held after a failure":            {args: `"hold"`, fields: []string{`"retry":16`, `"retry_count":5`, `"failed_at":` + fmt.Sprint(time.Now().Unix()-60) + `.5`}, want: Deferred, place: "retry", count: 5},
		"given up after a failure":        {args: `"fail"`, fields: []string{`"retry":16`, `"retry_count":5`, `"failed_at":1695291000.5`}, want: Dead, place: "dead", count: 6},
		"given up while held":             {args: `"hold"`, fields: []string{`"retry":16`, `"queueville_held_since":1695291000.5`}, want: Dead, place: "dead", count: -100},
		"given up and dead false":         {args: `"hold"`, fields: []string{`"retry":16`, `"dead":false`, `"queueville_held_since":1695291000.5`}, want: Discarded},
		"failed with a retry queue":       {args: `"fail"`, fields: []string{`"retry":16`, `"retry_queue":"low"`}, want: Retried, place: "retry", check: func(e entry) string { return unless(e.Queue == "low", e.Queue) }},
		"held, that Ruby could not write": {args: `"hold","\ud800"`, want: Dead, place: "dead", count: -100},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, f := newRig(t), newFake()
			f.do, f.delay, f.giveUp = behave, 15*time.Second, 0
			if strings.HasPrefix(name, "given up") {
				f.giveUp = time.Hour
			}
			payload := job(native, 1, tt.args, tt.fields...)
			r.push("push", payload)
			w := r.start(f)
			r.eventually("settled", func() bool { return f.results()[tt.want] == 1 })
			r.eventually("no longer in flight", func() bool { return r.inFlight() == 0 })
			require.Equal(t, map[Result]int{tt.want: 1}, f.results())
			for _, place := range []string{"retry", "schedule", "dead"} {
				if place != tt.place {
					require.Empty(t, r.members(place), place)
				}
			}
			require.Empty(t, r.queue("push"))
			if tt.place == "" {
				return
			}
			got := r.members(tt.place)
			require.Len(t, got, 1)
			if strings.Contains(payload, `\ud800`) {
				require.Equal(t, payload, got[0], "buried unchanged")
				return
			}
			e := parseEntry(t, got[0])
			require.Equal(t, jid(1), e.JID)
			if tt.count == -100 {
				require.Nil(t, e.RetryCount)
			} else {
				require.Equal(t, tt.count, *e.RetryCount)
			}
			if tt.check != nil {
				require.Empty(t, tt.check(e))
			}
			w.stop()
		})
	}
}

// dueNow makes everything in a set due.
func (r *rig) dueNow(set string) {
	r.t.Helper()
	for _, m := range r.members(set) {
		require.NoError(r.t, r.client.ZAddXX(r.ctx(), set, redis.Z{Member: m, Score: float64(time.Now().Unix() - 1)}).Err())
	}
}

// polling makes a worker look at the sets all the time.
func polling(c *Config) { c.PollFirst, c.PollAverage = time.Millisecond, 20*time.Millisecond }

func TestRetriedJobComesBackAndIsDone(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	f.delay = time.Hour
	f.do = func(_ context.Context, job *queues.Job) Outcome {
		if job.HasRetryCount && job.RetryCount == 1 {
			return Outcome{}
		}
		return Outcome{Kind: Failed, ErrorClass: "TestError", ErrorMessage: "on purpose"}
	}
	r.push("push", job(native, 1, `12345678901234567890`))
	r.start(f, polling)
	for i := range 2 {
		r.eventually("failed", func() bool { return f.results()[Retried] == i+1 && len(r.members("retry")) == 1 })
		r.dueNow("retry")
	}
	r.eventually("done", func() bool { return f.results()[Acked] == 1 })
	require.Empty(t, r.where("push"))
	require.Equal(t, map[int]int{3: 1}, f.runsOf())
}

func TestHeldJobsComeBack(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	gate := newTestGate(4)
	gate.down["dead.test"] = true
	f.dest = func(args string) (string, error) { return strings.Trim(args, `[]"`), nil }
	for i := range 30 {
		r.push("push", job(native, i, `"dead.test"`), job(native, 1000+i, `"alive.test"`))
	}
	failed := job(native, 5000, `"dead.test"`, `"retry":16`, `"retry_count":2`, `"failed_at":1795291000.5`)
	r.push("push", failed)
	r.start(f, polling, func(c *Config) { c.Gate = gate })
	r.eventually("those of the live host are done, the others wait in the sets", func() bool {
		res := f.results()
		return res[Acked] == 30 && res[Deferred] == 31
	})
	require.Len(t, r.members("schedule"), 30)
	require.Len(t, r.members("retry"), 1)
	require.Equal(t, 2, *parseEntry(t, r.members("retry")[0]).RetryCount, "no retry is used up")
	scores := map[float64]bool{}
	for _, z := range r.set("schedule") {
		scores[z.Score] = true
		require.Greater(t, z.Score, float64(time.Now().Add(30*time.Second).Unix()), "not before the gate's time")
	}
	require.Len(t, scores, 30, "spread")
	require.Len(t, f.started(), 30, "nobody tried the dead host")

	gate.mu.Lock()
	gate.down["dead.test"] = false
	gate.mu.Unlock()
	r.dueNow("schedule")
	r.dueNow("retry")
	r.eventually("all are done when the host is back", func() bool { return f.results()[Acked] == 61 })
	require.Equal(t, map[int]int{1: 61}, f.runsOf())
	require.Empty(t, r.where("push"))
	require.LessOrEqual(t, gate.peak["dead.test"], 4)
}

func TestNothingStaysFetchedAndUnstarted(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	f.dest = func(string) (string, error) { return "slow.test", nil }
	release := make(chan struct{})
	f.do = func(context.Context, *queues.Job) Outcome { <-release; return Outcome{} }
	r.push("push", natives(0, 60, "")...)
	r.start(f, func(c *Config) { c.Gate = newTestGate(2); c.MaxWait = 500 * time.Millisecond; c.PerDest = 40 })
	r.eventually("what does not fit into the line goes at once", func() bool { return f.results()[Deferred] >= 18 })
	r.eventually("the rest when it has waited for too long", func() bool { return f.results()[Deferred] == 58 })
	require.Len(t, r.members("schedule"), 58)
	require.Equal(t, 2, r.inFlight())
	close(release)
	r.eventually("what ran is done", func() bool { return f.results()[Acked] == 2 })
}
