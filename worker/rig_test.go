package worker

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/queueville/queueville/internal/redistest"
	"github.com/queueville/queueville/queues"
	"github.com/queueville/queueville/scheduler"
)

// native is the class that test workers run; every other is foreign.
const native = "Test::NativeWorker"

// Times of the tests' workers: everything that takes seconds in earnest, as short as a busy machine can bear.
const (
	shortLease = 1500 * time.Millisecond
	shortRenew = 250 * time.Millisecond
	shortAdopt = 200 * time.Millisecond
)

// patience bounds every wait of the tests; they end as soon as what they wait for is there.
const patience = time.Minute

// rig is a Redis with helpers to fill it and to look at it.
type rig struct {
	t      testing.TB
	addr   string
	db     int
	client *redis.Client // straight to Redis, whatever stands between it and the worker
	store  *queues.Store
}

// newRig uses a database of the shared server.
func newRig(tb testing.TB) *rig {
	tb.Helper()
	addr, db, client := redistest.DB(tb)
	return &rig{t: tb, addr: addr, db: db, client: client, store: queues.NewStore(client, "")}
}

// rigOn uses a server of the test's own.
func rigOn(tb testing.TB, addr string) *rig {
	tb.Helper()
	client := redistest.NewClient(addr, 0)
	tb.Cleanup(func() { _ = client.Close() })
	return &rig{t: tb, addr: addr, client: client, store: queues.NewStore(client, "")}
}

// ctx outlives the test's own context, which has ended when clean-ups run.
func (r *rig) ctx() context.Context { return context.WithoutCancel(r.t.Context()) }

// job makes a payload as Sidekiq 7 writes it. fields are added, e.g. `"retry":0`; args is the inside of the array.
func job(class string, n int, args string, fields ...string) string {
	f := strings.Join(append([]string{`"retry":16`}, fields...), ",")
	if len(fields) > 0 && strings.HasPrefix(fields[0], `"retry":`) {
		f = strings.Join(fields, ",")
	}
	return fmt.Sprintf(`{%s,"queue":"push","class":%q,"args":[%s],"jid":"%s","created_at":1795291060.2769928,"enqueued_at":1795291060.2779928}`, f, class, args, jid(n))
}

func jid(n int) string { return fmt.Sprintf("%020x%04x", n, uint16(n*2654435761>>7)) }

// natives are n jobs, numbered from from.
func natives(from, n int, args string) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = job(native, from+i, args)
	}
	return out
}

// push puts payloads on a queue, the first to run first.
func (r *rig) push(queue string, payloads ...string) {
	r.t.Helper()
	for part := range slices.Chunk(payloads, 1000) {
		values := make([]any, len(part))
		for i, p := range part {
			values[i] = p
		}
		require.NoError(r.t, r.client.SAdd(r.ctx(), "queues", queue).Err())
		require.NoError(r.t, r.client.LPush(r.ctx(), "queue:"+queue, values...).Err())
	}
}

// queue lists a queue, the next to run first.
func (r *rig) queue(name string) []string {
	r.t.Helper()
	list, err := r.client.LRange(r.ctx(), "queue:"+name, 0, -1).Result()
	require.NoError(r.t, err)
	slices.Reverse(list)
	return list
}

// set lists a sorted set, lowest score first.
func (r *rig) set(name string) []redis.Z {
	r.t.Helper()
	list, err := r.client.ZRangeWithScores(r.ctx(), name, 0, -1).Result()
	require.NoError(r.t, err)
	return list
}

// members lists a sorted set's members.
func (r *rig) members(name string) []string {
	r.t.Helper()
	list, err := r.client.ZRange(r.ctx(), name, 0, -1).Result()
	require.NoError(r.t, err)
	return list
}

// inFlight counts jobs in all in-flight hashes.
func (r *rig) inFlight() int {
	r.t.Helper()
	n := 0
	for _, p := range r.inFlightJobs() {
		n += len(p)
	}
	return n
}

// inFlightJobs lists payloads by holder.
func (r *rig) inFlightJobs() map[string][]string {
	r.t.Helper()
	out := map[string][]string{}
	names, err := r.client.Keys(r.ctx(), "queueville:inflight:*").Result()
	require.NoError(r.t, err)
	for _, key := range names {
		holder := strings.TrimPrefix(key, "queueville:inflight:")
		jobs, err := r.store.InFlight(r.ctx(), holder)
		require.NoError(r.t, err)
		for _, j := range jobs {
			out[holder] = append(out[holder], j.Payload)
		}
	}
	return out
}

// where tells for each jid in which places Redis has it.
func (r *rig) where(queueNames ...string) map[string][]string {
	r.t.Helper()
	out := map[string][]string{}
	note := func(place string, payloads []string) {
		for _, p := range payloads {
			id := "?"
			if j, err := queues.ParseJob(p); err == nil {
				id = j.JID
			}
			out[id] = append(out[id], place)
		}
	}
	for _, q := range queueNames {
		note("queue:"+q, r.queue(q))
	}
	for _, s := range []string{"retry", "schedule", "dead"} {
		note(s, r.members(s))
	}
	for holder, list := range r.inFlightJobs() {
		note("inflight:"+holder, list)
	}
	return out
}

// calls reads from INFO commandstats how often a command was called. Redis counts for the whole server, so a test that measures has its own.
func (r *rig) calls(commands ...string) int {
	r.t.Helper()
	info, err := r.client.Info(r.ctx(), "commandstats").Result()
	require.NoError(r.t, err)
	total := 0
	for line := range strings.Lines(info) {
		name, rest, ok := strings.Cut(strings.TrimPrefix(line, "cmdstat_"), ":calls=")
		if !ok || len(commands) > 0 && !slices.Contains(commands, name) {
			continue
		}
		count, _, _ := strings.Cut(rest, ",")
		n, err := strconv.Atoi(count)
		require.NoError(r.t, err)
		total += n
	}
	return total
}

// eventually waits for a condition, with a description of what is missing.
func (r *rig) eventually(what string, cond func() bool) {
	r.t.Helper()
	eventually(r.t, what, cond)
}

func eventually(tb testing.TB, what string, cond func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(patience); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// fake is a Handler and an Observer that remembers everything.
type fake struct {
	NopObserver
	do      func(ctx context.Context, job *queues.Job) Outcome // nil: Done
	dest    func(args string) (string, error)                  // nil: ""
	delay   time.Duration                                      // before a retry
	giveUp  time.Duration
	running atomic.Int32
	peak    atomic.Int32

	mu      sync.Mutex
	order   []string       // jids as they were started
	runs    map[string]int // by jid
	ends    []End
	lost    []string
	adopted int
	errs    map[string]int
	fetched []int
}

func newFake() *fake { return &fake{runs: map[string]int{}, errs: map[string]int{}} }

func (f *fake) Classes() []string { return []string{native} }

func (f *fake) Destination(_, args string) (string, error) {
	if f.dest == nil {
		return "", nil
	}
	return f.dest(args)
}

func (f *fake) Run(ctx context.Context, job *queues.Job) Outcome {
	n := f.running.Add(1)
	defer f.running.Add(-1)
	for p := f.peak.Load(); n > p && !f.peak.CompareAndSwap(p, n); p = f.peak.Load() {
	}
	f.mu.Lock()
	f.order = append(f.order, job.JID)
	f.runs[job.JID]++
	f.mu.Unlock()
	if f.do == nil {
		return Outcome{Kind: Done, Label: "done"}
	}
	return f.do(ctx, job)
}

func (f *fake) RetryDelay(string, int) time.Duration { return f.delay }
func (f *fake) GiveUpAfter(string) time.Duration     { return f.giveUp }
func (f *fake) Fetched(_ string, n int, _ time.Duration) {
	f.note(func() { f.fetched = append(f.fetched, n) })
}

func (f *fake) Ended(e End) { f.note(func() { f.ends = append(f.ends, e) }) }

func (f *fake) LeaseLost(why string)     { f.note(func() { f.lost = append(f.lost, why) }) }
func (f *fake) Adopted(_ string, n int)  { f.note(func() { f.adopted += n }) }
func (f *fake) RedisError(during string) { f.note(func() { f.errs[during]++ }) }

func (f *fake) note(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
}

// started lists jids as they were started.
func (f *fake) started() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.order)
}

// results counts ends by result.
func (f *fake) results() map[Result]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := map[Result]int{}
	for _, e := range f.ends {
		out[e.Result]++
	}
	return out
}

func (f *fake) leasesLost() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.lost)
}

func (f *fake) errors(during string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.errs[during]
}

// runsOf tells how often jobs were run: a count of jids by number of runs.
func (f *fake) runsOf() map[int]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := map[int]int{}
	for _, n := range f.runs {
		out[n]++
	}
	return out
}

// live is a worker that runs until the test ends or stop is called.
type live struct {
	*Worker
	t    testing.TB
	done chan struct{}
	err  error
}

// stop stops the worker and waits for it.
func (l *live) stop() {
	l.t.Helper()
	l.Stop()
	l.wait()
}

func (l *live) wait() {
	l.t.Helper()
	select {
	case <-l.done:
		require.NoError(l.t, l.err)
	case <-time.After(time.Minute):
		l.t.Error("the worker did not stop within a minute")
	}
}

var identities atomic.Int64

// config is a worker's configuration for this Redis, with short times, that serves the owned queue push.
func (r *rig) config(f *fake) Config {
	identity := fmt.Sprintf("test:%d:%06x", os.Getpid(), identities.Add(1))
	cfg := Config{
		Store:    r.store,
		Process:  queues.ProcessInfo{Identity: identity, Hostname: "test", PID: os.Getpid(), StartedAt: time.Now(), Concurrency: 5, Queues: []string{"push"}},
		Holder:   ThisProcess(identity, "test"),
		Handlers: []Handler{f}, Observer: f,
		Owned: []scheduler.Queue{{Name: "push"}}, ForeignTo: "ruby",
		Concurrency: 16, Window: 200, LeaseTTL: shortLease, RenewEvery: shortRenew, AdoptEvery: shortAdopt, StopTimeout: 5 * time.Second,
	}
	if testing.Verbose() && os.Getenv("QUEUEVILLE_TEST_LOG") != "" {
		cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
	}
	return cfg
}

// start runs a worker; edit may change its configuration.
func (r *rig) start(f *fake, edit ...func(*Config)) *live {
	r.t.Helper()
	return r.startWith(f, func(*Worker) {}, edit...)
}

// startWith is start with something to be done between the worker's making and its start.
func (r *rig) startWith(f *fake, made func(*Worker), edit ...func(*Config)) *live {
	r.t.Helper()
	cfg := r.config(f)
	for _, e := range edit {
		e(&cfg)
	}
	w, err := New(cfg)
	require.NoError(r.t, err)
	made(w)
	l := &live{Worker: w, t: r.t, done: make(chan struct{})}
	ready := make(chan struct{})
	w.cfg.Ready = func() { close(ready) }
	go func() {
		defer close(l.done)
		l.err = w.Run(r.ctx())
	}()
	select {
	case <-ready:
	case <-l.done:
		r.t.Fatalf("the worker did not start: %v", l.err)
	case <-time.After(patience):
		r.t.Fatal("the worker is not ready")
	}
	r.t.Cleanup(l.stop)
	return l
}

// through gives a worker a client of its own, to another address.
func through(r *rig, addr string) func(*Config) {
	client := redistest.NewClient(addr, r.db)
	r.t.Cleanup(func() { _ = client.Close() })
	return func(c *Config) { c.Store = queues.NewStore(client, "") }
}
