package fullmode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/queueville/queueville/internal/pgtest"
	"github.com/queueville/queueville/internal/redistest"
	"github.com/queueville/queueville/internal/rubyapp"
	"github.com/queueville/queueville/internal/sidecar"
	"github.com/queueville/queueville/worker"
)

// childEnv makes this binary a worker: its value is a spec as JSON.
const childEnv = "QUEUEVILLE_TEST_FULL"

type spec struct {
	Mastodon  string
	Own       []string
	Processes int
	Threads   int
	NoPreload bool
	Stop      time.Duration
	Lease     time.Duration
	Sidecar   bool          // beside another worker: shares push, runs no Ruby
	DBLease   time.Duration // 0: the default
	Resolver  string
	Goals     bool     // by latency goals, with adaptive limits
	Env       []string // more environment variables
}

func TestMain(m *testing.M) {
	if text := os.Getenv(childEnv); text != "" {
		os.Exit(child(text))
	}
	code := m.Run()
	if err := errors.Join(redistest.Stop(), pgtest.Stop()); err != nil {
		fmt.Fprintln(os.Stderr, "stop the shared servers:", err)
		code = 1
	}
	os.Exit(code)
}

func child(text string) int {
	var s spec
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	o := sidecar.DefaultOptions()
	o.Mastodon, o.Full, o.Own, o.Metrics, o.PollAverage, o.Resolver = s.Mastodon, !s.Sidecar, s.Own, "", 2*time.Second, s.Resolver
	o.RubyProcesses, o.RubyThreads, o.RubyNoPreload, o.StopTimeout = s.Processes, s.Threads, s.NoPreload, s.Stop
	if s.Goals {
		o.Policy, o.Limits = "goals", "adaptive"
	}
	if s.Sidecar {
		o.RubyThreads, o.Shared = sidecar.DefaultOptions().RubyThreads, []string{"push"}
		o.RubyProcesses, o.RubyNoPreload = 0, false
	}
	car, problems := sidecar.New(ctx, o, sidecar.Env{
		Environ: os.Environ(), Version: "test", Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), LeaseTTL: s.DBLease,
		Tune: func(c *worker.Config) {
			c.LeaseTTL, c.RenewEvery, c.AdoptEvery, c.BeatEvery, c.PollFirst = s.Lease, s.Lease/6, time.Second, time.Second, time.Second
		},
	})
	for _, p := range problems {
		fmt.Fprintln(os.Stderr, p)
	}
	if car == nil {
		return 3
	}
	if err := car.Run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// work is a worker in a process of its own.
type work struct {
	*exec.Cmd
	t    testing.TB
	done chan error
}

// start runs `work --full` for an application; what is left out of s has a default.
func start(tb testing.TB, app *rubyapp.App, s spec) *work {
	tb.Helper()
	s.Mastodon = app.Dir
	if s.Processes == 0 {
		s.Processes = 2
	}
	if s.Threads == 0 {
		s.Threads = 10
	}
	if s.Stop == 0 {
		s.Stop = 10 * time.Second
	}
	if s.Lease == 0 {
		s.Lease = 6 * time.Second
	}
	text, err := json.Marshal(s)
	if err != nil {
		tb.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	w := &work{Cmd: exec.Command(exe), t: tb, done: make(chan error, 1)}
	w.Env = append(os.Environ(), app.Env(childEnv+"="+string(text), "PATH="+binDir(app)+":"+os.Getenv("PATH"), "SSL_CERT_FILE="+app.CAFile)...)
	w.Env = append(w.Env, s.Env...)
	w.Stdout, w.Stderr = os.Stderr, os.Stderr
	if !testing.Verbose() {
		f, err := os.CreateTemp(tb.TempDir(), "log")
		if err != nil {
			tb.Fatal(err)
		}
		w.Stdout, w.Stderr = f, f
		tb.Cleanup(func() {
			if tb.Failed() {
				text, _ := os.ReadFile(f.Name())
				tb.Logf("the worker's log:\n%s", text)
			}
			_ = f.Close()
		})
	}
	if err := w.Start(); err != nil {
		tb.Fatal(err)
	}
	go func() { w.done <- w.Wait() }()
	tb.Cleanup(func() {
		if w.done != nil {
			w.stop()
		}
	})
	return w
}

// stop asks the worker to stop and waits for it.
func (w *work) stop() {
	w.t.Helper()
	_ = w.Process.Signal(syscall.SIGTERM)
	w.wait(40 * time.Second)
}

func (w *work) kill() {
	w.t.Helper()
	_ = w.Process.Kill()
	select {
	case err := <-w.done:
		if err == nil {
			w.t.Error("the worker had ended before it was killed")
		}
	case <-time.After(10 * time.Second):
		w.t.Error("the worker survives kill -9")
	}
	w.done = nil
}

func (w *work) wait(limit time.Duration) {
	w.t.Helper()
	select {
	case err := <-w.done:
		if err != nil {
			w.t.Errorf("the worker ended with %v", err)
		}
	case <-time.After(limit):
		w.t.Errorf("the worker has not stopped within %v", limit)
		_ = w.Process.Kill()
		w.t.Logf("killed: %v", <-w.done)
	}
	w.done = nil
}

func eventually(tb testing.TB, what string, limit time.Duration, cond func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(limit); !cond(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("not within %v: %s", limit, what)
		}
	}
}
