package worker

import (
	"context"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/queueville/queueville/queues"
	"github.com/queueville/queueville/scheduler"
)

const ruby = "ResolveAccountWorker" // a class that test workers do not run

// engine is a Foreign with a fixed number of slots.
type engine struct {
	slots  int
	room   func(queue string, waiting int) int // nil: as many as could start
	work   func(ForeignJob) ForeignResult
	worker *Worker

	mu      sync.Mutex
	waiting []ForeignJob
	running int
	quiet   bool
	peak    int // waiting and running
	runs    map[string]int
	order   []string
	busy    sync.WaitGroup
}

// with gives a worker this engine.
func (e *engine) with(r *rig, f *fake, edit ...func(*Config)) *live {
	e.runs = map[string]int{}
	cfg := append([]func(*Config){func(c *Config) { c.Foreign, c.ForeignTo = e, "" }}, edit...)
	w := r.startWith(f, func(w *Worker) { e.worker = w }, cfg...)
	return w
}

func (e *engine) Run(ctx context.Context) error {
	<-ctx.Done()
	e.Quiet()
	e.busy.Wait()
	return nil
}

func (e *engine) Room(names []string) []int {
	e.mu.Lock()
	defer e.mu.Unlock()
	rooms := make([]int, len(names))
	for i := range rooms {
		switch {
		case e.quiet:
		case e.room != nil:
			rooms[i] = e.room(names[i], len(e.waiting))
		default:
			rooms[i] = max(0, e.slots-e.running-len(e.waiting))
		}
	}
	return rooms
}

func (e *engine) Submit(jobs []ForeignJob) {
	e.mu.Lock()
	e.waiting = append(e.waiting, jobs...)
	e.peak = max(e.peak, len(e.waiting)+e.running)
	quiet := e.quiet
	e.mu.Unlock()
	if quiet {
		e.Quiet()
		return
	}
	e.place()
}

func (e *engine) place() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for !e.quiet && e.running < e.slots && len(e.waiting) > 0 {
		j := e.waiting[0]
		e.waiting = e.waiting[1:]
		e.running++
		e.runs[j.JID]++
		e.order = append(e.order, j.JID)
		e.busy.Go(func() {
			out := e.work(j)
			e.worker.Conclude(j.Token, out)
			e.mu.Lock()
			e.running--
			e.mu.Unlock()
			e.place()
			e.worker.RoomGrew()
		})
	}
}

func (e *engine) Withdraw() []ForeignJob {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := e.waiting
	e.waiting = nil
	return out
}

func (e *engine) Quiet() {
	e.mu.Lock()
	e.quiet = true
	e.mu.Unlock()
	for _, j := range e.Withdraw() {
		e.worker.Conclude(j.Token, ForeignResult{Kind: Returned, Label: "stopping"})
	}
}

func (e *engine) ran() map[string]int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return maps.Clone(e.runs)
}

func foreigns(from, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = job(ruby, from+i, "")
	}
	return out
}

// A mix of both kinds on one queue and a flood of foreign jobs on another: everything runs once, and neither engine is sent much more than
// it has room for.
func TestForeignJobsBesideNativeOnes(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	f.do = func(context.Context, *queues.Job) Outcome { time.Sleep(time.Millisecond); return Outcome{} }
	e := &engine{slots: 10, work: func(ForeignJob) ForeignResult {
		time.Sleep(2 * time.Millisecond)
		return ForeignResult{Kind: Done, Label: "done", Run: 2 * time.Millisecond, CPU: time.Millisecond}
	}}
	r.push("ingress", foreigns(10_000, 800)...)
	for i := range 300 {
		r.push("pull", job(native, i, ""), job(ruby, 20_000+i, ""))
	}
	r.push("push", natives(1000, 3000, "")...)
	w := e.with(r, f, func(c *Config) {
		c.Owned = []scheduler.Queue{{Name: "ingress", Weight: 4}, {Name: "pull", Weight: 1}, {Name: "push", Weight: 6}}
		c.LeaseTTL, c.RenewEvery = time.Minute, 5*time.Second // a machine that stalls for longer than a lease runs jobs twice, rightly
	})
	r.eventually("all have ended", func() bool { return f.results()[Acked] == 800+600+3000 })
	require.Equal(t, map[int]int{1: 3300}, f.runsOf())
	runs := e.ran()
	require.Len(t, runs, 1100)
	for id, n := range runs {
		require.Equal(t, 1, n, id)
	}
	require.Less(t, e.peak, 10+64, "jobs waited elsewhere than in their queue")
	require.Zero(t, r.inFlight())
	w.stop()
	require.Equal(t, "3300", r.client.Get(r.ctx(), "stat:processed").Val(), "the foreign engine counts its own")
	foreign := 0
	for _, end := range f.ends {
		if end.Foreign {
			foreign++
			require.Equal(t, time.Millisecond, end.CPU)
			require.Positive(t, end.Wait, "from the enqueueing to the start in the foreign engine")
		}
	}
	require.Equal(t, 1100, foreign)
}

// A full foreign engine does not hold up the native jobs of other queues, nor the reverse.
func TestNeitherEngineWaitsForTheOther(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	stuck := make(chan struct{})
	e := &engine{slots: 4, work: func(ForeignJob) ForeignResult { <-stuck; return ForeignResult{} }}
	r.push("ingress", foreigns(0, 500)...)
	w := e.with(r, f, func(c *Config) { c.Owned = []scheduler.Queue{{Name: "ingress"}, {Name: "push"}} })
	r.eventually("Ruby is full", func() bool { return len(e.ran()) == 4 })
	r.push("push", natives(1000, 2000, "")...)
	r.eventually("native jobs run all the same", func() bool { return f.results()[Acked] == 2000 })
	require.Greater(t, len(r.queue("ingress")), 450, "the others wait in their queue")
	close(stuck)
	r.eventually("then the others run too", func() bool { return f.results()[Acked] == 2500 })
	w.stop()

	r2, f2 := newRig(t), newFake()
	slow := make(chan struct{})
	f2.do = func(context.Context, *queues.Job) Outcome { <-slow; return Outcome{} }
	e2 := &engine{slots: 4, work: func(ForeignJob) ForeignResult { return ForeignResult{} }}
	r2.push("push", natives(0, 1000, "")...)
	e2.with(r2, f2, func(c *Config) { c.Owned = []scheduler.Queue{{Name: "push"}, {Name: "ingress"}} })
	r2.eventually("the native lane is full", func() bool { return f2.running.Load() == 16 })
	r2.push("ingress", foreigns(5000, 500)...)
	r2.eventually("Ruby's jobs run all the same", func() bool { return f2.results()[Acked] == 500 })
	close(slow)
	r2.eventually("then the others too", func() bool { return f2.results()[Acked] == 1500 })
}

// An engine has room for jobs of other kinds nearly always. Queues without any must not be asked again for every job that ends elsewhere, and
// what comes into them must start at once all the same.
func TestEmptyQueuesAreNotAskedForEveryJob(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	e := &engine{
		slots: 4,
		room: func(queue string, waiting int) int {
			if queue == "ingress" && waiting > 4 {
				return 0
			}
			return 16
		},
		work: func(ForeignJob) ForeignResult {
			time.Sleep(5 * time.Millisecond)
			return ForeignResult{Kind: Done, Label: "done", Run: 5 * time.Millisecond}
		},
	}
	r.push("ingress", foreigns(0, 1000)...)
	w := e.with(r, f, func(c *Config) { c.Owned = []scheduler.Queue{{Name: "default"}, {Name: "push"}, {Name: "ingress"}} })
	r.eventually("half have run", func() bool { return f.results()[Acked] >= 500 })
	var looks int
	f.note(func() { looks = len(f.fetched) })
	require.Less(t, looks, 250, "looks for 500 jobs")
	r.push("default", foreigns(5000, 1)...)
	r.eventually("what came into an empty queue has run", func() bool { return e.ran()[jid(5000)] == 1 })
	require.NotEmpty(t, r.queue("ingress"), "before the backlog of the other queue")
	r.eventually("all have run", func() bool { return f.results()[Acked] == 1001 })
	w.stop()
}

func TestOutcomesOfForeignJobs(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	var mu sync.Mutex
	returned := map[string]bool{}
	e := &engine{slots: 4, work: func(j ForeignJob) ForeignResult {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case j.JID == jid(1) && !returned[j.JID]:
			returned[j.JID] = true
			return ForeignResult{Kind: Returned, Label: "crashed", Payload: job(ruby, 1, `"marked"`)}
		case j.JID == jid(2):
			return ForeignResult{Kind: Failed, Label: "poison", Payload: job(ruby, 2, `"poison"`)}
		case j.JID == jid(3):
			return ForeignResult{Kind: Done, Failed: true, Label: "failed"}
		}
		return ForeignResult{Kind: Done, Label: "done"}
	}}
	r.push("push", foreigns(0, 5)...)
	w := e.with(r, f)
	r.eventually("all have ended", func() bool { return f.results()[Acked] == 4 && f.results()[Dead] == 1 })
	require.Equal(t, 1, f.results()[Requeued])
	require.Equal(t, map[string]int{jid(0): 1, jid(1): 2, jid(2): 1, jid(3): 1, jid(4): 1}, e.ran())
	require.Equal(t, []string{job(ruby, 2, `"poison"`)}, r.members("dead"))
	w.stop()
	require.Empty(t, r.queue("push"))
	require.Zero(t, r.inFlight())
}

// Quiet and stop give back what has not started, and wait for what runs.
func TestStopWithForeignJobs(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	release := make(chan struct{})
	e := &engine{slots: 3, work: func(ForeignJob) ForeignResult { <-release; return ForeignResult{} }}
	r.push("push", foreigns(0, 50)...)
	w := e.with(r, f)
	r.eventually("three run", func() bool { return len(e.ran()) == 3 })
	w.Quiet()
	r.eventually("the others are back", func() bool { return len(r.queue("push")) == 47 })
	require.Equal(t, foreigns(3, 47), r.queue("push"), "in their order")
	w.Stop()
	close(release)
	w.wait()
	require.Equal(t, 3, f.results()[Acked])
	require.Zero(t, r.inFlight())
}

// What a foreign engine has not started is dropped with the lease: whoever adopts it will run it.
func TestForeignJobsOfALostLease(t *testing.T) {
	t.Parallel()
	r, f := newRig(t), newFake()
	release := make(chan struct{})
	e := &engine{slots: 3, work: func(ForeignJob) ForeignResult { <-release; return ForeignResult{} }}
	r.push("push", foreigns(0, 40)...)
	w := e.with(r, f)
	r.eventually("three run", func() bool { return len(e.ran()) == 3 })
	holder := w.keeper.current().Name()
	e.mu.Lock()
	e.slots = 1000 // the next fetch brings what cannot start
	e.running += 997
	e.mu.Unlock()
	require.NoError(t, r.client.Del(r.ctx(), "queueville:lease:"+holder).Err())
	r.eventually("noticed", func() bool { return len(f.leasesLost()) > 0 })
	e.mu.Lock()
	e.running -= 997
	e.mu.Unlock()
	close(release)
	w.RoomGrew()
	r.eventually("every job has run", func() bool { return len(e.ran()) == 40 })
	r.eventually("nothing is left", func() bool { return r.inFlight() == 0 && len(r.queue("push")) == 0 })
	require.GreaterOrEqual(t, f.results()[Dropped], 3, "the outcomes of the three had no effect")
}
