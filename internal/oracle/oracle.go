// Package oracle runs the real Sidekiq of Ruby against a throwaway Redis, so that tests can compare: what its client
// writes, what its API and its Web UI read, what its worker process does. The Ruby scripts are in ruby/.
//
// The programs are ruby and sidekiq (Debian: apt-get install ruby-sidekiq), or what the environment variables RUBY and
// SIDEKIQ say, which may be several words: RUBY="chroot TREE env -C /oracle ruby" with the scripts in TREE/oracle runs
// another version of the gem. Where they are missing the test is skipped, under CI=true it fails.
//
// The package starts a process for each call, in a process group of its own, and no goroutines that outlive a call but
// the one that waits for a started Sidekiq.
package oracle

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

//go:embed ruby/*.rb
var scripts embed.FS

const (
	callTimeout = time.Minute      // for one script
	stopTimeout = 40 * time.Second // for a Sidekiq to end by itself; its own limit is 25 s by default
	outputLimit = 16 << 20         // bytes kept of a process's output
)

// Oracle runs Ruby scripts against one Redis database.
type Oracle struct {
	tb            testing.TB
	ruby, sidekiq []string
	dir, redisURL string
}

// New returns an oracle for a Redis (redis://127.0.0.1:port/db) that holds nothing of value: scripts delete jobs.
func New(tb testing.TB, redisURL string) *Oracle {
	tb.Helper()
	o := &Oracle{tb: tb, redisURL: redisURL, ruby: command("RUBY", "ruby"), sidekiq: command("SIDEKIQ", "sidekiq")}
	for _, c := range [][]string{o.ruby, o.sidekiq} {
		if _, err := exec.LookPath(c[0]); err != nil {
			const hint = "apt-get install ruby-sidekiq, or set RUBY and SIDEKIQ"
			if os.Getenv("CI") == "true" {
				tb.Fatalf("%v (%s)", err, hint)
			}
			tb.Skipf("%v (%s)", err, hint)
		}
	}
	o.dir = tb.TempDir()
	names, err := fs.Glob(scripts, "ruby/*.rb")
	if err != nil {
		tb.Fatal(err)
	}
	for _, name := range names {
		text, err := scripts.ReadFile(name)
		if err != nil {
			tb.Fatal(err)
		}
		const readable = 0o600
		if err := os.WriteFile(filepath.Join(o.dir, filepath.Base(name)), text, readable); err != nil {
			tb.Fatal(err)
		}
	}
	return o
}

func command(variable, fallback string) []string {
	if words := strings.Fields(os.Getenv(variable)); len(words) > 0 {
		return words
	}
	return []string{fallback}
}

// Result is how a script ended.
type Result struct {
	Output string // standard output
	Errors string // standard error
	Status int    // exit status
}

// Run runs one of the scripts (or "-" for a program on standard input) and returns how it ended.
func (o *Oracle) Run(stdin, script string, args ...string) Result {
	o.tb.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(o.tb.Context()), callTimeout)
	defer cancel()
	words := append(append(append([]string{}, o.ruby...), script), args...)
	cmd := exec.CommandContext(ctx, words[0], words[1:]...) //nolint:gosec // the words come from the developer
	out, errs := &limited{}, &limited{}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), out, errs
	o.prepare(cmd)
	err := cmd.Run()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		o.tb.Fatalf("%s %v: %v", script, args, err)
	}
	return Result{Output: out.String(), Errors: errs.String(), Status: cmd.ProcessState.ExitCode()}
}

func (o *Oracle) prepare(cmd *exec.Cmd) {
	cmd.Dir = o.dir
	cmd.Env = append(os.Environ(), "REDIS_URL="+o.redisURL, "LANG=C.UTF-8")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
}

// must runs a script that has to succeed.
func (o *Oracle) must(stdin, script string, args ...string) string {
	o.tb.Helper()
	r := o.Run(stdin, script, args...)
	if r.Status != 0 {
		o.tb.Fatalf("%s %v ended with %d\n%s%s", script, args, r.Status, r.Output, r.Errors)
	}
	return r.Output
}

// Eval runs a Ruby program that has ./common loaded (Sidekiq, JSON, Oracle.emit) and can read data from DATA. Many checks
// in one program are cheap; a start of Ruby takes 0.3 s.
func (o *Oracle) Eval(program, data string) string {
	o.tb.Helper()
	return o.must("require \"./common\"\nOracle.quiet_log!\n"+program+"\n__END__\n"+data, "-")
}

// Version is the version of the Sidekiq gem.
func (o *Oracle) Version() string {
	o.tb.Helper()
	return o.Eval("print Oracle.version", "")
}

// Pushed is what Enqueue reports of a scenario.
type Pushed struct {
	Scenario string   `json:"scenario"`
	JIDs     []string `json:"jids"`
}

// Enqueue pushes jobs with the Ruby client, the named scenarios of enqueue.rb, or all of them.
func (o *Oracle) Enqueue(scenarios ...string) []Pushed {
	o.tb.Helper()
	return o.pushed(o.must("", "enqueue.rb", scenarios...))
}

// Push pushes jobs given as JSON objects with the Ruby client.
func (o *Oracle) Push(jobs ...string) []Pushed {
	o.tb.Helper()
	return o.pushed(o.must(strings.Join(jobs, "\n"), "enqueue.rb", "push"))
}

func (o *Oracle) pushed(output string) []Pushed {
	o.tb.Helper()
	var list []Pushed
	for line := range strings.Lines(output) {
		var p Pushed
		if err := json.Unmarshal([]byte(line), &p); err != nil {
			o.tb.Fatalf("enqueue.rb printed %q: %v", line, err)
		}
		list = append(list, p)
	}
	return list
}

// Job is a job as the Ruby API reads it.
type Job struct {
	JID            string          `json:"jid"`
	Class          string          `json:"class"`
	DisplayClass   string          `json:"display_class"`
	Args           json.RawMessage `json:"args"`
	Queue          string          `json:"queue"`
	CreatedAt      json.RawMessage `json:"created_at"`  // ISO 8601, null or {"!error": …}
	EnqueuedAt     json.RawMessage `json:"enqueued_at"` // same
	Latency        json.RawMessage `json:"latency"`     // seconds, or {"!error": …}
	Tags           json.RawMessage `json:"tags"`
	Item           json.RawMessage `json:"item"`  // the payload
	Score          float64         `json:"score"` // members of sets only
	ErrorBacktrace json.RawMessage `json:"error_backtrace"`
}

// View is what the Ruby API shows.
type View struct {
	Sidekiq string `json:"sidekiq"` // the gem's version
	Stats   struct {
		Processed int     `json:"processed"`
		Failed    int     `json:"failed"`
		Enqueued  int     `json:"enqueued"`
		Scheduled int     `json:"scheduled"`
		Retry     int     `json:"retry"`
		Dead      int     `json:"dead"`
		Processes int     `json:"processes"`
		Busy      int     `json:"busy"`
		Latency   float64 `json:"default_queue_latency"`
	} `json:"stats"`
	History   map[string]map[string]int `json:"history"`
	Processes []map[string]any          `json:"processes"`
	Work      []struct {
		Process string          `json:"process"`
		TID     string          `json:"tid"`
		Queue   string          `json:"queue"`
		RunAt   json.RawMessage `json:"run_at"`
		Payload map[string]any  `json:"payload"`
	} `json:"work"`
	Queues []struct {
		Name    string  `json:"name"`
		Size    int     `json:"size"`
		Latency float64 `json:"latency"`
		Jobs    []Job   `json:"jobs"`
	} `json:"queues"`
	Schedule []Job           `json:"schedule"`
	Retry    []Job           `json:"retry"`
	Dead     []Job           `json:"dead"`
	Metrics  json.RawMessage `json:"metrics"`
	Raw      string          `json:"-"` // the whole output
}

// Inspect returns what the Ruby API sees in Redis: the named sections of inspect.rb, or all. A section that the API
// fails to read ends the test.
func (o *Oracle) Inspect(sections ...string) View {
	o.tb.Helper()
	out := o.must("", "inspect.rb", sections...)
	v := View{Raw: out}
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		o.tb.Fatalf("inspect.rb %v printed what is not to be expected: %v\n%s", sections, err, out)
	}
	return v
}

// Control does what control.rb can: Control("retry-now", jid). It reports whether there was anything to act on.
func (o *Oracle) Control(args ...string) bool {
	o.tb.Helper()
	r := o.Run("", "control.rb", args...)
	if r.Status > 1 {
		o.tb.Fatalf("control.rb %v ended with %d\n%s%s", args, r.Status, r.Output, r.Errors)
	}
	return r.Status == 0
}

// WebSmoke renders every page of Sidekiq's Web UI and marks the test failed if one raises.
func (o *Oracle) WebSmoke() {
	o.tb.Helper()
	if r := o.Run("", "web.rb", "smoke"); r.Status != 0 {
		o.tb.Errorf("Sidekiq's Web UI: a page fails\n%s%s", r.Output, r.Errors)
	}
}

// WebGet returns a page as plain text, and whether it could be rendered.
func (o *Oracle) WebGet(path string) (string, bool) {
	o.tb.Helper()
	r := o.Run("", "web.rb", "get", path)
	return r.Output, r.Status == 0
}

// WebPost presses a button: WebPost("/busy", "identity="+id, "quiet=1").
func (o *Oracle) WebPost(path string, params ...string) bool {
	o.tb.Helper()
	return o.Run("", "web.rb", append([]string{"post", path}, params...)...).Status == 0
}

// Sidekiq is a running worker process with the classes of jobs.rb.
type Sidekiq struct {
	cmd    *exec.Cmd
	done   chan struct{} // closed when the process has ended
	output *limited
}

// StartSidekiq starts a real Sidekiq process, for example with "-q", "default", "-c", "1"; env is added to its
// environment (ORACLE_POLL=1, ORACLE_DEAD_MAX=10). It is stopped when the test ends, if it still runs.
func (o *Oracle) StartSidekiq(env []string, args ...string) *Sidekiq {
	o.tb.Helper()
	words := append(append(append([]string{}, o.sidekiq...), "-r", "./worker.rb"), args...)
	cmd := exec.CommandContext(context.WithoutCancel(o.tb.Context()), words[0], words[1:]...) //nolint:gosec // see Run
	s := &Sidekiq{cmd: cmd, done: make(chan struct{}), output: &limited{}}
	cmd.Stdout, cmd.Stderr = s.output, s.output
	o.prepare(cmd)
	cmd.Env = append(cmd.Env, env...)
	if err := cmd.Start(); err != nil {
		o.tb.Fatalf("start sidekiq: %v", err)
	}
	go func() {
		_ = cmd.Wait() // how it ends is the test's matter
		close(s.done)
	}()
	o.tb.Cleanup(func() {
		s.Stop()
		if o.tb.Failed() {
			o.tb.Logf("sidekiq said:\n%s", s.output)
		}
	})
	return s
}

// PID is the process id.
func (s *Sidekiq) PID() int { return s.cmd.Process.Pid }

// Output is what it has printed so far.
func (s *Sidekiq) Output() string { return s.output.String() }

// Done is closed when it has ended.
func (s *Sidekiq) Done() <-chan struct{} { return s.done }

// Stop asks it to stop, waits, and kills its process group if that takes more than 40 s.
func (s *Sidekiq) Stop() {
	s.end(syscall.SIGTERM, s.PID())
}

// Kill is kill -9 of its process group.
func (s *Sidekiq) Kill() {
	s.end(syscall.SIGKILL, -s.PID())
}

func (s *Sidekiq) end(signal syscall.Signal, pid int) {
	select {
	case <-s.done:
		return
	default:
	}
	_ = syscall.Kill(pid, signal) // it may have ended by itself
	select {
	case <-s.done:
	case <-time.After(stopTimeout):
		_ = syscall.Kill(-s.PID(), syscall.SIGKILL)
		<-s.done
	}
}

// limited keeps the first outputLimit bytes of what is written to it. Safe for concurrent use.
type limited struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write never fails.
func (l *limited) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if room := outputLimit - l.buf.Len(); room > 0 {
		l.buf.Write(b[:min(room, len(b))])
	}
	return len(b), nil
}

func (l *limited) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
