package ruby

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/queueville/queueville/internal/redistest"
)

const patience = 40 * time.Second // for what a loaded machine does in its own time

// rig is a supervisor with real Sidekiq processes and a Redis of its own.
type rig struct {
	tb    testing.TB
	s     *Supervisor
	redis *redis.Client
	log   *logBuffer
	stop  func()

	mayFallBack bool // to processes that are not preloaded

	mu   sync.Mutex
	done map[string][]Result // by jid
}

// needRuby is the words that start a Ruby with Sidekiq and these files of other gems. It skips at a desk and fails in CI where one is missing.
// RUBY says another Ruby, as for package oracle.
func needRuby(tb testing.TB, files ...string) []string {
	tb.Helper()
	words := strings.Fields(os.Getenv("RUBY"))
	if len(words) == 0 {
		words = []string{"ruby"}
	}
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	args := append(slices.Clone(words[1:]), "-e", `ARGV.each { |f| require f }`, "sidekiq")
	if out, err := exec.CommandContext(ctx, words[0], append(args, files...)...).CombinedOutput(); err != nil { //nolint:gosec // the developer's words
		missing(tb, fmt.Sprintf("no Sidekiq or Active Support: %v %.200s(apt-get install ruby-sidekiq ruby-activesupport, or set RUBY)", err, out))
	}
	return words
}

// missing skips a test for what the machine does not have, and fails it in CI.
func missing(tb testing.TB, what string) {
	tb.Helper()
	if os.Getenv("CI") == "true" {
		tb.Fatal(what)
	}
	tb.Skip(what)
}

// newRig starts a supervisor for testdata/app.rb; change alters its configuration, env is added to Ruby's environment.
func newRig(tb testing.TB, change func(*Config), env ...string) *rig {
	tb.Helper()
	words := needRuby(tb)
	addr, db, client := redistest.DB(tb)
	r := &rig{tb: tb, redis: client, log: &logBuffer{}, done: map[string][]Result{}}
	dir := workDir(tb)
	app, err := os.ReadFile("testdata/app.rb")
	if err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "app.rb"), app, 0o600); err != nil {
		tb.Fatal(err)
	}
	cfg := Config{
		Command: Command{
			Ruby: words, Dir: dir, Require: filepath.Join(dir, "app.rb"),
			Env: append(append(os.Environ(), fmt.Sprintf("REDIS_URL=redis://%s/%d", addr, db), "LANG=C.UTF-8"), env...),
		},
		Queues: []string{"default", "low"}, Threads: 5, MaxProcs: 1, MemoryKeep: -1, StopTimeout: 2 * time.Second, SocketDir: dir,
		GrowAfter: 200 * time.Millisecond, Look: 200 * time.Millisecond,
		Log: slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Done: func(j Job, res Result) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.done[j.JID] = append(r.done[j.JID], res)
		},
	}
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	r.s = s
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ran; err != nil {
			tb.Errorf("Run = %v", err)
		}
	})
	tb.Cleanup(func() {
		r.stop()
		if r.fallback() && !r.mayFallBack {
			tb.Error("preloading failed")
		}
		if tb.Failed() {
			tb.Logf("log:\n%s", r.log)
		}
	})
	return r
}

// workDir is a directory with a short path that Ruby sees too, if RUBY is one in another root (see scripts/test-sidekiq.sh).
func workDir(tb testing.TB) string {
	tb.Helper()
	if dir := os.Getenv("RUBY_WORK_DIR"); dir != "" {
		dir, err := os.MkdirTemp(dir, "t") //nolint:usetesting // in the other root
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { _ = os.RemoveAll(dir) })
		return dir
	}
	return tb.TempDir()
}

func job(class, jid, args string) Job {
	return Job{
		Queue: "default", Class: class, JID: jid, Fetched: time.Now(),
		Payload: `{"retry":true,"queue":"default","class":"` + class + `","args":` + args + `,"jid":"` + jid +
			`","created_at":1795291060.5,"enqueued_at":1795291060.5}`,
	}
}

// await waits until yes is true.
func (r *rig) await(what string, yes func() bool) {
	r.tb.Helper()
	deadline := time.Now().Add(patience)
	for !yes() {
		if time.Now().After(deadline) {
			r.tb.Fatalf("waited %v for: %s", patience, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// ready waits for n processes that take jobs, all of whose threads have asked.
func (r *rig) ready(n int) {
	r.tb.Helper()
	r.await(fmt.Sprintf("%d processes ready", n), func() bool {
		r.s.mu.Lock()
		defer r.s.mu.Unlock()
		views := r.s.views(nil)
		threads := 0
		for _, v := range views {
			threads += v.Idle + v.Running
		}
		return len(views) >= n && threads >= n*r.s.cfg.Threads
	})
}

// result waits for the one result of a job.
func (r *rig) result(jid string) Result {
	r.tb.Helper()
	r.await("the result of "+jid, func() bool { return len(r.results(jid)) > 0 })
	all := r.results(jid)
	if len(all) != 1 {
		r.tb.Errorf("%s has %d results: %+v", jid, len(all), all)
	}
	return all[0]
}

func (r *rig) results(jid string) []Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.done[jid])
}

// trace is a list that jobs wrote, jid → process ids.
func (r *rig) trace(list string) map[string][]int {
	r.tb.Helper()
	got, err := r.redis.LRange(context.WithoutCancel(r.tb.Context()), list, 0, -1).Result()
	if err != nil {
		r.tb.Fatal(err)
	}
	out := map[string][]int{}
	for _, l := range got {
		jid, pid, _ := strings.Cut(l, " ")
		n, _ := strconv.Atoi(pid)
		out[jid] = append(out[jid], n)
	}
	return out
}

func (r *rig) started(jid string) int {
	r.tb.Helper()
	r.await("start of "+jid, func() bool { return len(r.trace("started")[jid]) > 0 })
	return r.trace("started")[jid][0]
}

func (r *rig) fallback() bool { return strings.Contains(r.log.String(), "cannot be preloaded") }

func (r *rig) said(what string) {
	r.tb.Helper()
	r.await("log: "+what, func() bool { return strings.Contains(r.log.String(), what) })
}

// gone waits until a process has ended.
func (r *rig) gone(pid int) {
	r.tb.Helper()
	r.await(fmt.Sprintf("end of process %d", pid), func() bool { return startTick(pid) == "" })
}

func kill(tb testing.TB, pid int, sig syscall.Signal) {
	tb.Helper()
	if pid <= 1 {
		tb.Fatalf("no process: %d", pid)
	}
	if err := syscall.Kill(pid, sig); err != nil {
		tb.Fatal(err)
	}
}

type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
