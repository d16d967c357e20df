package governor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strconv"
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
	Arrivals float64 `json:"arrivals_per_second"`
	Goal     float64 `json:"goal_seconds"` // the tightest of what waits
	Want     float64 `json:"cores_wanted"` // by what runs
}

// Round keeps four digits behind the point: more says nothing and takes room.
func (in *Inputs) Round() {
	for _, v := range []*float64{
		&in.Running, &in.Full, &in.Rate, &in.Wall, &in.CPU, &in.Backlog, &in.HostCPU, &in.Ours, &in.Cores, &in.Pressure, &in.Quota, &in.Memory, &in.Arrivals, &in.Goal, &in.Want,
	} {
		*v = math.Round(*v*1e4) / 1e4
	}
}

// InputsOf is what a decision was made on.
func InputsOf(d *scheduler.Decision) Inputs {
	return Inputs{
		Running: d.View.Running, Full: d.View.Full, Rate: d.Rate, Wall: d.View.Wall, CPU: d.View.CPU, Backlog: d.View.Backlog,
		HostCPU: d.Host.Busy, Ours: d.Host.Ours, Cores: d.Host.Cores, Pressure: d.Host.Pressure, Quota: d.Host.Throttled, Memory: d.Host.MemoryAvailable,
		Arrivals: d.View.Arrivals, Goal: d.View.Goal.Seconds(), Want: d.View.Want,
	}
}

// Change is one entry of the journal.
type Change struct {
	At     time.Time `json:"at"`
	Worker string    `json:"worker"`
	Lane   string    `json:"lane"`
	From   int       `json:"from"`
	To     int       `json:"to"`
	Why    string    `json:"why"`
	Bound  string    `json:"bound"`
	Inputs Inputs    `json:"inputs"`
}

// ReadJournal returns the last changes, newest first, n at most, of one lane or, with "", of all. It looks at the whole journal for that, which is
// bounded. Entries that it cannot read are left out: anybody may write to Redis.
func ReadJournal(ctx context.Context, client redis.UniversalClient, key, lane string, n int) ([]Change, error) {
	var list []Change
	last := "+"
	for looked := 0; looked < 2*journalLength && len(list) < n; {
		entries, err := client.XRevRangeN(ctx, key, last, "-", journalChunk).Result()
		if err != nil {
			return nil, fmt.Errorf("read the journal: %w", err)
		}
		for _, e := range entries {
			if c, ok := parseChange(e.Values); ok && (lane == "" || c.Lane == lane) && len(list) < n {
				list = append(list, c)
			}
		}
		if looked += len(entries); len(entries) < journalChunk {
			break
		}
		last = "(" + entries[len(entries)-1].ID
	}
	return list, nil
}

// journalChunk is how many entries are read at once.
const journalChunk = 500

func parseChange(values map[string]any) (Change, bool) {
	text := func(name string) string {
		s, _ := values[name].(string)
		return s
	}
	at, err1 := strconv.ParseInt(text("at"), 10, 64)
	from, err2 := strconv.Atoi(text("from"))
	to, err3 := strconv.Atoi(text("to"))
	c := Change{At: time.UnixMilli(at).UTC(), Worker: text("worker"), Lane: text("lane"), From: from, To: to, Why: text("why"), Bound: text("bound")}
	if errors.Join(err1, err2, err3) != nil || json.Unmarshal([]byte(text("inputs")), &c.Inputs) != nil {
		return Change{}, false
	}
	if year := c.At.Year(); year < 0 || year > 9999 { // JSON has no others
		return Change{}, false
	}
	return c, true
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
	in := InputsOf(d)
	in.Round()
	inputs, err := json.Marshal(in)
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
