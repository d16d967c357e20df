package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"time"

	"github.com/queueville/queueville/queues"
)

// book puts fetched jobs on the books, unread: reading them is left to route, so that the next fetch need not wait for it. The caller
// holds keeper.steady.
func (w *Worker) book(session *queues.Session, jobs []queues.Fetched) []*item {
	now := time.Now()
	all := make([]*item, len(jobs))
	var list, queue string
	for i := range jobs {
		if jobs[i].Ref.Queue != list {
			list = jobs[i].Ref.Queue
			queue = w.picks.home(list)
		}
		// One by one: in one array a single slow job would keep the payloads of its whole batch in memory.
		all[i] = &item{payload: jobs[i].Payload, queue: queue, list: list, ref: jobs[i].Ref, fetched: now}
	}
	w.lane.register(session, all)
	return all
}

// read finds out what a booked item's job is. It is complete before the lane gets it and does not change afterwards.
func (w *Worker) read(it *item) {
	if it.job, it.broken = queues.ParseJob(it.payload); it.broken == nil {
		w.address(it)
	}
}

// bookNew books jobs that were fetched just now, and not earlier.
func (w *Worker) bookNew(session *queues.Session, jobs []queues.Fetched) []*item {
	if lost, happened := w.lane.rewound(jobs[0].Ref.Seq); happened {
		w.observer.RedisError("rewound")
		w.log.Warn("redis has forgotten its last moments, as after a failover: the jobs fetched in them are on their queues again", slog.Int("dropped", len(lost)))
		w.dropLost(lost)
	}
	if w.picks != nil {
		w.picks.took(jobs)
	}
	return w.book(session, jobs)
}

// address finds the handler and the destination of a job. A handler that panics fails the job, not the process.
func (w *Worker) address(it *item) {
	if it.handler = w.handlers[it.job.Class]; it.handler == nil {
		return
	}
	defer func() {
		if p := recover(); p != nil {
			it.broken = fmt.Errorf("panic: %v", p)
		}
	}()
	it.dest, it.broken = it.handler.Destination(it.job.Class, it.job.Args)
}

// dispatch reads booked items and sends them on their way: native jobs go to the lane, foreign ones are forwarded, unreadable ones are buried. Jobs that
// were fetched while quiet was asked for go to the lane too, which gives them back with the others, in order.
func (w *Worker) dispatch(all []*item) {
	for _, it := range all {
		w.read(it)
		if w.cfg.Arrived != nil && it.broken == nil && it.list == it.queue {
			w.cfg.Arrived(className(&it.job))
		}
	}
	w.sort(all)
	var foreign, after []*item
	if w.foreign.Foreign != nil {
		w.foreign.learn(all)
	}
	native := all[:0]
	for _, it := range all {
		switch {
		case it.broken != nil && it.handler == nil:
			w.log.Warn("unreadable job buried", slog.String("queue", it.queue), slog.Any("err", it.broken))
			w.settle(settlement{item: it, op: queues.OpDead, payload: queues.Burial(it.payload), at: seconds(time.Now()), event: End{Queue: it.queue, Result: Dead, Label: "malformed"}})
		case it.side != "":
			w.setAside(it)
		case it.after && it.handler != nil:
			after = append(after, it)
		case it.handler == nil && w.foreign.Foreign != nil:
			foreign = append(foreign, it)
		case it.handler == nil:
			w.forward(it)
		case it.broken != nil:
			w.fail(it, rejected(it.broken), 0)
		default:
			native = append(native, it)
		}
	}
	w.dropAll(w.lane.add(append(native, after...)))
	if len(foreign) > 0 {
		slices.SortStableFunc(foreign, func(a, b *item) int { return rank(a) - rank(b) })
		w.foreign.submit(foreign)
		if !w.lane.ours(foreign[0]) { // lost after they were booked, and perhaps before they were there to be withdrawn
			w.dropAll(w.foreign.withdraw(w.lane.ours))
		}
	}
}

// rejected is the outcome of a job whose arguments can never be run.
func rejected(err error) Outcome {
	out := Outcome{Kind: Failed, Label: "bad arguments", ErrorClass: "ArgumentError", ErrorMessage: err.Error()}
	if e, ok := errors.AsType[interface {
		error
		RubyClass() string
	}](err); ok {
		out.ErrorClass = e.RubyClass()
	}
	return out
}

// foreignPause is how long a foreign job waits in the schedule set that cannot be forwarded.
const foreignPause = time.Minute

// forward hands a foreign job on, byte for byte. Without a queue to forward to (a shared look was mistaken, or an owned queue holds what it
// should not) it waits in the schedule set: put back at once, it would be fetched again at once.
func (w *Worker) forward(it *item) {
	if w.cfg.ForeignTo == "" {
		w.log.Warn("job of a foreign class deferred, for there is no queue to forward it to", slog.String("queue", it.queue), slog.String("class", it.job.Class))
		w.holdOne(it, reasonForeign, time.Now().Add(foreignPause))
		return
	}
	event := End{Queue: it.queue, Class: className(&it.job), JID: it.job.JID, Result: Forwarded, Label: "foreign class"}
	w.settle(settlement{item: it, op: queues.OpForward, queue: w.cfg.ForeignTo, event: event})
}

// runItem runs one job on a processor.
func (w *Worker) runItem(it *item) {
	w.observer.Started(it.queue, it.job.Class)
	start := time.Now()
	out := w.call(it)
	took := time.Since(start)
	w.lane.measure(it, took, out.Kind == Failed)
	w.conclude(it, out, took)
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
	w.lane.sortYoungestFirst(list)
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
