package throwaway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	startAttempts = 5 // a free port can be taken by somebody else between looking and listening
	startTimeout  = 30 * time.Second
	stopTimeout   = 10 * time.Second // then SIGKILL
	pollInterval  = 5 * time.Millisecond
	logTailBytes  = 2000
)

// errExited: the process ended before it was ready.
var errExited = errors.New("exited before it was ready")

// server is one server process that can be started again on the same port and directory.
type server struct {
	name       string // for errors: "redis-server"
	bin        string
	dir        string
	cred       *syscall.Credential         // nil: as we are
	stopSignal syscall.Signal              // asks for an orderly end
	args       func() ([]string, error)    // called for each start; may write configuration files
	ready      func(context.Context) error // nil once the server answers; called again until then
	newPort    func(context.Context) error // chooses another port

	mu      sync.Mutex
	pid     int  // 0: not running
	stopped bool // Stop was called
	watcher *watcher
}

// launch makes the directory's watcher and starts the server, with another port when the one chosen was taken.
func (s *server) launch(ctx context.Context) error {
	w, err := startWatcher(ctx, s.dir, signalName(s.stopSignal))
	if err != nil {
		return errors.Join(err, os.RemoveAll(s.dir))
	}
	s.watcher = w
	for range startAttempts {
		if err = s.newPort(ctx); err != nil {
			break
		}
		if err = s.start(ctx); !errors.Is(err, errExited) {
			break
		}
	}
	if err != nil {
		return errors.Join(err, s.Stop())
	}
	return nil
}

// start starts the process and waits until it is ready.
func (s *server) start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return fmt.Errorf("start %s: already stopped for good", s.name)
	}
	args, err := s.args()
	if err != nil {
		return fmt.Errorf("start %s: %w", s.name, err)
	}
	log, err := os.OpenFile(s.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start %s: %w", s.name, err)
	}
	defer log.Close() //nolint:errcheck // the child has its own descriptor
	// ctx bounds the start alone; the process goes on after it.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), s.bin, args...)
	cmd.Dir = s.dir
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: s.cred} // Ctrl-C is for us to pass on
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", s.name, err)
	}
	s.pid = cmd.Process.Pid
	if err := cmd.Process.Release(); err != nil { // reaped by exited, without a goroutine
		return errors.Join(fmt.Errorf("start %s: %w", s.name, err), s.end(syscall.SIGKILL))
	}
	if err := s.watcher.watch(s.pid); err != nil {
		return errors.Join(err, s.end(syscall.SIGKILL))
	}
	if err := s.waitReady(ctx); err != nil {
		err = fmt.Errorf("start %s: %w%s", s.name, err, s.logTail())
		return errors.Join(err, s.end(syscall.SIGKILL))
	}
	return nil
}

func (s *server) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("not ready after %v", startTimeout))
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		err := s.ready(ctx)
		if err == nil {
			return nil
		}
		if s.exited() {
			return errExited
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (last: %w)", context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}

// exited reaps the process if it has ended. The id cannot have been given to another process before that.
func (s *server) exited() bool {
	if s.pid == 0 {
		return true
	}
	var status syscall.WaitStatus
	got, err := syscall.Wait4(s.pid, &status, syscall.WNOHANG, nil)
	if got == s.pid || errors.Is(err, syscall.ECHILD) {
		s.pid = 0
	}
	return s.pid == 0
}

// end sends signal, waits, and kills what does not end. The lock is held.
func (s *server) end(signal syscall.Signal) error {
	if s.exited() {
		return s.watcher.watch(0)
	}
	pid := s.pid
	if err := s.signalAll(syscall.SIGCONT); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	if err := syscall.Kill(pid, signal); err != nil {
		return fmt.Errorf("end %s: %w", s.name, err)
	}
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for deadline := time.Now().Add(stopTimeout); !s.exited(); <-tick.C {
		if time.Now().After(deadline) {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				return fmt.Errorf("kill %s: %w", s.name, err)
			}
			deadline = time.Now().Add(stopTimeout)
		}
	}
	return s.watcher.watch(0)
}

// PID is the server's process id; 0 while it does not run.
func (s *server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.exited() {
		return 0
	}
	return s.pid
}

// Stop ends the server for good and removes its directory. Calling it again does nothing.
func (s *server) Stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil
	}
	s.stopped = true
	return errors.Join(s.end(s.stopSignal), os.RemoveAll(s.dir), s.watcher.dismiss())
}

// Halt ends the server in an orderly way and keeps its directory: Restart starts it again with what it has stored.
func (s *server) Halt() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.end(s.stopSignal)
}

// Kill ends the server with SIGKILL, as a crash would, and keeps its directory for Restart.
func (s *server) Kill() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.end(syscall.SIGKILL)
}

// Restart halts the server if it runs and starts it again on the same port and directory.
func (s *server) Restart(ctx context.Context) error {
	if err := s.Halt(); err != nil {
		return err
	}
	var err error
	for range startAttempts { // the port can be somebody's outgoing one for a moment
		if err = s.start(ctx); !errors.Is(err, errExited) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, context.Cause(ctx))
		case <-time.After(50 * time.Millisecond):
		}
	}
	return err
}

// Pause freezes the server and its children: connections stay open and nothing answers, as on a host that hangs.
func (s *server) Pause() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.exited() {
		return fmt.Errorf("pause %s: not running", s.name)
	}
	return s.signalAll(syscall.SIGSTOP)
}

// Resume lets a paused server go on.
func (s *server) Resume() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.exited() {
		return fmt.Errorf("resume %s: not running", s.name)
	}
	return s.signalAll(syscall.SIGCONT)
}

// signalAll signals the process, then its children (PostgreSQL's backends are sessions of their own, so no process group has them all).
// The parent first, so that a paused one makes no more of them.
func (s *server) signalAll(signal syscall.Signal) error {
	if err := syscall.Kill(s.pid, signal); err != nil {
		return fmt.Errorf("signal %s: %w", s.name, err)
	}
	children, err := childrenOf(s.pid)
	for _, pid := range children {
		if killErr := syscall.Kill(pid, signal); killErr != nil && !errors.Is(killErr, syscall.ESRCH) {
			err = errors.Join(err, fmt.Errorf("signal child of %s: %w", s.name, killErr))
		}
	}
	return err
}

func (s *server) logPath() string { return filepath.Join(s.dir, "server.log") }

// logTail is the end of the server's log for an error message.
func (s *server) logTail() string {
	b, err := os.ReadFile(s.logPath())
	if err != nil || len(b) == 0 {
		return ""
	}
	if len(b) > logTailBytes {
		b = b[len(b)-logTailBytes:]
	}
	return "\n" + strings.TrimSpace(string(bytes.ToValidUTF8(b, []byte("?"))))
}

func signalName(signal syscall.Signal) string {
	switch signal {
	case syscall.SIGINT:
		return "INT"
	case syscall.SIGQUIT:
		return "QUIT"
	default:
		return "TERM"
	}
}
