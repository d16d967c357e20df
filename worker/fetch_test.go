package worker

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/queueville/queueville/queues"
)

// While every processor has a job and others wait, jobs are fetched by the hundred, however few slots there are: with a call for each batch of
// outcomes, one that ran jobs few at a time paid more calls for each. Processors that have nothing to do are not made to wait for that.
func TestFetchWaitsForMuchRoomWhileThereIsEnoughToDo(t *testing.T) {
	t.Parallel()
	const slots, window = 4, 1000
	for name, c := range map[string]struct {
		inHand int
		dest   string
		wait   time.Duration // until a fetch
	}{
		"little room, and enough to do":               {window - 20, "", fetchPlenty},
		"an eighth of the window is free":             {window - window/8, "", 0},
		"little room, but nothing else may start":     {window - 20, "full.example", fetchLinger},
		"a processor is free, and nothing waits":      {slots - 1, "", 0},
		"those that wait will soon have been started": {slots + 1, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := newLane(newTestGate(0), slots, window, window)
				l.hold = (&heldList{}).hold
				l.begin(&queues.Session{})
				l.processors = slots // each has a job, as far as there are so many
				items := makeItems(slices.Repeat([]string{c.dest}, c.inHand)...)
				l.register(l.session, items)
				l.add(items)
				for range min(slots, c.inHand) {
					_, _ = l.next(time.Now(), false)
				}
				f := &fetcher{lane: l, wake: make(chan struct{}, 1)}
				began := time.Now()
				room := f.enough(t.Context())
				require.Equal(t, min(window-c.inHand, fetchBatch), room)
				require.Equal(t, c.wait, time.Since(began))
			})
		})
	}
}
