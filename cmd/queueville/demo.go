package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/queueville/queueville/activitypub"
	"github.com/queueville/queueville/demo"
	"github.com/queueville/queueville/internal/sidecar"
	"github.com/queueville/queueville/internal/throwaway"
	"github.com/queueville/queueville/worker"
)

func newDemo(io stdio) *cobra.Command {
	opts := demo.Options{Out: io.out, Err: io.err, IsTerminal: terminal(io.err), OutIsTerminal: terminal(io.out), NoColor: os.Getenv("NO_COLOR") != ""}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "See it at work: 20,000 deliveries on throwaway servers on this machine",
		Long: `Starts a Redis, a PostgreSQL and a synthetic fediverse on loopback addresses, fills them with a Mastodon server's data and 20,000
deliveries, runs the worker on them and says what became of each. Nothing leaves this machine, and nothing stays on it.`,
		Example: `  queueville demo
  queueville demo --jobs 2000 --json | jq .lost`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if opts.Jobs < 1 || opts.Hosts < 1 {
				return errors.New("--jobs and --hosts have to be at least 1")
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGHUP)
			defer stop()
			if f, ok := io.err.(*os.File); ok {
				opts.Width, _, _ = term.GetSize(int(f.Fd())) // 0 if it is no terminal
			}
			return runDemo(ctx, opts)
		},
	}
	cmd.Flags().IntVar(&opts.Jobs, "jobs", 20_000, "deliveries")
	cmd.Flags().IntVar(&opts.Hosts, "hosts", 200, "instances in the synthetic fediverse")
	cmd.Flags().Uint64Var(&opts.Seed, "seed", 1, "draws the world and the posts")
	cmd.Flags().StringVar(&opts.KeepDir, "keep", "", "keep the files (log, environment) in `DIR`")
	cmd.Flags().BoolVar(&opts.JSON, "json", false, "the summary as one JSON object")
	return cmd
}

func runDemo(ctx context.Context, opts demo.Options) error {
	_, err := demo.Run(ctx, opts, startDemoWorker)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, demo.ErrLost), errors.Is(err, demo.ErrBadSignature), errors.Is(err, demo.ErrUnfinished):
		return &exitError{code: exitLost, err: err}
	case ctx.Err() != nil:
		return &exitError{code: exitInterrupted, err: errors.New("interrupted; everything has been cleaned up")}
	}
	if missing, ok := errors.AsType[*throwaway.MissingError](err); ok {
		return unavailable(err, missing.Hint())
	}
	return failure(err)
}

// demoWorker is the real worker, counted for the demo.
type demoWorker struct {
	sidecar *sidecar.Sidecar
	done    chan struct{}
	err     error // of Run; read after done

	mu    sync.Mutex
	stats demo.WorkerStats
	wire  *hdrhistogram.Histogram // microseconds
}

func startDemoWorker(ctx context.Context, server demo.Server) (demo.Worker, error) {
	opts := sidecar.DefaultOptions()
	opts.Mastodon, opts.Own, opts.Metrics = server.Dir, server.Queues, ""
	w := &demoWorker{done: make(chan struct{}), wire: hdrhistogram.New(1, 120_000_000, 3)}
	s, problems := sidecar.New(ctx, opts, sidecar.Env{
		Version: version, Log: server.Log, Resolver: server.Resolver, RootCAs: server.RootCAs, AnyForeign: true,
		Observe: w.observe, Ended: w.ended,
	})
	if s == nil {
		var errs []error
		for _, p := range problems {
			errs = append(errs, errors.New(p.String()))
		}
		return nil, errors.Join(errs...)
	}
	w.sidecar, w.stats.Signer = s, s.Signer
	go func() {
		defer close(w.done)
		w.err = s.Run(ctx)
	}()
	return w, nil
}

func (w *demoWorker) observe(_ string, r activitypub.Result) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r.WireTime > 0 {
		_ = w.wire.RecordValue(r.WireTime.Microseconds()) // beyond two minutes there is nothing to record
	}
}

func (w *demoWorker) ended(e worker.End) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case e.Result == worker.Retried:
		w.stats.Retrying++
	case e.Result == worker.Deferred:
		w.stats.Held++
	case e.Result == worker.Acked && e.Label == activitypub.Delivered.String():
		w.stats.Delivered++
	case e.Result == worker.Acked && e.Label == activitypub.Unavailable.String():
		w.stats.Unavailable++
	case e.Result == worker.Acked, e.Result == worker.Dead, e.Result == worker.Discarded:
		w.stats.GivenUp++
	}
}

// Stats implements demo.Worker.
func (w *demoWorker) Stats() demo.WorkerStats {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.stats
	s.InFlight = w.sidecar.Worker.Load().InHand
	s.RequestP50 = microseconds(w.wire.ValueAtQuantile(50))
	s.RequestP99 = microseconds(w.wire.ValueAtQuantile(99))
	return s
}

// Stop implements demo.Worker.
func (w *demoWorker) Stop(ctx context.Context) error {
	w.sidecar.Worker.Stop()
	select {
	case <-w.done:
		return w.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Done implements demo.Worker.
func (w *demoWorker) Done() <-chan struct{} { return w.done }

func microseconds(n int64) time.Duration { return time.Duration(n) * time.Microsecond }
