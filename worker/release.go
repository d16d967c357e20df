package worker

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/queueville/queueville/queues"
)

// Released says how many jobs of a dead holder went back to their queues.
type Released struct {
	Holder string
	Jobs   int
}

// ReleaseReport is what Release did.
type ReleaseReport struct {
	Released []Released
	Alive    []queues.HolderState // left alone
	Merged   []Merged             // what waited beside its queue, and no live worker serves that
}

// Release gives the jobs of every dead holder back, as a worker's adoption does, without being a worker. Then it does so with those that wait
// beside a queue.
func Release(ctx context.Context, store *queues.Store) (ReleaseReport, error) {
	var report ReleaseReport
	callCtx, cancel := context.WithTimeout(ctx, fetchTimeout)
	holders, err := store.Holders(callCtx)
	cancel()
	if err != nil {
		return report, fmt.Errorf("list workers: %w", err)
	}
	host, _ := os.Hostname()
	self := ThisProcess("", host)
	for _, h := range holders {
		certain := h.Alive && gone(self, h.Holder)
		if h.Alive && !certain {
			report.Alive = append(report.Alive, h)
			continue
		}
		callCtx, cancel := context.WithTimeout(ctx, time.Minute)
		n, err := store.Adopt(callCtx, h.Name, certain)
		cancel()
		if err != nil {
			return report, fmt.Errorf("give back the jobs of %s: %w", h.Name, err)
		}
		report.Released = append(report.Released, Released{h.Name, n})
	}
	// Whoever deleted the registrations has left the jobs.
	scanCtx, cancelScan := context.WithTimeout(ctx, time.Minute)
	defer cancelScan()
	strays, err := store.Strays(scanCtx)
	if err != nil {
		return report, fmt.Errorf("look for jobs without a worker: %w", err)
	}
	for _, name := range strays {
		n, err := store.Adopt(scanCtx, name, false)
		if err != nil {
			return report, fmt.Errorf("give back the jobs of %s: %w", name, err)
		}
		if n > 0 {
			report.Released = append(report.Released, Released{name, n})
		}
	}
	names, err := store.Names(scanCtx)
	if err == nil {
		report.Merged, err = mergeSides(scanCtx, store, "", func(queue string) bool { return slices.Contains(names, queue) })
	}
	if err != nil {
		return report, fmt.Errorf("give back what waits beside queues: %w", err)
	}
	return report, nil
}
