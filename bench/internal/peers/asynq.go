package peers

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"

	"github.com/hibiken/asynq"
)

// asynqArgs is what the payload holds.
type asynqArgs struct {
	Body    string          `json:"body"`
	Account int64           `json:"account"`
	Inbox   string          `json:"inbox"`
	Options json.RawMessage `json:"options"`
}

func runAsynq(ctx context.Context, cfg Config) error {
	server := asynq.NewServer(asynq.RedisClientOpt{Addr: cfg.Redis, PoolSize: cfg.Concurrency + 10}, asynq.Config{
		Concurrency: cfg.Concurrency, Logger: quiet{log.New(io.Discard, "", 0)}, LogLevel: asynq.FatalLevel, ShutdownTimeout: stopTimeout,
	})
	mux := asynq.NewServeMux()
	mux.HandleFunc(Job, func(_ context.Context, t *asynq.Task) error { // asynq leaves the payload to the handler; the others decode theirs
		var args asynqArgs
		return json.Unmarshal(t.Payload(), &args)
	})
	if err := server.Start(mux); err != nil {
		return fmt.Errorf("start asynq: %w", err)
	}
	<-ctx.Done()
	server.Shutdown()
	return nil
}

// quiet is asynq's Logger over a log.Logger that writes nowhere.
type quiet struct{ *log.Logger }

func (q quiet) Debug(args ...any) { q.Print(args...) }
func (q quiet) Info(args ...any)  { q.Print(args...) }
func (q quiet) Warn(args ...any)  { q.Print(args...) }
func (q quiet) Error(args ...any) { q.Print(args...) }
func (q quiet) Fatal(args ...any) { q.Logger.Fatal(args...) }
