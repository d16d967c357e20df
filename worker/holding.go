package worker

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/queueville/queueville/queues"
	"github.com/queueville/queueville/scheduler"
)

// Fields that the worker adds to a payload. Ruby keeps unknown fields and ignores them.
const (
	fieldHold      = "queueville_hold"       // object: host, reason, until; why the job waits in a set without having been tried
	fieldHeldSince = "queueville_held_since" // float seconds: the first deferral; giving up counts from it
)

// ReasonBusy is the Reason of a deferred job whose destination gets as many requests as it may: it is not down.
const ReasonBusy = "destination is busy"

const (
	reasonRetries = "retries have their share"
	reasonForeign = "foreign class and no queue to forward to"
)

// fail writes Sidekiq's retry record, or ends the job if that was the last try.
func (w *Worker) fail(it *item, out Outcome, took time.Duration) {
	now := time.Now()
	opts := queues.RetryOptions{
		MaxRetries:   w.cfg.MaxRetries,
		Jitter7:      w.cfg.Jitter7,
		Milliseconds: w.cfg.Milliseconds,
		Delay: func(count int) (time.Duration, queues.DelayRule) {
			return it.handler.RetryDelay(it.job.Class, count), queues.DelayCustom
		},
	}
	entry, err := queues.RetryEntry(it.job, it.queue, queues.Failure{Class: out.ErrorClass, Message: out.ErrorMessage}, now, opts)
	if err != nil { // cannot be written again as JSON: bury the bytes rather than lose the job
		event := w.event(it, Dead, out.Label, took)
		event.Reason = err.Error()
		w.settle(settlement{item: it, op: queues.OpDead, at: seconds(now), event: event})
		return
	}
	event := w.event(it, Retried, out.Label, took)
	event.Reason = out.ErrorMessage
	switch {
	case entry.Verdict == queues.VerdictDead:
		event.Result = Dead
	case entry.Verdict == queues.VerdictDiscard:
		event.Result = Discarded
	case w.tooOld(it, now):
		w.giveUp(it, entry, event, now)
		return
	}
	s := settlement{item: it, op: entry.Verdict.Op(), payload: entry.Payload, at: entry.Score, event: event}
	if entry.Verdict == queues.VerdictRetry {
		if nb := seconds(out.NotBefore); !out.NotBefore.IsZero() && nb > s.at {
			s.at = nb + rand.Float64()*float64(10*(entry.Count+1))
		}
		if _, held := queues.TopLevel(s.payload, fieldHold); held {
			if p, err := queues.SetFields(s.payload, queues.Field{Name: fieldHold}); err == nil {
				s.payload = p // it has been tried now
			}
		}
	}
	w.settle(s)
}

// giveUp ends a job whose time is over: into the dead set, or nowhere if it says "dead": false.
func (w *Worker) giveUp(it *item, entry queues.Retry, event End, now time.Time) {
	event.Label = "gave up"
	if it.job.Retry.NoDead {
		event.Result = Discarded
		w.settle(settlement{item: it, op: queues.OpAck, event: event})
		return
	}
	event.Result = Dead
	w.settle(settlement{item: it, op: queues.OpDead, payload: entry.Payload, at: seconds(now), event: event})
}

// tooOld says whether giving up is due: since the first failure or the first deferral, whichever was earlier.
func (w *Worker) tooOld(it *item, now time.Time) bool {
	if it.handler == nil {
		return false
	}
	limit := it.handler.GiveUpAfter(it.job.Class)
	first := firstTrouble(&it.job)
	return limit > 0 && first > 0 && seconds(now)-first > limit.Seconds()
}

// firstTrouble is when the job first failed or was first deferred, in Unix seconds; 0 for neither.
func firstTrouble(job *queues.Job) float64 {
	first := float64(job.FailedAt)
	if since := heldSince(job.Payload); since > 0 && (first == 0 || since < first) {
		first = since
	}
	return first
}

func heldSince(payload string) float64 {
	raw, ok := queues.TopLevel(payload, fieldHeldSince)
	if !ok {
		return 0
	}
	var v float64
	if json.Unmarshal([]byte(raw), &v) != nil || v < 0 || math.IsInf(v, 0) {
		return 0
	}
	return v
}

// holdAll defers jobs that will not be tried now.
func (w *Worker) holdAll(list []*item, reason string, until time.Time) {
	for _, it := range list {
		w.holdOne(it, reason, until)
	}
}

// holdOne puts a job into the set it would wait in under Ruby too: schedule if it has never failed, retry if it has. Its retry count
// stays as it is, for nothing was tried.
func (w *Worker) holdOne(it *item, reason string, until time.Time) {
	now := time.Now()
	event := w.event(it, Deferred, "held", 0)
	event.Reason = reason
	if w.tooOld(it, now) {
		w.giveUp(it, queues.Retry{}, event, now)
		return
	}
	if it.job.Unrepeatable() { // Ruby's poller would lose it
		event.Result, event.Label = Dead, "cannot be written again as JSON"
		w.settle(settlement{item: it, op: queues.OpDead, at: seconds(now), event: event})
		return
	}
	due := w.pacer.due(it.dest, now, until)
	since := heldSince(it.payload)
	fields := []queues.Field{{Name: fieldHold, Raw: holdJSON(it.dest, reason, due)}}
	if since == 0 {
		fields = append(fields, queues.Field{Name: fieldHeldSince, Raw: queues.JSONFloatSeconds(seconds(now))})
	}
	if it.job.Queue != it.queue { // else it would come back to another queue than the one it came from
		fields = append(fields, queues.Field{Name: "queue", Raw: queues.JSONString(it.queue)})
	}
	payload, err := queues.SetFields(it.payload, fields...)
	if err != nil {
		payload = "" // bytes that cannot be edited wait as they are
	}
	op := queues.OpSchedule
	if it.job.HasRetryCount && it.job.FailedAt > 0 {
		op = queues.OpRetry
	}
	w.settle(settlement{item: it, op: op, payload: payload, at: seconds(due), event: event})
}

func holdJSON(host, reason string, until time.Time) string {
	return `{"host":` + queues.JSONString(host) + `,"reason":` + queues.JSONString(reason) + `,"until":` + queues.JSONFloatSeconds(seconds(until)) + `}`
}

// pacer spreads the due times of deferred jobs, destination by destination, at about the rate at which they can be served, so that
// neither a backlog nor a host that comes back causes a rush, and a deferred job is not taken out and put back in vain.
type pacer struct {
	mu    sync.Mutex
	lines map[string]*scheduler.Pace
	gate  Pacer // nil: nothing is known of any destination
}

const paceLines = 20_000 // lines kept at most; when full, those that have passed are forgotten, then any

func newPacer() *pacer { return &pacer{lines: make(map[string]*scheduler.Pace)} }

// due gives the next place for dest that is not before until, as scheduler.Pace does.
func (p *pacer) due(dest string, now, until time.Time) time.Time {
	step := time.Duration(0)
	if p.gate != nil {
		step = p.gate.Pace(dest)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	line := p.lines[dest]
	if line == nil {
		p.makeRoom(now)
		line = &scheduler.Pace{}
		p.lines[dest] = line
	}
	line.Step = step
	return line.Due(now, until, rand.Float64)
}

func (p *pacer) makeRoom(now time.Time) {
	if len(p.lines) < paceLines {
		return
	}
	for name, line := range p.lines {
		if line.Next.Before(now) {
			delete(p.lines, name)
		}
	}
	for name := range p.lines {
		if len(p.lines) < paceLines {
			return
		}
		delete(p.lines, name)
	}
}

// seconds and unixTime convert between Go's time and Sidekiq's float seconds.
func seconds(t time.Time) float64 { return float64(t.UnixMicro()) / 1e6 }

func unixTime(s float64) time.Time { return time.UnixMicro(int64(s * 1e6)) }
