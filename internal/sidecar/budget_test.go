package sidecar_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/queueville/queueville/dbpool"
	"github.com/queueville/queueville/internal/faultproxy"
	"github.com/queueville/queueville/internal/mastodonenv"
	"github.com/queueville/queueville/internal/mastodontest"
	"github.com/queueville/queueville/internal/sidecar"
	"github.com/queueville/queueville/worker"
)

// TestBudgetProblems: what --check and a start say of a budget, each with its sum and what to do.
func TestBudgetProblems(t *testing.T) {
	t.Parallel()
	m := mastodontest.New(t)
	environ := []string{rails(t, m.Dir)}
	cases := map[string]struct {
		connections int
		change      func(*sidecar.Options)
		want        string
	}{
		"too small for a Ruby process with all its threads": {20, nil, "warning: connection budget: a Ruby process with all its threads (--ruby-threads 25) can open 25 connections, and one more is needed: 26, " +
			"more than an equal share of 20 − 2 kept to confirm with = 18 among 1 workers: while all are busy, it runs 17 jobs at once; store a larger budget for more"},
		"large enough for one of fewer threads": {20, func(o *sidecar.Options) { o.RubyThreads = 17 }, ""},
		"more than there is":                    {198, nil, "error: connection budget: 198 is more than max_connections 200 − 3 reserved = 197; store a smaller one"},
		"fit":                                   {60, nil, ""},
		"a priority":                            {60, func(o *sidecar.Options) { o.DBPriority = 101 }, "--db-priority: 101 is out of range; use -100 to 100"},
		"fewer than none":                       {60, func(o *sidecar.Options) { o.DBConnections = -1 }, "--db-connections: -1 is out of range; use 1 to 1000, or 0"},
		"another cluster's":                     {60, func(o *sidecar.Options) { o.Cluster = "other" }, "error: connection budget: the connection budget on this Redis belongs to another cluster: local.test; give its name with --cluster"},
	}
	for name, c := range cases {
		m.SetBudget(t, c.connections)
		if texts, _ := tryFull(t, m.Dir, environ, c.change); !strings.Contains(texts, c.want) || c.want == "" && texts != "" {
			t.Errorf("%s: problems are\n%s\nwant %q", name, texts, c.want)
		}
	}
}

// TestBudgetIsFound: without a stored budget one is found and stored, once, with its sum; --check and a shadow only say so.
func TestBudgetIsFound(t *testing.T) {
	t.Parallel()
	m := mastodontest.New(t)
	m.Redis.FlushDB(t.Context())
	ledger := dbpool.NewLedger(m.Redis, "", "local.test")
	open := func(check bool) (*sidecar.Sidecar, []mastodonenv.Problem) {
		o := sidecar.DefaultOptions()
		o.Mastodon, o.Check, o.Metrics = m.Dir, check, ""
		return sidecar.New(t.Context(), o, sidecar.Env{Version: "test", Log: slog.New(slog.DiscardHandler)})
	}
	s, problems := open(true)
	if s == nil || len(problems) != 1 || !strings.Contains(problems[0].String(), "none is stored; the first worker will store ") || !strings.Contains(problems[0].String(), ": max_connections 200 − 3 superuser_reserved_connections − ") {
		t.Fatalf("--check says %v", problems)
	}
	s.Close()
	if keys := m.Redis.Keys(t.Context(), "*").Val(); len(keys) > 0 {
		t.Errorf("--check has written %q", keys)
	}
	s, problems = open(false)
	if s == nil || len(problems) != 0 {
		t.Fatalf("a start says %v", problems)
	}
	s.Close()
	b, err := ledger.Budget(t.Context())
	if err != nil || b.SetBy != "discovered" || b.MinPerHost != 5 || b.Connections < 50 || !strings.HasPrefix(b.Reason, "max_connections 200 − 3 ") {
		t.Errorf("stored: %+v, %v", b, err)
	}
	if _, err := ledger.SetBudget(t.Context(), dbpool.Budget{Connections: 33, MinPerHost: 1, SetBy: "alice"}, dbpool.SetOptions{}); err != nil {
		t.Fatal(err)
	}
	if s, problems = open(false); s == nil {
		t.Fatal(problems)
	}
	s.Close()
	if b, err = ledger.Budget(t.Context()); err != nil || b.Connections != 33 || b.SetBy != "alice" {
		t.Errorf("a second start has changed it: %+v, %v", b, err)
	}
}

// TestDatabaseAway: deliveries of authors whose keys are known go on while PostgreSQL is away, the others wait, and nothing is retried; the
// lease is in what the worker publishes.
func TestDatabaseAway(t *testing.T) {
	t.Parallel()
	m := mastodontest.New(t)
	address, err := url.Parse(m.DatabaseURL)
	if err != nil {
		t.Fatal(err)
	}
	proxy, err := faultproxy.Start(t.Context(), address.Host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = proxy.Close() })
	direct := address.Host
	address.Host = proxy.Addr()
	text, err := os.ReadFile(m.EnvFile)
	if err != nil {
		t.Fatal(err)
	}
	m.WriteEnv(t, strings.ReplaceAll(strings.TrimSpace(string(text)), direct, address.Host))
	o := sidecar.DefaultOptions()
	o.Mastodon, o.Shared, o.Metrics, o.PollAverage = m.Dir, []string{"push"}, "", time.Second
	s, problems := sidecar.New(t.Context(), o, sidecar.Env{
		Version: "test", Log: slog.New(slog.DiscardHandler), Resolver: m.Fedi.Resolver(), RootCAs: m.Fedi.RootCAs(), LeaseTTL: 3 * time.Second,
		Tune: func(c *worker.Config) { c.BeatEvery, c.PollFirst = 200*time.Millisecond, 100*time.Millisecond },
	})
	if s == nil {
		t.Fatal(problems)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	wait := func(what string, limit time.Duration, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(limit); !ok(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("not within %v: %s", limit, what)
			}
		}
	}
	known, _ := m.Delivery(t, "good.test")
	m.Push(t, "push", known)
	wait("the first delivery", 20*time.Second, func() bool { return m.Fedi.Accepted() == 1 })
	wait("the lease is published", 10*time.Second, func() bool {
		for _, key := range m.Redis.Keys(t.Context(), "queueville:worker:*").Val() {
			var w struct {
				Database *struct{ Budget, Leased, Limit int } `json:"database"`
			}
			if json.Unmarshal([]byte(m.Redis.Get(t.Context(), key).Val()), &w) == nil && w.Database != nil && w.Database.Budget == mastodontest.Budget && w.Database.Limit > 0 {
				return true
			}
		}
		return false
	})
	proxy.Refuse(true)
	proxy.Cut()
	stranger, _ := m.Delivery(t, "good.test") // of another author
	m.Push(t, "push", stranger)
	m.Push(t, "push", strings.Replace(known, `"jid":"`, `"jid":"0`, 1))
	wait("the delivery with a known key", 20*time.Second, func() bool { return m.Fedi.Accepted() == 2 })
	wait("the other one waits", 30*time.Second, func() bool { return m.Redis.ZCard(t.Context(), "schedule").Val() == 1 })
	if n := m.Redis.ZCard(t.Context(), "retry").Val(); n != 0 {
		t.Errorf("%d retries", n)
	}
}
