package queues

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Ref names an in-flight job of a session.
type Ref struct {
	Seq   uint64 // unique in the session, ascending in the order of fetching
	Queue string // the list it was fetched from (bare name)
}

// Fetched is one job moved into the in-flight hash.
type Fetched struct {
	Ref     Ref
	Payload string
}

// MaxBatch bounds the jobs of one Fetch, FetchShared or Complete call; more is cut to it (Fetch) or split (Complete).
const MaxBatch = 1000

// maxFetchBytes is after how many bytes of payload a Fetch takes no more jobs. One job may be larger.
const maxFetchBytes = 16 << 20

// Fetch moves up to limit (at most MaxBatch) jobs from owned queues, in the order given: a queue is exhausted before
// the next is touched, and paused ones are skipped; after 16 MiB of payloads no more are taken. ErrLeaseLost without a lease. One round trip. After any other error
// jobs may have been moved all the same: see Unknown.
func (s *Session) Fetch(ctx context.Context, queues []string, limit int) ([]Fetched, error) {
	limit = min(limit, MaxBatch)
	if limit <= 0 || len(queues) == 0 {
		return nil, nil
	}
	args := append(fetchScript.begin(make([]any, 0, 8+2*len(queues)), 3+len(queues)), &s.lease, &s.inflight, &s.store.keys.paused)
	for _, q := range queues {
		args = append(args, s.store.keys.queue(q))
	}
	args = append(args, limit, maxFetchBytes)
	for i := range queues {
		args = append(args, &queues[i])
	}
	reply, err := s.moveJobs(ctx, &fetchScript, args)
	if err != nil {
		return nil, fmt.Errorf("fetch: %w", err)
	}
	jobs, _, err := s.taken(reply, queues, false)
	if err != nil {
		return nil, fmt.Errorf("fetch: %w", err)
	}
	return jobs, nil
}

// moveJobs runs a script that takes jobs.
func (s *Session) moveJobs(ctx context.Context, script *script, args []any) ([]string, error) {
	var reply *redis.StringSliceCmd
	err := script.run(ctx, s.store.client, args, func(a []any) redis.Cmder {
		reply = redis.NewStringSliceCmd(ctx, a...)
		return reply
	})
	if errors.Is(err, redis.Nil) {
		return nil, ErrLeaseLost
	}
	if err != nil {
		return nil, err
	}
	return reply.Val(), nil
}

var errReply = errors.New("unexpected reply of a script")

// taken reads the reply of a script that takes jobs: a line of numbers, then payloads. The line begins with the jobs
// looked at (if looks), then the sequence number before the first job, then the number of jobs of each queue.
func (s *Session) taken(reply, queues []string, looks bool) (jobs []Fetched, looked int, err error) {
	if len(reply) == 0 {
		return nil, 0, errReply
	}
	head, payloads := reply[0], reply[1:]
	number := func() uint64 {
		text := head
		if i := strings.IndexByte(head, ' '); i >= 0 {
			text, head = head[:i], head[i+1:]
		} else {
			head = ""
		}
		n, bad := strconv.ParseUint(text, 10, 64)
		if bad != nil {
			err = errReply
		}
		return n
	}
	if looks {
		looked = int(number())
	}
	seq := number()
	if len(payloads) > 0 {
		jobs = make([]Fetched, 0, len(payloads))
	}
	for _, q := range queues {
		for range number() {
			if len(payloads) == 0 {
				return nil, 0, errReply
			}
			seq++
			jobs = append(jobs, Fetched{Ref: Ref{Seq: seq, Queue: q}, Payload: payloads[0]})
			payloads = payloads[1:]
		}
	}
	if err != nil || len(payloads) > 0 {
		return nil, 0, errReply
	}
	s.claims.grow(seq)
	return jobs, looked, nil
}

// Await blocks until queue has a job or timeout has passed (rounded up to whole seconds). It moves the list's next job
// onto its own place (BLMOVE from right to right of the same list), so nothing ever leaves the queue. Whether the queue
// is paused is the caller's matter. The end of ctx is noticed when the timeout has passed, so keep that short: 2 s is
// Sidekiq's own.
func (s *Store) Await(ctx context.Context, queue string, timeout time.Duration) (bool, error) {
	key := s.keys.queue(queue)
	timeout = max(time.Second, (timeout + time.Second - 1).Truncate(time.Second))
	// go-redis waits for the reply 10 s longer than the command blocks.
	_, err := s.client.BLMove(ctx, key, key, "RIGHT", "RIGHT", timeout).Result()
	if errors.Is(err, redis.Nil) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("await %s: %w", queue, err)
	}
	return true, nil
}
