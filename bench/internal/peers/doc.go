// Package peers runs the Go contenders of the no-op suite, each as the whole life of one process: connect, work until the context ends,
// return. The harness starts its own program again with a contender's name, so that CPU time and memory are one contender's alone.
//
// Each contender is set up as its documentation says for throughput, with logging off, and does the same per job: it reads the arguments
// (except where its name says otherwise) and does nothing with them.
package peers

import (
	"context"
	"fmt"
	"time"
)

// Config is what a contender is told.
type Config struct {
	Redis       string // host:port
	Concurrency int    // as the contender counts it
	Window      int    // Queueville: jobs in hand at most; 0 means its default
	Idle        bool   // only be there: nothing is enqueued
}

// Names of the contenders.
const (
	Queueville     = "queueville"      // package worker, a handler that does nothing
	QueuevilleArgs = "queueville+args" // the same, and the handler decodes the arguments
	Bare           = "bare"            // a script that moves 100, goccy/go-json, HDEL
	Gocraft        = "gocraft/work"
	GoWorkers2     = "go-workers2"
	Asynq          = "asynq"
)

// Queue is the queue that the Sidekiq-compatible contenders serve.
const Queue = "push"

// Job is the job name of those that know jobs by name only.
const Job = "noop"

// Run works until ctx ends.
func Run(ctx context.Context, name string, cfg Config) error {
	switch name {
	case Queueville:
		return runQueueville(ctx, cfg, false)
	case QueuevilleArgs:
		return runQueueville(ctx, cfg, true)
	case Bare:
		return runBare(ctx, cfg)
	case Gocraft:
		return runGocraft(ctx, cfg)
	case GoWorkers2:
		return runGoWorkers2(ctx, cfg)
	case Asynq:
		return runAsynq(ctx, cfg)
	}
	return fmt.Errorf("unknown contender %q", name)
}

// stopTimeout bounds how long a contender may take to end.
const stopTimeout = 5 * time.Second
