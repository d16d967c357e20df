package budgetsum

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/queueville/queueville/internal/mastodonenv"
	"github.com/queueville/queueville/internal/units"
)

// Config says what to make the sum of.
type Config struct {
	Mastodon string   // Mastodon's directory or its environment file
	Environ  []string // as of os.Environ
	Host     string   // this host's name, as Sidekiq writes it
	// Units are directories with unit files of this host, or "HOST=DIR" for those of another one. Empty: systemd's own directories.
	Units    []string
	Also     []string // see ParseAlso
	HeadRoom int      // negative for the default
	Running  []RubyProcess
}

// systemd's directories for units of administrators and packages, and where it names what runs.
var (
	systemDirs = []string{"/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"}
	runningDir = "/run/systemd/units"
)

// poolerPort is what PgBouncer listens on unless told otherwise.
const poolerPort = 6432

// Holders reads units and what a person says into who can hold connections.
func (c *Config) Holders(env *Settings) (holders []Holder, problems []mastodonenv.Problem, err error) {
	hosts, order := map[string][]string{}, []string{}
	for _, entry := range c.Units {
		host, dir, ok := strings.Cut(entry, "=")
		if !ok || strings.Contains(host, "/") {
			host, dir = c.Host, entry
		}
		if dir == "" || host == "" {
			return nil, nil, fmt.Errorf("--units %q is not DIR or HOST=DIR", shorten(entry))
		}
		if hosts[host] == nil {
			order = append(order, host)
		}
		hosts[host] = append(hosts[host], dir)
	}
	if hosts[c.Host] == nil {
		order = append(order, c.Host)
	}
	for _, host := range order {
		list, found := units.Read(c.unitOptions(host, hosts[host]))
		h, more := FromUnits(host, list, env)
		holders, problems = append(holders, h...), append(append(problems, found...), more...)
	}
	for _, text := range c.Also {
		h, err := ParseAlso(text, env)
		if err != nil {
			return nil, nil, fmt.Errorf("--also %w", err)
		}
		holders = append(holders, h...)
	}
	holders, more := AddRunning(holders, c.Running)
	problems = append(problems, more...)
	holders, more = Assume(holders, c.Host, env)
	return holders, append(problems, more...), nil
}

func existing(dirs []string) []string {
	var out []string
	seen := map[string]bool{}
	for _, dir := range dirs {
		target, err := filepath.EvalSymlinks(dir)
		if err == nil && !seen[target] {
			seen[target] = true
			out = append(out, dir)
		}
	}
	return out
}

func (c *Config) unitOptions(host string, dirs []string) units.Options {
	o := units.Options{Dirs: dirs, Mastodon: c.Mastodon, Elsewhere: host != c.Host}
	if len(dirs) == 0 {
		o.Running = runningDir
		o.Dirs = existing(systemDirs)
		return o
	}
	for _, dir := range dirs {
		for _, standard := range systemDirs {
			// A copy of a host's root: what its units name is in it.
			if root, ok := strings.CutSuffix(filepath.Clean(dir), standard); ok {
				o.Root, o.Elsewhere = root, false
			}
		}
	}
	if o.Root == "" && !o.Elsewhere {
		o.Running = runningDir
	}
	return o
}

// Collect asks the servers and puts everything but the ledger into an Input. The error is about the arguments (*ArgumentError), the
// configuration (mastodonenv's problems, of severity error, with a nil error), or a server that does not answer.
func (c *Config) Collect(ctx context.Context, cfg *mastodonenv.Config) (*Input, error) {
	env := LoadSettings(c.Mastodon, c.Environ)
	holders, problems, err := c.Holders(env)
	if err != nil {
		return nil, &ArgumentError{err}
	}
	in := &Input{At: time.Now().UTC().Truncate(time.Second), Holders: holders, HeadRoom: c.HeadRoom, Problems: problems}
	if err := in.askServers(ctx, cfg, c.role(cfg)); err != nil {
		return nil, err
	}
	return in, nil
}

// role is whom Mastodon's processes connect as, also when this command was given a superuser to get in with.
func (c *Config) role(cfg *mastodonenv.Config) string {
	if c.Mastodon == "" {
		return cfg.Postgres.User
	}
	env, _ := mastodonenv.Load(c.Mastodon, nil)
	own, _ := env.Config()
	return own.Postgres.User
}

// ArgumentError is about what a person gave.
type ArgumentError struct{ err error }

// Error is what is wrong.
func (e *ArgumentError) Error() string { return e.err.Error() }

// Unwrap is the cause.
func (e *ArgumentError) Unwrap() error { return e.err }

func (in *Input) askServers(ctx context.Context, cfg *mastodonenv.Config, role string) error {
	address := func(p mastodonenv.Postgres) string {
		return net.JoinHostPort(p.Host, strconv.Itoa(p.Port)) + "/" + p.Database
	}
	pooler, poolerErr := ReadPooler(ctx, cfg.Postgres.DSN(), cfg.Postgres.Database, role)
	var backends []int
	if pooler != nil {
		backends = pooler.Backends
	}
	server, err := MeasureServer(ctx, cfg.Postgres.DSN(), role, backends)
	if err != nil {
		return fmt.Errorf("postgres: %w", oneLine(err))
	}
	in.Server, in.Pooler = server, pooler
	switch {
	case poolerErr == nil:
		if cfg.PreparedStatements && in.Pooler.Mode != "session" {
			in.warn("PREPARED_STATEMENTS", "set it to false in .env.production, unless this PgBouncer tracks prepared statements (max_prepared_statements)",
				"is true behind PgBouncer in %s mode", in.Pooler.Mode)
		}
	case errors.Is(poolerErr, ErrPoolerSilent):
		in.Unknown = true
	case !errors.Is(poolerErr, ErrNoPooler):
		in.warn("pgbouncer", "try again", "whether there is one could not be asked, so none is counted: %v", oneLine(poolerErr))
	}
	in.Server.Address = address(cfg.Postgres)
	if in.Pooler == nil && !in.Unknown && (!cfg.PreparedStatements || cfg.Postgres.Port == poolerPort) {
		if in.Server.Behind {
			in.Unknown = true // PgBouncer's console is not there, but something is in between
		} else {
			in.warn("PREPARED_STATEMENTS", "if it is, --mastodon should name what Mastodon uses", "the settings look like PgBouncer's, but PostgreSQL itself answers")
		}
	}
	if cfg.Replica == nil {
		return nil
	}
	in.SameServer = cfg.Replica.Host == cfg.Postgres.Host && cfg.Replica.Port == cfg.Postgres.Port
	replica, err := MeasureServer(ctx, cfg.Replica.DSN(), cfg.Replica.User, nil)
	if err != nil {
		in.warn("replica", "is it up?", "the read replica at %s does not answer, so its sum is not made: %v", address(*cfg.Replica), oneLine(err))
		return nil
	}
	replica.Address = address(*cfg.Replica)
	in.Replica = replica
	return nil
}

func (in *Input) warn(name, hint, format string, args ...any) {
	in.Problems = append(in.Problems, mastodonenv.Problem{Severity: mastodonenv.SeverityWarning, Name: name, What: fmt.Sprintf(format, args...), Hint: hint})
}

// oneLine keeps an error's cause, and its text on one line: pgx writes one for each address it tried.
func oneLine(err error) error { return lineError{err} }

type lineError struct{ err error }

func (e lineError) Error() string { return strings.Join(strings.Fields(e.err.Error()), " ") }
func (e lineError) Unwrap() error { return e.err }
