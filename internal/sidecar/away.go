package sidecar

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/queueville/queueville/dbpool"
)

const (
	askEvery   = time.Second            // while Ruby has something to do
	askAgain   = 500 * time.Millisecond // while PostgreSQL is away
	askAtOnce  = 200 * time.Millisecond // at least, from one question because a job has failed to the next
	askTimeout = 5 * time.Second        // a server that has not answered by then is away
	awayRunes  = 200                    // of what is wrong, for people
)

// watchman asks PostgreSQL whether it is there while Ruby jobs need it, at once when one has failed, and holds them back while it is not: its
// question is the one probe that goes on. It says nothing when the lease has no connection to ask with.
type watchman struct {
	ask    func(context.Context) error
	needed func() bool
	hold   func(why string)
	failed chan struct{} // capacity 1: a job has failed
}

// jobFailed lets it ask at once. It does not block.
func (w *watchman) jobFailed() {
	select {
	case w.failed <- struct{}{}:
	default:
	}
}

// run asks until ctx ends.
func (w *watchman) run(ctx context.Context) {
	timer := time.NewTimer(askEvery)
	defer timer.Stop()
	away := ""
	var last time.Time // that it was asked because a job has failed
	owed := false      // a job has failed since
	for {
		var hurry bool
		select {
		case <-ctx.Done():
			return
		case <-w.failed:
			hurry = true
		case <-timer.C:
			hurry, owed = owed, false
		}
		if wait := askAtOnce - time.Since(last); hurry && wait > 0 {
			owed = true
			timer.Reset(wait)
			continue
		}
		if hurry || away != "" || w.needed() {
			away = w.look(ctx, away)
		}
		if hurry {
			last = time.Now()
		}
		next := askEvery
		if away != "" {
			next = askAgain
		}
		timer.Reset(next)
	}
}

// look asks once and holds jobs back, or lets them go. It returns why they are held, "" if they are not; away is what it was.
func (w *watchman) look(ctx context.Context, away string) string {
	askCtx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	err := w.ask(askCtx)
	switch {
	case ctx.Err() != nil, errors.Is(err, dbpool.ErrNoLease):
		return away
	case err == nil || !dbpool.Unavailable(err):
		away = ""
	case away == "": // kept as it was first: a text that changes would be a new hold
		what := oneLine(err)
		if askCtx.Err() != nil {
			what = fmt.Sprintf("no answer within %v", askTimeout)
		}
		away = fmt.Sprintf("PostgreSQL is away since %s: %s", time.Now().UTC().Format(time.TimeOnly), firstRunes(what, awayRunes))
	}
	w.hold(away)
	return away
}

// firstRunes bounds text that a server wrote.
func firstRunes(s string, n int) string {
	for i := range s {
		if n--; n < 0 {
			return s[:i] + "…"
		}
	}
	return s
}
