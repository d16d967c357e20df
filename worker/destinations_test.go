package worker

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/queueville/queueville/queues"
	"github.com/queueville/queueville/scheduler"
)

// world is a lane in virtual time whose jobs take as long as their destination says.
type world struct {
	*lane
	held *heldList
	seq  uint64
	took func(it *item) time.Duration

	mu    sync.Mutex
	done  map[string]int
	last  map[string]time.Time     // when the last job of a destination ended
	spent [kinds]map[string]uint64 // nanoseconds of slots
	most  [kinds]int
	now   [kinds]int
}

func newWorld(t *testing.T, gate Gate, slots int, took func(it *item) time.Duration) *world {
	t.Helper()
	w := &world{took: took, done: map[string]int{}, last: map[string]time.Time{}, spent: [kinds]map[string]uint64{{}, {}}}
	w.lane, w.held = newLane(gate, slots, 100_000, 10_000), &heldList{}
	w.hold = w.held.hold
	w.begin(&queues.Session{})
	w.run = func(it *item) {
		w.mu.Lock()
		kind := it.line.kind
		w.now[kind]++
		w.most[kind] = max(w.most[kind], w.now[kind])
		w.mu.Unlock()
		d := w.took(it)
		time.Sleep(d)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.now[kind]--
		w.done[it.dest]++
		w.last[it.dest] = time.Now()
		w.spent[kind][it.dest] += uint64(d) //nolint:gosec // a test's
	}
	t.Cleanup(w.close)
	return w
}

// feed lets n more jobs wait for a destination.
func (w *world) feed(dest string, n int, retry bool) {
	list := make([]*item, n)
	for i := range list {
		w.seq++
		list[i] = &item{dest: dest, queue: "push", ref: queues.Ref{Seq: w.seq, Queue: "push"}, fetched: time.Now(), job: queues.Job{HasRetryCount: retry}}
	}
	w.register(w.session, list)
	w.add(list)
}

// tick lets time pass, with the sweeper's nudges.
func (w *world) tick(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		time.Sleep(sweepEvery)
		w.nudge(time.Now())
	}
}

func (w *world) slotTime(kind int, dests ...string) (total time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(dests) == 0 {
		for _, d := range w.spent[kind] {
			total += time.Duration(d) //nolint:gosec // a test's
		}
	}
	for _, d := range dests {
		total += time.Duration(w.spent[kind][d]) //nolint:gosec // a test's
	}
	return total
}

// One host with a thousand jobs in the window delays those of twenty others by no more than its turns.
func TestOneHostDoesNotDelayOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, newTestGate(100), 2, func(*item) time.Duration { return 100 * time.Millisecond })
		w.feed("big", 1000, false)
		time.Sleep(time.Second)
		began := time.Now()
		for i := range 20 {
			w.feed(fmt.Sprint("small", i), 5, false)
		}
		time.Sleep(time.Minute)
		// Twenty-one of them take turns on two slots, five rounds: 5.25 s.
		for i := range 20 {
			name := fmt.Sprint("small", i)
			require.Equal(t, 5, w.done[name])
			require.LessOrEqual(t, w.last[name].Sub(began), 6*time.Second, name)
		}
		require.Equal(t, 1000-20, w.done["big"]+w.load().Waiting-20+w.load().Running, "and none is lost")
		w.takeWaiting()
		time.Sleep(time.Second)
	})
}

// Where slots are what is short, hosts get the same share of them, however long they take.
func TestSlotsAreSharedByWhatJobsCost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, newTestGate(100), 4, func(it *item) time.Duration {
			return map[string]time.Duration{"slow": time.Second, "ordinary": 200 * time.Millisecond, "quick": 40 * time.Millisecond}[it.dest]
		})
		w.feed("slow", 400, false)
		w.feed("ordinary", 1500, false)
		w.feed("quick", 7000, false)
		time.Sleep(90 * time.Second)
		for _, name := range []string{"slow", "ordinary", "quick"} {
			require.InDelta(t, 120, w.slotTime(tries, name).Seconds(), 6, name)
		}
		w.takeWaiting()
		time.Sleep(2 * time.Second)
	})
}

// pacedGate lets one job of a destination start every so often.
type pacedGate struct {
	openGate
	every time.Duration
	next  time.Time
	asked int
}

func (g *pacedGate) Acquire(_ string, now time.Time) Admission {
	g.asked++
	if now.Before(g.next) {
		return Admission{Verdict: Later, Until: g.next}
	}
	g.next = now.Add(g.every)
	return Admission{Verdict: Start}
}

// What may start later does, at the gate's pace, without anybody asking in vain.
func TestLaterIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := &pacedGate{every: 300 * time.Millisecond}
		w := newWorld(t, gate, 4, func(*item) time.Duration { return time.Millisecond })
		w.feed("back", 100, false)
		w.feed("back", 100, true)
		time.Sleep(30 * time.Second)
		require.InDelta(t, 100, w.done["back"], 2)
		w.mu.Lock()
		require.LessOrEqual(t, gate.asked, 4*w.done["back"])
		w.mu.Unlock()
		list := (&Worker{lane: w.lane}).Destinations(5)
		require.Len(t, list, 1)
		require.True(t, list[0].Paced)
		require.InDelta(t, 100, list[0].Waiting, 2)

		w.window = 50 // now it is in others' way
		w.shed(time.Now())
		require.Equal(t, min(parkedKept, list[0].Retries)+min(parkedKept, list[0].Waiting-list[0].Retries), w.load().Waiting, "some of each kind stay")
		w.takeWaiting()
		time.Sleep(time.Second)
		require.Empty(t, w.dests)
	})
}

// Retries to hosts that hang hold all slots while nobody else wants them, and their share once somebody does.
func TestRetriesTakeTheirShareOfTheSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, newTestGate(2), 40, func(it *item) time.Duration {
			if it.line.kind == retries {
				return 10 * time.Second
			}
			return 100 * time.Millisecond
		})
		for i := range 500 {
			w.feed(fmt.Sprint("ill", i), 2, true)
		}
		w.tick(5 * time.Second)
		require.Equal(t, 40, w.load().Running, "nobody else wants the slots")
		work := func(d time.Duration) {
			for end := time.Now().Add(d); time.Now().Before(end); w.tick(sweepEvery) {
				for i := range 50 {
					w.feed(fmt.Sprint("well", i), 3, false) // more than there is room for
				}
			}
		}
		work(10 * time.Second)
		w.mu.Lock()
		w.most = [kinds]int{}
		w.mu.Unlock()
		before := w.slotTime(tries)
		work(60 * time.Second)
		r := (&Worker{lane: w.lane}).Retries()
		require.LessOrEqual(t, w.most[retries], 8, "a fifth of forty")
		require.True(t, r.Scarce)
		require.Equal(t, 8, r.Slots)
		require.InDelta(t, 0.2, r.Used, 0.05)
		require.GreaterOrEqual(t, (w.slotTime(tries) - before).Seconds(), 0.79*40*60)
		w.lane.mu.Lock()
		for _, d := range w.dests {
			w.cut(&d.lines[tries], 0, len(d.lines[tries].items))
		}
		w.lane.mu.Unlock()
		w.tick(25 * time.Second)
		require.Equal(t, 40, w.load().Running, "once nobody wants the slots again")
		w.takeWaiting()
		time.Sleep(20 * time.Second)
	})
}

// Retries that fail at once take their share of the starts.
func TestRetriesTakeTheirShareOfTheStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, newTestGate(1000), 4, func(*item) time.Duration { return 10 * time.Millisecond })
		for i := range 30 {
			w.feed(fmt.Sprint("ill", i), 300, true)
			w.feed(fmt.Sprint("well", i), 300, false)
		}
		time.Sleep(10 * time.Second) // of 45 that all of it takes
		r := (&Worker{lane: w.lane}).Retries()
		require.InDelta(t, 0.2, float64(r.Started)/float64(r.Started+r.Tried), 0.02)
		time.Sleep(60 * time.Second)
		require.Zero(t, w.load().Waiting, "what first tries leave is used")
	})
}

// While first tries come, retries do not fill the window.
func TestRetriesDoNotFillTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		block := make(chan struct{})
		w := newWorld(t, newTestGate(1), 1, func(*item) time.Duration { <-block; return 0 })
		w.window = 100
		w.feed("well", 30, false)
		time.Sleep(time.Millisecond)
		w.feed("ill", 60, true)
		require.Equal(t, []string{reasonRetries}, w.held.why)
		require.Len(t, w.held.items, 60-leastRoom)
		w.feed("well", 1, false)
		require.Equal(t, 30+leastRoom, w.load().Waiting, "first tries are let in")
		time.Sleep(retriesSeen)
		w.feed("ill", 1, true)
		require.Len(t, w.held.items, 60-leastRoom, "no first try has come for a while")
		w.budget = scheduler.NewRetryBudget(1)
		w.feed("well", 1, false)
		w.feed("ill", 1, true)
		require.Len(t, w.held.items, 60-leastRoom, "no bound is wanted")
		w.takeWaiting()
		close(block)
		time.Sleep(time.Second)
	})
}

// Where all requests take seconds because the host itself is busy, jobs of destinations that answer wait in the window; those of one that
// never does make room.
func TestABusyHostShedsOnlyWhatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		took := 100 * time.Millisecond
		w := newWorld(t, newTestGate(2), 1000, func(it *item) time.Duration {
			if it.dest == "hangs" {
				return 30 * time.Second
			}
			return took
		})
		w.window = 400
		feed := func(jobs int) {
			for i := range 40 {
				w.feed(fmt.Sprint("well", i), jobs, false)
			}
		}
		feed(10)
		w.tick(5 * time.Second)
		took = 1500 * time.Millisecond
		feed(4)
		w.tick(4 * time.Second) // it is known now that everything takes longer
		feed(10)
		w.feed("hangs", 50, false)
		for range 20 {
			w.tick(time.Second / 2)
			for _, it := range w.shed(time.Now()) {
				require.Equal(t, "hangs", it.dest)
			}
		}
		require.Equal(t, 24*40, func() (n int) {
			w.mu.Lock()
			defer w.mu.Unlock()
			for _, done := range w.done {
				n += done
			}
			return n
		}())
		require.LessOrEqual(t, w.load().Waiting, 0)
		w.takeWaiting()
		time.Sleep(time.Minute)
	})
}
