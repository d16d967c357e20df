package conformance

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/queueville/queueville/internal/oracle"
	"github.com/queueville/queueville/internal/redistest"
	"github.com/queueville/queueville/queues"
	"github.com/queueville/queueville/scheduler"
	"github.com/queueville/queueville/worker"
)

// beatEvery is the heartbeat of the engines under test; Sidekiq's own is 10 s.
const beatEvery = 200 * time.Millisecond

// ground is one empty Redis database with Ruby and the read side of ours on it.
type ground struct {
	t     *testing.T
	c     *redis.Client
	store *queues.Store
	ruby  *oracle.Oracle
}

func newGround(t *testing.T) *ground {
	t.Helper()
	addr, db, c := redistest.DB(t)
	return &ground{t: t, c: c, store: queues.NewStore(c, ""), ruby: oracle.New(t, fmt.Sprintf("redis://%s/%d", addr, db))}
}

// sidekiqVersion is the original's, as two numbers.
func (g *ground) sidekiqVersion() (major, minor int) {
	g.t.Helper()
	version := g.ruby.Version()
	if n, err := fmt.Sscanf(version, "%d.%d", &major, &minor); n != 2 || err != nil {
		g.t.Fatalf("Sidekiq's version is %q", version)
	}
	return major, minor
}

// push puts payloads on a queue as they are, the first to be run first.
func (g *ground) push(queue string, payloads ...string) {
	g.t.Helper()
	g.c.SAdd(g.t.Context(), "queues", queue)
	for part := range slices.Chunk(payloads, 1000) {
		values := make([]any, len(part))
		for i := range part {
			values[i] = part[i]
		}
		if err := g.c.LPush(g.t.Context(), "queue:"+queue, values...).Err(); err != nil {
			g.t.Fatal(err)
		}
	}
}

// list is a queue, the next to be run first.
func (g *ground) list(queue string) []string {
	g.t.Helper()
	l := g.c.LRange(g.t.Context(), "queue:"+queue, 0, -1).Val()
	slices.Reverse(l)
	return l
}

// set is a sorted set's members, by score.
func (g *ground) set(name string) []string {
	g.t.Helper()
	return g.c.ZRange(g.t.Context(), name, 0, -1).Val()
}

// makeDue moves every entry of a set to now.
func (g *ground) makeDue(set string) {
	g.t.Helper()
	for _, m := range g.set(set) {
		g.c.ZAdd(g.t.Context(), set, redis.Z{Score: float64(time.Now().Unix()), Member: m})
	}
}

// done counts, by jid, what has left a trace as finished, by Ruby or by Go.
func (g *ground) done() map[string]int {
	g.t.Helper()
	counts := map[string]int{}
	for _, line := range g.c.LRange(g.t.Context(), "oracle:done", 0, -1).Val() {
		var d struct{ JID string }
		if err := json.Unmarshal([]byte(line), &d); err != nil {
			g.t.Fatalf("oracle:done has %q", line)
		}
		counts[d.JID]++
	}
	return counts
}

func (g *ground) waitFor(what string, ok func() bool) {
	g.t.Helper()
	waitFor(g.t, what, ok)
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(45 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func jid(n int) string { return fmt.Sprintf("%024x", n) }

// payload is a job in the form of Sidekiq 6 and 7. more are further fields, each with a comma before it.
func payload(class, args, id, more string) string {
	return `{"retry":true,"queue":"default","class":"` + class + `","args":` + args + `,"jid":"` + id + `"` + more + `,"created_at":1795291060.2769928,"enqueued_at":1795291060.277345}`
}

// oracleJobs is ruby/jobs.rb in Go: the same classes with the same traces in Redis.
type oracleJobs struct {
	c       *redis.Client
	release chan struct{} // the job of blockJID ends when it is closed

	mu       sync.Mutex
	blockJID string            // runs until release, whatever its class; for jobs that Ruby is to finish
	args     map[string]string // raw args by jid
	ran      []string          // jids in the order of their starts
}

func (h *oracleJobs) Classes() []string {
	return []string{"OracleNoop", "OracleSleep", "OracleFail", "OracleFailTimes", "OracleEcho", "OracleWrapper"}
}

func (h *oracleJobs) Destination(string, string) (string, error) { return "", nil }

func (h *oracleJobs) Run(ctx context.Context, job *queues.Job) worker.Outcome {
	h.mu.Lock()
	h.args[job.JID] = job.Args
	h.ran = append(h.ran, job.JID)
	block := h.blockJID == job.JID
	h.mu.Unlock()
	if block {
		select {
		case <-ctx.Done():
			return worker.Outcome{Kind: worker.Returned}
		case <-h.release:
		}
	}
	var args []json.RawMessage
	if err := json.Unmarshal([]byte(job.Args), &args); err != nil {
		return failed("ArgumentError", err.Error())
	}
	text := func(i int) (s string) {
		if i < len(args) {
			_ = json.Unmarshal(args[i], &s)
		}
		return s
	}
	switch job.Class {
	case "OracleFail":
		return failed("ArgumentError", cmp.Or(text(0), "failing on purpose"))
	case "OracleFailTimes":
		var times int64
		if err := json.Unmarshal(args[1], &times); err != nil {
			return failed("ArgumentError", err.Error())
		}
		n, err := h.c.Incr(ctx, "oracle:attempts:"+text(0)).Result()
		if err != nil {
			return failed("RuntimeError", err.Error())
		}
		if n <= times {
			return failed("RuntimeError", fmt.Sprintf("attempt %d of %d fails", n, times))
		}
	case "OracleEcho":
		if err := h.c.RPush(ctx, "oracle:echo", `{"jid":"`+job.JID+`","args":`+job.Args+`}`).Err(); err != nil {
			return failed("RuntimeError", err.Error())
		}
		return worker.Outcome{Kind: worker.Done}
	}
	if err := h.c.RPush(ctx, "oracle:done", `{"class":"`+job.Class+`","jid":"`+job.JID+`"}`).Err(); err != nil {
		return failed("RuntimeError", err.Error())
	}
	return worker.Outcome{Kind: worker.Done}
}

func failed(class, message string) worker.Outcome {
	return worker.Outcome{Kind: worker.Failed, Label: "failed", ErrorClass: class, ErrorMessage: message}
}

// RetryDelay is that of jobs.rb: a second for OracleFailTimes, Sidekiq's own for the others.
func (h *oracleJobs) RetryDelay(class string, _ int) time.Duration {
	if class == "OracleFailTimes" {
		return time.Second
	}
	return 0
}

func (h *oracleJobs) GiveUpAfter(string) time.Duration { return 0 }

func (h *oracleJobs) started() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.ran)
}

// engine is a running worker.
type engine struct {
	*worker.Worker
	jobs     *oracleJobs
	identity string

	done chan struct{}
	err  error // after done

	worker.NopObserver
	mu   sync.Mutex
	ends map[string][]worker.End // by jid
}

// Ended implements worker.Observer.
func (e *engine) Ended(end worker.End) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ends[end.JID] = append(e.ends[end.JID], end)
}

// ended counts jobs by result.
func (e *engine) ended(r worker.Result) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for _, list := range e.ends {
		for _, end := range list {
			if end.Result == r {
				n++
			}
		}
	}
	return n
}

func (e *engine) jids(results ...worker.Result) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []string
	for _, id := range slices.Sorted(maps.Keys(e.ends)) {
		for _, end := range e.ends[id] {
			if slices.Contains(results, end.Result) {
				out = append(out, id)
			}
		}
	}
	return out
}

// start runs a worker that owns default (and whatever change makes of it) until the test ends or it is stopped.
func (g *ground) start(change func(*worker.Config, *oracleJobs)) *engine {
	g.t.Helper()
	host, err := os.Hostname()
	if err != nil {
		g.t.Fatal(err)
	}
	identity := queues.NewIdentity(host, os.Getpid())
	e := &engine{
		identity: identity, done: make(chan struct{}), ends: map[string][]worker.End{},
		jobs: &oracleJobs{c: g.c, release: make(chan struct{}), args: map[string]string{}},
	}
	// Several workers run in this one process: no process start, so that none takes another for dead by its process number.
	cfg := worker.Config{
		Store: g.store, Handlers: []worker.Handler{e.jobs}, Observer: e, Owned: []scheduler.Queue{{Name: "default"}},
		Holder:    queues.Holder{Identity: identity, Hostname: host, PID: os.Getpid()},
		BeatEvery: beatEvery, PollFirst: 50 * time.Millisecond, PollAverage: 500 * time.Millisecond, StopTimeout: 5 * time.Second,
		MirrorBusy: true, Metrics7: true, Metrics8: true,
	}
	ready := make(chan struct{})
	cfg.Ready = func() { close(ready) }
	if change != nil {
		change(&cfg, e.jobs)
	}
	var names []string
	for _, q := range cfg.Owned {
		names = append(names, q.Name)
	}
	cfg.Process = queues.ProcessInfo{
		Identity: identity, Hostname: host, PID: os.Getpid(), StartedAt: time.Now(), Tag: "conformance", Concurrency: 25, Queues: names,
		Labels: []string{"queueville"}, Version: "queueville test",
	}
	if e.Worker, err = worker.New(cfg); err != nil {
		g.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(g.t.Context()))
	go func() {
		defer close(e.done)
		e.err = e.Run(ctx)
	}()
	g.t.Cleanup(func() {
		e.Stop()
		<-e.done
		cancel()
		if e.err != nil {
			g.t.Errorf("the worker ended with %v", e.err)
		}
	})
	select {
	case <-ready:
	case <-e.done:
		g.t.Fatalf("the worker did not start: %v", e.err)
	}
	return e
}

// stop ends it now and waits.
func (e *engine) stop(t *testing.T) {
	t.Helper()
	e.Stop()
	select {
	case <-e.done:
	case <-time.After(40 * time.Second):
		t.Fatal("the worker does not stop")
	}
}

// fields is a payload's top level.
func fields(t *testing.T, payload string) map[string]json.RawMessage {
	t.Helper()
	var f map[string]json.RawMessage
	if err := json.Unmarshal([]byte(payload), &f); err != nil {
		t.Fatalf("%v: %s", err, payload)
	}
	return f
}
