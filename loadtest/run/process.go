package run

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a job process that was started, in a group of its own.
type process struct {
	cmd  *exec.Cmd
	out  *tail
	done chan struct{} // closed when it has ended
	err  error         // of Wait; read after done
}

// tail keeps the end of what a process says.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const tailBytes = 8 << 10

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if n := len(t.text); n > 2*tailBytes {
		t.text = append(t.text[:0], t.text[n-tailBytes:]...)
	}
	return len(p), nil
}

// String is the last lines.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.text[max(0, len(t.text)-tailBytes):]))
}

// spawn starts a command in dir. cpus, if not empty, are the processors that it and its children may use.
func spawn(watch *guard, dir string, env []string, cpus string, words ...string) (*process, error) {
	if cpus != "" {
		words = append([]string{"taskset", "-c", cpus}, words...)
	}
	p := &process{cmd: exec.Command(words[0], words[1:]...), out: &tail{}, done: make(chan struct{})} //nolint:gosec,noctx // stop ends it, not a context
	p.cmd.Dir, p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = dir, env, p.out, p.out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.cmd.WaitDelay = 5 * time.Second
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", words[0], err)
	}
	watch.tell("+", p.pid())
	go func() {
		defer close(p.done)
		p.err = p.cmd.Wait()
		watch.tell("-", p.pid())
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// failed is why a process is no more; nil while it runs.
func (p *process) failed() error {
	select {
	case <-p.done:
		return fmt.Errorf("%s has ended (%w)\n%s", filepath.Base(p.cmd.Path), errors.Join(p.err, errEnded), p.out)
	default:
		return nil
	}
}

var errEnded = errors.New("by itself")

// stop asks it to end and waits, then kills its group.
func (p *process) stop(grace time.Duration) {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
	}
	p.kill()
}

// kill ends it and all of its group at once, as a power cut would.
func (p *process) kill() {
	_ = syscall.Kill(-p.pid(), syscall.SIGKILL) // the group may be gone
	<-p.done
}

// tree lists processes and all that descend from them.
func tree(roots ...int) []int {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return roots
	}
	children := map[int][]int{}
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // ended meanwhile
		}
		// "pid (comm) state ppid …"; comm can hold anything, so look behind its last parenthesis.
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if len(fields) < 2 || err != nil {
			continue
		}
		if parent, err := strconv.Atoi(fields[1]); err == nil {
			children[parent] = append(children[parent], pid)
		}
	}
	pids := slices.Clone(roots)
	for i := 0; i < len(pids); i++ {
		for _, child := range children[pids[i]] {
			if !slices.Contains(pids, child) {
				pids = append(pids, child)
			}
		}
	}
	return pids
}

// usage sums processor time and memory over a tree of processes. What ended took its processor time with it, so known keeps what was seen of
// each, by its number.
type usage struct {
	known map[int]time.Duration
}

func (u *usage) look(roots ...int) (cpu time.Duration, memory float64) {
	if u.known == nil {
		u.known = map[int]time.Duration{}
	}
	for _, pid := range tree(roots...) {
		if t, err := cpuOf(pid); err == nil {
			u.known[pid] = max(u.known[pid], t)
		}
		memory += residentGiB(pid)
	}
	for _, t := range u.known {
		cpu += t
	}
	return cpu, memory
}

// residentGiB is a process's own share of memory: what it shares is divided among those that share it, where the kernel tells.
func residentGiB(pid int) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "Pss:"); ok {
			kb, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 64)
			if err == nil {
				return kb / (1 << 20)
			}
		}
	}
	return 0
}

// pause waits; an error when ctx ends first.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// killAll ends processes that descend from ours, those too that have left the group.
func killAll(pids []int) {
	for _, pid := range pids {
		if pid > 1 {
			_ = syscall.Kill(pid, syscall.SIGKILL) // most are gone
		}
	}
}
