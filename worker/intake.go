package worker

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/queueville/queueville/queues"
)

// intake turns fetched payloads into items: native jobs go to the lane, foreign ones are forwarded, unreadable ones are buried.
func (w *Worker) intake(session *queues.Session, jobs []queues.Fetched) {
	if len(jobs) == 0 {
		return
	}
	now := time.Now()
	items := make([]item, len(jobs))
	all := make([]*item, len(jobs))
	for i := range jobs {
		items[i] = item{queue: jobs[i].Ref.Queue, ref: jobs[i].Ref, fetched: now, session: session}
		items[i].job.Payload = jobs[i].Payload
		all[i] = &items[i]
	}
	w.lane.register(session, all)
	if w.quiet.Load() {
		w.giveBack(all) // fetched while quiet was asked for: unmodified, to be run next by another
		return
	}
	native := all[:0]
	for _, it := range all {
		if w.admit(it) {
			native = append(native, it)
		}
	}
	w.lane.add(native)
}

// admit reads one job; false when it has been settled already.
func (w *Worker) admit(it *item) bool {
	job, err := queues.ParseJob(it.job.Payload)
	if err != nil {
		w.log.Warn("unreadable job buried", slog.String("queue", it.queue), slog.Any("err", err))
		w.settle(settlement{item: it, op: queues.OpDead, at: seconds(time.Now()), event: End{Queue: it.queue, Result: Dead, Label: "malformed"}})
		return false
	}
	it.job = job
	it.handler = w.handlers[job.Class]
	if it.handler == nil {
		w.forward(it)
		return false
	}
	dest, err := it.handler.Destination(job.Class, job.Args)
	if err != nil {
		w.fail(it, rejected(err), 0)
		return false
	}
	it.dest = dest
	return true
}

// rejected is the outcome of a job whose arguments can never be run.
func rejected(err error) Outcome {
	out := Outcome{Kind: Failed, Label: "bad arguments", ErrorClass: "ArgumentError", ErrorMessage: err.Error()}
	if e, ok := err.(interface{ RubyClass() string }); ok {
		out.ErrorClass = e.RubyClass()
	}
	return out
}

// forward hands a foreign job on, byte for byte. Without a queue to forward to it goes back, which only happens if a shared look was mistaken.
func (w *Worker) forward(it *item) {
	event := End{Queue: it.queue, Class: className(&it.job), JID: it.job.JID, Result: Forwarded, Label: "foreign class"}
	if w.cfg.ForeignTo == "" {
		event.Result = Requeued
		w.settle(settlement{item: it, op: queues.OpRequeue, event: event})
		return
	}
	w.settle(settlement{item: it, op: queues.OpForward, queue: w.cfg.ForeignTo, event: event})
}

// runItem runs one job on a processor.
func (w *Worker) runItem(it *item) {
	w.observer.Started(it.queue, it.job.Class)
	start := time.Now()
	out := w.call(it)
	w.conclude(it, out, time.Since(start))
}

// call runs the handler; a panic is a failure of the job, not of the process.
func (w *Worker) call(it *item) (out Outcome) {
	defer func() {
		if p := recover(); p != nil {
			w.log.Error("handler panicked", slog.String("class", it.job.Class), slog.String("jid", it.job.JID), slog.Any("err", p), slog.String("stack", string(debug.Stack())))
			out = Outcome{Kind: Failed, Label: "panic", ErrorClass: "RuntimeError", ErrorMessage: fmt.Sprint("panic: ", p)}
		}
	}()
	return it.handler.Run(w.workCtx, &it.job)
}

func (w *Worker) conclude(it *item, out Outcome, took time.Duration) {
	switch out.Kind {
	case Done:
		event := w.event(it, Acked, out.Label, took)
		w.settle(settlement{item: it, op: queues.OpAck, event: event})
	case Failed:
		w.fail(it, out, took)
	case Held:
		w.holdOne(it, out.Reason, out.Until)
	case Returned:
		w.giveBack([]*item{it})
	}
}

// giveBack puts jobs back where they came from, to be run next. The oldest must end up rightmost, so the youngest goes first.
func (w *Worker) giveBack(list []*item) {
	sortYoungestFirst(list)
	for _, it := range list {
		w.settle(settlement{item: it, op: queues.OpRequeue, event: w.event(it, Requeued, "returned", 0)})
	}
}

// event describes a job for the observer.
func (w *Worker) event(it *item, r Result, label string, took time.Duration) End {
	e := End{Queue: it.queue, Class: className(&it.job), JID: it.job.JID, Result: r, Label: label, Run: took, Wait: -1}
	if it.job.EnqueuedAt > 0 && !it.started.IsZero() {
		e.Wait = it.started.Sub(unixTime(float64(it.job.EnqueuedAt)))
	}
	return e
}

func className(job *queues.Job) string {
	if job.Wrapped != "" {
		return job.Wrapped
	}
	return job.Class
}

func (w *Worker) settle(s settlement) { w.completer.in <- s }

// logEnd writes one line a job at debug level, so that a busy server's log stays readable; failures that end a job are warnings.
func (w *Worker) logEnd(ctx context.Context, e *End) {
	level := slog.LevelDebug
	if e.Result == Dead || e.Result == Discarded {
		level = slog.LevelWarn
	}
	if !w.log.Enabled(ctx, level) {
		return
	}
	w.log.LogAttrs(ctx, level, "job ended", slog.String("result", e.Result.String()), slog.String("queue", e.Queue), slog.String("class", e.Class), slog.String("jid", e.JID),
		slog.String("outcome", e.Label), slog.Float64("run_s", e.Run.Seconds()), slog.Float64("wait_s", e.Wait.Seconds()))
}
