package units

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/queueville/queueville/internal/mastodonenv"
)

// tree writes files below a new directory; a value "-> x" is a link.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(text, "-> "); ok {
			err = os.Symlink(target, path)
		} else {
			err = os.WriteFile(path, []byte(text), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// A server in the shape that Mastodon's own units have: web, Sidekiq, and a streaming service that holds the instances of a template.
const (
	webUnit = `[Unit]
Description=web of a test
After=network.target

[Service]
Type=notify
User=mastodon
WorkingDirectory=/srv/live
Environment="RAILS_ENV=production" "PORT=3000"
ExecStart=/srv/rbenv/shims/bundle exec puma -C config/puma.rb
ExecReload=/bin/kill -SIGUSR1 $MAINPID
Restart=always

[Install]
WantedBy=multi-user.target
`
	sidekiqUnit = `[Unit]
Description=jobs of a test

[Service]
Type=simple
User=mastodon
WorkingDirectory=/srv/live
Environment="RAILS_ENV=production"
Environment="DB_POOL=25"
Environment="MALLOC_ARENA_MAX=2"
ExecStart=/srv/rbenv/shims/bundle exec sidekiq -c 25
Restart=always

[Install]
WantedBy=multi-user.target
`
	streamingUnit = `[Unit]
Description=holds the instances
Wants=mastodon-streaming@4000.service mastodon-streaming@4001.service

[Service]
Type=oneshot
ExecStart=/bin/true
RemainAfterExit=yes

[Install]
WantedBy=multi-user.target
`
	streamingTemplate = `[Unit]
PartOf=mastodon-streaming.service

[Service]
WorkingDirectory=/srv/live
Environment="NODE_ENV=production" "PORT=%i"
ExecStart=/usr/bin/node ./streaming
`
)

func stock() map[string]string {
	return map[string]string{
		"mastodon-web.service":                                  webUnit,
		"mastodon-sidekiq.service":                              sidekiqUnit,
		"mastodon-streaming.service":                            streamingUnit,
		"mastodon-streaming@.service":                           streamingTemplate,
		"nginx.service":                                         "[Service]\nExecStart=/usr/sbin/nginx\n",
		"mastodon-media-remove.service":                         "[Service]\nType=oneshot\nWorkingDirectory=/srv/live\nExecStart=/srv/live/bin/tootctl media remove\n",
		"multi-user.target.wants/mastodon-web.service":          "-> ../mastodon-web.service",
		"multi-user.target.wants/mastodon-sidekiq.service":      "-> ../mastodon-sidekiq.service",
		"multi-user.target.wants/mastodon-streaming.service":    "-> ../mastodon-streaming.service",
		"mastodon-sidekiq.service.d/50-limits.conf":             "[Service]\nMemoryMax=4G\n",
		"multi-user.target.wants/mastodon-media-remove.service": "-> ../x",
	}
}

// describe is one line per unit.
func describe(list []Unit) string {
	var b strings.Builder
	for i := range list {
		u := &list[i]
		fmt.Fprintf(&b, "%s %s %s", u.Name, u.Kind, u.Start)
		if u.Running {
			b.WriteString(" running")
		}
		for _, s := range []struct {
			name string
			s    Setting
		}{{"-c", u.Concurrency}, {"-w", u.Workers}, {"-t", u.Threads}, {"-C", u.ConfigFile}} {
			if s.s.IsSet() {
				fmt.Fprintf(&b, " %s=%s@%s:%d", s.name, s.s.Value, filepath.Base(s.s.File), s.s.Line)
			}
		}
		for _, q := range u.Queues {
			fmt.Fprintf(&b, " -q=%s,%d", q.Name, q.Weight)
		}
		for _, name := range []string{"DB_POOL", "MAX_THREADS", "WEB_CONCURRENCY", "PORT"} {
			if s, ok := u.Lookup(name); ok {
				fmt.Fprintf(&b, " %s=%s@%s:%d", name, s.Value, filepath.Base(s.File), s.Line)
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func problemText(problems []mastodonenv.Problem) string {
	var b strings.Builder
	for _, p := range problems {
		fmt.Fprintf(&b, "%s: %s\n", p.Severity, p)
	}
	return b.String()
}

func TestStockUnits(t *testing.T) {
	t.Parallel()
	list, problems := Read(Options{Dirs: []string{tree(t, stock())}})
	want := `mastodon-sidekiq.service sidekiq enabled -c=25@mastodon-sidekiq.service:11 DB_POOL=25@mastodon-sidekiq.service:9
mastodon-streaming@4000.service streaming enabled PORT=4000@mastodon-streaming@.service:6
mastodon-streaming@4001.service streaming enabled PORT=4001@mastodon-streaming@.service:6
mastodon-web.service web enabled -C=config/puma.rb@mastodon-web.service:10 PORT=3000@mastodon-web.service:9
`
	if got := describe(list); got != want {
		t.Errorf("Read =\n%swant\n%s", got, want)
	}
	if len(problems) != 0 {
		t.Errorf("problems: %s", problemText(problems))
	}
	if got := fmt.Sprintf("%v %+v", list[0], list); strings.Contains(got, "jemalloc") || strings.Contains(got, "MALLOC_ARENA_MAX:2") {
		t.Errorf("printing a unit shows values: %s", got)
	}
}

// The shapes that people cut by hand: one unit a queue, templates, drop-ins that reset, environment files, wrappers.
func TestHandCutUnits(t *testing.T) {
	t.Parallel()
	files := stock()
	service := func(exec string, more ...string) string {
		return "[Service]\nWorkingDirectory=/srv/live\n" + strings.Join(append(more, "ExecStart="+exec), "\n") + "\n"
	}
	files["mastodon-sidekiq.service"] = "-> /dev/null"
	files["mastodon-sidekiq@.service"] = service(`/usr/bin/env DB_POOL=${THREADS} bundle exec sidekiq -c ${THREADS} -q %i`, "Environment=THREADS=10")
	files["multi-user.target.wants/mastodon-sidekiq@push.service"] = "-> ../mastodon-sidekiq@.service"
	files["mastodon-sidekiq@pull.service.d/threads.conf"] = "[Service]\nEnvironment=THREADS=40\n"
	files["mastodon-.service.d/all.conf"] = "[Service]\nEnvironment=WEB_CONCURRENCY=4\n"
	files["mastodon-web.service.d/10-env.conf"] = "[Service]\nEnvironment=\nEnvironment=MAX_THREADS=8\n"
	files["sidekiq-mail.service"] = service(`/bin/bash -lc 'cd /srv/live && exec bundle exec sidekiq -q mailers,2 -q "default" --concurrency=5 >>log 2>&1'`, "Environment=DB_POOL=5")
	files["discourse.service"] = "[Service]\nWorkingDirectory=/var/www/discourse\nExecStart=/bin/bundle exec sidekiq -c 99\n"
	files["mastodon-web-2.service"] = service(`@/usr/bin/puma mastodon-puma -w 3 -t 2:6 \`+"\n# in between\n  --port 3001", "EnvironmentFile=-/nowhere/at/all")
	list, problems := Read(Options{Dirs: []string{tree(t, files)}})
	want := `mastodon-sidekiq.service sidekiq masked
mastodon-sidekiq@pull.service sidekiq disabled -c=40@mastodon-sidekiq@.service:4 -q=pull,0 DB_POOL=40@mastodon-sidekiq@.service:4 WEB_CONCURRENCY=4@all.conf:2
mastodon-sidekiq@push.service sidekiq enabled -c=10@mastodon-sidekiq@.service:4 -q=push,0 DB_POOL=10@mastodon-sidekiq@.service:4 WEB_CONCURRENCY=4@all.conf:2
mastodon-streaming@4000.service streaming enabled WEB_CONCURRENCY=4@all.conf:2 PORT=4000@mastodon-streaming@.service:6
mastodon-streaming@4001.service streaming enabled WEB_CONCURRENCY=4@all.conf:2 PORT=4001@mastodon-streaming@.service:6
mastodon-web-2.service web disabled -w=3@mastodon-web-2.service:4 -t=6@mastodon-web-2.service:4 WEB_CONCURRENCY=4@all.conf:2
mastodon-web.service web enabled -C=config/puma.rb@mastodon-web.service:10 MAX_THREADS=8@10-env.conf:3 WEB_CONCURRENCY=4@all.conf:2
sidekiq-mail.service sidekiq disabled -c=5@sidekiq-mail.service:4 -q=mailers,2 -q=default,0 DB_POOL=5@sidekiq-mail.service:3
`
	if got := describe(list); got != want {
		t.Errorf("Read =\n%swant\n%s", got, want)
	}
	if len(problems) != 0 {
		t.Errorf("problems: %s", problemText(problems))
	}
}

func TestEnvironmentFiles(t *testing.T) {
	t.Parallel()
	root := tree(t, map[string]string{
		"etc/systemd/system/mastodon-sidekiq.service": "[Service]\nEnvironment=DB_POOL=5\nEnvironmentFile=/etc/mastodon/*.env\nEnvironmentFile=/missing\nUnsetEnvironment=WEB_CONCURRENCY\nExecStart=/bin/sidekiq -c $THREADS $MORE\n",
		"etc/mastodon/a.env":                          "# comment\nDB_POOL = 7\nTHREADS=\"3\\\n0\"   \nexport NO=1\nWEB_CONCURRENCY=9\n",
		"etc/mastodon/b.env":                          "MORE='-q push -q pull'\nDB_POOL=8\n",
	})
	dir := filepath.Join(root, "etc/systemd/system")
	list, problems := Read(Options{Dirs: []string{dir}, Root: root})
	want := "mastodon-sidekiq.service sidekiq unknown -c=30@mastodon-sidekiq.service:6 -q=push,0 -q=pull,0 DB_POOL=8@b.env:2\n"
	if got := describe(list); got != want {
		t.Errorf("Read =\n%swant\n%s", got, want)
	}
	text := problemText(problems)
	for _, part := range []string{"mastodon-sidekiq.service:4: EnvironmentFile: " + root + "/missing cannot be read", "a.env:5: this line is no assignment, and systemd passes it over; leave export away"} {
		if !strings.Contains(text, part) {
			t.Errorf("no problem %q in\n%s", part, text)
		}
	}
	_, problems = Read(Options{Dirs: []string{dir}, Elsewhere: true})
	if text := problemText(problems); !strings.Contains(text, "mastodon-sidekiq.service:3: EnvironmentFile: the file is on that host") {
		t.Errorf("problems of another host: %s", text)
	}
}

func TestPrecedenceAndRunning(t *testing.T) {
	t.Parallel()
	root := tree(t, map[string]string{
		"etc/mastodon-web.service":                      "[Service]\nExecStart=/bin/puma -w 1\n",
		"lib/mastodon-web.service":                      "[Service]\nExecStart=/bin/puma -w 9\n",
		"lib/mastodon-web.service.d/a.conf":             "[Service]\nEnvironment=DB_POOL=1\n",
		"etc/mastodon-web.service.d/a.conf":             "[Service]\nEnvironment=DB_POOL=2\n",
		"lib/mastodon-streaming@.service":               "[Service]\nExecStart=/bin/node ./streaming/index.js\n",
		"lib/mastodon-sidekiq@.service":                 "[Service]\nExecStart=/bin/sidekiq -q %i\n",
		"run/invocation:mastodon-streaming@443.service": "-> 0123456789abcdef",
		"run/invocation:mastodon-web.service":           "-> 0123456789abcdef",
	})
	list, problems := Read(Options{Dirs: []string{root + "/etc", root + "/lib", root + "/gone"}, Running: root + "/run"})
	want := "mastodon-streaming@443.service streaming unknown running\nmastodon-web.service web unknown running -w=1@mastodon-web.service:2 DB_POOL=2@a.conf:2\n"
	if got := describe(list); got != want {
		t.Errorf("Read =\n%swant\n%s", got, want)
	}
	text := problemText(problems)
	for _, part := range []string{root + "/gone: cannot be read: no such file", "mastodon-sidekiq@.service: no instance of this template is known"} {
		if !strings.Contains(text, part) {
			t.Errorf("no problem %q in\n%s", part, text)
		}
	}
}

func TestBadUnits(t *testing.T) {
	t.Parallel()
	root := tree(t, map[string]string{
		"mastodon-sidekiq.service":   "[Service]\nWhat is this\nEnvironment=DB_POOL=25 \"A=b c\" stray 'open\nExecStart=/bin/sidekiq -c many -q 'a b' -q ok,x -q fine,3\n",
		"mastodon-sidekiq-2.service": "[Service]\nExecStart=/opt/start-jobs\n",
		"mastodon-web.service":       "Lost=1\n[Service\nExecStart=/bin/puma\n",
		"mastodon-x.service":         "\x00",
	})
	list, problems := Read(Options{Dirs: []string{root}})
	want := "mastodon-sidekiq-2.service sidekiq unknown\nmastodon-sidekiq.service sidekiq unknown -q=fine,3 DB_POOL=25@mastodon-sidekiq.service:3\n"
	if got := describe(list); got != want {
		t.Errorf("Read =\n%swant\n%s", got, want)
	}
	text := problemText(problems)
	for _, part := range []string{
		"mastodon-sidekiq.service:2: this line is no assignment", "mastodon-sidekiq.service:3: Environment: a quote is not closed",
		"mastodon-sidekiq.service:3: Environment: a word is no assignment", "mastodon-sidekiq.service:4: -c: the concurrency is not a number",
		"mastodon-sidekiq.service:4: -q: this is no queue", "mastodon-sidekiq-2.service:2: ExecStart: the command is not understood",
	} {
		if !strings.Contains(text, part) {
			t.Errorf("no problem %q in\n%s", part, text)
		}
	}
	if strings.Contains(text, "stray") || strings.Contains(text, "start-jobs") {
		t.Errorf("problems quote values: %s", text)
	}
}

func TestSplitWords(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		in   string
		want []string
		ok   bool
	}{
		"plain":         {`a  b	c`, []string{"a", "b", "c"}, true},
		"quotes":        {`"a b" 'c "d"' e"f g"h ""`, []string{"a b", `c "d"`, "ef gh", ""}, true},
		"escapes":       {`a\x20b "\t\"" \101 \u00e9 \q \`, []string{"a b", "\t\"", "A", "é", `\q`, `\`}, true},
		"not closed":    {`a "b`, []string{"a"}, false},
		"no NUL":        {`\x00 \000`, []string{`\x00`, `\000`}, true},
		"nothing at it": {"  ", nil, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got, ok := splitWords(test.in); !slices.Equal(got, test.want) || ok != test.ok {
				t.Errorf("splitWords(%q) = %q, %v, want %q, %v", test.in, got, ok, test.want, test.ok)
			}
		})
	}
	if got := unescapeInstance(`srv-a\x2db`); got != "srv/a-b" {
		t.Errorf("unescapeInstance = %q", got)
	}
}
