package peers

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/goccy/go-json"
	"github.com/redis/go-redis/v9"
)

// Keys of the bare loop.
const (
	BareInFlight = "bare:inflight"
	bareBatch    = 100
)

// bareFetch moves up to ARGV[1] jobs from the right end of KEYS[1] into the hash KEYS[2], under numbers that rise, and returns the number
// before the first and the payloads.
var bareFetch = redis.NewScript(`
local jobs = redis.call('LRANGE', KEYS[1], -ARGV[1], -1)
local n = #jobs
if n == 0 then return {'0'} end
local seq = redis.call('HINCRBY', KEYS[2], '#', n) - n
local args, out = {}, {tostring(seq)}
for i = n, 1, -1 do
  seq = seq + 1
  args[#args + 1] = seq
  args[#args + 1] = jobs[i]
  out[#out + 1] = jobs[i]
end
redis.call('HSET', KEYS[2], unpack(args))
redis.call('LTRIM', KEYS[1], 0, -n - 1)
return out`)

// runBare is the least that a crash-safe engine can do: one script call and one HDEL for a hundred jobs, each decoded. It keeps no
// accounts, has no lease, no heartbeat and no limits. It shows what of Queueville's cost is those.
func runBare(ctx context.Context, cfg Config) error {
	c := redis.NewClient(&redis.Options{Addr: cfg.Redis, MaxRetries: -1, ReadTimeout: 10 * time.Second})
	defer func() { _ = c.Close() }()
	acks := make(chan []string, 4)
	failed := make(chan error, 1)
	go func() { // acknowledges one batch while the next is fetched, as two connections can
		for fields := range acks {
			if err := c.HDel(ctx, BareInFlight, fields...).Err(); err != nil {
				select {
				case failed <- err:
				default:
				}
			}
		}
		close(failed)
	}()
	err := bareLoop(ctx, c, acks)
	close(acks)
	if ackErr := <-failed; err == nil {
		err = ackErr
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func bareLoop(ctx context.Context, c *redis.Client, acks chan<- []string) error {
	for ctx.Err() == nil {
		out, err := bareFetch.Run(ctx, c, []string{"queue:" + Queue, BareInFlight}, bareBatch).StringSlice()
		if err != nil && !errors.Is(err, redis.Nil) {
			return fmt.Errorf("fetch: %w", err)
		}
		if len(out) < 2 {
			sleep(ctx, 10*time.Millisecond)
			continue
		}
		seq, _ := strconv.Atoi(out[0])
		fields := make([]string, 0, len(out)-1)
		for i, payload := range out[1:] {
			var job bareJob
			if err := json.UnmarshalNoEscape([]byte(payload), &job); err != nil {
				return fmt.Errorf("decode: %w", err)
			}
			fields = append(fields, strconv.Itoa(seq+1+i))
		}
		acks <- fields
	}
	return nil
}

// bareJob has the fields that a worker needs to run a job.
type bareJob struct {
	Class      string          `json:"class"`
	JID        string          `json:"jid"`
	Queue      string          `json:"queue"`
	Args       json.RawMessage `json:"args"`
	CreatedAt  float64         `json:"created_at"`
	EnqueuedAt float64         `json:"enqueued_at"`
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
