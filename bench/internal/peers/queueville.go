package peers

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/goccy/go-json"
	"github.com/queueville/queueville/queues"
	"github.com/queueville/queueville/scheduler"
	"github.com/queueville/queueville/worker"
	"github.com/redis/go-redis/v9"

	"github.com/queueville/queueville/bench/internal/jobs"
)

// runQueueville runs package worker with everything on that `queueville work` has on: lease, crash-safe fetch, heartbeat with busy list,
// statistics, poller and adoption.
func runQueueville(ctx context.Context, cfg Config, decode bool) error {
	client := redis.NewClient(&redis.Options{Addr: cfg.Redis, MaxRetries: -1, ReadTimeout: 10 * time.Second})
	defer func() { _ = client.Close() }()
	hostname, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("read host name: %w", err)
	}
	identity := queues.NewIdentity(hostname, os.Getpid())
	w, err := worker.New(worker.Config{
		Store: queues.NewStore(client, ""),
		Process: queues.ProcessInfo{
			Identity: identity, Hostname: hostname, PID: os.Getpid(), StartedAt: time.Now(), Tag: "bench", Concurrency: 25, Queues: []string{Queue},
		},
		Holder:      queues.Holder{Identity: identity, Hostname: hostname, PID: os.Getpid()},
		Handlers:    []worker.Handler{noop{decode}},
		Owned:       []scheduler.Queue{{Name: Queue}},
		Concurrency: cfg.Concurrency, Window: cfg.Window, MirrorBusy: true,
	})
	if err != nil {
		return err
	}
	return w.Run(ctx)
}

// noop is a handler that does nothing, or only reads its arguments.
type noop struct{ decode bool }

// Classes implements worker.Handler.
func (noop) Classes() []string { return []string{jobs.Class} }

// Destination implements worker.Handler.
func (noop) Destination(string, string) (string, error) { return "", nil }

// Run implements worker.Handler.
func (n noop) Run(_ context.Context, job *queues.Job) worker.Outcome {
	if n.decode {
		var args []any
		if err := json.Unmarshal([]byte(job.Args), &args); err != nil || len(args) < 3 {
			return worker.Outcome{Kind: worker.Failed, Label: "bad_arguments", ErrorClass: "ArgumentError"}
		}
	}
	return worker.Outcome{Kind: worker.Done, Label: "done"}
}

// RetryDelay implements worker.Handler.
func (noop) RetryDelay(string, int) time.Duration { return time.Minute }

// GiveUpAfter implements worker.Handler.
func (noop) GiveUpAfter(string) time.Duration { return 0 }
