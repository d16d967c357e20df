package ruby

import (
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

func TestFindCommand(t *testing.T) {
	program := &fstest.MapFile{Mode: 0o755}
	file := &fstest.MapFile{Mode: 0o644}
	app := func(extra ...string) fstest.MapFS {
		m := fstest.MapFS{"live/config/application.rb": file, "live/config/environment.rb": file, "live/Gemfile": file}
		for _, name := range extra {
			m[name] = program
		}
		return m
	}
	cases := map[string]struct {
		files    fstest.MapFS
		home     string
		env      []string
		ruby     string
		has      []string
		hasNot   []string
		problems []string
	}{
		"as the shipped units": {
			files: app("home/m/.rbenv/shims/bundle", "usr/bin/bundle", "usr/lib/libjemalloc.so"), home: "/home/m",
			env:  []string{"PATH=/usr/bin", "LD_PRELOAD=/usr/lib/libjemalloc.so", "MALLOC_ARENA_MAX=2", "DB_POOL=25", "HOME=/home/m"},
			ruby: "/home/m/.rbenv/shims/bundle exec ruby",
			has:  []string{"PATH=/home/m/.rbenv/shims:/usr/bin", "RAILS_ENV=production", "LD_PRELOAD=/usr/lib/libjemalloc.so", "MALLOC_ARENA_MAX=2", "HOME=/home/m", heapGrowth}, hasNot: []string{"DB_POOL=25"},
		},
		"a collector that was tuned": {
			files: app("bin/bundle"), env: []string{"PATH=/bin", "RUBY_GC_MALLOC_LIMIT=8000000"}, ruby: "/bin/bundle exec ruby",
			has: []string{"RUBY_GC_MALLOC_LIMIT=8000000"}, hasNot: []string{heapGrowth},
		},
		"shims in PATH already": {
			files: app("home/m/.rbenv/shims/bundle"), home: "/home/m", env: []string{"PATH=/usr/bin:/home/m/.rbenv/shims"},
			ruby: "/home/m/.rbenv/shims/bundle exec ruby", has: []string{"PATH=/usr/bin:/home/m/.rbenv/shims"},
		},
		"a container's": {files: app("usr/local/bin/bundle"), env: []string{"PATH=/usr/local/bin", "RAILS_ENV=development"}, ruby: "/usr/local/bin/bundle exec ruby", has: []string{"RAILS_ENV=development"}},
		"everything wrong": {
			files: fstest.MapFS{"live/x": file, "usr/bin/bundle": file}, env: []string{"PATH=/usr/bin:.", "LD_PRELOAD=/usr/lib/libjemalloc.so"},
			problems: []string{"no Rails application", "no bundle", "libjemalloc"},
		},
		"no such directory": {files: fstest.MapFS{}, problems: []string{"/live: file does not exist", "no bundle"}},
		"a file":            {files: fstest.MapFS{"live": file, "bin/bundle": program}, env: []string{"PATH=/bin"}, problems: []string{"not a directory"}},
		"no Gemfile":        {files: fstest.MapFS{"live/config/application.rb": file, "live/config/environment.rb": file, "bin/bundle": program}, env: []string{"PATH=/bin"}, problems: []string{"no Gemfile"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			files := Files{Home: c.home, Stat: func(name string) (fs.FileInfo, error) { return fs.Stat(c.files, strings.TrimPrefix(name, "/")) }}
			cmd, err := FindCommand("/live", c.env, files)
			if len(c.problems) > 0 {
				for _, p := range c.problems {
					if err == nil || !strings.Contains(err.Error(), p) {
						t.Errorf("nothing of %q in %v", p, err)
					}
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(cmd.Ruby, " "); got != c.ruby || cmd.Dir != "/live" || cmd.Require != "/live" {
				t.Errorf("FindCommand() = %+v", cmd)
			}
			for _, e := range c.has {
				if !slices.Contains(cmd.Env, e) {
					t.Errorf("no %s in %v", e, cmd.Env)
				}
			}
			for _, e := range c.hasNot {
				if slices.Contains(cmd.Env, e) {
					t.Errorf("%s in %v", e, cmd.Env)
				}
			}
		})
	}
}

func TestHint(t *testing.T) {
	for line, want := range map[string]string{
		"bundler: Could not locate Gemfile or .bundle/ directory":                   "directory",
		"Could not find rails-8.1 in locally installed gems (Bundler::GemNotFound)": "bundle install",
		"cannot load such file -- sidekiq/cli (LoadError)":                          "Sidekiq is not among",
		"Your Ruby version is 3.1.2, but your Gemfile specified 3.4.1":              "rbenv",
		"connection to server failed (ActiveRecord::ConnectionNotEstablished)":      "database",
		"all is well": "",
	} {
		if got := Hint([]string{"before", line, "from /home/mastodon/live/config/application.rb:3:in `require'"}); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("Hint(%q) = %q, want something of %q", line, got, want)
		}
	}
}
