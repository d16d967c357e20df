package worker

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	ossignal "os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/queueville/queueville/internal/redistest"
	"github.com/queueville/queueville/queues"
	"github.com/queueville/queueville/scheduler"
)

// childEnv makes the test binary a worker process; its value is a childSpec.
const childEnv = "QUEUEVILLE_TEST_CHILD"

// childSpec is what a worker process of a test does. It notes each start of a job in the list "started" and each end in "ended".
type childSpec struct {
	Addr        string
	DB          int
	Concurrency int
	Lease       time.Duration
	Renew       time.Duration
	Adopt       time.Duration
	Work        time.Duration // each job takes so long
	Fail        bool          // and then fails
	Die         bool          // or kills its process
	Goals       bool          // it goes by lowBehind
}

// child is a running worker process.
type child struct {
	t   testing.TB
	cmd *exec.Cmd
}

// startChild starts a worker process and waits until it works.
func (r *rig) startChild(spec childSpec) *child {
	r.t.Helper()
	spec.Addr, spec.DB = r.addr, r.db
	if spec.Lease == 0 {
		spec.Lease, spec.Renew = shortLease, shortRenew
	}
	if spec.Adopt == 0 {
		spec.Adopt = time.Hour
	}
	text, err := json.Marshal(spec)
	require.NoError(r.t, err)
	cmd := exec.CommandContext(r.ctx(), os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(r.t, err)
	require.NoError(r.t, cmd.Start())
	c := &child{t: r.t, cmd: cmd}
	r.t.Cleanup(c.kill)
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(r.t, err, "the worker process has to say that it is ready")
	require.Equal(r.t, "ready", strings.TrimSpace(line))
	return c
}

func (c *child) signal(s syscall.Signal) {
	c.t.Helper()
	require.NoError(c.t, c.cmd.Process.Signal(s))
}

// kill ends the process as kill -9 does and waits for it.
func (c *child) kill() {
	if c.cmd.ProcessState == nil {
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait()
	}
}

// wait returns the exit code.
func (c *child) wait() int {
	c.t.Helper()
	late := time.AfterFunc(time.Minute, func() { _ = c.cmd.Process.Kill() })
	defer late.Stop()
	_ = c.cmd.Wait()
	return c.cmd.ProcessState.ExitCode()
}

// runChild is main of a worker process.
func runChild(text string) int {
	var spec childSpec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	notes := redistest.NewClient(spec.Addr, spec.DB)
	f := newFake()
	f.delay = 15 * time.Second
	f.do = func(ctx context.Context, job *queues.Job) Outcome {
		ctx = context.WithoutCancel(ctx)
		note := func(list string) { // until Redis has it, for it may be away
			for notes.RPush(ctx, list, job.JID).Err() != nil {
				time.Sleep(10 * time.Millisecond)
			}
		}
		note("started")
		time.Sleep(spec.Work)
		if spec.Die {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
		note("ended")
		if spec.Fail {
			return Outcome{Kind: Failed, ErrorClass: "TestError", ErrorMessage: "on purpose"}
		}
		return Outcome{Kind: Done}
	}
	host, _ := os.Hostname()
	identity := queues.NewIdentity(host, os.Getpid())
	cfg := Config{
		Store:    queues.NewStore(redistest.NewClient(spec.Addr, spec.DB), ""),
		Process:  queues.ProcessInfo{Identity: identity, Hostname: host, PID: os.Getpid(), StartedAt: time.Now(), Concurrency: 5, Queues: []string{"push"}},
		Holder:   ThisProcess(identity, host),
		Handlers: []Handler{f}, Observer: f,
		Owned: []scheduler.Queue{{Name: "push"}}, ForeignTo: "ruby",
		Concurrency: spec.Concurrency, Window: 200, LeaseTTL: spec.Lease, RenewEvery: spec.Renew, AdoptEvery: spec.Adopt,
		StopTimeout: 5 * time.Second, Ready: func() { fmt.Println("ready") },
	}
	if spec.Goals {
		byGoals(&cfg)
	}
	w, err := New(cfg)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	ctx, stop := ossignal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := w.Run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	// The notes of what the test wants to know about a woken process: leases lost, jobs dropped.
	notes.Set(context.Background(), "child:lost", len(f.leasesLost()), 0)
	notes.Set(context.Background(), "child:dropped", f.results()[Dropped], 0)
	return 0
}
