package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/queueville/queueville/internal/mastodonenv"
	"github.com/queueville/queueville/internal/redisconn"
	"github.com/queueville/queueville/internal/synthca"
	"github.com/queueville/queueville/loadtest/fediverse"
	"github.com/queueville/queueville/loadtest/mastodondata"
	realruns "github.com/queueville/queueville/loadtest/run"
	"github.com/queueville/queueville/loadtest/scenario"
	"github.com/queueville/queueville/loadtest/sink"
)

// staging is what the sink and the generator are told of a staging Mastodon.
type staging struct {
	r        realRun
	mastodon string
	port     int
	json     bool
}

func (s *staging) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&s.mastodon, "mastodon", "", "the staging Mastodon's `DIR`ectory, or an environment file")
	f.DurationVar(&s.r.form.Length, "length", realruns.DefaultLength, "how long jobs arrive")
	f.Float64Var(&s.r.form.Rate, "rate", 1, "`FACTOR` of how many people there are and how often anything happens")
	f.IntVar(&s.r.form.Instances, "instances", realruns.DefaultInstances, "receivers at most")
	f.Uint64Var(&s.r.seed, "seed", 0, "another seed")
	f.BoolVar(&s.json, "json", false, "JSON instead of text, one object a line")
}

const dbTimeout = 15 * time.Second

// open reads Mastodon's configuration and its local accounts, and makes sure that its database knows nobody outside of .test.
func (s *staging) open(ctx context.Context, io stdio) (*mastodonenv.Config, *mastodondata.Data, fediverse.KeyMap, error) {
	if s.mastodon == "" {
		return nil, nil, nil, &exitError{code: exitUsage, err: errors.New("--mastodon is missing"), hint: "give the staging Mastodon's directory"}
	}
	env, problems := mastodonenv.Load(s.mastodon, io.environ)
	if err := mastodonenv.Errors(problems); err != nil {
		return nil, nil, nil, configError(err)
	}
	cfg, problems := env.Config()
	if err := mastodonenv.Errors(problems); err != nil {
		return nil, nil, nil, configError(err)
	}
	ctx, cancel := context.WithTimeout(ctx, dbTimeout)
	defer cancel()
	db, err := pgx.Connect(ctx, cfg.Postgres.DSN())
	if err != nil {
		return nil, nil, nil, unavailable(fmt.Errorf("connect to PostgreSQL: %w", err), "is it up?")
	}
	defer db.Close(context.WithoutCancel(ctx)) //nolint:errcheck // what was read counts
	if err := sink.OnlyTest(ctx, db); err != nil {
		if errors.Is(err, sink.ErrRealWorld) {
			return nil, nil, nil, &exitError{code: exitConfig, err: err, hint: "a load test needs a Mastodon of its own, which has never talked to anybody"}
		}
		return nil, nil, nil, failure(err)
	}
	data, keys, err := sink.Accounts(ctx, db, cfg.WebDomain)
	if err != nil {
		return nil, nil, nil, failure(err)
	}
	if !cfg.Version.AtLeast(4, 5) { // the release lines with Sidekiq 8 write times otherwise
		data.Line = mastodondata.Line43
	}
	return cfg, data, keys, nil
}

// scenario is the small form that sink and generator share.
func (s *staging) scenario(args []string) (*scenario.Scenario, error) {
	full, err := loadScenario(args[0])
	if err != nil {
		return nil, err
	}
	small, _, err := s.r.small(full)
	if err != nil {
		return nil, &exitError{code: exitUsage, err: err}
	}
	return small, nil
}

func newLoadtestSink(io stdio) *cobra.Command {
	var s staging
	var ca string
	var limit time.Duration
	cmd := &cobra.Command{
		Use:   "sink SCENARIO",
		Short: "The other servers alone: receivers for a staging Mastodon's deliveries",
		Long: `Starts the receivers of a scenario on loopback addresses, each a name under .test, and counts what they get until Ctrl-C. They answer as the scenario's
world says, and verify every signature by the keys in the staging Mastodon's database, which must know no server outside of .test. The
staging Mastodon has to ask the name server that is printed, trust the certificate that --ca writes, and allow private addresses
(ALLOWED_PRIVATE_ADDRESSES=127.0.0.0/8). loadtest generate, with the same scenario and flags, makes deliveries for them.`,
		Example: `  queueville loadtest sink viral-post --mastodon /home/mastodon/staging --port 38443 --ca ca.pem
  queueville loadtest sink dead-hosts-30 --mastodon /home/mastodon/staging --for 10m --json`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeScenarios,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if s.port < 0 || s.port > 65535 || limit < 0 {
				return &exitError{code: exitUsage, err: errors.New("--port or --for is out of range")}
			}
			small, err := s.scenario(args)
			if err != nil {
				return err
			}
			_, _, keys, err := s.open(ctx, io)
			if err != nil {
				return err
			}
			return s.sink(ctx, io, small, keys, ca, limit)
		},
	}
	s.flags(cmd)
	cmd.Flags().IntVar(&s.port, "port", 0, "that all receivers listen on (0: one that is free)")
	cmd.Flags().StringVar(&ca, "ca", "", "write the certificate to be trusted to `FILE`")
	cmd.Flags().DurationVar(&limit, "for", 0, "end after so long (0: with Ctrl-C)")
	return cmd
}

// opened is what whoever sends to a sink has to know.
type opened struct {
	Port       int    `json:"port"`
	NameServer string `json:"name_server"`
	Instances  int    `json:"instances"`
	CA         string `json:"ca,omitempty"`
}

// sinkCounts is what a sink got.
type sinkCounts struct {
	Seconds       float64                     `json:"seconds"`
	Requests      uint64                      `json:"requests"`
	Accepted      uint64                      `json:"accepted"`
	Duplicates    uint64                      `json:"duplicates"`
	BadSignatures uint64                      `json:"bad_signatures"`
	Tempers       map[string]fediverse.Counts `json:"-"`
}

func (s *staging) sink(ctx context.Context, io stdio, small *scenario.Scenario, keys fediverse.KeyMap, ca string, limit time.Duration) error {
	cfg, err := small.Config("queueville")
	if err != nil {
		return &exitError{code: exitConfig, err: err}
	}
	authority, err := synthca.New()
	if err != nil {
		return failure(err)
	}
	if ca != "" {
		if err := os.WriteFile(ca, authority.PEM(), 0o644); err != nil { //nolint:gosec // a certificate is for everybody to read
			return failure(err)
		}
	}
	receivers, err := sink.Start(ctx, sink.Config{World: cfg.World, Seed: small.Seed, Keys: keys, Authority: authority, Port: uint16(s.port)}) //nolint:gosec // checked
	if err != nil {
		return unavailable(err, "another --port may be free")
	}
	defer receivers.Close() //nolint:errcheck // nothing is lost by it
	o := opened{Port: receivers.Port(), NameServer: receivers.NameServer(), Instances: cfg.World.Instances(), CA: ca}
	if s.json {
		err = json.NewEncoder(io.out).Encode(o)
	} else {
		_, err = fmt.Fprintf(io.out, "%d receivers at https://%s:%d to %s\nnames: %s\n", o.Instances, sink.HostName(0), o.Port, sink.HostName(o.Instances-1), o.NameServer)
	}
	if err != nil {
		return failure(err)
	}
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	<-ctx.Done()
	total := receivers.Total()
	counts := sinkCounts{
		Seconds: receivers.Seconds(), Requests: total.Requests, Accepted: total.Accepted, Duplicates: total.Duplicates,
		BadSignatures: total.BadSignatures + total.BadDigests + total.Unsigned, Tempers: receivers.ClassCounts(),
	}
	if err := s.writeCounts(io, &counts); err != nil {
		return failure(err)
	}
	if counts.BadSignatures > 0 {
		return &exitError{code: exitLost, err: fmt.Errorf("wrong signatures or digests: %d", counts.BadSignatures)}
	}
	return nil
}

func (s *staging) writeCounts(io stdio, c *sinkCounts) error {
	if s.json {
		return json.NewEncoder(io.out).Encode(c)
	}
	t := tabwriter.NewWriter(io.out, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(t, "temper\trequests\taccepted\ttwice\tfailed\trefused\tbad signatures\t")
	names := make([]string, 0, len(c.Tempers))
	for name := range c.Tempers {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		n := c.Tempers[name]
		_, _ = fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t\n", name, n.Requests, n.Accepted, n.Duplicates, n.Failed, n.Rejected+n.Limited, n.BadSignatures+n.BadDigests+n.Unsigned)
	}
	return t.Flush()
}

func newLoadtestGenerate(io stdio) *cobra.Command {
	var s staging
	var sure bool
	cmd := &cobra.Command{
		Use:   "generate SCENARIO",
		Short: "The load alone: a scenario's deliveries into a staging Mastodon's queues",
		Long: `Puts the deliveries that a scenario's world leads to into the queues of a staging Mastodon, at their times, for its own workers to run: real
jobs of its own accounts, all to the receivers of loadtest sink, started with the same scenario and flags. Jobs in between (posts being
distributed) are taken to be done. Refused for a database that knows any server outside of .test. Arrivals wait for nobody: what
Redis does not take, or is a second late, is counted and not pushed.`,
		Example: `  queueville loadtest generate viral-post --mastodon /home/mastodon/staging --port 38443 --i-know-this-is-not-production`,
		Args:    cobra.ExactArgs(1), ValidArgsFunction: completeScenarios,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !sure {
				return &exitError{code: exitUsage, err: errors.New("generate without --i-know-this-is-not-production"), hint: "it fills the queues of the Mastodon that it is given"}
			}
			if s.port < 1 || s.port > 65535 {
				return &exitError{code: exitUsage, err: errors.New("--port is missing or out of range"), hint: "loadtest sink prints it"}
			}
			small, err := s.scenario(args)
			if err != nil {
				return err
			}
			return s.generate(cmd.Context(), io, small)
		},
	}
	s.flags(cmd)
	cmd.Flags().IntVar(&s.port, "port", 0, "that the sink's receivers listen on")
	cmd.Flags().IntVar(&s.r.maxJobs, "max-jobs", realruns.DefaultMaxJobs, "jobs at most; what is beyond is dropped and counted")
	cmd.Flags().BoolVar(&sure, "i-know-this-is-not-production", false, "the Mastodon is a staging server")
	return cmd
}

func (s *staging) generate(ctx context.Context, io stdio, small *scenario.Scenario) error {
	cfg, data, _, err := s.open(ctx, io)
	if err != nil {
		return err
	}
	if cfg.Namespace != "" {
		return configError(errors.New("REDIS_NAMESPACE: a staging Mastodon without one is needed"))
	}
	client, err := redisconn.Open(cfg.Sidekiq, redisconn.Options{ClientName: "queueville-loadtest", PoolSize: 2})
	if err != nil {
		return configError(err)
	}
	defer client.Close() //nolint:errcheck // what was pushed has been answered
	bar := s.r.bar(io)
	pushed, err := realruns.Deliver(ctx, realruns.DeliveryOptions{
		Scenario: small, Data: data, Redis: client, Port: s.port, MaxJobs: s.r.maxJobs,
		Progress: func(done float64, p *realruns.Pushed) { bar.show(fmt.Sprintf("%d pushed", p.Pushed), done) },
	})
	bar.finish()
	if err != nil {
		return unavailable(err, "is Redis up?")
	}
	if s.json {
		err = json.NewEncoder(io.out).Encode(pushed)
	} else {
		_, err = fmt.Fprintf(io.out, "%d deliveries pushed in %.0f s; %d refused by Redis, %d not pushed because a second late, %d dropped by the bound\n",
			pushed.Pushed, pushed.Seconds, pushed.Refused, pushed.Late, pushed.Dropped)
	}
	if err != nil {
		return failure(err)
	}
	if pushed.Partial {
		return &exitError{code: exitInterrupted, err: errors.New("interrupted; what is said is true for the part")}
	}
	return nil
}
