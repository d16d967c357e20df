package suite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/queueville/queueville/bench/internal/measure"
)

// process is a contender or a receiver in a process of its own.
type process struct {
	name string
	cmd  *exec.Cmd
	out  *tail
	done chan struct{} // closed when it has ended
	err  error         // written before done is closed
}

// start runs a command in a process group of its own. Its output is kept for an error message, as far as it is the last.
func start(ctx context.Context, name string, env []string, command ...string) (*process, error) {
	return startTo(ctx, name, nil, env, command...)
}

// startTo is start with the output going to out too, if that is not nil; errors still only go to what is kept.
func startTo(ctx context.Context, name string, out io.Writer, env []string, command ...string) (*process, error) {
	p := &process{name: name, out: &tail{}, done: make(chan struct{})}
	p.cmd = exec.CommandContext(context.WithoutCancel(ctx), command[0], command[1:]...) //nolint:gosec // the harness decides
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	if out != nil {
		p.cmd.Stdout = out
	}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		defer close(p.done)
		p.err = p.cmd.Wait()
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// failed is an error when the process has ended, which none does before it is told to.
func (p *process) failed() error {
	select {
	case <-p.done:
		return fmt.Errorf("%s ended early: %w\n%s", p.name, errors.Join(p.err, errLost), p.out)
	default:
		return nil
	}
}

// stop ends the process: TERM, and KILL after the given time.
func (p *process) stop(wait time.Duration) {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(wait):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// usage sums CPU time and memory over processes.
func usage(list []*process) (cpu time.Duration, mem measure.Memory, err error) {
	for _, p := range list {
		c, cpuErr := measure.CPU(p.pid())
		m, memErr := measure.ReadMemory(p.pid())
		if err := errors.Join(cpuErr, memErr); err != nil {
			return 0, mem, err
		}
		cpu += c
		mem.Resident += m.Resident
		mem.Peak += m.Peak
	}
	return cpu, mem, nil
}

// tail keeps the last 8 KiB of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

const tailBytes = 8 << 10

// Write implements io.Writer.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf.Write(b)
	if over := t.buf.Len() - tailBytes; over > 0 {
		t.buf.Next(over)
	}
	return len(b), nil
}

// String is what has been kept.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}

var _ io.Writer = (*tail)(nil)
