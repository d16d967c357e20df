package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/queueville/queueville/internal/sidecar"
	"github.com/queueville/queueville/internal/status"
	"github.com/queueville/queueville/worker"
	"github.com/queueville/queueville/worker/ruby"
)

// mostChanges is how many changes can be asked for: about as many as there are.
const mostChanges = 5000

func newExplain(io stdio) *cobra.Command {
	opts := sidecar.DefaultOptions()
	asJSON, lane, changes := false, "", 10
	cmd := &cobra.Command{
		Use:   "explain",
		Short: "Say what limits each worker, what one more of it would give, and what was changed last",
		Long: `Says for each worker, and for each of its lanes (native: deliveries; ruby: all else), how many jobs run at once, how many may, what binds
that, and what one more unit of it would give: "no gain" means that more at once would not get more done. Then it says what waits beside its
queue (--policy goals) and what for. Below it are the last changes of limits with their reasons. With --json each comes with all it was decided on.

It reads what workers write to Redis every ten seconds. Limits are found only with --limits adaptive.`,
		Example: `  queueville explain --mastodon /home/mastodon/live
  queueville explain --lane ruby --changes 50
  queueville explain --json | jq '.workers[].lanes[] | {lane, bound, gain, unit}'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if changes < 0 || changes > mostChanges {
				return usage(fmt.Errorf("--changes %d: use 0 to %d", changes, mostChanges))
			}
			if lane != "" && lane != worker.LaneNative && lane != ruby.LaneRuby {
				return usage(fmt.Errorf("--lane %q: use %s or %s", lane, worker.LaneNative, ruby.LaneRuby))
			}
			return explain(cmd.Context(), io, opts, lane, changes, asJSON)
		},
	}
	opts.BindConnection(cmd.Flags())
	cmd.Flags().StringVar(&lane, "lane", lane, "only this `LANE`: native or ruby")
	cmd.Flags().IntVar(&changes, "changes", changes, "list so many changes at most")
	cmd.Flags().BoolVar(&asJSON, "json", false, "as one JSON object")
	_ = cmd.RegisterFlagCompletionFunc("lane", cobra.FixedCompletions([]string{worker.LaneNative, ruby.LaneRuby}, cobra.ShellCompDirectiveNoFileComp)) // the flag is there
	return cmd
}

// usage is the error of an argument that cannot be meant.
func usage(err error) error {
	return &exitError{code: exitUsage, err: err, hint: "queueville explain --help has examples"}
}

func explain(ctx context.Context, io stdio, opts *sidecar.Options, lane string, changes int, asJSON bool) error {
	conn, err := openConnection(ctx, io, opts)
	if err != nil {
		return err
	}
	defer conn.Close()
	callCtx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	e, err := status.Explain(callCtx, conn.Store, lane, changes)
	if err != nil {
		return unavailable(err, "")
	}
	if asJSON {
		enc := json.NewEncoder(io.out)
		enc.SetIndent("", "  ")
		return enc.Encode(e)
	}
	return status.RenderExplanation(io.out, e)
}
