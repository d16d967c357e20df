package main

import (
	"context"
	"encoding/json"
	"time"

	"github.com/spf13/cobra"

	"github.com/queueville/queueville/internal/sidecar"
	"github.com/queueville/queueville/internal/status"
)

func newStatus(io stdio) *cobra.Command {
	opts := sidecar.DefaultOptions()
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show queues, sets and every process on this Redis, ours and Ruby's",
		Example: `  queueville status --mastodon /home/mastodon/live
  queueville status --json | jq '.queues[] | select(.latency_seconds > 60)'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return showStatus(cmd.Context(), io, opts, asJSON)
		},
	}
	opts.BindConnection(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "as one JSON object")
	return cmd
}

func showStatus(ctx context.Context, io stdio, opts *sidecar.Options, asJSON bool) error {
	conn, err := openConnection(ctx, io, opts)
	if err != nil {
		return err
	}
	defer conn.Close()
	callCtx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	s, err := status.Read(callCtx, conn.Store)
	if err != nil {
		return unavailable(err, "")
	}
	if asJSON {
		enc := json.NewEncoder(io.out)
		enc.SetIndent("", "  ")
		return enc.Encode(s)
	}
	return status.Render(io.out, s)
}
