package sidecar_test

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/queueville/queueville/internal/mastodonenv"
	"github.com/queueville/queueville/internal/mastodontest"
	"github.com/queueville/queueville/internal/pgtest"
	"github.com/queueville/queueville/internal/redistest"
	"github.com/queueville/queueville/internal/sidecar"
	"github.com/queueville/queueville/queues"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := errors.Join(redistest.Stop(), pgtest.Stop()); err != nil {
		fmt.Fprintln(os.Stderr, "stop the shared servers:", err)
		code = 1
	}
	os.Exit(code)
}

// try checks options on a Mastodon server, or on an environment file.
func try(t *testing.T, where string, change func(*sidecar.Options)) (texts string, problems []mastodonenv.Problem) {
	t.Helper()
	o := sidecar.DefaultOptions()
	o.Mastodon, o.Check = where, true
	if change != nil {
		change(o)
	}
	s, problems := sidecar.New(t.Context(), o, sidecar.Env{Version: "test", Log: slog.New(slog.DiscardHandler)})
	if s != nil {
		s.Close()
	}
	var list []string
	for _, p := range problems {
		list = append(list, string(p.Severity)+": "+p.String())
	}
	if (s == nil) != (mastodonenv.Errors(problems) != nil) {
		t.Errorf("New = %v with the problems %v", s, list)
	}
	return strings.Join(list, "\n"), problems
}

// TestOptions: what is wrong with each, named by its flag and with what to do.
func TestOptions(t *testing.T) {
	t.Parallel()
	m := mastodontest.New(t)
	if texts, _ := try(t, m.Dir, nil); texts != "" {
		t.Fatalf("the defaults have problems:\n%s", texts)
	}
	cases := map[string]struct {
		change func(*sidecar.Options)
		want   string
	}{
		"a share of what is owned":           {func(o *sidecar.Options) { o.Own, o.ForeignTo, o.Canary = []string{"push"}, "r", "5%" }, "--canary: a share of an owned queue"},
		"some hosts of what is owned":        {func(o *sidecar.Options) { o.Own, o.ForeignTo, o.OnlyHosts = []string{"push"}, "r", []string{"a.test"} }, "--only-host: on an owned queue"},
		"owned and shared":                   {func(o *sidecar.Options) { o.Own, o.Shared, o.ForeignTo = []string{"push"}, []string{"push"}, "r" }, `--shared: queue "push" is owned too`},
		"owned twice":                        {func(o *sidecar.Options) { o.Own, o.ForeignTo = []string{"push,3", "push"}, "r" }, `--own: queue "push" is named twice`},
		"a weight that is none":              {func(o *sidecar.Options) { o.Own, o.ForeignTo = []string{"push,heavy"}, "r" }, `--own: "heavy" is not a weight`},
		"foreign jobs to an owned queue":     {func(o *sidecar.Options) { o.Own, o.ForeignTo = []string{"push"}, "push" }, "would come straight back"},
		"foreign jobs of nothing":            {func(o *sidecar.Options) { o.ForeignTo = "r" }, "--foreign-to: nothing is owned"},
		"owned without a place for the rest": {func(o *sidecar.Options) { o.Own = []string{"push"} }, "push_ruby"},
		"nobody serves it":                   {func(o *sidecar.Options) { o.Own, o.ForeignTo = []string{"push"}, "r" }, "no live Ruby process serves r"},
		"a URL for a host":                   {func(o *sidecar.Options) { o.OnlyHosts = []string{"https://a.test/"} }, "is not a host"},
		"no concurrency":                     {func(o *sidecar.Options) { o.Concurrency = 0 }, "--concurrency: 0 is out of range; use 1 to 20000"},
		"a negative rate":                    {func(o *sidecar.Options) { o.MaxRate = -1 }, "--max-rate"},
		"a share without a percent sign":     {func(o *sidecar.Options) { o.Canary = "5" }, "--canary"},
		"metrics for the world":              {func(o *sidecar.Options) { o.Metrics = ":9395" }, "not a loopback address"},
		"a resolver without a port":          {func(o *sidecar.Options) { o.Resolver = "127.0.0.1" }, "--resolver"},
		"limits of another kind":             {func(o *sidecar.Options) { o.Limits = "magic" }, `--limits: "magic" is unknown; use fixed or adaptive`},
		"a share of no processor":            {func(o *sidecar.Options) { o.CPUTarget = 0 }, "--cpu-target"},
		"no retries at all":                  {func(o *sidecar.Options) { o.RetryShare = 0 }, "--retry-share: 0 is out of range; use a percentage between 1 and 100"},
		"an order of another kind":           {func(o *sidecar.Options) { o.Policy = "fifo" }, `--policy: "fifo" is unknown`},
		"a long stop":                        {func(o *sidecar.Options) { o.StopTimeout = 0 }, "--timeout"},
	}
	for name, c := range cases {
		if texts, _ := try(t, m.Dir, c.change); !strings.Contains(texts, c.want) {
			t.Errorf("%s: problems are\n%s\nwant %q", name, texts, c.want)
		}
	}
}

// TestForeignTo: only a live process that is not quiet counts, and one that serves the owned queue too is warned about.
func TestForeignTo(t *testing.T) {
	t.Parallel()
	m := mastodontest.New(t)
	own := func(o *sidecar.Options) {
		o.Own, o.Shared, o.ForeignTo = []string{"push"}, []string{"pull"}, "push_ruby"
	}
	ruby := func(quiet bool, list ...string) {
		t.Helper()
		store := queues.NewStore(m.Redis, "")
		if _, err := store.Beat(t.Context(), queues.ProcessInfo{Identity: "ruby:1:a", Hostname: "h", PID: 1, Queues: list, Concurrency: 5}, queues.Pulse{Now: time.Now(), Quiet: quiet}); err != nil {
			t.Fatal(err)
		}
	}
	ruby(true, "push_ruby")
	if texts, _ := try(t, m.Dir, own); !strings.Contains(texts, "no live Ruby process serves push_ruby") {
		t.Errorf("a quiet process counts: %s", texts)
	}
	ruby(false, "push_ruby")
	if texts, _ := try(t, m.Dir, own); texts != "" {
		t.Errorf("problems: %s", texts)
	}
	ruby(false, "push_ruby", "push")
	if texts, _ := try(t, m.Dir, own); !strings.Contains(texts, "warning: --own: the Ruby process ruby:1:a serves push too") {
		t.Errorf("no warning that the queue is not owned: %s", texts)
	}
}

// TestServersThatRefuse: wrong passwords and databases are named by their variable, with what to do and without the secret.
func TestServersThatRefuse(t *testing.T) {
	t.Parallel()
	m := mastodontest.New(t)
	locked := redistest.Start(t)
	admin := redistest.NewClient(locked.Addr(), 0)
	defer admin.Close() //nolint:errcheck // nothing is buffered in it
	if err := admin.ConfigSet(t.Context(), "requirepass", "right").Err(); err != nil {
		t.Fatal(err)
	}
	db := m.DatabaseURL
	wrong := strings.Replace(db, "@", "s3cret-w@", 1)
	text, err := os.ReadFile(m.EnvFile)
	if err != nil {
		t.Fatal(err)
	}
	var rest []string // everything but the two addresses
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "REDIS_URL=") && !strings.HasPrefix(line, "DATABASE_URL=") {
			rest = append(rest, strings.TrimSpace(line))
		}
	}
	cases := map[string]struct {
		lines       []string
		want        []string
		unreachable bool
	}{
		"a wrong Redis password":    {[]string{"REDIS_URL=redis://:s3cret-r@" + locked.Addr(), "DATABASE_URL=" + db}, []string{"REDIS_URL", "password"}, true},
		"no Redis password":         {[]string{"REDIS_URL=redis://" + locked.Addr(), "DATABASE_URL=" + db}, []string{"REDIS_URL", "password"}, true},
		"a wrong Postgres password": {[]string{"REDIS_URL=" + m.RedisURL, "DATABASE_URL=" + wrong}, []string{"DATABASE_URL", "password"}, true},
		"another database":          {[]string{"REDIS_URL=" + m.RedisURL, "DATABASE_URL=" + pgtest.DB(t)}, []string{"DATABASE_URL", "name Mastodon's database"}, false},
		"no such database":          {[]string{"REDIS_URL=" + m.RedisURL, "DATABASE_URL=" + strings.Replace(db, "test_", "nope_", 1)}, []string{"DATABASE_URL", "nope_"}, true},
		"another kind of database":  {[]string{"REDIS_URL=" + m.RedisURL, "DATABASE_URL=mysql://user:s3cret-x@127.0.0.1/x"}, []string{"DATABASE_URL"}, false},
	}
	for name, c := range cases {
		file := filepath.Join(t.TempDir(), "env")
		if err := os.WriteFile(file, []byte(strings.Join(slices.Concat(rest, c.lines), "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		texts, problems := try(t, file, nil)
		for _, want := range c.want {
			if !strings.Contains(texts, want) {
				t.Errorf("%s: no %q in\n%s", name, want, texts)
			}
		}
		if strings.Contains(texts, "s3cret") {
			t.Errorf("%s: a secret is told:\n%s", name, texts)
		}
		for _, p := range problems {
			if p.Severity == mastodonenv.SeverityError && (p.Unreachable != c.unreachable || p.Hint == "" || strings.Contains(p.What, "\n")) {
				t.Errorf("%s: %+v", name, p)
			}
		}
	}
}

// TestConfigFile: flags win over the file, unknown keys and broken files are problems.
func TestConfigFile(t *testing.T) {
	t.Parallel()
	load := func(text string, args ...string) (*sidecar.Options, []mastodonenv.Problem) {
		t.Helper()
		file := filepath.Join(t.TempDir(), "queueville.toml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		o := sidecar.DefaultOptions()
		flags := pflag.NewFlagSet("work", pflag.ContinueOnError)
		o.Bind(flags)
		if err := flags.Parse(append(args, "--config", file)); err != nil {
			t.Fatal(err)
		}
		return o, o.LoadFile(flags)
	}
	o, problems := load("canary = \"5%\"\nown = [\"push\"]\nconcurrency = 7\ntimeout = \"40s\"\nmax_rate = 1.5\nonly_host = [\"a.test\"]\n",
		"--canary", "10%", "--only-host", "b.test", "--only-host", "c.test")
	if len(problems) != 0 || o.Canary != "10%" || fmt.Sprint(o.Own) != "[push]" || o.Concurrency != 7 || o.StopTimeout.Seconds() != 40 || o.MaxRate != 1.5 || fmt.Sprint(o.OnlyHosts) != "[b.test c.test]" {
		t.Errorf("LoadFile = %v, %+v", problems, o)
	}
	if _, problems := load("cannary = \"5%\"\n[section]\nkey = 1\n"); len(problems) < 2 || !strings.Contains(problems[0].String(), `unknown key "cannary"`) {
		t.Errorf("unknown keys: %v", problems)
	}
	for _, text := range []string{"concurrency = \"many\"\n", "own = push\n", "timeout = 5\x00\n", strings.Repeat("# long\n", 200_000)} {
		if _, problems := load(text); len(problems) == 0 {
			t.Errorf("no problem with %.40q", text)
		}
	}
}
