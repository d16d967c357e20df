package budgetsum

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/queueville/queueville/internal/mastodonenv"
)

var update = flag.Bool("update", false, "write the golden files anew")

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// threeHosts is a server of some size: this host's units, two others by word, strangers, a stored budget and leases.
func threeHosts() Input {
	env := &Settings{}
	holders := []Holder{
		{Role: RoleWeb, Host: "alpha", Name: "mastodon-web", Processes: 4, Each: 8, Origin: "WEB_CONCURRENCY (mastodon-web.service.d/10-env.conf:3) × MAX_THREADS (.env.production:14)"},
		{Role: RoleStreaming, Host: "alpha", Name: "mastodon-streaming@4000", Processes: 1, Each: 10, Origin: "DB_POOL (default)"},
		{Role: RoleStreaming, Host: "alpha", Name: "mastodon-streaming@4001", Processes: 1, Each: 10, Origin: "DB_POOL (default)"},
		{Role: RoleSidekiq, Host: "alpha", Name: "mastodon-sidekiq", Processes: 1, Each: 25, Threads: 25, Idle: true, Origin: "not enabled: 25 if somebody starts it"},
		{Role: RoleSidekiq, Host: "gamma", Name: "running", Processes: 1, Each: 25, Threads: 25, Origin: "1 process in Sidekiq's list; DB_POOL not known"},
	}
	holders = append(holders, must(ParseAlso("beta: web 4x8, streaming 1, sidekiq 2x15, other 4", env))...)
	return Input{
		At: time.Date(2026, 11, 22, 1, 30, 0, 0, time.UTC), HeadRoom: -1, Holders: holders,
		Server: &Server{
			Address: "10.0.0.5:5432/mastodon_production", Version: "16.4", Role: "mastodon", Database: "mastodon_production",
			MaxConnections: 300, SuperuserReserved: 3, Reserved: 5, Sessions: []Session{
				{"", "mastodon", "mastodon_production", "10.0.0.1", 31},
				{"", "mastodon", "mastodon_production", "10.0.0.2", 17},
				{"queueville/main/alpha/abcdefghij/worker", "mastodon", "mastodon_production", "10.0.0.1", 12},
				{"pg_dump", "backup", "mastodon_production", "10.0.0.9", 1},
				{"psql", "postgres", "postgres", "", 2},
			},
		},
		Stored: &Stored{Connections: 110, MinPerHost: 10, SetBy: "alice@alpha", SetAt: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC), Reason: "before the move"},
		Ledger: &Ledger{Reserve: 2, Free: 60, Leases: []Lease{
			{Host: "alpha", Leased: 30, Demand: 44, Ruby: 12, State: "live"},
			{Host: "gamma", Leased: 18, Demand: 18, State: "unconfirmed"},
		}, Doubtful: 18},
		Problems: []mastodonenv.Problem{{
			Severity: mastodonenv.SeverityWarning, File: "/etc/systemd/system/mastodon-sidekiq.service", Line: 12, Name: "DB_POOL",
			What: "5 connections for 25 threads of Sidekiq of mastodon-sidekiq.service: threads wait for one another, and after 5 s jobs and requests fail",
			Hint: "add Environment=DB_POOL=25 to the unit",
		}},
	}
}

// small is what one machine out of the box has.
func small() Input {
	env := &Settings{}
	holders, problems := Assume(nil, "alpha", env)
	return Input{
		At: time.Date(2026, 11, 22, 1, 30, 0, 0, time.UTC), HeadRoom: -1, Holders: holders, Problems: problems, Ledger: &Ledger{Reserve: 2},
		Server: &Server{
			Address: "localhost:5432/mastodon_production", Version: "15.18", Role: "mastodon", Database: "mastodon_production", MaxConnections: 100,
			SuperuserReserved: 3, RoleLimit: 60, Sessions: []Session{{"", "mastodon", "mastodon_production", "", 33}, {"sidekiq 8.0.5 live [0 of 25 busy]", "mastodon", "mastodon_production", "", 4}},
		},
	}
}

func bouncer() Input {
	in := threeHosts()
	in.Server.Address = "127.0.0.1:6432/mastodon_production"
	in.Server.MaxConnections = 60
	in.Server.Sessions = in.Server.Sessions[3:]
	in.Stored.Connections = 400
	in.Pooler = &Pooler{
		Version: "1.23.1", Mode: "transaction", MaxClients: 500, PoolSize: 20, Reserve: 5,
		Pools: []Pool{
			{Database: "mastodon_production", Role: "mastodon", Waiting: 3, Open: 20, Size: 25},
			{Database: "matrix", Role: "synapse", Open: 4, Size: 40, Limit: 30},
		},
		Clients: []Session{
			{"", "mastodon", "mastodon_production", "10.0.0.1", 60},
			{"queueville-pooled/main/alpha/abcdefghij/worker", "mastodon", "mastodon_production", "10.0.0.1", 9},
			{"queueville/budget", "mastodon", "mastodon_production", "127.0.0.1", 1},
			{"", "synapse", "matrix", "10.0.0.3", 7},
		},
	}
	return in
}

func TestGolden(t *testing.T) {
	t.Parallel()
	unknown := bouncer()
	unknown.Pooler, unknown.Unknown, unknown.Stored, unknown.Ledger = nil, true, nil, nil
	replica := small()
	replica.Replica = &Server{Address: "replica:5432/mastodon_production", Version: "15.18", Role: "mastodon", MaxConnections: 12, SuperuserReserved: 3, Sessions: []Session{{"", "mastodon", "m", "", 8}}}
	tests := map[string]struct {
		in    Input
		width int
	}{
		"three-hosts-wide": {threeHosts(), 140}, "three-hosts-narrow": {threeHosts(), 72}, "small-wide": {small(), 120}, "small-narrow": {small(), 60},
		"pgbouncer-wide": {bouncer(), 140}, "pooler-unknown": {unknown, 110}, "replica": {replica, 120},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var b strings.Builder
			if err := Render(&b, Make(test.in), RenderOptions{Width: test.width}); err != nil {
				t.Fatal(err)
			}
			for line := range strings.SplitSeq(b.String(), "\n") {
				if n := utf8.RuneCountInString(line); n > test.width {
					t.Errorf("a line of %d characters, want %d at most: %s", n, test.width, line)
				}
				if strings.TrimRight(line, " ") != line {
					t.Errorf("white space at the end of %q", line)
				}
			}
			golden := filepath.Join("testdata", name+".txt")
			if *update {
				if err := os.WriteFile(golden, []byte(b.String()), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got := b.String(); got != string(want) {
				t.Errorf("rendered:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}
