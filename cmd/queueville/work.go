package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/queueville/queueville/internal/footprint"
	"github.com/queueville/queueville/internal/mastodonenv"
	"github.com/queueville/queueville/internal/redisconn"
	"github.com/queueville/queueville/internal/sidecar"
)

func newWork(io stdio, release func()) *cobra.Command {
	opts := sidecar.DefaultOptions()
	cmd := &cobra.Command{
		Use:   "work",
		Short: "Run the worker of this host, beside Mastodon's Sidekiq or instead of it",
		Long: `Runs Mastodon's background jobs: deliveries in Go, and with --full everything else in Ruby processes of its own.

Beside Sidekiq, on shared queues (by default push and pull), it takes only deliveries and leaves every other job where it is, in order. Ruby
threads that wait on the same queue get new jobs first, so beside a Ruby that keeps up it takes little; it helps when there is a backlog.

On an owned queue it alone fetches. Start one Sidekiq process with -q push_ruby instead of -q push, and this with
--own push --foreign-to push_ruby: what only Ruby can run is moved there, byte for byte and in order.

Instead of Sidekiq, with --full, it owns all seven queues, and no mastodon-sidekiq unit is needed on this host. It starts stock Sidekiq
processes from Mastodon's directory, as many as there is work, CPU and memory for, gives each the jobs it has room for, watches and replaces
them, and gives back at once what one had that dies. Run it as Mastodon's user. docs/migrating.md has the way there and back.

TSTP takes no new jobs any more, TERM and INT stop: running jobs get --timeout to finish, the rest goes back to the queue.`,
		Example: `  queueville work --mastodon /home/mastodon/live --check
  queueville work --mastodon /home/mastodon/live --shadow
  queueville work --mastodon /home/mastodon/live --canary 5%
  queueville work --mastodon /home/mastodon/live --own push --foreign-to push_ruby
  queueville work --mastodon /home/mastodon/live --full --check
  queueville work --mastodon /home/mastodon/live --full --ruby-processes 4
  queueville work --mastodon /home/mastodon/live --full --policy goals --goal pull/BackupWorker=2h --behind pull/LinkCrawlWorker`,
		Args: cobra.NoArgs,
	}
	opts.Bind(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		problems := opts.LoadFile(cmd.Flags())
		if opts.Check {
			return check(cmd.Context(), io, opts, problems)
		}
		if len(problems) > 0 {
			return report(io, problems)
		}
		if err := opts.GiveWay(); err != nil {
			_, _ = fmt.Fprintf(io.err, "queueville: warning: other processes of this host do not come first: %v\n", err)
		}
		return work(cmd.Context(), io, opts, release)
	}
	return cmd
}

// report prints problems and makes the error that ends the command.
func report(io stdio, problems []mastodonenv.Problem) error {
	for _, p := range problems {
		_, _ = fmt.Fprintf(io.err, "queueville: %s: %s\n", p.Severity, p)
	}
	return verdict(problems)
}

// verdict is the error that problems end a command with: servers that do not answer are not the configuration's fault, if they are all.
func verdict(problems []mastodonenv.Problem) error {
	errs, unreachable := 0, 0
	for _, p := range problems {
		if p.Severity == mastodonenv.SeverityError {
			errs++
			if p.Unreachable {
				unreachable++
			}
		}
	}
	switch errs {
	case 0:
		return nil
	case unreachable:
		return unavailable(fmt.Errorf("servers that cannot be reached: %d", errs), "")
	}
	return configError(fmt.Errorf("problems with the configuration: %d", errs))
}

// check reports everything there is to say and starts nothing.
func check(ctx context.Context, io stdio, opts *sidecar.Options, problems []mastodonenv.Problem) error {
	redisconn.SetLogger(slog.New(slog.DiscardHandler)) // what it has to say is among the problems
	s, more := sidecar.New(ctx, opts, sidecar.Env{Environ: io.environ, Version: version, Log: slog.New(slog.DiscardHandler)})
	problems = append(problems, more...)
	if s != nil {
		defer s.Close()
	}
	if opts.JSON {
		out := struct {
			OK       bool                  `json:"ok"`
			Problems []mastodonenv.Problem `json:"problems"`
		}{mastodonenv.Errors(problems) == nil, problems}
		if out.Problems == nil {
			out.Problems = []mastodonenv.Problem{}
		}
		if err := json.NewEncoder(io.out).Encode(out); err != nil {
			return failure(err)
		}
		return withoutHint(verdict(problems))
	}
	if err := report(io, problems); err != nil {
		return withoutHint(err)
	}
	_, _ = fmt.Fprintf(io.out, "The configuration is fit to run.\n  %s\n  signer: %s\n", s.Describe(), s.Signer)
	return nil
}

// newLogger logs text on a terminal and JSON elsewhere.
func newLogger(io stdio, opts *sidecar.Options) *slog.Logger {
	level := slog.LevelInfo
	_ = level.UnmarshalText([]byte(opts.LogLevel)) // checked with the other options
	handler := &slog.HandlerOptions{Level: level}
	if opts.LogFormat == "text" || opts.LogFormat == "auto" && terminal(io.err) {
		return slog.New(slog.NewTextHandler(io.err, handler))
	}
	return slog.New(slog.NewJSONHandler(io.err, handler))
}

// withoutHint leaves the advice away to run what has just been run.
func withoutHint(err error) error {
	if e, ok := errors.AsType[*exitError](err); ok {
		return &exitError{code: e.code, err: e.err}
	}
	return err
}

// gcPercent is the worker's GOGC unless the environment says otherwise, or its heap is small.
const gcPercent = 25

// startupOver is when nothing is expected to be still starting.
const startupOver = 10 * time.Second

// work runs the worker until it is told to stop. more add to what the worker is given.
func work(ctx context.Context, io stdio, opts *sidecar.Options, release func(), more ...func(*sidecar.Env)) error {
	log := newLogger(io, opts)
	redisconn.SetLogger(log)
	// Most of the memory of a busy worker is what connecting leaves behind. Collecting it twice as often costs a few per cent of CPU and
	// keeps a thousand deliveries in flight below the figures of docs/benchmarks.md; a fixed limit would starve a worker that needs more.
	footprint.Collect(gcPercent)
	_, _ = memlimit.Set(memlimit.WithRatio(0.9), memlimit.WithLogger(slog.New(slog.DiscardHandler))) // without a limit there is none to keep
	env := sidecar.Env{
		Environ: io.environ, Version: version, Log: log,
		Ready:   func() { notify(daemon.SdNotifyReady) },
		Beating: func() { notify(daemon.SdNotifyWatchdog) },
	}
	for _, add := range more {
		add(&env)
	}
	s, problems := sidecar.New(ctx, opts, env)
	if ctx.Err() != nil {
		if s != nil {
			s.Close()
		}
		return ctx.Err()
	}
	if err := report(io, problems); err != nil {
		return withoutHint(err)
	}
	forget := time.AfterFunc(startupOver, func() {
		_, _ = footprint.ForgetStartup() // what it cannot give back stays
	})
	defer forget.Stop()
	log.InfoContext(ctx, "worker starts", slog.String("does", s.Describe()), slog.String("signer", s.Signer), slog.String("metrics", s.MetricsAddr()),
		slog.String("version", version), slog.Bool("shadow", opts.Shadow))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	defer close(done)
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTSTP, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	release() // only now, so that no signal finds nobody
	go obeySignals(s, log, signals, cancel, done)
	err := s.Run(ctx)
	notify(daemon.SdNotifyStopping)
	if r := s.Shadow(); r != nil {
		_ = json.NewEncoder(io.out).Encode(r.Report())
	}
	if err != nil {
		return unavailable(err, "is Redis up? queueville work --check looks at everything")
	}
	return nil
}

// obeySignals is Sidekiq's: TSTP for quiet, TERM and INT for stop. A second TERM or INT ends at once.
func obeySignals(s *sidecar.Sidecar, log *slog.Logger, signals chan os.Signal, cancel context.CancelFunc, done <-chan struct{}) {
	defer signal.Stop(signals)
	stops := 0
	for {
		select {
		case <-done:
			return
		case sig := <-signals:
			log.Info("signal", slog.String("signal", sig.String()))
			switch sig {
			case syscall.SIGTSTP:
				s.Worker.Quiet()
			case syscall.SIGHUP: // a lost terminal is no reason to stop serving
			default:
				stops++
				if stops > 1 {
					os.Exit(exitInterrupted) //nolint:forbidigo // asked twice; jobs in hand are in Redis, release or the next worker gives them back
				}
				notify(daemon.SdNotifyStopping)
				cancel()
			}
		}
	}
}

// notify tells systemd, if there is one.
func notify(state string) {
	_, _ = daemon.SdNotify(false, state)
}

// openConnection opens the Sidekiq Redis for the commands that only read it.
func openConnection(ctx context.Context, io stdio, opts *sidecar.Options) (*sidecar.Connection, error) {
	redisconn.SetLogger(slog.New(slog.DiscardHandler)) // what it has to say is in the error
	conn, problems := sidecar.Connect(opts, io.environ)
	if conn == nil {
		return nil, withoutHint(report(io, problems))
	}
	callCtx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := mastodonenv.Errors(conn.Reachable(callCtx)); err != nil {
		conn.Close()
		return nil, unavailable(err, "is Redis up? give --mastodon DIR, or set REDIS_URL")
	}
	return conn, nil
}
