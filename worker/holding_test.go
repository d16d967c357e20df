package worker

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/queueville/queueville/queues"
	"github.com/queueville/queueville/scheduler"
)

// idleHandler is a handler whose jobs are never run.
type idleHandler struct{ giveUp time.Duration }

func (idleHandler) Classes() []string                          { return []string{"Idle"} }
func (idleHandler) Destination(string, string) (string, error) { return "host", nil }
func (idleHandler) Run(context.Context, *queues.Job) Outcome   { return Outcome{} }
func (idleHandler) RetryDelay(string, int) time.Duration       { return 15 * time.Second }
func (h idleHandler) GiveUpAfter(string) time.Duration         { return h.giveUp }

// bareWorker settles into a channel and needs no Redis.
func bareWorker() *Worker {
	return &Worker{
		pacer: newPacer(), observer: NopObserver{}, log: slog.New(slog.DiscardHandler), workCtx: context.Background(),
		completer: &completer{in: make(chan settlement, 100)},
	}
}

func parsed(t *testing.T, payload string, giveUp time.Duration) *item {
	t.Helper()
	job, err := queues.ParseJob(payload)
	require.NoError(t, err)
	return &item{job: job, payload: job.Payload, queue: "push", dest: "host.test", handler: idleHandler{giveUp}}
}

func TestHoldingKeepsTheJobAndItsRetries(t *testing.T) {
	tests := map[string]struct {
		payload string
		wantOp  queues.Op
	}{
		"a job that never failed waits in the schedule set": {
			`{"class":"Idle","args":[12345678901234567890],"jid":"a","retry":16,"queue":"push","created_at":1795291060276}`, queues.OpSchedule,
		},
		"a job that has failed waits in the retry set with its count": {
			`{"class":"Idle","args":[],"jid":"a","retry":16,"queue":"push","retry_count":3,"failed_at":1795291060.5,"error_class":"X","error_message":"y"}`, queues.OpRetry,
		},
		"a job with a count but without the time of its failure cannot be shown in the retry set": {
			`{"class":"Idle","args":[],"jid":"a","retry":16,"queue":"push","retry_count":3}`, queues.OpSchedule,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := bareWorker()
			until := time.Now().Add(10 * time.Minute)
			w.holdOne(parsed(t, tt.payload, 0), "refused", until)
			s := <-w.completer.in
			require.Equal(t, tt.wantOp, s.op)
			require.Equal(t, Deferred, s.event.Result)
			require.GreaterOrEqual(t, s.at, seconds(until))
			require.Less(t, s.at, seconds(until.Add(2*time.Second)))
			require.True(t, strings.HasPrefix(s.payload, strings.TrimSuffix(tt.payload, "}")), "every byte of the original stays: %s", s.payload)
			hold, ok := queues.TopLevel(s.payload, fieldHold)
			require.True(t, ok)
			require.Contains(t, hold, `"host":"host.test","reason":"refused"`)
			_, ok = queues.TopLevel(s.payload, fieldHeldSince)
			require.True(t, ok)
			_, err := queues.ParseJob(s.payload)
			require.NoError(t, err)
		})
	}
}

func TestHoldingAgainKeepsTheFirstTime(t *testing.T) {
	w := bareWorker()
	since := seconds(time.Now().Add(-time.Hour))
	payload := `{"class":"Idle","args":[],"jid":"a","retry":16,"queueville_held_since":` + queues.JSONFloatSeconds(since) + `,"queueville_hold":{"host":"x"}}`
	w.holdOne(parsed(t, payload, 2*time.Hour), "timeout", time.Time{})
	s := <-w.completer.in
	require.InDelta(t, since, heldSince(s.payload), 0.001)
	require.Equal(t, 1, strings.Count(s.payload, `"queueville_hold":`))
}

func TestGivingUp(t *testing.T) {
	long := queues.JSONFloatSeconds(seconds(time.Now().Add(-3 * time.Hour)))
	tests := map[string]struct {
		payload string
		op      queues.Op
		result  Result
	}{
		"held for too long, dead: false": {`{"class":"Idle","args":[],"retry":16,"dead":false,"queueville_held_since":` + long + `}`, queues.OpAck, Discarded},
		"held for too long":              {`{"class":"Idle","args":[],"retry":16,"queueville_held_since":` + long + `}`, queues.OpDead, Dead},
		"failed too long ago":            {`{"class":"Idle","args":[],"retry":16,"dead":false,"retry_count":1,"failed_at":` + long + `}`, queues.OpAck, Discarded},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			for kind, end := range map[string]func(*Worker, *item){
				"held":   func(w *Worker, it *item) { w.holdOne(it, "refused", time.Time{}) },
				"failed": func(w *Worker, it *item) { w.fail(it, Outcome{Kind: Failed, ErrorClass: "E"}, time.Second) },
			} {
				w := bareWorker()
				end(w, parsed(t, tt.payload, 2*time.Hour))
				s := <-w.completer.in
				require.Equal(t, tt.op, s.op, kind)
				require.Equal(t, tt.result, s.event.Result, kind)
			}
		})
	}
}

func TestRetryAfterMovesTheRetry(t *testing.T) {
	w := bareWorker()
	later := time.Now().Add(40 * time.Minute)
	w.fail(parsed(t, `{"class":"Idle","args":[],"retry":16,"jid":"a"}`, time.Hour), Outcome{Kind: Failed, ErrorClass: "E", NotBefore: later}, time.Second)
	s := <-w.completer.in
	require.Equal(t, queues.OpRetry, s.op)
	require.GreaterOrEqual(t, s.at, seconds(later))
	require.Less(t, s.at, seconds(later.Add(time.Minute)))
}

func TestATriedJobIsNoLongerMarkedAsHeld(t *testing.T) {
	w := bareWorker()
	w.fail(parsed(t, `{"class":"Idle","args":[],"retry":16,"jid":"a","queueville_hold":{"host":"h"},"queueville_held_since":1795291060.5}`, 0), Outcome{Kind: Failed, ErrorClass: "E"}, time.Second)
	s := <-w.completer.in
	_, held := queues.TopLevel(s.payload, fieldHold)
	require.False(t, held)
	require.NotZero(t, heldSince(s.payload), "giving up still counts from the first deferral")
}

func TestPacerSpreadsOneLine(t *testing.T) {
	p := newPacer()
	now := time.Now()
	var last time.Time
	for i := range 100 {
		due := p.due("h", now, now.Add(time.Minute))
		require.False(t, due.Before(now.Add(time.Minute)), "job %d is due before the host may be tried", i)
		last = due
	}
	require.Greater(t, last.Sub(now.Add(time.Minute)), 99*scheduler.PaceStep)
	require.Less(t, last.Sub(now.Add(time.Minute)), 120*scheduler.PaceStep)
	require.Less(t, p.due("other", now, time.Time{}).Sub(now), 7*time.Second, "other destinations have lines of their own")
}

func TestPacerIsBounded(t *testing.T) {
	p := newPacer()
	now := time.Now()
	for i := range paceLines + 500 {
		p.due(string(rune('a'+i%26))+time.Duration(i).String(), now, time.Time{})
	}
	require.LessOrEqual(t, len(p.lines), paceLines)
}

func TestFreshDoubtsBothClocks(t *testing.T) {
	k := &keeper{ttl: 30 * time.Second}
	now := time.Now()
	require.False(t, k.fresh(now), "no lease yet")
	k.renewed.Store(&now)
	require.True(t, k.fresh(now.Add(24*time.Second)))
	require.False(t, k.fresh(now.Add(26*time.Second)), "monotonic: the process was frozen")
	wallOnly := time.Unix(0, now.Add(time.Hour).UnixNano()) // no monotonic part: the wall clock jumped, or the machine slept
	require.False(t, k.fresh(wallOnly))
}

func TestGone(t *testing.T) {
	host, err := os.Hostname()
	require.NoError(t, err)
	self := ThisProcess("me", host)
	require.NotEmpty(t, self.BootID)
	require.False(t, gone(self, self), "this process runs")

	cmd := exec.CommandContext(t.Context(), "sleep", "60")
	require.NoError(t, cmd.Start())
	tick, err := startTick(cmd.Process.Pid)
	require.NoError(t, err)
	other := self
	other.PID, other.StartTick = cmd.Process.Pid, tick
	require.False(t, gone(self, other))
	require.NoError(t, cmd.Process.Kill())
	require.Eventually(t, func() bool { return gone(self, other) }, 20*time.Second, 5*time.Millisecond, "a zombie is gone too")
	_ = cmd.Wait()
	require.True(t, gone(self, other))

	reused := self
	reused.StartTick++
	require.True(t, gone(self, reused), "another process has the number now")
	elsewhere := other
	elsewhere.BootID = "another boot"
	require.False(t, gone(self, elsewhere), "other machines and containers are judged by their lease alone")
}
