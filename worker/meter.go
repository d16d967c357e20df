package worker

import (
	"time"

	"github.com/queueville/queueville/scheduler"
)

// Sample is what the native lane did since the last Sample, for whoever decides on its limit (see Resize). The first one begins the measuring.
// It does not know processors, backlog and caps.
func (w *Worker) Sample(now time.Time) scheduler.Lane {
	l := w.lane
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.meter == nil {
		l.meter = scheduler.NewMeter(LaneNative, now)
	}
	l.level(now)
	return l.meter.Sample(now)
}

// LaneNative is the name of the lane of native jobs.
const LaneNative = "native"

// level notes how many jobs run, and whether more would. mu is held.
func (l *lane) level(now time.Time) {
	full := l.processors >= l.limit
	if full && l.turns[tries].Len() > 0 {
		l.budget.Scarce(now)
	}
	if l.meter != nil {
		l.meter.Level(now, l.running, full && l.startable(now))
	}
}

// measure notes the end of a job that was run.
func (l *lane) measure(it *item, took time.Duration, failed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.meter != nil {
		l.meter.Ended(time.Now(), scheduler.Run{Class: className(&it.job), Wall: took, CPU: scheduler.Unknown, DB: scheduler.Unknown, Failed: failed})
	}
}
