package worker

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/queueville/queueville/queues"
)

// testGate admits up to limit per destination; destinations in down are held back.
type testGate struct {
	mu       sync.Mutex
	limit    int
	down     map[string]bool
	inFlight map[string]int
	peak     map[string]int
}

func newTestGate(limit int) *testGate {
	return &testGate{limit: limit, down: map[string]bool{}, inFlight: map[string]int{}, peak: map[string]int{}}
}

func (g *testGate) Acquire(dest string, now time.Time) Admission {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.down[dest] {
		return Admission{Verdict: HeldBack, Until: now.Add(time.Minute), Reason: "refused"}
	}
	if g.inFlight[dest] >= g.limit {
		return Admission{Verdict: Full}
	}
	g.inFlight[dest]++
	g.peak[dest] = max(g.peak[dest], g.inFlight[dest])
	return Admission{Verdict: Start}
}

func (g *testGate) Release(dest string, _ time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inFlight[dest]--
}

// heldList collects what a lane will not keep waiting.
type heldList struct {
	mu    sync.Mutex
	items []*item
	why   []string
}

func (h *heldList) hold(list []*item, reason string, _ time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.items = append(h.items, list...)
	h.why = append(h.why, reason)
}

func makeItems(dests ...string) []*item {
	out := make([]*item, len(dests))
	for i, d := range dests {
		out[i] = &item{dest: d, queue: "push", ref: queues.Ref{Seq: uint64(i + 1), Queue: "push"}, fetched: time.Now()}
	}
	return out
}

func startLane(t *testing.T, gate Gate, concurrency, perDest int, run func(*item)) (*lane, *heldList) {
	t.Helper()
	l := newLane(gate, concurrency, 1000, perDest)
	held := &heldList{}
	l.run, l.hold = run, held.hold
	l.begin(&queues.Session{})
	t.Cleanup(l.pool.StopAndWait)
	return l, held
}

func TestLaneServesDestinationsInTurn(t *testing.T) {
	var mu sync.Mutex
	var order []string
	done := make(chan struct{}, 100)
	l, _ := startLane(t, newTestGate(100), 1, 100, func(it *item) {
		mu.Lock()
		order = append(order, fmt.Sprintf("%s%d", it.dest, it.ref.Seq))
		mu.Unlock()
		done <- struct{}{}
	})
	items := makeItems("a", "a", "a", "b", "c")
	l.register(l.session, items)
	l.add(items)
	for range items {
		<-done
	}
	// Ten jobs of a before one of b must not make b wait: each destination gets one turn a round, each line stays in order.
	require.Equal(t, []string{"a1", "b4", "c5", "a2", "a3"}, order)
}

func TestLaneKeepsToTheGate(t *testing.T) {
	gate := newTestGate(2)
	release := make(chan struct{})
	done := make(chan struct{}, 100)
	l, _ := startLane(t, gate, 50, 100, func(*item) { <-release; done <- struct{}{} })
	items := makeItems(slices.Repeat([]string{"slow"}, 20)...)
	items = append(items, &item{dest: "quick", ref: queues.Ref{Seq: 99}, fetched: time.Now()})
	l.register(l.session, items)
	l.add(items)
	require.Eventually(t, func() bool { return l.load().Running == 3 }, 20*time.Second, time.Millisecond, "two of slow and the one of quick run")
	close(release)
	for range items {
		<-done
	}
	require.Equal(t, 2, gate.peak["slow"])
	require.Zero(t, l.load().Waiting)
}

func TestLaneHandsBackWhatCannotStart(t *testing.T) {
	gate := newTestGate(1)
	gate.down["dead"] = true
	done := make(chan struct{}, 10)
	l, held := startLane(t, gate, 4, 100, func(*item) { done <- struct{}{} })
	items := makeItems("dead", "dead", "alive", "dead")
	l.register(l.session, items)
	l.add(items)
	<-done
	require.Eventually(t, func() bool { held.mu.Lock(); defer held.mu.Unlock(); return len(held.items) == 3 }, 20*time.Second, time.Millisecond)
	require.Equal(t, []string{"refused"}, held.why)
	require.Zero(t, l.load().Waiting)
}

func TestLaneBoundsOneDestination(t *testing.T) {
	block := make(chan struct{})
	l, held := startLane(t, newTestGate(1), 4, 5, func(*item) { <-block })
	defer close(block)
	items := makeItems(slices.Repeat([]string{"busy"}, 20)...)
	l.register(l.session, items)
	l.add(items)
	held.mu.Lock()
	defer held.mu.Unlock()
	// Some may have started while the rest was added, but at most five wait.
	require.GreaterOrEqual(t, len(held.items), 14)
	require.LessOrEqual(t, l.load().Waiting, 5)
}

func TestLaneStartsNothingWhileTheLeaseIsInDoubt(t *testing.T) {
	ran := make(chan struct{}, 10)
	l, _ := startLane(t, newTestGate(5), 4, 100, func(*item) { ran <- struct{}{} })
	var mu sync.Mutex
	fresh := false
	l.fresh = func(time.Time) bool { mu.Lock(); defer mu.Unlock(); return fresh }
	items := makeItems("a", "b")
	l.register(l.session, items)
	l.add(items)
	require.Eventually(t, func() bool { l.mu.Lock(); defer l.mu.Unlock(); return l.processors == 0 }, 20*time.Second, time.Millisecond)
	require.Empty(t, ran)
	mu.Lock()
	fresh = true
	mu.Unlock()
	l.kick()
	<-ran
	<-ran
}

func TestLaneForgetsJobsOfALostSession(t *testing.T) {
	l, _ := startLane(t, openGate{}, 4, 100, func(*item) { t.Error("a job of a lost lease was started") })
	items := makeItems("a", "a")
	old := l.session
	l.register(old, items)
	l.begin(&queues.Session{}) // the lease was lost between fetch and add
	l.add(items)
	require.Zero(t, l.load().Waiting)
	_, live, dropped, _ := l.split([]settlement{{item: items[0]}, {item: items[1]}})
	require.Empty(t, live)
	require.Len(t, dropped, 2)
}

func TestLaneStaleTakesOnlyTheOld(t *testing.T) {
	block := make(chan struct{})
	l, _ := startLane(t, newTestGate(1), 1, 100, func(*item) { <-block })
	defer close(block)
	items := makeItems("a", "a", "a", "b")
	items[1].fetched = items[1].fetched.Add(-time.Minute)
	items[0].fetched = items[0].fetched.Add(-2 * time.Minute)
	l.register(l.session, items)
	l.add(items)
	require.Eventually(t, func() bool { return l.load().Running == 1 }, 20*time.Second, time.Millisecond)
	stale := l.stale(time.Now().Add(-30 * time.Second))
	require.Len(t, stale, 1, "the first runs, the second is old, the others are young")
	require.Equal(t, uint64(2), stale[0].ref.Seq)
	require.Equal(t, 2, l.load().Waiting)
}

func TestLaneResize(t *testing.T) {
	block := make(chan struct{})
	done := make(chan struct{}, 100)
	l, _ := startLane(t, openGate{}, 2, 100, func(*item) { <-block; done <- struct{}{} })
	items := makeItems(slices.Repeat([]string{""}, 30)...)
	l.register(l.session, items)
	l.add(items)
	require.Eventually(t, func() bool { return l.load().Running == 2 }, 20*time.Second, time.Millisecond)
	l.resize(10)
	require.Eventually(t, func() bool { return l.load().Running == 10 }, 20*time.Second, time.Millisecond)
	l.resize(3)
	close(block)
	for range items {
		<-done
	}
}

func BenchmarkLane(b *testing.B) {
	done := make(chan struct{}, 1<<20)
	l := newLane(openGate{}, 64, 1<<20, 1<<20)
	l.run = func(*item) { done <- struct{}{} }
	l.begin(&queues.Session{})
	batch := makeItems(slices.Repeat([]string{""}, 500)...)
	l.register(l.session, batch)
	b.ReportAllocs()
	for b.Loop() {
		l.add(batch)
		for range batch {
			<-done
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(batch)), "ns/job")
}

func TestLaneShedsDestinationsThatDoNotAnswer(t *testing.T) {
	gate := newTestGate(1)
	block := make(chan struct{})
	done := make(chan struct{}, 100)
	l, held := startLane(t, gate, 4, 100, func(it *item) {
		if it.dest == "hangs" {
			<-block
		}
		done <- struct{}{}
	})
	l.window = 10
	hanging := makeItems(slices.Repeat([]string{"hangs"}, 9)...)
	l.register(l.session, hanging)
	l.add(hanging)
	require.Eventually(t, func() bool { return l.load().Running == 1 }, 20*time.Second, time.Millisecond)
	require.Empty(t, l.shed(time.Now()), "it was heard of a moment ago")
	shed := l.shed(time.Now().Add(mostPatience + time.Second))
	require.Len(t, shed, 8, "all that wait for it make room")
	require.Zero(t, l.load().Waiting)

	more := makeItems("hangs", "quick")
	more[0].ref.Seq, more[1].ref.Seq = 20, 21
	l.register(l.session, more)
	l.add(more)
	<-done // the quick one
	held.mu.Lock()
	require.Len(t, held.items, 1, "no more are let in for a destination that does not answer")
	held.mu.Unlock()

	close(block)
	<-done
	require.Eventually(t, func() bool { l.mu.Lock(); defer l.mu.Unlock(); return len(l.dests) == 0 }, 20*time.Second, time.Millisecond)
	again := makeItems("hangs")
	again[0].ref.Seq = 30
	l.register(l.session, again)
	l.add(again)
	<-done // it has answered, so it may have jobs again
}

func TestLaneShedsNothingWithoutNeed(t *testing.T) {
	block := make(chan struct{})
	defer close(block)
	l, _ := startLane(t, newTestGate(1), 4, 100, func(*item) { <-block })
	l.window = 100
	items := makeItems(slices.Repeat([]string{"slow"}, 9)...)
	l.register(l.session, items)
	l.add(items)
	require.Eventually(t, func() bool { return l.load().Running == 1 }, 20*time.Second, time.Millisecond)
	require.Empty(t, l.shed(time.Now().Add(time.Hour)), "the window has room")

	l.window = 10
	l.fresh = func(time.Time) bool { return false }
	none := makeItems("never started")
	none[0].ref.Seq = 50
	l.register(l.session, none)
	l.add(none)
	for _, it := range l.shed(time.Now().Add(time.Hour)) {
		require.Equal(t, "slow", it.dest, "a destination without a request under way is not at fault")
	}
}
