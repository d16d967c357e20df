package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/queueville/queueville/internal/redistest"
	"github.com/queueville/queueville/internal/throwaway"
	"github.com/queueville/queueville/loadtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// need skips without the servers that a demo starts.
func need(t *testing.T, err error) {
	t.Helper()
	if errors.Is(err, throwaway.ErrMissing) {
		redistest.Need(t, err)
	}
}

// fewClasses are those without time-outs.
func fewClasses() []loadtest.Class {
	return slices.DeleteFunc(loadtest.DefaultClasses(), func(c loadtest.Class) bool {
		return !slices.Contains([]string{"quick", "modern", "rejecting", "refused", "unavailable"}, c.Name)
	})
}

func TestRun(t *testing.T) {
	t.Parallel()
	var out, progress bytes.Buffer
	s, err := Run(t.Context(), Options{Jobs: 400, Hosts: 40, Out: &out, Err: &progress}, startNaive(func(*naive) {}))
	need(t, err)
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	sum := s.Delivered + s.Retrying + s.Held + s.GivenUp + s.Unavailable + s.Waiting + s.Lost
	if !s.Clean || sum != 400 || s.Lost != 0 || s.Delivered < 200 || s.Retrying == 0 || s.GivenUp == 0 || s.SecondKnocks == 0 || s.Untried != 0 {
		t.Errorf("summary = %+v", s)
	}
	jobs := 0
	for i := range s.Classes {
		c := &s.Classes[i]
		jobs += c.Jobs
		if c.Jobs != c.Delivered+c.Retrying+c.Held+c.GivenUp+c.Unavailable+c.Waiting+c.Lost {
			t.Errorf("class %+v does not add up", c)
		}
	}
	if jobs != 400 {
		t.Errorf("classes have %d jobs", jobs)
	}
	for _, words := range []string{"every job is accounted for", "delivered", "0 bad signatures", "deliveries/s", "quick", "What to look at next"} {
		if !strings.Contains(out.String(), words) {
			t.Errorf("the summary does not say %q:\n%s", words, out.String())
		}
	}
	for line := range strings.Lines(out.String()) {
		if len([]rune(strings.TrimRight(line, "\n"))) > 100 {
			t.Errorf("line too long: %s", line)
		}
	}
	if strings.Contains(out.String()+progress.String(), "\033") {
		t.Error("escape codes without a terminal")
	}
}

func TestFaultsAreFound(t *testing.T) {
	cases := map[string]struct {
		configure func(*naive)
		want      error
		check     func(*Summary) bool
	}{
		"dropped jobs are lost": {
			func(w *naive) { w.forget = 50 }, ErrLost,
			func(s *Summary) bool { return s.Lost > 0 && len(s.LostJIDs) == s.Lost && s.Untried == s.Lost },
		},
		"changed bodies are bad digests": {
			func(w *naive) { w.tamper = 50 }, ErrBadSignature,
			func(s *Summary) bool { return s.BadDigests > 0 && s.BadSignatures == 0 },
		},
		"jobs in two places are found": {
			func(w *naive) { w.twice = 50 }, ErrLost,
			func(s *Summary) bool { return len(s.DoubledJIDs) > 0 && s.Lost == 0 },
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			dir := t.TempDir()
			s, err := Run(t.Context(), Options{Jobs: 300, Hosts: 20, Classes: fewClasses(), JSON: true, KeepDir: dir, Out: &out, Err: io.Discard}, startNaive(tc.configure))
			need(t, err)
			if !errors.Is(err, tc.want) || s == nil || s.Clean || !tc.check(s) {
				t.Errorf("error = %v, summary = %+v", err, s)
			}
			var object map[string]any
			if err := json.Unmarshal(out.Bytes(), &object); err != nil || object["clean"] != false || object["dir"] != dir {
				t.Errorf("output is not one object: %v\n%s", err, out.String())
			}
			if info, err := os.Stat(filepath.Join(dir, ".env.production")); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("env file: %v, %v", info, err)
			}
		})
	}
}

func TestInterrupt(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	interrupt := errors.New("interrupt")
	var out bytes.Buffer
	var dir string
	s, err := Run(ctx, Options{Jobs: 3000, Hosts: 20, Classes: fewClasses(), Out: &out, Err: io.Discard}, func(workerCtx context.Context, server Server) (Worker, error) {
		dir = server.Dir
		time.AfterFunc(300*time.Millisecond, func() { cancel(interrupt) })

		return startNaive(func(*naive) {})(workerCtx, server)
	})
	need(t, err)
	if !errors.Is(err, interrupt) || s == nil || !s.Interrupted || s.Lost != 0 || s.Waiting == 0 {
		t.Errorf("error = %v, summary = %+v", err, s)
	}
	if !strings.Contains(out.String(), "Interrupted") {
		t.Errorf("output = %s", out.String())
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is left behind: %v", dir, err)
	}
}

func TestWorkerThatCannotStart(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	var out bytes.Buffer
	s, err := Run(t.Context(), Options{Jobs: 10, Hosts: 20, Out: &out, Err: io.Discard}, func(context.Context, Server) (Worker, error) { return nil, broken })
	need(t, err)
	if s != nil || !errors.Is(err, broken) || out.Len() > 0 {
		t.Errorf("summary = %+v, error = %v, output %q", s, err, out.String())
	}
}

func TestOptions(t *testing.T) {
	_, err := Run(t.Context(), Options{Jobs: -1, Hosts: 2}, nil)
	for _, words := range []string{"-1 jobs", "2 hosts", "nowhere to write"} {
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("error = %v, want it to say %q", err, words)
		}
	}
}

func TestCount(t *testing.T) {
	for n, want := range map[int]string{0: "0", 7: "7", 999: "999", 1000: "1,000", 1234567: "1,234,567", -1234: "-1,234"} {
		if got := count(n); got != want {
			t.Errorf("count(%d) = %s, want %s", n, got, want)
		}
	}
}

func TestReadTime(t *testing.T) {
	for in, want := range map[json.Number]time.Time{
		"1795291251409": time.UnixMilli(1795291251409), "1795291251.409": time.UnixMilli(1795291251409), "1.795291251e9": time.Unix(1795291251, 0),
	} {
		if got, ok := readTime(in); !ok || got.Sub(want).Abs() > time.Millisecond {
			t.Errorf("readTime(%s) = %v, %v, want %v", in, got, ok, want)
		}
	}
}
