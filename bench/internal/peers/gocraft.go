package peers

import (
	"context"
	"time"

	"github.com/gocraft/work"
	"github.com/gomodule/redigo/redis"
)

// GocraftNamespace is the prefix of gocraft/work's keys.
const GocraftNamespace = "bench"

// gocraftContext is what gocraft/work makes for each job.
type gocraftContext struct{}

func runGocraft(ctx context.Context, cfg Config) error {
	pool := &redis.Pool{
		MaxActive: cfg.Concurrency + 10, MaxIdle: cfg.Concurrency + 10, Wait: true,
		DialContext: func(ctx context.Context) (redis.Conn, error) {
			return redis.DialContext(ctx, "tcp", cfg.Redis, redis.DialReadTimeout(10*time.Second), redis.DialWriteTimeout(10*time.Second))
		},
	}
	defer func() { _ = pool.Close() }()
	workers := work.NewWorkerPool(gocraftContext{}, uint(cfg.Concurrency), GocraftNamespace, pool) //nolint:gosec // small
	workers.Job(Job, func(*work.Job) error { return nil })                                         // its arguments have been decoded
	workers.Start()
	<-ctx.Done()
	workers.Stop()
	return nil
}
