package worker

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"time"

	"github.com/queueville/queueville/queues"
)

const (
	busyEntries = 1000    // entries of the busy list at most
	busyBytes   = 1 << 20 // bytes of payload in it at most
	pollLimit   = 500     // due jobs moved per call
	pollCalls   = 200     // calls per poll and set at most, so that one poll ends

	adoptTimeout = 30 * time.Second // for one holder, and for all at the start

	sweepEvery = 250 * time.Millisecond
)

// beat keeps this process visible to Sidekiq, flushes counters and obeys signals from Sidekiq::Web, until ctx ends.
func (w *Worker) beat(ctx context.Context) error {
	tick := time.NewTicker(w.cfg.BeatEvery)
	defer tick.Stop()
	for {
		w.beatOnce(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (w *Worker) beatOnce(ctx context.Context) {
	callCtx, cancel := context.WithTimeout(ctx, min(w.cfg.BeatEvery, 5*time.Second))
	defer cancel()
	now := time.Now()
	load := w.lane.load()
	taken := w.counts.take()
	result, err := w.cfg.Store.Beat(callCtx, w.cfg.Process, queues.Pulse{
		Now: now, Busy: load.Running, Quiet: w.quiet.Load(), RSSKB: residentKB(),
		Processed: taken.processed, Failed: taken.failed, Metrics: taken.metrics,
		Work: w.busyList(), MirrorWorkers: w.cfg.MirrorBusy,
	})
	if !result.StatsWritten {
		w.counts.putBack(taken.processed, taken.failed)
	}
	if !result.MetricsWritten {
		w.counts.mergeBack(taken.metrics)
	}
	if err != nil {
		if ctx.Err() == nil {
			w.observer.RedisError("heartbeat")
			w.log.WarnContext(ctx, "heartbeat failed", slog.Any("err", err))
		}
		return
	}
	if w.cfg.Publish != nil {
		if err := w.cfg.Store.PublishWorker(callCtx, w.cfg.Process.Identity, w.cfg.Publish(load)); err != nil {
			w.observer.RedisError("publish")
		}
	}
	w.obey(ctx, result.Signal)
	if w.cfg.Beating != nil {
		w.cfg.Beating()
	}
}

func (w *Worker) obey(ctx context.Context, signal string) {
	if signal == "" {
		return
	}
	w.log.InfoContext(ctx, "signal from Sidekiq's interface", slog.String("signal", signal))
	switch signal {
	case "TSTP":
		w.Quiet()
	case "TERM":
		w.Stop()
	default:
		if w.cfg.Signal != nil {
			w.cfg.Signal(signal)
		}
	}
}

func (w *Worker) busyList() []queues.WorkEntry {
	jobs := w.lane.runningJobs(busyEntries, busyBytes)
	out := make([]queues.WorkEntry, len(jobs))
	for i, j := range jobs {
		// A base-36 name as Ruby's thread ids have; unique because sequence numbers are.
		out[i] = queues.WorkEntry{TID: "q" + strconv.FormatUint(j.seq, 36), Queue: j.queue, Payload: j.payload, RunAt: j.started}
	}
	return out
}

// residentKB is this process's resident memory, in kB as Sidekiq shows it; 0 where /proc does not say.
func residentKB() int64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	lines := bufio.NewScanner(bytes.NewReader(status))
	for lines.Scan() {
		if rest, ok := bytes.CutPrefix(lines.Bytes(), []byte("VmRSS:")); ok {
			kb, _ := strconv.ParseInt(string(bytes.TrimSpace(bytes.TrimSuffix(bytes.TrimSpace(rest), []byte("kB")))), 10, 64)
			return kb
		}
	}
	return 0
}

// poll moves due jobs from the retry and schedule sets to their queues, by Sidekiq's timetable, until ctx ends.
func (w *Worker) poll(ctx context.Context) error {
	if !sleep(ctx, w.cfg.PollFirst) {
		return nil
	}
	w.clean(ctx)
	for {
		for _, set := range []string{queues.SetRetry, queues.SetSchedule} {
			w.pollSet(ctx, set)
		}
		if !sleep(ctx, w.pollPause(ctx)) {
			return nil
		}
	}
}

func (w *Worker) pollSet(ctx context.Context, set string) {
	for range pollCalls {
		callCtx, cancel := context.WithTimeout(ctx, fetchTimeout)
		polled, err := w.cfg.Store.PollDue(callCtx, set, time.Now(), pollLimit)
		cancel()
		if err != nil {
			if ctx.Err() == nil {
				w.observer.RedisError("poll")
				w.log.WarnContext(ctx, "poll failed", slog.String("set", set), slog.Any("err", err))
			}
			return
		}
		if polled.Buried > 0 {
			w.log.WarnContext(ctx, "unreadable entries buried", slog.String("set", set), slog.Int("jobs", polled.Buried))
		}
		if polled.Moved+polled.Buried < pollLimit {
			return
		}
	}
}

func (w *Worker) pollPause(ctx context.Context) time.Duration {
	callCtx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	n, err := w.cfg.Store.ProcessCount(callCtx)
	if err != nil {
		n = 1
	}
	return queues.PollInterval(n, w.cfg.PollAverage, rand.Float64)
}

func (w *Worker) clean(ctx context.Context) {
	callCtx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	if _, err := w.cfg.Store.CleanProcesses(callCtx); err != nil && ctx.Err() == nil {
		w.observer.RedisError("clean")
	}
}

// sweep defers what waits in the lane in others' way or for too long, until ctx ends.
func (w *Worker) sweep(ctx context.Context) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	foreignSwept := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			w.holdAll(w.lane.shed(now), ReasonBusy, time.Time{})
			w.lane.nudge(now)
			w.holdAll(w.lane.stale(now.Add(-w.cfg.MaxWait)), ReasonBusy, time.Time{})
			if now.Sub(foreignSwept) >= w.cfg.MaxWait/3 { // another host may have room for them
				foreignSwept = now
				w.giveBack(w.foreign.withdraw(func(it *item) bool { return now.Sub(it.fetched) < w.cfg.MaxWait }))
			}
		}
	}
}

// A batch that is not done after batchAge is dissolved, at most so many at a time.
const (
	batchAge  = 2 * time.Second
	oldAtOnce = 64
)

// unbatch dissolves old batches until ctx ends.
func (w *Worker) unbatch(ctx context.Context) error {
	for sleep(ctx, batchAge/2) {
		callCtx, cancel := context.WithTimeout(ctx, fetchTimeout)
		err := w.keeper.current().Unbatch(callCtx, time.Now().Add(-batchAge), oldAtOnce)
		cancel()
		if err != nil && ctx.Err() == nil && !errors.Is(err, queues.ErrLeaseLost) { // that is the keeper's to find out
			w.observer.RedisError("unbatch")
		}
	}
	return nil
}

// adopt looks for holders whose lease has ended and gives their jobs back, until ctx ends.
func (w *Worker) adopt(ctx context.Context) error {
	for sleep(ctx, w.cfg.AdoptEvery/2+rand.N(w.cfg.AdoptEvery)) {
		w.adoptNeighbours(ctx)
		if w.lists == nil || w.quiet.Load() { // others' side lists, and nobody may be left to serve them
			w.mergeSides(ctx, w.keeper.current().Name())
		}
	}
	return nil
}

// adoptNeighbours adopts every dead holder once. A process of this host that is gone need not wait for its lease.
func (w *Worker) adoptNeighbours(ctx context.Context) {
	callCtx, cancel := context.WithTimeout(ctx, fetchTimeout)
	holders, err := w.cfg.Store.Holders(callCtx)
	cancel()
	if err != nil {
		if ctx.Err() == nil {
			w.observer.RedisError("adopt")
		}
		return
	}
	for _, h := range holders {
		certain := h.Alive && gone(w.cfg.Holder, h.Holder)
		if h.Alive && !certain || h.Name == w.keeper.current().Name() {
			continue
		}
		callCtx, cancel := context.WithTimeout(ctx, adoptTimeout)
		n, err := w.cfg.Store.Adopt(callCtx, h.Name, certain)
		cancel()
		if err != nil && !errors.Is(err, context.Canceled) {
			w.observer.RedisError("adopt")
			w.log.WarnContext(ctx, "adoption failed, will try again", slog.String("identity", h.Name), slog.Any("err", err))
			continue
		}
		w.observer.Adopted(h.Name, n)
		w.log.InfoContext(ctx, "gave back the jobs of a dead worker", slog.String("identity", h.Name), slog.Int("jobs", n), slog.Bool("process_gone", certain))
	}
}
