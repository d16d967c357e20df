package ruby

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// boots is how starting goes.
type boots struct {
	failures  int // in a row
	preload   int // of these, of the preloaded parent or of what it forked
	after     time.Time
	problem   string // for people; "" after a success
	noPreload bool   // given up
}

const (
	firstBackoff    = time.Second
	longestBackoff  = time.Minute
	preloadAttempts = 2 // failures in a row until plain processes are tried
	unable          = 75
)

// start starts one more process. mu is held.
func (s *Supervisor) start(cron bool, now time.Time) {
	if now.Before(s.boots.after) || s.hold.why != "" {
		return
	}
	preload := !s.cfg.NoPreload && !s.boots.noPreload
	if preload && s.zygote != nil && s.zygote.state != zygoteReady {
		return // it is started when the parent is there
	}
	slot := s.freeSlot()
	if slot < 0 || !s.seated(cron, now) {
		return
	}
	if preload && s.zygote == nil {
		s.startZygote(now)
		return
	}
	p := &process{token: newToken(), slot: slot, cron: cron, boot: now, lines: map[*line]struct{}{}, jobs: map[uint64]*running{}}
	p.out = &output{log: s.cfg.Log, pid: func() int { return s.pidOf(p) }}
	p.seats = s.cfg.Threads
	if st := s.sit(p.token, now); st != nil {
		s.seats.of[p] = st
		p.seats = min(p.seats, max(1, st.Seats()))
	}
	if !preload {
		s.startPlain(p)
	} else if !s.fork(p) {
		s.unseat(p)
	}
}

func (s *Supervisor) pidOf(p *process) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return p.pid
}

func newToken() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// freeSlot is the lowest that no process has, −1 if all are taken.
func (s *Supervisor) freeSlot() int {
	for slot := range s.Slots() {
		free := true
		for _, p := range s.procs {
			free = free && p.slot != slot
		}
		if free {
			return slot
		}
	}
	return -1
}

// queuesOf are the queues that a process is told with -q.
func (s *Supervisor) queuesOf(cron bool) []string {
	if cron {
		return append(append([]string{}, s.cfg.Queues...), s.cfg.CronQueue)
	}
	return s.cfg.Queues
}

// command makes the command line and environment of a Ruby of ours.
func (s *Supervisor) command(mode, token string, env map[string]string) *exec.Cmd {
	words := append([]string{}, s.cfg.Command.Ruby...)
	words = append(words, filepath.Join(s.dir, "launch.rb"), "-r", s.cfg.Command.Require,
		"-c", strconv.Itoa(s.cfg.Threads), "-t", strconv.Itoa(int(math.Ceil(s.cfg.StopTimeout.Seconds()))))
	if s.cfg.Command.ConfigFile != "" {
		words = append(words, "-C", s.cfg.Command.ConfigFile)
	}
	if s.cfg.Command.Environment != "" {
		words = append(words, "-e", s.cfg.Command.Environment)
	}
	for _, q := range s.cfg.Queues {
		words = append(words, "-q", q)
	}
	//nolint:noctx,gosec // it ends by signals, in Sidekiq's own way; the words are the administrator's
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Dir = s.cfg.Command.Dir
	cmd.Env = append(append([]string{}, s.cfg.Command.Env...),
		"QUEUEVILLE_SOCKET="+s.socket, "QUEUEVILLE_TOKEN="+token, "QUEUEVILLE_MODE="+mode)
	if s.cfg.DBPool > 0 {
		cmd.Env = append(cmd.Env, "DB_POOL="+strconv.Itoa(s.cfg.DBPool))
	}
	if s.cfg.Leader != nil {
		cmd.Env = append(cmd.Env, "QUEUEVILLE_CRON_SEED="+strconv.FormatUint(uint64(s.cfg.CronSeed), 10))
	}
	for name, value := range env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	// A group of its own: Ctrl-C is for us to pass on, and what its jobs have started ends with it. If we die, so does it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if s.cfg.Kin != nil {
		cmd.ExtraFiles = []*os.File{s.cfg.Kin} // Ruby leaves it to whatever it forks and starts
	}
	return cmd
}

// envOf is what differs from process to process. mu is held.
func (s *Supervisor) envOf(p *process) map[string]string {
	env := map[string]string{}
	s.seats.of[p].env(env)
	return env
}

// startPlain starts a process that loads the application itself. mu is held.
func (s *Supervisor) startPlain(p *process) {
	env := s.envOf(p)
	list, _ := json.Marshal(s.queuesOf(p.cron)) // strings
	env["QUEUEVILLE_QUEUES"] = string(list)
	if p.cron {
		env["QUEUEVILLE_CRON"] = "1"
	}
	cmd := s.command("plain", p.token, env)
	s.procs = append(s.procs, p)
	s.tokens[p.token] = p
	s.wg.Go(func() {
		started := func(pid int) {
			s.mu.Lock()
			p.pid = pid
			if p.state == leaving {
				p.kill()
			}
			s.mu.Unlock()
		}
		status, err := run(cmd, p.out, started)
		s.processEnded(p, status, err)
	})
}

// exit is how a process ended.
type exit struct {
	known  bool
	code   int // −1 if it died of signal
	signal syscall.Signal
}

// String is for the log.
func (e exit) String() string {
	switch {
	case !e.known:
		return "unknown"
	case e.code >= 0:
		return "exit status " + strconv.Itoa(e.code)
	}
	return "signal: " + e.signal.String()
}

// outputGrace is how long output may come after a process's end: something that a job has started may hold the pipe for ever.
const outputGrace = time.Second

// run starts a command, reads its output and waits for its end. It stays on one thread, for the kernel ties the child's life to the thread
// that started it (PR_SET_PDEATHSIG), not to the process.
func run(cmd *exec.Cmd, out *output, started func(pid int)) (exit, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	r, w, err := os.Pipe()
	if err != nil {
		return exit{}, fmt.Errorf("start ruby: %w", err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		return exit{}, errors.Join(fmt.Errorf("start ruby: %w", err), r.Close(), w.Close())
	}
	_ = w.Close() // the child has its own
	started(cmd.Process.Pid)
	read := make(chan struct{})
	go func() {
		defer close(read)
		out.read(r)
	}()
	_ = cmd.Wait() // its result is in the state
	_ = r.SetReadDeadline(time.Now().Add(outputGrace))
	<-read
	_ = r.Close()
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	switch {
	case !ok:
		return exit{}, nil
	case status.Signaled():
		return exit{known: true, code: -1, signal: status.Signal()}, nil
	}
	return exit{known: true, code: status.ExitStatus()}, nil
}

// bootFailed notes that something ended before it was ready, and says so once. mu is held.
func (s *Supervisor) bootFailed(what string, status exit, err error, out *output, preloaded bool, now time.Time) {
	b := &s.boots
	b.failures++
	s.cfg.Observer.BootFailed()
	wait := min(longestBackoff, firstBackoff<<min(b.failures-1, 10))
	b.after = now.Add(wait)
	if preloaded {
		if b.preload++; b.preload >= preloadAttempts && !b.noPreload {
			b.noPreload = true
			s.cfg.Log.Warn("ruby cannot be preloaded: processes are started one by one from here on, and share no memory")
		}
	}
	lines := out.last()
	problem := what + " ended before it was ready: " + status.String()
	if err != nil {
		problem = err.Error()
		if errors.Is(err, io.EOF) || errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
			lines = append(lines, "cannot load such file")
		}
	}
	hint := Hint(lines)
	if hint != "" {
		problem += " (" + hint + ")"
	}
	same := b.problem == problem
	b.problem = problem
	if same { // said already; Load still says it
		s.cfg.Log.Debug("ruby does not start", slog.String("problem", problem), slog.Float64("again_s", wait.Seconds()))
	} else {
		s.cfg.Log.Error("ruby does not start", slog.String("problem", problem), slog.Float64("again_s", wait.Seconds()),
			slog.String("hint", hint), slog.String("last_lines", strings.Join(lines, "\n")))
	}
	s.nudge()
}

// nowServing: the first thread asks for a job. mu is held.
func (s *Supervisor) nowServing(p *process, now time.Time) {
	p.state, p.ready = serving, now
	s.boots = boots{noPreload: s.boots.noPreload}
	s.cfg.Observer.ProcessReady(now.Sub(p.boot))
	s.cfg.Log.Info("ruby process ready", slog.Int("pid", p.pid), slog.Float64("boot_s", now.Sub(p.boot).Seconds()), slog.Int("jobs_at_once", p.seats), slog.Bool("cron", p.cron))
	s.nudge()
}
