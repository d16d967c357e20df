package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/queueville/queueville/internal/sidecar"
	"github.com/queueville/queueville/worker"
)

func newRelease(io stdio) *cobra.Command {
	opts := sidecar.DefaultOptions()
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "release",
		Short: "Give the jobs of workers that are gone back to their queues",
		Long: `Gives every job that a dead Queueville worker still held back to the queue it came from, to be run next by whoever serves it.
Live workers are left alone. So are jobs that wait beside their queue (--policy goals) while one of those takes them; without one they go
back to the queue, the oldest to be run first. Use it after the last worker was stopped or killed, before uninstalling.

A worker that was killed counts as dead when its lease ends, at most 30 s later; a worker of this host whose process is gone, at once.
With --wait the command waits for leases that have not ended yet.`,
		Example: `  queueville release --mastodon /home/mastodon/live --wait 40s`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return release(cmd.Context(), io, opts, wait)
		},
	}
	opts.BindConnection(cmd.Flags())
	cmd.Flags().DurationVar(&wait, "wait", 0, "wait so long for the leases of silent workers to end")
	return cmd
}

func release(ctx context.Context, io stdio, opts *sidecar.Options, wait time.Duration) error {
	conn, err := openConnection(ctx, io, opts)
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline := time.Now().Add(wait)
	total := 0
	for {
		report, err := worker.Release(ctx, conn.Store)
		if err != nil {
			return failure(err)
		}
		for _, r := range report.Released {
			_, _ = fmt.Fprintf(io.out, "%s: %s given back\n", r.Holder, count(r.Jobs, "job"))
			total += r.Jobs
		}
		for _, m := range report.Merged {
			_, _ = fmt.Fprintf(io.out, "beside %s: %s given back\n", m.Queue, count(m.Jobs, "job"))
			total += m.Jobs
		}
		if len(report.Alive) == 0 || time.Now().After(deadline) {
			_, _ = fmt.Fprintf(io.out, "%s given back in all, %s alive and left alone\n", count(total, "job"), count(len(report.Alive), "worker"))
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// count is "1 job" or "2 jobs".
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
