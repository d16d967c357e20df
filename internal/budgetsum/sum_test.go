package budgetsum

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/queueville/queueville/internal/mastodonenv"
	"github.com/queueville/queueville/internal/units"
)

// read makes holders of unit files and an environment file.
func read(t *testing.T, env string, files map[string]string) (holders []Holder, problems []mastodonenv.Problem) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, ".env.production"), []byte(env), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		path := filepath.Join(dir, "units", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list, found := units.Read(units.Options{Dirs: []string{filepath.Join(dir, "units")}})
	holders, problems = FromUnits("alpha", list, LoadSettings(dir, nil))
	return holders, append(found, problems...)
}

func describe(list []Holder) string {
	var b strings.Builder
	for i := range list {
		h := &list[i]
		fmt.Fprintf(&b, "%s %s %s %d×%d=%d | %s\n", h.Role, h.Host, h.Name, h.Processes, h.Each, h.CanHold(), h.Origin)
	}
	return b.String()
}

func TestFromUnits(t *testing.T) {
	t.Parallel()
	const (
		puma    = "[Service]\nExecStart=/bin/puma -C config/puma.rb\n"
		node    = "[Service]\nExecStart=/bin/node ./streaming\n"
		sidekiq = "[Service]\nExecStart=/bin/bundle exec sidekiq -c 25 -q push\n"
	)
	tests := map[string]struct {
		env   string
		files map[string]string
		want  string
		warns []string // parts of the problems, one each
	}{
		"Mastodon's defaults": {
			"",
			map[string]string{"mastodon-web.service": puma, "mastodon-streaming.service": node, "mastodon-sidekiq.service": sidekiq},
			"sidekiq alpha mastodon-sidekiq 1×25=25 | -c (mastodon-sidekiq.service:2), as DB_POOL is not set\n" +
				"streaming alpha mastodon-streaming 1×10=10 | DB_POOL (default)\n" +
				"web alpha mastodon-web 2×5=10 | WEB_CONCURRENCY (default) × MAX_THREADS (default)\n",
			[]string{"DB_POOL: is set nowhere for 25 threads"},
		},
		"the environment file counts for all": {
			"DB_POOL=12\nMAX_THREADS=12\nWEB_CONCURRENCY=0\n",
			map[string]string{"mastodon-web.service": puma, "mastodon-streaming.service": node, "mastodon-sidekiq.service": sidekiq},
			"sidekiq alpha mastodon-sidekiq 1×12=12 | DB_POOL (.env.production:1)\n" +
				"streaming alpha mastodon-streaming 1×12=12 | DB_POOL (.env.production:1)\n" +
				"web alpha mastodon-web 1×12=12 | WEB_CONCURRENCY (.env.production:3) × DB_POOL (.env.production:1)\n",
			[]string{"12 connections for 25 threads of Sidekiq", "12 counts for every process"},
		},
		"the unit counts before it": {
			"DB_POOL=5\n",
			map[string]string{"mastodon-sidekiq.service": "[Service]\nEnvironment=DB_POOL=30\nExecStart=/bin/sidekiq -c 25\n"},
			"sidekiq alpha mastodon-sidekiq 1×30=30 | DB_POOL (mastodon-sidekiq.service:2)\n",
			[]string{"30 here and 5 in .env.production:1"},
		},
		"flags of Puma": {
			"MAX_THREADS=9\nDB_POOL=3\n",
			map[string]string{"mastodon-web.service": "[Service]\nExecStart=/bin/puma -w 4 -t 2:6\n"},
			"web alpha mastodon-web 4×3=12 | -w (mastodon-web.service:2) × DB_POOL (.env.production:2)\n",
			[]string{"3 connections for 6 threads of Puma"},
		},
		"nonsense": {
			"MAX_THREADS=-1\nDB_POOL=lots\nSIDEKIQ_CONCURRENCY=999999999\n",
			map[string]string{"mastodon-web.service": puma, "mastodon-sidekiq.service": "[Service]\nExecStart=/bin/sidekiq\n"},
			"sidekiq alpha mastodon-sidekiq 1×5=5 | SIDEKIQ_CONCURRENCY (default), as DB_POOL is not set\n" +
				"web alpha mastodon-web 2×5=10 | WEB_CONCURRENCY (default) × MAX_THREADS (default)\n",
			[]string{"SIDEKIQ_CONCURRENCY: is not a number", "DB_POOL: is not a number", "MAX_THREADS: is not a number", "DB_POOL: is not a number"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			holders, problems := read(t, test.env, test.files)
			if got := describe(holders); got != test.want {
				t.Errorf("FromUnits =\n%swant\n%s", got, test.want)
			}
			if len(problems) != len(test.warns) {
				t.Errorf("problems %v, want %d", problems, len(test.warns))
				return
			}
			for i, p := range problems {
				if !strings.Contains(p.String(), test.warns[i]) {
					t.Errorf("problem %q, want %q", p, test.warns[i])
				}
			}
		})
	}
}

func TestOldStreamingCluster(t *testing.T) {
	t.Parallel()
	env := &Settings{Version: mastodonenv.Version{Major: 4, Minor: 1}, values: map[string]units.Setting{"STREAMING_CLUSTER_NUM": {Value: "3", File: ".env.production", Line: 4}}}
	var problems []mastodonenv.Problem
	if h := env.streaming(nil, &problems); h.CanHold() != 30 || len(problems) != 0 {
		t.Errorf("streaming = %+v, %v", h, problems)
	}
	env.values = nil
	if h := env.streaming(nil, &problems); h.CanHold() != 10 || len(problems) != 1 {
		t.Errorf("streaming = %+v, %v", h, problems)
	}
}

func TestParseAlso(t *testing.T) {
	t.Parallel()
	env := &Settings{values: map[string]units.Setting{"MAX_THREADS": {Value: "8", File: "e"}}}
	tests := map[string]string{
		"beta: web 3x5, streaming 2, sidekiq 25, other 4": "web 3×5 streaming 2×10 sidekiq 1×25 other 1×4",
		"b:web 3,sidekiq 2 x 15":                          "web 3×8 sidekiq 2×15",
		"b: web 0, streaming 1×20":                        "web 0×8 streaming 1×20",
		"b: web":                                          "",
		"b:":                                              "",
		": web 3":                                         "",
		"web 3":                                           "",
		"b: puma 3":                                       "",
		"b: web -1":                                       "",
		"b: web 3x":                                       "",
		"b: web 3x5x2":                                    "",
		"b: web 99999999999999999999":                     "",
		"b: sidekiq 20000x1":                              "",
		"b c: web 1":                                      "",
	}
	for in, want := range tests {
		list, err := ParseAlso(in, env)
		var got []string
		for i := range list {
			got = append(got, fmt.Sprintf("%s %d×%d", list[i].Role, list[i].Processes, list[i].Each))
		}
		if strings.Join(got, " ") != want || (err == nil) != (want != "") {
			t.Errorf("ParseAlso(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
}

func FuzzParseAlso(f *testing.F) {
	f.Add("beta: web 3x5, streaming 2, sidekiq 25, other 4")
	f.Add("b:web 0x0,web ×")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := ParseAlso(text, &Settings{})
		if err != nil && (len(list) > 0 || len(err.Error()) > 400) {
			t.Fatalf("%d holders with %v", len(list), err)
		}
		for i := range list {
			if n := list[i].CanHold(); n < 0 || n > maxEach*maxProcesses || list[i].Host == "" {
				t.Fatalf("%+v", list[i])
			}
		}
	})
}

func TestAddRunning(t *testing.T) {
	t.Parallel()
	known := []Holder{
		{Role: RoleSidekiq, Host: "alpha", Processes: 1, Each: 30, Threads: 25},
		{Role: RoleSidekiq, Host: "beta", Processes: 1, Each: 25, Threads: 25, Idle: true},
	}
	holders, problems := AddRunning(known, []RubyProcess{{"alpha", 25}, {"beta", 25}, {"gamma", 10}, {"gamma", 5}, {"delta", -7}})
	want := "sidekiq alpha  1×30=30 | \nsidekiq beta  1×25=0 | \nsidekiq beta running 1×25=25 | 1 process in Sidekiq's list; DB_POOL not known\n" +
		"sidekiq delta running 1×0=0 | 1 process in Sidekiq's list; DB_POOL not known\nsidekiq gamma running 1×15=15 | 2 processes in Sidekiq's list; DB_POOL not known\n"
	if got := describe(holders); got != want {
		t.Errorf("AddRunning =\n%swant\n%s", got, want)
	}
	if len(problems) != 1 || !strings.Contains(problems[0].String(), "sidekiq on beta: 25 threads run, and the units known account for 0") {
		t.Errorf("problems: %v", problems)
	}
}

// TestHostileNames: nothing that a server, a unit or a person says can steer a terminal or add lines.
func TestHostileNames(t *testing.T) {
	t.Parallel()
	in := threeHosts()
	for i, evil := range []string{"\x1b[2J\x1b]0;t\x07", "a\n= found for Queueville 999", "\u202eevil", "\u200b", "\xff\xfe", strings.Repeat("é", 5000)} {
		in.Server.Sessions = append(in.Server.Sessions, Session{Application: evil, Role: evil, Database: evil, Client: evil, Count: 50 + i})
		in.Holders = append(in.Holders, Holder{Role: RoleOther, Host: evil, Name: evil, Processes: 1, Each: 1, Origin: evil})
		in.Ledger.Leases = append(in.Ledger.Leases, Lease{Host: evil, State: evil})
		in.Stored.Reason, in.Server.Version, in.Server.Address = evil, evil, evil
		in.Problems = append(in.Problems, mastodonenv.Problem{Severity: mastodonenv.SeverityWarning, Name: evil, What: evil, Hint: evil})
		s := Make(in)
		var b strings.Builder
		if err := Render(&b, s, RenderOptions{Width: 100}); err != nil {
			t.Fatal(err)
		}
		for line := range strings.SplitSeq(b.String(), "\n") {
			if strings.HasPrefix(line, "= found for Queueville 999") || len(line) > 4000 {
				t.Errorf("a line of %d bytes: %.100q", len(line), line)
			}
			for _, r := range line {
				if !unicode.IsPrint(r) || r == '\ufffd' {
					t.Fatalf("prints %q in %.200q", r, line)
				}
			}
		}
		if _, err := json.Marshal(s); err != nil {
			t.Errorf("as JSON: %v", err)
		}
	}
}

// FuzzRender: whatever the numbers and names, the sum adds up and its lines stay in the width.
func FuzzRender(f *testing.F) {
	f.Add(100, 3, 0, 25, 2, "pg_dump", "alpha", 80)
	f.Add(-5, 1<<40, -1, 0, 7, "\x1b", "", 0)
	f.Fuzz(func(t *testing.T, limit, reserved, headRoom, each, count int, application, host string, width int) {
		in := small()
		in.Server.MaxConnections, in.Server.SuperuserReserved, in.HeadRoom = limit%100_000, reserved%1000, headRoom%1000
		in.Holders = append(in.Holders, Holder{Role: RoleSidekiq, Host: host, Name: application, Processes: 1, Each: max(0, each%maxEach)})
		in.Server.Sessions = append(in.Server.Sessions, Session{Application: application, Role: host, Count: max(0, count%10_000)})
		s := Make(in)
		if s.Found == nil || *s.Found < 0 || *s.Found > max(0, s.Available) {
			t.Fatalf("found %v of %d", s.Found, s.Available)
		}
		if *s.Found > 0 && *s.Found+s.CanHold+s.HeadRoom != s.Available {
			t.Fatalf("%d + %d + %d is not %d", *s.Found, s.CanHold, s.HeadRoom, s.Available)
		}
		var b strings.Builder
		if err := Render(&b, s, RenderOptions{Width: width % 300}); err != nil {
			t.Fatal(err)
		}
	})
}

// TestColour: styles go around what is shown, and into nothing but a terminal.
func TestColour(t *testing.T) {
	t.Parallel()
	var plain, colour strings.Builder
	s := Make(threeHosts())
	if err := Render(&plain, s, RenderOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := Render(&colour, s, RenderOptions{Colour: true}); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(plain.String(), "\x1b") || !strings.Contains(colour.String(), "\x1b[1m= found for Queueville") {
		t.Errorf("plain:\n%q\ncolour:\n%q", plain.String(), colour.String())
	}
	stripped := strings.NewReplacer("\x1b[0m", "", "\x1b[1m", "", "\x1b[2m", "", "\x1b[33m", "").Replace(colour.String())
	if stripped != plain.String() {
		t.Errorf("without its styles it is\n%s\nwant\n%s", stripped, plain.String())
	}
}

func TestSettingsWithoutFile(t *testing.T) {
	t.Parallel()
	environ := []string{"DB_POOL=7", "MAX_THREADS=", "OTHER=1"}
	h := LoadSettings("", environ).streaming(nil, &[]mastodonenv.Problem{})
	if h.Each != 7 || h.Origin != "DB_POOL (process environment)" {
		t.Errorf("in a container: %+v", h)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, ".env.production"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if h := LoadSettings(dir, environ).streaming(nil, &[]mastodonenv.Problem{}); h.Each != defaultStreaming {
		t.Errorf("beside a file the environment of an admin's shell counts: %+v", h)
	}
}
