package ruby

import (
	"bufio"
	"context"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/queueville/queueville/internal/redistest"
)

// workerEnv makes this test binary a worker that is killed: its value is the directory, then Redis, then the mode.
const workerEnv = "QUEUEVILLE_TEST_RUBY_WORKER"

// runWorker supervises Ruby until it is killed. It says when a job has come to a process.
func runWorker(spec string) int {
	dir, rest, _ := strings.Cut(spec, "|")
	url, mode, _ := strings.Cut(rest, "|")
	words := strings.Fields(os.Getenv("RUBY"))
	if len(words) == 0 {
		words = []string{"ruby"}
	}
	s, err := New(Config{
		Command: Command{Ruby: words, Dir: dir, Require: dir + "/app.rb", Env: append(os.Environ(), "REDIS_URL="+url, workerEnv+"=")},
		Queues:  []string{"default"}, Threads: 3, MinProcs: 2, MaxProcs: 2, MemoryKeep: -1, NoPreload: mode == "plain", SocketDir: dir,
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), Done: func(Job, Result) {},
	})
	if err != nil {
		return 1
	}
	s.Submit([]Job{job("Nap", "orphan1", "[60]"), job("Nap", "orphan2", "[4]"), job("Spin", "orphan3", "[60]")})
	if s.Run(context.Background()) != nil {
		return 1
	}
	return 0
}

// kill -9 of the worker: its Ruby processes end within seconds, without writing anything about the jobs that others will run again.
func TestRubyEndsWithItsWorker(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, noPreload bool) { //nolint:thelper // it is the test itself
		needRuby(t)
		url := redistest.URL(t)
		dir := workDir(t)
		app, err := os.ReadFile("testdata/app.rb")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+"/app.rb", app, 0o600); err != nil {
			t.Fatal(err)
		}
		mode := "preload"
		if noPreload {
			mode = "plain"
		}
		cmd := exec.CommandContext(context.WithoutCancel(t.Context()), os.Args[0])
		cmd.Env = append(os.Environ(), workerEnv+"="+dir+"|"+url+"|"+mode)
		errs, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		said := make(chan string, 1)
		go func() {
			var all strings.Builder
			for l := bufio.NewScanner(errs); l.Scan(); {
				all.WriteString(l.Text() + "\n")
			}
			said <- all.String()
		}()
		r := &rig{tb: t, redis: redistest.NewClient(addrOf(t, url))}
		defer r.redis.Close() //nolint:errcheck // only read
		pids := map[int]bool{}
		for _, jid := range []string{"orphan1", "orphan2", "orphan3"} {
			pids[r.started(jid)] = true
		}
		begin := time.Now()
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed
		for pid := range pids {
			r.gone(pid)
		}
		if took := time.Since(begin); took > 3*time.Second {
			t.Errorf("they lived on for %v", took)
		}
		text := <-said
		for _, pid := range []string{"ruby application preloaded"} {
			if strings.Contains(text, pid) == noPreload {
				t.Errorf("mode is not %s:\n%s", mode, text)
			}
		}
		time.Sleep(time.Second)
		if got := r.trace("ended"); len(got) != 0 {
			t.Errorf("jobs ended: %v", got)
		}
		for _, key := range []string{"retry", "dead", "queue:default"} {
			if n, err := r.redis.Exists(t.Context(), key).Result(); err != nil || n != 0 {
				t.Errorf("%s was written (%v)", key, err)
			}
		}
	})
}

func addrOf(tb testing.TB, url string) (string, int) {
	tb.Helper()
	addr, db, _ := strings.Cut(strings.TrimPrefix(url, "redis://"), "/")
	n := 0
	for _, d := range db {
		n = n*10 + int(d-'0')
	}
	return addr, n
}
