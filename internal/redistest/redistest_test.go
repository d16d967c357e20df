package redistest_test

import (
	"errors"
	"testing"

	"go.uber.org/goleak"

	"github.com/queueville/queueville/internal/redistest"
	"github.com/queueville/queueville/internal/throwaway"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEachTestHasItsOwnDatabase(t *testing.T) {
	_, first, a := redistest.DB(t)
	_, second, b := redistest.DB(t)
	if first == second {
		t.Fatalf("two tests share database %d", first)
	}
	if err := a.Set(t.Context(), "k", 1, 0).Err(); err != nil {
		t.Fatal(err)
	}
	if n, err := b.Exists(t.Context(), "k").Result(); err != nil || n != 0 {
		t.Errorf("EXISTS in the other database = %d, %v, want 0", n, err)
	}
}

func TestDatabasesComeBackEmpty(t *testing.T) {
	for range 300 { // more than there are
		t.Run("", func(t *testing.T) {
			c := redistest.Client(t)
			if n, err := c.DBSize(t.Context()).Result(); err != nil || n != 0 {
				t.Errorf("DBSIZE = %d, %v, want 0", n, err)
			}
			if err := c.Set(t.Context(), "k", 1, 0).Err(); err != nil {
				t.Fatal(err)
			}
			if err := c.Close(); err != nil { // a test may do that
				t.Fatal(err)
			}
		})
	}
}

func TestStartAndURL(t *testing.T) {
	s := redistest.Start(t, "--maxmemory", "3mb")
	c := redistest.NewClient(s.Addr(), 0)
	defer c.Close() //nolint:errcheck // a test
	got, err := c.ConfigGet(t.Context(), "maxmemory").Result()
	if err != nil || got["maxmemory"] != "3145728" {
		t.Errorf("maxmemory = %v, %v, want 3145728", got, err)
	}
	if first, second := redistest.URL(t), redistest.URL(t); first == second {
		t.Error("two databases have the same URL")
	}
}

// recorder is a test that notes how it ended.
type recorder struct {
	testing.TB
	ended string
}

func (r *recorder) Helper()               {}
func (r *recorder) Skipf(string, ...any)  { r.ended = "skip"; panic(r) }
func (r *recorder) Fatalf(string, ...any) { r.ended = "fatal"; panic(r) }
func (r *recorder) Fatal(...any)          { r.ended = "fatal"; panic(r) }

func TestMissingServerSkipsAtADeskAndFailsInCI(t *testing.T) {
	missing := error(&throwaway.MissingError{Binary: "redis-server", Package: "redis-server"})
	tests := map[string]struct {
		ci   string
		err  error
		want string
	}{
		"nothing wrong":       {"", nil, ""},
		"missing at a desk":   {"", missing, "skip"},
		"missing in CI":       {"true", missing, "fatal"},
		"other error at desk": {"", errors.New("x"), "fatal"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Setenv("CI", test.ci)
			r := &recorder{TB: t}
			func() {
				defer func() { _ = recover() }()
				redistest.Need(r, test.err)
			}()
			if r.ended != test.want {
				t.Errorf("Need(%v) with CI=%q ended with %q, want %q", test.err, test.ci, r.ended, test.want)
			}
		})
	}
}
