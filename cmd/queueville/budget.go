package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/queueville/queueville/dbpool"
	"github.com/queueville/queueville/internal/budgetsum"
	"github.com/queueville/queueville/internal/mastodonenv"
	"github.com/queueville/queueville/internal/redisconn"
	"github.com/queueville/queueville/internal/sidecar"
)

// budgetOptions are what `budget` and `budget set` share.
type budgetOptions struct {
	*sidecar.Options
	units, also []string
	headRoom    int
	asJSON      bool
}

// tooManyConnections is the SQLSTATE of a server that has none left.
const tooManyConnections = "53300"

// budgetTimeout bounds what is asked of the servers.
const budgetTimeout = 20 * time.Second

func newBudget(io stdio) *cobra.Command {
	opts := &budgetOptions{Options: sidecar.DefaultOptions(), headRoom: -1}
	cmd := &cobra.Command{
		Use:   "budget",
		Short: "Show who can open how many Postgres connections, and what is left for Queueville",
		Long: `Prints the sum that decides how many PostgreSQL connections Queueville may have: what the server (or the PgBouncer before it) allows,
less what Puma, streaming, remaining Sidekiq units and others can hold, less head-room. Each line says where its number comes from.

This host's systemd units are read. Say what other hosts run with --units HOST=DIR (a copy of their units) or --also:
  web 3x5       3 Puma workers with a pool of 5 each; web 3 takes the pool from this host's environment file
  streaming 1   1 process with its pool of 10, or 1x20
  sidekiq 25    one process with 25 threads, or 2x25
  other 10      10 connections of something else, e.g. backups

Nothing is changed. queueville budget set stores a budget for the cluster.`,
		Example: `  queueville budget --mastodon /home/mastodon/live
  queueville budget -m /home/mastodon/live --also "web2: web 3x5, streaming 1" --also "jobs1: sidekiq 2x25"
  queueville budget -m /home/mastodon/live --units web2=/root/copies/web2/etc/systemd/system
  queueville budget -m /home/mastodon/live --json | jq .found`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return showBudget(cmd.Context(), io, opts)
		},
	}
	f := cmd.PersistentFlags()
	opts.BindConnection(f)
	f.StringArrayVar(&opts.units, "units", nil, "systemd units: `[HOST=]DIR` (repeat; default: this host's own)")
	f.StringArrayVar(&opts.also, "also", nil, "what another host runs, as in the examples: `TEXT` (repeat)")
	f.IntVar(&opts.headRoom, "head-room", opts.headRoom, "connections to keep free (default: 5 %, at least 5)")
	f.Lookup("head-room").DefValue = "0" // not shown
	f.StringVar(&opts.Cluster, "cluster", "", "`NAME` of the workers that share the budget (default: LOCAL_DOMAIN)")
	f.BoolVar(&opts.asJSON, "json", false, "as one JSON object")
	cmd.AddCommand(newBudgetSet(io, opts))
	return cmd
}

func newBudgetSet(io stdio, opts *budgetOptions) *cobra.Command {
	var change budgetsum.Change
	cmd := &cobra.Command{
		Use:   "set N | set --found",
		Short: "Store the budget for the cluster",
		Long: `Stores how many PostgreSQL connections all workers of the cluster may have together, and how many every live host gets at least.
It is stored once, on Sidekiq's Redis, and only changed by this command. Workers follow within seconds; one that has more closes
connections first.

A budget that contradicts the sum is refused, and the sum printed.`,
		Example: `  queueville budget set 120 --min 10 --reason "new web host" -m /home/mastodon/live
  queueville budget set --found -m /home/mastodon/live`,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case change.Found && len(args) > 0:
				return &exitError{code: exitUsage, err: errors.New("give a number or --found, not both")}
			case change.Found:
			case len(args) != 1:
				return &exitError{code: exitUsage, err: errors.New("give one number, or --found"), hint: "queueville budget shows what could be stored"}
			default:
				n, err := strconv.Atoi(args[0])
				if err != nil {
					return &exitError{code: exitUsage, err: fmt.Errorf("%.40q is not a number of connections", args[0])}
				}
				change.Connections = n
			}
			switch {
			case !cmd.Flags().Changed("min"):
				change.MinPerHost = -1
			case change.MinPerHost < 0:
				return &exitError{code: exitConfig, err: fmt.Errorf("--min: a minimum of %d connections: must not be negative", change.MinPerHost)}
			}
			return setBudget(cmd.Context(), io, opts, change)
		},
	}
	cmd.Flags().BoolVar(&change.Found, "found", false, "store what was found")
	cmd.Flags().IntVar(&change.MinPerHost, "min", budgetsum.DefaultMinPerHost, "connections that every live host gets at least (default: as stored, or 5)")
	cmd.Flags().StringVar(&change.Reason, "reason", "", "why, for those who come after you")
	cmd.Flags().BoolVar(&change.Force, "force", false, "store it although others can hold what is stored")
	cmd.Flags().BoolVar(&change.NewCluster, "new-cluster", false, "no worker has been running for two minutes: do not wait for PostgreSQL to confirm it")
	cmd.Flags().Lookup("min").DefValue = ""
	return cmd
}

// negativeLast lets `budget set -5` reach the sum that shows why it cannot be, where it would be taken for a flag: a negative number that is
// not the value of one is moved behind "--".
func negativeLast(args []string) []string {
	if len(args) < 3 || args[0] != "budget" || args[1] != "set" || slices.Contains(args, "--") {
		return args
	}
	for i, arg := range args[2:] {
		number, negative := strings.CutPrefix(arg, "-")
		if before := args[i+1]; !negative || !isNumber(number) || strings.HasPrefix(before, "-") && !strings.Contains(before, "=") {
			continue
		}
		return append(slices.Delete(slices.Clone(args), i+2, i+3), "--", arg)
	}
	return args
}

func isNumber(s string) bool {
	_, err := strconv.ParseUint(s, 10, 64)
	return err == nil
}

// budgetState is what both commands start from.
type budgetState struct {
	input  *budgetsum.Input
	ledger *dbpool.Ledger
	client redis.UniversalClient
	silent error // Redis does not answer: its half of the picture is missing
}

// readBudget asks every server. Without Redis there is still a sum, without Postgres there is none.
func readBudget(ctx context.Context, io stdio, opts *budgetOptions) (*budgetState, error) {
	conn, err := openSettings(io, opts.Options)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	client, err := redisconn.Open(conn.Config.Sidekiq, redisconn.Options{ClientName: "queueville-budget", PoolSize: 2})
	if err != nil {
		return nil, withoutHint(configError(err))
	}
	st := &budgetState{client: client, ledger: dbpool.NewLedger(client, conn.Config.Namespace, sidecar.ClusterName(opts.Cluster, conn.Config))}
	host, _ := os.Hostname()
	cfg := budgetsum.Config{
		Mastodon: opts.Mastodon, Environ: io.environ, Host: cmp.Or(host, "localhost"), Units: opts.units, Also: opts.also, HeadRoom: opts.headRoom,
	}
	redisCtx, cancel := context.WithTimeout(ctx, budgetTimeout/2)
	defer cancel()
	stored, ledger, err := st.readRedis(redisCtx, conn, &cfg)
	st.silent = err
	dbCtx, cancelDB := context.WithTimeout(ctx, budgetTimeout)
	defer cancelDB()
	if st.input, err = collectBudget(dbCtx, conn, &cfg); err == nil {
		st.input.Stored, st.input.Ledger = stored, ledger
	} else {
		_ = client.Close()
		return nil, err
	}
	return st, nil
}

// collectBudget asks PostgreSQL, reads the units, and says what to do about an error.
func collectBudget(ctx context.Context, conn *sidecar.Connection, cfg *budgetsum.Config) (*budgetsum.Input, error) {
	in, err := cfg.Collect(ctx, conn.Config)
	if bad, ok := errors.AsType[*budgetsum.ArgumentError](err); ok {
		return nil, &exitError{code: exitUsage, err: bad, hint: "queueville budget --help"}
	}
	if pe, ok := errors.AsType[*pgconn.PgError](err); ok && pe.Code == tooManyConnections {
		return nil, unavailable(err, "every connection is taken; a superuser still gets in: DB_USER=postgres DB_PASS=… queueville budget …")
	}
	if err != nil {
		return nil, unavailable(err, "is PostgreSQL up, and may this machine connect as Mastodon does?")
	}
	return in, nil
}

// readRedis reads what is stored and leased, and which Sidekiq processes run.
func (st *budgetState) readRedis(ctx context.Context, conn *sidecar.Connection, cfg *budgetsum.Config) (*budgetsum.Stored, *budgetsum.Ledger, error) {
	if err := mastodonenv.Errors(conn.Reachable(ctx)); err != nil {
		return nil, nil, err
	}
	running, err := budgetsum.ReadRunning(ctx, conn.Store)
	if err != nil {
		return nil, nil, err
	}
	cfg.Running = running
	return budgetsum.ReadLedger(ctx, st.ledger)
}

// openSettings reads Mastodon's configuration of Redis and PostgreSQL; nobody's default servers are asked.
func openSettings(io stdio, opts *sidecar.Options) (*sidecar.Connection, error) {
	redisconn.SetLogger(slog.New(slog.DiscardHandler)) // what it has to say is in the error
	conn, problems := sidecar.Connect(opts, io.environ)
	if conn == nil {
		return nil, withoutHint(report(io, problems))
	}
	env, _ := mastodonenv.Load(opts.Mastodon, io.environ) // its problems are among Connect's
	_, problems = env.Config()
	problems = slices.DeleteFunc(problems, func(p mastodonenv.Problem) bool {
		return !slices.ContainsFunc([]string{"DB_", "DATABASE_URL", "REPLICA_", "PREPARED_STATEMENTS"}, func(prefix string) bool { return strings.HasPrefix(p.Name, prefix) })
	})
	if opts.Mastodon == "" && !slices.ContainsFunc([]string{"DATABASE_URL", "DB_HOST", "DB_NAME", "LOCAL_DOMAIN"}, func(name string) bool { v, _ := env.Lookup(name); return v != "" }) {
		problems = append(problems, mastodonenv.Problem{
			Severity: mastodonenv.SeverityError, Name: "--mastodon", What: "is not given, and neither DATABASE_URL nor DB_* is in the process environment",
			Hint: "give Mastodon's directory, for example --mastodon /home/mastodon/live",
		})
	}
	if err := report(io, problems); err != nil {
		conn.Close()
		return nil, withoutHint(err)
	}
	return conn, nil
}

func showBudget(ctx context.Context, io stdio, opts *budgetOptions) error {
	st, err := readBudget(ctx, io, opts)
	if err != nil {
		return err
	}
	defer func() { _ = st.client.Close() }()
	if err := printBudget(io, opts, budgetsum.Make(*st.input), ""); err != nil {
		return failure(err)
	}
	if mastodonenv.Errors(st.input.Problems) != nil {
		return &exitError{code: exitConfig, err: errors.New("units could not be read, so the sum is not to be relied on")}
	}
	if st.silent != nil {
		return unavailable(fmt.Errorf("what is stored and leased is missing: %w", st.silent), "is Redis up?")
	}
	return nil
}

func setBudget(ctx context.Context, io stdio, opts *budgetOptions, change budgetsum.Change) error {
	st, err := readBudget(ctx, io, opts)
	if err != nil {
		return err
	}
	defer func() { _ = st.client.Close() }()
	if st.silent != nil {
		return unavailable(st.silent, "is Redis up?")
	}
	before := st.input.Stored
	if change.MinPerHost < 0 {
		change.MinPerHost = budgetsum.DefaultMinPerHost
		if before != nil {
			change.MinPerHost = before.MinPerHost
		}
	}
	change.SetBy = person(io.environ)
	callCtx, cancel := context.WithTimeout(ctx, budgetTimeout)
	defer cancel()
	sum := budgetsum.Make(*st.input)
	stored, err := budgetsum.Store(callCtx, st.ledger, sum, change)
	if refused, ok := errors.AsType[*budgetsum.RefusedError](err); ok {
		if err := printBudget(io, opts, sum, refused.Why); err != nil {
			return failure(err)
		}
		return &exitError{code: exitConfig, err: fmt.Errorf("not stored: %w", refused), hint: refused.Hint}
	}
	if errors.Is(err, dbpool.ErrCluster) {
		return &exitError{code: exitConfig, err: err, hint: "give its name with --cluster"}
	}
	if err != nil {
		return unavailable(err, "is Redis up?")
	}
	st.input.Stored = stored
	if _, ledger, err := budgetsum.ReadLedger(callCtx, st.ledger); err == nil {
		st.input.Ledger = ledger
	}
	sum = budgetsum.Make(*st.input)
	if !opts.asJSON {
		was := "none was stored before"
		if before != nil {
			was = fmt.Sprintf("before: %d, at least %d", before.Connections, before.MinPerHost)
		}
		_, _ = fmt.Fprintf(io.out, "Stored: %d connections for all workers together, at least %d for each host (%s).\n\n", stored.Connections, stored.MinPerHost, was)
	}
	return printBudget(io, opts, sum, "")
}

// printBudget writes the sum, as JSON with the reason why a budget was refused.
func printBudget(io stdio, opts *budgetOptions, sum *budgetsum.Sum, refused string) error {
	if opts.asJSON {
		enc := json.NewEncoder(io.out)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(struct {
			*budgetsum.Sum
			Refused string `json:"refused,omitempty"`
		}{sum, refused})
	}
	return budgetsum.Render(io.out, sum, budgetsum.RenderOptions{Width: columns(io), Colour: terminal(io.out) && variable(io.environ, "NO_COLOR") == ""})
}

// columns is how wide a line may be: a terminal's width, else COLUMNS, else 120.
func columns(io stdio) int {
	if f, ok := io.out.(*os.File); ok {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 0 {
			return width
		}
	}
	if n, err := strconv.Atoi(variable(io.environ, "COLUMNS")); err == nil && n > 0 && n < 1000 {
		return n
	}
	return 120
}

// variable is the value of an environment variable, "" when it is not set.
func variable(environ []string, name string) string {
	for _, pair := range slices.Backward(environ) {
		if v, ok := strings.CutPrefix(pair, name+"="); ok {
			return v
		}
	}
	return ""
}

// person is who runs this, for the record.
func person(environ []string) string {
	name := cmp.Or(variable(environ, "SUDO_USER"), variable(environ, "USER"), variable(environ, "LOGNAME"))
	if u, err := user.Current(); err == nil && name == "" {
		name = u.Username
	}
	host, _ := os.Hostname()
	return cmp.Or(name, "somebody") + "@" + cmp.Or(host, "localhost")
}
