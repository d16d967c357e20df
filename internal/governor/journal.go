package governor

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/queueville/queueville/scheduler"
)

const (
	journalLength  = 5000 // entries in Redis, about
	journalWaiting = 256  // entries here: more are dropped and counted, for decisions do not wait for Redis
	journalTimeout = 5 * time.Second
)

// Journal writes every change of a limit, with what it was decided on, to a bounded stream in Redis.
type Journal struct {
	client   redis.UniversalClient
	key      string
	identity string
	log      *slog.Logger
	in       chan entry
	dropped  atomic.Int64
}

type entry struct {
	at time.Time
	d  scheduler.Decision
}

// Inputs is what a decision was made on, as the journal keeps it in the field "inputs". Negative: not known.
type Inputs struct {
	Running  float64 `json:"running"`
	Full     float64 `json:"full"`
	Rate     float64 `json:"jobs_per_second"`
	Wall     float64 `json:"run_seconds"`
	CPU      float64 `json:"cores"`
	Backlog  float64 `json:"backlog"`
	HostCPU  float64 `json:"host_cores_busy"`
	Ours     float64 `json:"host_cores_ours"`
	Cores    float64 `json:"host_cores"`
	Pressure float64 `json:"cpu_pressure"`
	Quota    float64 `json:"throttled"`
	Memory   float64 `json:"memory_available_bytes"`
}

// NewJournal makes a Journal of a worker. Run writes it.
func NewJournal(client redis.UniversalClient, key, identity string, log *slog.Logger) *Journal {
	return &Journal{client: client, key: key, identity: identity, log: log, in: make(chan entry, journalWaiting)}
}

// Add takes a change. It never blocks.
func (j *Journal) Add(at time.Time, d scheduler.Decision) {
	select {
	case j.in <- entry{at, d}:
	default:
		j.dropped.Add(1)
	}
}

// Dropped is how many changes were not written.
func (j *Journal) Dropped() int64 { return j.dropped.Load() }

// Run writes until ctx ends.
func (j *Journal) Run(ctx context.Context) error {
	failed := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-j.in:
			err := j.write(ctx, &e)
			if err != nil {
				j.dropped.Add(1)
				if !failed && ctx.Err() == nil {
					j.log.WarnContext(ctx, "journal of limits not written", slog.Any("err", err))
				}
			}
			failed = err != nil
		}
	}
}

func (j *Journal) write(ctx context.Context, e *entry) error {
	d := &e.d
	inputs, err := json.Marshal(Inputs{
		Running: d.View.Running, Full: d.View.Full, Rate: d.Rate, Wall: d.View.Wall, CPU: d.View.CPU, Backlog: d.View.Backlog,
		HostCPU: d.Host.Busy, Ours: d.Host.Ours, Cores: d.Host.Cores, Pressure: d.Host.Pressure, Quota: d.Host.Throttled, Memory: d.Host.MemoryAvailable,
	})
	if err != nil {
		return err
	}
	callCtx, cancel := context.WithTimeout(ctx, journalTimeout)
	defer cancel()
	return j.client.XAdd(callCtx, &redis.XAddArgs{
		Stream: j.key, MaxLen: journalLength, Approx: true,
		Values: []any{"worker", j.identity, "at", e.at.UnixMilli(), "lane", d.Lane, "from", d.Was, "to", d.Limit, "why", d.Why, "bound", string(d.Bound), "inputs", inputs},
	}).Err()
}
