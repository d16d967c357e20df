package worker

import (
	"context"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/queueville/queueville/queues"
)

// TestSoak runs worker processes and a worker of our own against one Redis for the time that QUEUEVILLE_SOAK says, e.g. 10m, while faults
// of all kinds come at random, and accounts for every job: each was run or is in exactly one place. Without the variable it lasts 3 s.
func TestSoak(t *testing.T) {
	t.Parallel()
	length := 3 * time.Second
	if text := os.Getenv("QUEUEVILLE_SOAK"); text != "" {
		var err error
		length, err = time.ParseDuration(text)
		require.NoError(t, err)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))

	server := durable(t)
	r, f := rigOn(t, server.Addr()), newFake()
	f.delay = time.Second
	f.do = func(ctx context.Context, job *queues.Job) Outcome {
		time.Sleep(time.Duration(rand.N(3)) * time.Millisecond)
		if ctx.Err() != nil {
			return Outcome{Kind: Returned}
		}
		if !job.HasRetryCount && rand.N(10) == 0 {
			return Outcome{Kind: Failed, ErrorClass: "TestError"}
		}
		return Outcome{}
	}
	p := r.proxy()
	faulty := through(r, p.Addr())
	own := r.start(f, faulty, polling, func(c *Config) { c.RenewEvery = shortRenew })
	kids := []*child{r.startChild(childSpec{Concurrency: 10, Work: time.Millisecond, Adopt: shortAdopt})}

	faults := map[string]func(){
		"cut": func() { p.Cut() },
		"lose any reply": func() {
			p.LoseReplies(func([]byte) bool { return rand.N(20) == 0 })
			time.Sleep(100 * time.Millisecond)
			p.LoseReplies(nil)
		},
		"away":             func() { p.Refuse(true); p.Cut(); time.Sleep(300 * time.Millisecond); p.Refuse(false) },
		"away for a lease": func() { p.Refuse(true); p.Cut(); time.Sleep(2 * shortLease); p.Refuse(false) },
		"delay":            func() { p.Delay(20 * time.Millisecond); time.Sleep(200 * time.Millisecond); p.Delay(0) },
		"kill a process": func() {
			kids[0].kill()
			kids = append(kids[1:], r.startChild(childSpec{Concurrency: 10, Work: time.Millisecond, Adopt: shortAdopt}))
		},
		"stop a process": func() {
			kids[0].signal(syscall.SIGTERM)
			kids[0].wait()
			kids = append(kids[1:], r.startChild(childSpec{Concurrency: 10, Work: time.Millisecond, Adopt: shortAdopt}))
		},
		"freeze a process": func() { kids[0].signal(syscall.SIGSTOP); time.Sleep(2 * shortLease); kids[0].signal(syscall.SIGCONT) },
		"redis hangs": func() {
			require.NoError(t, server.Pause())
			time.Sleep(300 * time.Millisecond)
			require.NoError(t, server.Resume())
		},
		"redis restarts":    func() { require.NoError(t, server.Restart(r.ctx())) },
		"redis is killed":   func() { require.NoError(t, server.Kill()); require.NoError(t, server.Restart(r.ctx())) },
		"scripts forgotten": func() { _ = r.client.ScriptFlush(r.ctx()).Err() },
		"worker stopped": func() {
			own.stop()
			own = r.start(f, faulty, polling)
		},
	}
	names := make([]string, 0, len(faults))
	for name := range faults {
		names = append(names, name)
	}
	slices.Sort(names)

	jobs, did := 0, map[string]int{}
	for end := time.Now().Add(length); time.Now().Before(end); {
		if len(r.queue("push")) < 5000 {
			r.push("push", natives(jobs, 500, `"payload"`)...)
			jobs += 500
		}
		name := names[rnd.IntN(len(names))]
		faults[name]()
		did[name]++
		time.Sleep(time.Duration(rnd.IntN(200)) * time.Millisecond)
	}
	t.Logf("%d jobs, faults: %v", jobs, did)

	// In peace everything comes to its end.
	deadline := time.Now().Add(time.Minute)
	for r.inFlight()+len(r.queue("push"))+len(r.members("retry"))+len(r.members("schedule")) > 0 {
		r.dueNow("retry")
		if time.Now().After(deadline) {
			t.Fatalf("left over: %v", r.where("push"))
		}
		time.Sleep(20 * time.Millisecond)
	}
	own.stop()
	ran := map[string]int{}
	for _, id := range r.list("ended") {
		ran[id]++
	}
	for id, n := range f.copyRuns() {
		ran[id] += n
	}
	var lost []string
	twice := 0
	for i := range jobs {
		switch n := ran[jid(i)]; {
		case n == 0:
			lost = append(lost, jid(i))
		case n > 1:
			twice++
		}
	}
	require.Empty(t, lost, "seed %d", seed)
	require.Empty(t, r.members("dead"))
	t.Logf("%d of %d jobs ran more than once (retries on purpose are a tenth of ours)", twice, jobs)
}

func (f *fake) copyRuns() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.runs)
}
