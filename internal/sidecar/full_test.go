package sidecar_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/queueville/queueville/internal/mastodonenv"
	"github.com/queueville/queueville/internal/mastodontest"
	"github.com/queueville/queueville/internal/sidecar"
	"github.com/queueville/queueville/queues"
)

// write makes files with what they contain; one with a leading ! can be executed.
func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		mode := os.FileMode(0o600)
		if rest, ok := strings.CutPrefix(name, "!"); ok {
			name, mode = rest, 0o700
		}
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil { //nolint:gosec // a program of the test's own
			t.Fatal(err)
		}
	}
}

// rails makes of Mastodon's directory one that a Rails application can be thought to be in, with a bundle in the PATH that is returned.
func rails(t *testing.T, dir string) (path string) {
	t.Helper()
	write(t, dir, map[string]string{"config/application.rb": "", "config/environment.rb": "", "Gemfile": "", "!bin/bundle": "#!/bin/sh\n"})
	return "PATH=" + filepath.Join(dir, "bin")
}

// tryFull checks --full in an environment.
func tryFull(t *testing.T, dir string, environ []string, change func(*sidecar.Options)) (texts string, s *sidecar.Sidecar) {
	t.Helper()
	o := sidecar.DefaultOptions()
	o.Mastodon, o.Full, o.Check = dir, true, true
	if change != nil {
		change(o)
	}
	s, problems := sidecar.New(t.Context(), o, sidecar.Env{Environ: environ, Version: "test", Log: slog.New(slog.DiscardHandler)})
	if s != nil {
		t.Cleanup(s.Close)
	}
	var list []string
	for _, p := range problems {
		if p.Severity == mastodonenv.SeverityError && p.Hint == "" {
			t.Errorf("nobody is told what to do about %v", p)
		}
		list = append(list, string(p.Severity)+": "+p.String())
	}
	return strings.Join(list, "\n"), s
}

// TestFullOptions: what --full rules out, each named by its flag and with what to do.
func TestFullOptions(t *testing.T) {
	t.Parallel()
	m := mastodontest.New(t)
	environ := []string{rails(t, m.Dir)}
	texts, s := tryFull(t, m.Dir, environ, nil)
	if texts != "" || s == nil {
		t.Fatalf("--full alone has problems:\n%s", texts)
	}
	if got, want := s.Describe(), "runs everything, with Ruby processes; owns default, push, ingress, mailers, pull, scheduler, fasp"; got != want {
		t.Errorf("it says of itself %q, want %q", got, want)
	}
	cases := map[string]struct {
		change func(*sidecar.Options)
		want   string
	}{
		"no directory":                {func(o *sidecar.Options) { o.Mastodon = "" }, "--full: it runs the Ruby of a Mastodon, and no directory is given; give --mastodon DIR"},
		"shared queues":               {func(o *sidecar.Options) { o.Shared = []string{"push"} }, "--shared: with --full every queue is owned; leave it away"},
		"foreign jobs":                {func(o *sidecar.Options) { o.ForeignTo = "push_ruby" }, "--foreign-to: with --full there are no foreign jobs"},
		"a shadow":                    {func(o *sidecar.Options) { o.Shadow = true }, "--shadow: a shadow runs nothing, so it needs no Ruby; try --shadow without --full first"},
		"a share":                     {func(o *sidecar.Options) { o.Canary = "5%" }, "--canary: a share of an owned queue"},
		"some hosts":                  {func(o *sidecar.Options) { o.OnlyHosts = []string{"a.test"} }, "--only-host: on an owned queue"},
		"nothing but cron":            {func(o *sidecar.Options) { o.Own = []string{"scheduler"} }, "--own: Ruby processes that serve scheduler alone are not run; name another queue too"},
		"too many processes":          {func(o *sidecar.Options) { o.RubyProcesses = 257 }, "--ruby-processes: 257 is out of range; use 1 to 256, or 0"},
		"fewer than no processes":     {func(o *sidecar.Options) { o.RubyProcesses = -1 }, "--ruby-processes: -1 is out of range"},
		"no threads":                  {func(o *sidecar.Options) { o.RubyThreads = 0 }, "--ruby-threads: 0 is out of range; use 1 to 1000"},
		"too many threads":            {func(o *sidecar.Options) { o.RubyThreads = 1001 }, "--ruby-threads: 1001 is out of range"},
		"hardly any memory":           {func(o *sidecar.Options) { o.RubyMemoryMB = 63 }, "--ruby-memory: 63 MiB is out of range; use at least 64, or 0 for no limit"},
		"less than no memory":         {func(o *sidecar.Options) { o.RubyMemoryMB = -1 }, "--ruby-memory: -1 MiB is out of range"},
		"something else for the rest": {func(o *sidecar.Options) { o.RubyStuck = "hug" }, `--ruby-stuck: "hug" is unknown; use report or kill`},
		"no words":                    {func(o *sidecar.Options) { o.RubyCommand = []string{} }, "--ruby-command: there is no command; give the words with commas"},
		"an empty word":               {func(o *sidecar.Options) { o.RubyCommand = []string{""} }, "--ruby-command: there is no command"},
		"a bad queue":                 {func(o *sidecar.Options) { o.Own = []string{"a b"} }, `--own: "a b" is not a queue name`},
		"processes without --full":    {func(o *sidecar.Options) { o.Full, o.RubyProcesses = false, 2 }, "--ruby-processes: there is no Ruby without --full; give --full too"},
		"threads without --full":      {func(o *sidecar.Options) { o.Full, o.RubyThreads = false, 2 }, "--ruby-threads: there is no Ruby without --full; give --full too"},
		"memory without --full":       {func(o *sidecar.Options) { o.Full, o.RubyMemoryMB = false, 0 }, "--ruby-memory: there is no Ruby without --full; give --full too"},
		"stuck without --full":        {func(o *sidecar.Options) { o.Full, o.RubyStuck = false, "kill" }, "--ruby-stuck: there is no Ruby without --full; give --full too"},
		"no preload without --full":   {func(o *sidecar.Options) { o.Full, o.RubyNoPreload = false, true }, "--ruby-no-preload: there is no Ruby without --full; give --full too"},
		"a command without --full":    {func(o *sidecar.Options) { o.Full, o.RubyCommand = false, []string{"ruby"} }, "--ruby-command: there is no Ruby without --full; give --full too"},
	}
	for name, c := range cases {
		if texts, s := tryFull(t, m.Dir, environ, c.change); !strings.Contains(texts, c.want) || s != nil {
			t.Errorf("%s: %v with the problems\n%s\nwant %q", name, s, texts, c.want)
		}
	}
	fine := map[string]func(*sidecar.Options){
		"some queues with weights": func(o *sidecar.Options) { o.Own = []string{"default,8", "scheduler"} },
		"a command of one's own":   func(o *sidecar.Options) { o.RubyCommand = []string{"/opt/ruby/bin/bundle", "exec", "ruby"} },
		"no memory limit":          func(o *sidecar.Options) { o.RubyMemoryMB = 0 },
		"stuck jobs are killed":    func(o *sidecar.Options) { o.RubyStuck = "kill" },
		"a rate":                   func(o *sidecar.Options) { o.MaxRate = 5 },
	}
	for name, change := range fine {
		if texts, s := tryFull(t, m.Dir, environ, change); texts != "" || s == nil {
			t.Errorf("%s: problems are\n%s", name, texts)
		}
	}
}

// TestFullDirectory: a Mastodon whose Ruby cannot be started is found by --check, with everything that is wrong and what to do.
func TestFullDirectory(t *testing.T) {
	t.Parallel()
	m := mastodontest.New(t)
	env, err := os.ReadFile(m.EnvFile)
	if err != nil {
		t.Fatal(err)
	}
	empty := t.TempDir()
	write(t, empty, map[string]string{".env.production": string(env)})
	bare := t.TempDir()
	write(t, bare, map[string]string{".env.production": string(env), "config/application.rb": "", "config/environment.rb": ""})
	whole := t.TempDir()
	write(t, whole, map[string]string{".env.production": string(env)})
	path := rails(t, whole)
	cases := map[string]struct {
		dir     string
		environ []string
		want    []string
	}{
		"no Mastodon": {empty, []string{path}, []string{"has no Rails application in it; give Mastodon's directory, usually /home/mastodon/live"}},
		"no Gemfile":  {bare, []string{path}, []string{"has no Gemfile; is the installation complete?"}},
		"no bundle":   {whole, []string{"PATH=" + empty}, []string{"there is no bundle in PATH or in ~/.rbenv/shims; run it as Mastodon's user, or put the directory of its Ruby into PATH"}},
		"neither":     {empty, []string{"PATH=" + empty}, []string{"no Rails application", "there is no bundle in PATH"}},
		"a file":      {filepath.Join(whole, ".env.production"), []string{path}, []string{"is not a directory; give Mastodon's directory"}},
		"not there":   {filepath.Join(whole, "gone"), []string{path}, []string{"no such file or directory"}},
		"no jemalloc": {whole, []string{path, "LD_PRELOAD=/nowhere/libjemalloc.so.2"}, []string{"LD_PRELOAD names /nowhere/libjemalloc.so.2, which is not there; install it"}},
	}
	for name, c := range cases {
		texts, s := tryFull(t, c.dir, c.environ, nil)
		for _, want := range c.want {
			if !strings.Contains(texts, want) || s != nil {
				t.Errorf("%s: problems are\n%s\nwant %q", name, texts, want)
			}
		}
	}
	if texts, s := tryFull(t, whole, []string{path}, nil); texts != "" || s == nil {
		t.Errorf("a whole one has problems:\n%s", texts)
	}
}

// TestBesideSidekiq: units that still run are told of, by name, and their cron scheduler above all; one that is quiet is nobody's concern.
func TestBesideSidekiq(t *testing.T) {
	t.Parallel()
	m := mastodontest.New(t)
	environ := []string{rails(t, m.Dir)}
	store := queues.NewStore(m.Redis, "")
	beat := func(id string, quiet bool, list ...string) {
		t.Helper()
		info := queues.ProcessInfo{Identity: id, Hostname: "h", PID: 1, Queues: list, Concurrency: 5, StartedAt: time.Now().Add(-time.Hour)}
		if _, err := store.Beat(t.Context(), info, queues.Pulse{Now: time.Now(), Quiet: quiet}); err != nil {
			t.Fatal(err)
		}
	}
	beat("old:1:a", false, "default", "push")
	beat("quiet:2:b", true, "default", "scheduler")
	beat("elsewhere:3:c", false, "other")
	const taking, cron = "warning: --full: Sidekiq runs already and takes jobs from the same queues, without crash safety: ", "Sidekiq runs the cron scheduler already"
	texts, s := tryFull(t, m.Dir, environ, nil)
	if s == nil || texts != taking+"old:1:a; stop its units" {
		t.Errorf("problems: %s", texts)
	}
	beat("old:4:d", false, "scheduler")
	texts, s = tryFull(t, m.Dir, environ, nil)
	if s == nil || !strings.Contains(texts, taking+"old:1:a old:4:d;") || !strings.Contains(texts, cron+", and scheduled tasks would run twice: old:4:d; stop it before this starts") {
		t.Errorf("problems: %s", texts)
	}
	if texts, _ := tryFull(t, m.Dir, environ, func(o *sidecar.Options) { o.Own = []string{"ingress", "pull"} }); texts != "" {
		t.Errorf("other queues: %s", texts)
	}
}
