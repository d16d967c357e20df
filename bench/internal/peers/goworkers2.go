package peers

import (
	"context"
	"fmt"
	"io"
	"log"
	"time"

	workers "github.com/digitalocean/go-workers2"
)

// GoWorkers2Process is the process id in go-workers2's keys.
const GoWorkers2Process = "1"

func runGoWorkers2(ctx context.Context, cfg Config) error {
	m, err := workers.NewManager(workers.Options{
		ServerAddr: cfg.Redis, ProcessID: GoWorkers2Process, PoolSize: cfg.Concurrency + 5, PollInterval: 15 * time.Second,
		Logger: log.New(io.Discard, "", 0),
	})
	if err != nil {
		return fmt.Errorf("set up go-workers2: %w", err)
	}
	// Its default middlewares without the one that logs.
	m.AddWorker(Queue, cfg.Concurrency, func(*workers.Msg) error { return nil }, workers.RetryMiddleware, workers.StatsMiddleware)
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.Run()
	}()
	<-ctx.Done()
	m.Stop()
	select {
	case <-done:
	case <-time.After(stopTimeout):
	}
	return nil
}
