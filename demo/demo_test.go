package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
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
	if strings.Contains(out.String()+progress.String(), "\033") {
		t.Error("escape codes without a terminal")
	}
}

func TestFaultsAreFound(t *testing.T) {
	t.Parallel()
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
			s, err := Run(t.Context(), Options{Jobs: 300, Hosts: 20, Classes: fewClasses(), JSON: true, KeepDir: dir, settle: time.Second, Out: &out, Err: io.Discard}, startNaive(tc.configure))
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

// TestText compares with testdata, which is there to be looked at: -update writes it anew.
func TestText(t *testing.T) {
	clean := &Summary{
		Clean: true, Jobs: 20000, Delivered: 18494, Retrying: 377, Held: 787, GivenUp: 290, Unavailable: 52,
		Requests: 19876, HTTP2Requests: 14210, SecondKnocks: 485, TotalSeconds: 24.31, DeliveriesPerSecond: 2310.4, Signer: "OpenSSL 3.0.15",
		FirstOutcomeP50Ms: 3120, FirstOutcomeP99Ms: 12040, RequestP50Ms: 12.6, RequestP99Ms: 1930, RequestMeasuredBy: "worker",
		Classes: []ClassSummary{
			{Name: "quick", About: "answers in 1–20 ms", Hosts: 112, Jobs: 18911, Delivered: 18494, Retrying: 320, GivenUp: 97, Requests: 18911, MedianMs: 0.42, PeakInFlight: 8},
			{Name: "hanging", About: "never answers", Hosts: 4, Jobs: 844, Retrying: 57, Held: 787},
			{Name: "unavailable", About: "in unavailable_domains", Hosts: 2, Jobs: 52, Unavailable: 52},
		},
	}
	dirty := *clean
	dirty.Clean, dirty.Lost, dirty.Duplicates, dirty.BadSignatures, dirty.Untried, dirty.Dir = false, 12, 3, 1, 12, "/tmp/queueville-demo-1"
	for i := range 12 {
		dirty.LostJIDs = append(dirty.LostJIDs, strings.Repeat("0", 22)+strconv.Itoa(10+i))
	}
	interrupted := *clean
	interrupted.Interrupted, interrupted.Waiting = true, 4000
	for name, tc := range map[string]struct {
		o Options
		s *Summary
	}{
		"clean": {Options{Width: 80}, clean}, "wide": {Options{Width: 120}, clean}, "dirty": {Options{Width: 80}, &dirty}, "interrupted": {Options{Width: 80}, &interrupted},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			tc.o.Out = &out
			if err := writeText(&tc.o, tc.s); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", name+".txt")
			if *update {
				if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil || out.String() != string(want) {
				t.Errorf("text differs from %s (%v):\n%s", path, err, out.String())
			}
			for line := range strings.Lines(out.String()) {
				if n := len([]rune(strings.TrimRight(line, "\n"))); n > tc.o.Width {
					t.Errorf("%d columns: %s", n, line)
				}
			}
		})
	}
}

var update = flag.Bool("update", false, "write testdata anew")

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
