package rubyapp

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const (
	stopTimeout = 40 * time.Second // Sidekiq's own limit is 25 s by default
	bootTimeout = 60 * time.Second
	outputLimit = 4 << 20 // bytes kept of a process's output
)

// Process is a running stock Sidekiq.
type Process struct {
	app    *App
	cmd    *exec.Cmd
	done   chan struct{} // closed when the process has ended
	output *output
}

// Sidekiq starts `bundle exec sidekiq ARGS` in the application's directory, as Mastodon's units do, with more environment variables, and
// waits until it is registered in Redis. It is killed when the test ends, if it still runs.
func (a *App) Sidekiq(env []string, args ...string) *Process {
	a.tb.Helper()
	p := a.Launch(env, args...)
	deadline := time.Now().Add(bootTimeout)
	for {
		if list, err := a.Redis.SMembers(a.tb.Context(), "processes").Result(); err == nil && slices.ContainsFunc(list, p.named) {
			return p
		}
		select {
		case <-p.done:
			a.tb.Fatalf("sidekiq ended at boot\n%s", p.Output())
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			a.tb.Fatalf("sidekiq is not up after %v\n%s", bootTimeout, p.Output())
		}
	}
}

// named says whether an identity (host:pid:nonce) is this process's.
func (p *Process) named(identity string) bool {
	fields := bytes.Split([]byte(identity), []byte(":"))
	return len(fields) == 3 && string(fields[1]) == strconv.Itoa(p.PID())
}

// Launch is Sidekiq without waiting for anything.
func (a *App) Launch(env []string, args ...string) *Process {
	a.tb.Helper()
	words := append([]string{"exec", "sidekiq"}, args...)
	cmd := exec.CommandContext(context.WithoutCancel(a.tb.Context()), a.Bundle, words...) //nolint:gosec // the test's own directory
	p := &Process{app: a, cmd: cmd, done: make(chan struct{}), output: &output{}}
	cmd.Dir = a.Dir
	cmd.Env = append(os.Environ(), a.Env(env...)...)
	cmd.Stdout, cmd.Stderr = p.output, p.output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		a.tb.Fatalf("start sidekiq: %v", err)
	}
	go func() {
		_ = cmd.Wait() // how it ends is the test's matter
		close(p.done)
	}()
	a.tb.Cleanup(func() {
		p.Kill() // an orderly end takes seconds, and the servers are the test's own
		if a.tb.Failed() {
			a.tb.Logf("sidekiq %v said:\n%s", args, p.Output())
		}
	})
	return p
}

// PID is the process id, which is Ruby's: bin/bundle replaces itself.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Output is what it has printed so far, up to a bound.
func (p *Process) Output() string { return p.output.String() }

// Done is closed when it has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Signal sends a signal to the process alone.
func (p *Process) Signal(s syscall.Signal) {
	p.app.tb.Helper()
	select {
	case <-p.done: // the id may be another's by now
	default:
		_ = syscall.Kill(p.PID(), s)
	}
}

// Stop asks it to stop, waits, and kills its process group if that takes too long.
func (p *Process) Stop() { p.end(syscall.SIGTERM) }

// Kill is kill -9 of the process.
func (p *Process) Kill() { p.end(syscall.SIGKILL) }

func (p *Process) end(signal syscall.Signal) {
	select {
	case <-p.done:
		return
	default:
	}
	_ = syscall.Kill(p.PID(), signal)
	select {
	case <-p.done:
	case <-time.After(stopTimeout):
		_ = syscall.Kill(-p.PID(), syscall.SIGKILL)
		<-p.done
	}
}

// output keeps the first outputLimit bytes of what is written to it. Safe for concurrent use.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write never fails.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if room := outputLimit - o.buf.Len(); room > 0 {
		o.buf.Write(b[:min(room, len(b))])
	}
	return len(b), nil
}

// String is what was kept.
func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}
