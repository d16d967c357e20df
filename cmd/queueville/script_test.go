package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/queueville/queueville/internal/mastodontest"
	"github.com/queueville/queueville/internal/pgtest"
	"github.com/queueville/queueville/internal/redistest"
	"github.com/queueville/queueville/internal/throwaway"
	"github.com/queueville/queueville/loadtest/fediverse"
)

// The scripts run this test binary under the name of queueville, so that they have real processes and signals.
func TestMain(m *testing.M) {
	testscript.Main(runner{m}, map[string]func(){"queueville": main})
}

// runner stops the shared servers after the tests.
type runner struct{ m *testing.M }

func (r runner) Run() int {
	code := r.m.Run()
	if err := errors.Join(redistest.Stop(), pgtest.Stop()); err != nil {
		fmt.Fprintln(os.Stderr, "stop the shared servers:", err)
		return 1
	}
	return code
}

// patience is how long a script waits for what has to come.
const patience = 30 * time.Second

// TestScripts runs testdata/script. Those whose first line is "# needs mastodon" get a small Mastodon server with hosts to deliver to:
// good.test takes everything, other.test too, hang.test never answers. What the commands below do is said at each.
func TestScripts(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s := &site{t: t}
			if bytes.HasPrefix(text, []byte("# needs mastodon\n")) {
				s.Server = mastodontest.New(t, fediverse.Host{Name: "good.test"}, fediverse.Host{Name: "other.test"},
					fediverse.Host{Name: "hang.test", Behaviour: fediverse.Behaviour{Hang: true}})
			}
			testscript.Run(t, testscript.Params{Files: []string{file}, Setup: s.setup, Cmds: s.commands(), RequireExplicitExec: true})
		})
	}
}

// site is what a script acts on.
type site struct {
	*mastodontest.Server
	t        *testing.T
	mu       sync.Mutex
	notified []string
	snapshot string
}

func (s *site) setup(env *testscript.Env) error {
	port, err := throwaway.FreePort(s.t.Context())
	if err != nil {
		return err
	}
	env.Setenv("METRICS", "127.0.0.1:"+strconv.Itoa(port))
	free, err := throwaway.FreePort(s.t.Context())
	if err != nil {
		return err
	}
	env.Setenv("FREE", strconv.Itoa(free))
	env.Setenv("HOME", env.WorkDir)
	env.Setenv("TMPDIR", os.TempDir()) // below WORK the account that PostgreSQL runs as could not go
	if s.Server == nil {
		return nil
	}
	env.Setenv("MASTODON", s.Dir)
	env.Setenv("REDIS", s.RedisURL)
	env.Setenv("RESOLVER", s.Fedi.NameServer())
	env.Setenv("FEDI_PORT", strconv.Itoa(s.Fedi.Port()))
	env.Setenv("SSL_CERT_FILE", s.CAFile)
	env.Setenv("NOTIFY_SOCKET", filepath.Join(env.WorkDir, "notify"))
	return s.listen(env)
}

// listen plays systemd.
func (s *site) listen(env *testscript.Env) error {
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(env.WorkDir, "notify"), Net: "unixgram"})
	if err != nil {
		return err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			s.mu.Lock()
			s.notified = append(s.notified, string(buf[:n]))
			s.mu.Unlock()
		}
	}()
	env.Defer(func() {
		_ = conn.Close()
		<-done
	})
	return nil
}

func (s *site) commands() map[string]func(*testscript.TestScript, bool, []string) {
	return map[string]func(*testscript.TestScript, bool, []string){
		"exits":     exits,
		"env-file":  s.envFile,
		"deliver":   s.deliver,
		"foreign":   s.foreign,
		"accepted":  s.accepted,
		"atmost":    s.atMost,
		"queue":     s.queue,
		"notified":  s.wasNotified,
		"http":      httpGet,
		"redis":     s.redisCommand,
		"remember":  s.remember,
		"sql":       s.sql,
		"unchanged": s.unchanged,
		"processes": s.processes,
		"signal":    sendSignal,
		"sleep":     func(ts *testscript.TestScript, _ bool, args []string) { time.Sleep(duration(ts, args[0])) },
	}
}

// exits CODE PROGRAM ARGS: the program ends with this exit status.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if code != number(ts, args[0]) {
		ts.Fatalf("exit status %d, want %s", code, args[0])
	}
}

// signal NAME: to the background command that was started last.
func sendSignal(ts *testscript.TestScript, _ bool, args []string) {
	signals := map[string]syscall.Signal{"TERM": syscall.SIGTERM, "INT": syscall.SIGINT, "KILL": syscall.SIGKILL, "TSTP": syscall.SIGTSTP}
	list := ts.BackgroundCmds()
	if len(list) == 0 || signals[args[0]] == 0 {
		ts.Fatalf("no command to signal, or unknown signal %s", args[0])
	}
	ts.Check(list[len(list)-1].Process.Signal(signals[args[0]]))
}

// env-file [-] LINE…: adds lines to .env.production, after removing those of the same names.
func (s *site) envFile(ts *testscript.TestScript, _ bool, args []string) {
	old, err := os.ReadFile(s.EnvFile)
	ts.Check(err)
	lines := slices.DeleteFunc(strings.Split(strings.TrimSpace(string(old)), "\n"), func(line string) bool {
		name, _, _ := strings.Cut(line, "=")
		return slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, name+"=") || a == "-"+name })
	})
	for _, a := range args {
		if !strings.HasPrefix(a, "-") {
			lines = append(lines, a)
		}
	}
	s.WriteEnv(s.t, lines...)
}

// deliver N HOST QUEUE [PREFIX]: pushes deliveries.
func (s *site) deliver(ts *testscript.TestScript, _ bool, args []string) {
	payloads := make([]string, number(ts, args[0]))
	for i := range payloads {
		payloads[i], _ = s.Delivery(s.t, args[1])
	}
	s.pushTo(ts, args[2:], payloads)
}

// foreign N QUEUE [PREFIX]: pushes jobs that only Ruby could run.
func (s *site) foreign(ts *testscript.TestScript, _ bool, args []string) {
	payloads := make([]string, number(ts, args[0]))
	for i := range payloads {
		payloads[i] = fmt.Sprintf(`{"class":"RubyOnly","args":[%d],"jid":"%024x","queue":"push","retry":true,"created_at":1795291060.25,"enqueued_at":1795291060.25}`, i, i)
	}
	s.pushTo(ts, args[1:], payloads)
}

func (s *site) pushTo(ts *testscript.TestScript, where, payloads []string) {
	prefix := ""
	if len(where) > 1 {
		prefix = where[1]
	}
	ts.Check(s.Redis.SAdd(s.t.Context(), prefix+"queues", where[0]).Err())
	for _, p := range payloads {
		ts.Check(s.Redis.LPush(s.t.Context(), prefix+"queue:"+where[0], p).Err())
	}
}

// accepted N: so many deliveries arrive, verified, and not one more or less is signed right.
func (s *site) accepted(ts *testscript.TestScript, _ bool, args []string) {
	want := uint64(number(ts, args[0]))
	eventually(ts, func() error {
		if got := s.Fedi.Accepted(); got != want {
			return fmt.Errorf("%d deliveries accepted, want %d", got, want)
		}
		return nil
	})
	if total := s.Fedi.Total(); total.BadSignatures+total.BadDigests+total.Unsigned+total.Duplicates != 0 {
		ts.Fatalf("receivers saw %+v", total)
	}
}

// atmost LOW HIGH: between so many deliveries have arrived by now.
func (s *site) atMost(ts *testscript.TestScript, _ bool, args []string) {
	if got := int(s.Fedi.Accepted()); got < number(ts, args[0]) || got > number(ts, args[1]) {
		ts.Fatalf("%d deliveries accepted, want %s to %s", got, args[0], args[1])
	}
}

// queue NAME LOW [HIGH]: the list comes to have so many jobs.
func (s *site) queue(ts *testscript.TestScript, _ bool, args []string) {
	low := number(ts, args[1])
	high := low
	if len(args) > 2 {
		high = number(ts, args[2])
	}
	eventually(ts, func() error {
		n := int(s.Redis.LLen(s.t.Context(), args[0]).Val())
		if n < low || n > high {
			return fmt.Errorf("%s has %d jobs, want %d to %d", args[0], n, low, high)
		}
		return nil
	})
}

// processes N: so many are listed.
func (s *site) processes(ts *testscript.TestScript, _ bool, args []string) {
	eventually(ts, func() error {
		if n := s.Redis.SCard(s.t.Context(), "processes").Val(); int(n) != number(ts, args[0]) {
			return fmt.Errorf("%d processes, want %s", n, args[0])
		}
		return nil
	})
}

// notified TEXT: systemd has been told.
func (s *site) wasNotified(ts *testscript.TestScript, _ bool, args []string) {
	eventually(ts, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !slices.Contains(s.notified, args[0]) {
			return fmt.Errorf("systemd was told %q, not %q", s.notified, args[0])
		}
		return nil
	})
}

// http STATUS URL [PATTERN]: the page comes to answer so, and to match.
func httpGet(ts *testscript.TestScript, neg bool, args []string) {
	client := &http.Client{Timeout: 5 * time.Second}
	defer client.CloseIdleConnections()
	eventually(ts, func() error {
		resp, err := client.Get(args[1])
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
		if err != nil {
			return err
		}
		if resp.StatusCode != number(ts, args[0]) {
			return fmt.Errorf("%s answers %d %s", args[1], resp.StatusCode, body)
		}
		if len(args) > 2 && regexp.MustCompile("(?m)"+args[2]).Match(body) == neg {
			return fmt.Errorf("%s: %q found: %v\n%s", args[1], args[2], neg, body)
		}
		return nil
	})
}

// redis COMMAND ARGS: any command.
func (s *site) redisCommand(ts *testscript.TestScript, _ bool, args []string) {
	list := make([]any, len(args))
	for i, a := range args {
		text, err := strconv.Unquote(`"` + a + `"`)
		ts.Check(err)
		list[i] = text
	}
	ts.Check(s.Redis.Do(s.t.Context(), list...).Err())
}

// sql STATEMENT: in Mastodon's database.
func (s *site) sql(ts *testscript.TestScript, _ bool, args []string) {
	conn, err := pgx.Connect(s.t.Context(), s.DatabaseURL)
	ts.Check(err)
	_, err = conn.Exec(s.t.Context(), args[0])
	ts.Check(errors.Join(err, conn.Close(s.t.Context())))
}

// dump is the whole database.
func (s *site) dump() string {
	keys := s.Redis.Keys(s.t.Context(), "*").Val()
	slices.Sort(keys)
	var b strings.Builder
	for _, key := range keys {
		fmt.Fprintf(&b, "%q %q\n", key, s.Redis.Dump(s.t.Context(), key).Val())
	}
	return b.String()
}

func (s *site) remember(*testscript.TestScript, bool, []string) { s.snapshot = s.dump() }

// unchanged: Redis holds what it held at the last remember, byte for byte.
func (s *site) unchanged(ts *testscript.TestScript, _ bool, _ []string) {
	if now := s.dump(); now != s.snapshot {
		ts.Fatalf("Redis was\n%.2000s\nand is\n%.2000s", s.snapshot, now)
	}
}

func eventually(ts *testscript.TestScript, ok func() error) {
	deadline := time.Now().Add(patience)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func number(ts *testscript.TestScript, s string) int {
	n, err := strconv.Atoi(s)
	ts.Check(err)
	return n
}

func duration(ts *testscript.TestScript, s string) time.Duration {
	d, err := time.ParseDuration(s)
	ts.Check(err)
	return d
}
