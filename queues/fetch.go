package queues

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
// the next is touched, and paused ones are skipped; after 16 MiB of payloads no more are taken. ErrLeaseLost without a
// lease. One round trip, two if many queues have many jobs. After any other error jobs may have been moved all the same: see Unknown.
func (s *Session) Fetch(ctx context.Context, queues []string, limit int) ([]Fetched, error) {
	return s.FetchWithin(ctx, queues, limit, Limits{})
}

// Limits bounds what a fetch takes by two budgets that the jobs of some queues are expected to use up. The zero value is no limit.
type Limits struct {
	Budgets [2]float64
	Costs   [][2]float64 // of one job, by queue, 0 to 1
	Most    []int        // from each queue; with Costs
}

// FetchWithin is Fetch within limits: from a queue no more is taken than each budget that it costs something of has left.
func (s *Session) FetchWithin(ctx context.Context, queues []string, limit int, l Limits) ([]Fetched, error) {
	limit = min(limit, MaxBatch)
	if limit <= 0 || len(queues) == 0 {
		return nil, nil
	}
	args := append(fetchScript.begin(make([]any, 0, 12+2*len(queues)), 4+len(queues)), &s.lease, &s.inflight, &s.batches, &s.store.keys.paused)
	for _, q := range queues {
		args = append(args, s.store.keys.queue(q))
	}
	name := strconv.FormatUint(s.calls.Add(1), 10) + "."
	args = append(args, limit, maxFetchBytes, &s.lists, batchJobs, name)
	for i := range queues {
		args = append(args, &queues[i])
	}
	if l.Costs != nil {
		args = append(args, l.Budgets[0], l.Budgets[1])
		for i, c := range l.Costs {
			args = append(args, c[0], c[1], l.Most[i])
		}
	}
	reply, lists, err := s.move(ctx, args, name, limit)
	if err != nil {
		return nil, fmt.Errorf("fetch: %w", err)
	}
	jobs, err := s.parts(ctx, reply, queues, name, lists)
	if err != nil {
		return nil, fmt.Errorf("fetch: %w", err)
	}
	return jobs, nil
}

// readAtOnce is how many batches are read with the call that makes them. Only a fetch from several queues makes more.
const readAtOnce = 3

// firstPart is how many jobs of a queue fetch.lua takes before it makes batches.
const firstPart = 8

// move runs fetch.lua and reads the batches that it makes in the same transaction: whatever happens to Redis in the next moment, their jobs
// are here.
func (s *Session) move(ctx context.Context, args []any, name string, limit int) (reply []string, lists []*redis.StringSliceCmd, err error) {
	if limit <= firstPart {
		reply, err = s.moveJobs(ctx, &fetchScript, args)
		return reply, nil, err
	}
	var numbers *redis.StringSliceCmd
	err = fetchScript.with(args, func(args []any) error {
		pipe := s.store.client.TxPipeline()
		numbers = redis.NewStringSliceCmd(ctx, args...)
		_ = pipe.Process(ctx, numbers)
		lists = make([]*redis.StringSliceCmd, readAtOnce)
		for i := range lists {
			lists[i] = pipe.LRange(ctx, s.lists+name+strconv.Itoa(i+1), 0, -1)
		}
		_, err := pipe.Exec(ctx)
		return err
	})
	if errors.Is(err, redis.Nil) {
		return nil, nil, ErrLeaseLost
	}
	if err != nil {
		return nil, nil, err
	}
	return numbers.Val(), lists, nil
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

// numbers reads the first line of a script's reply.
type numbers struct {
	line string
	bad  bool
}

func (n *numbers) next() uint64 {
	text := n.line
	if i := strings.IndexByte(n.line, ' '); i >= 0 {
		text, n.line = n.line[:i], n.line[i+1:]
	} else {
		n.line = ""
	}
	v, err := strconv.ParseUint(text, 10, 64)
	n.bad = n.bad || err != nil
	return v
}

// parts reads the reply of fetch.lua. lists are the first batches that it made; the others are read here.
func (s *Session) parts(ctx context.Context, reply, queues []string, name string, lists []*redis.StringSliceCmd) ([]Fetched, error) {
	if len(reply) == 0 {
		return nil, errReply
	}
	head, payloads := numbers{line: reply[0]}, reply[1:]
	type part struct {
		batch
		list *redis.StringSliceCmd // nil for payloads that are in the reply
	}
	var parts []part
	var batches []*batch
	var pipe redis.Pipeliner
	total := 0
	for head.line != "" {
		queue, first, size, number := head.next(), head.next(), head.next(), head.next()
		if head.bad || queue < 1 || queue > uint64(len(queues)) || size > MaxBatch || number > MaxBatch {
			return nil, errReply
		}
		p := part{batch: batch{first: first, size: int(size), left: int(size), queue: queues[queue-1]}}
		if number > 0 {
			p.batch.list = name + strconv.FormatUint(number, 10)
			if number <= uint64(len(lists)) {
				p.list = lists[number-1]
			} else {
				if pipe == nil {
					pipe = s.store.client.Pipeline()
				}
				p.list = pipe.LRange(ctx, s.lists+p.batch.list, 0, -1)
			}
			batches = append(batches, &p.batch)
		}
		total += p.size
		parts = append(parts, p)
	}
	if len(parts) > 0 {
		s.open.rewind(parts[0].first)
	}
	s.open.merge(batches)
	if pipe != nil {
		if _, err := pipe.Exec(ctx); err != nil {
			return nil, err
		}
	}
	if total == 0 {
		return nil, nil
	}
	jobs := make([]Fetched, 0, total)
	for i := range parts {
		p := &parts[i]
		var list []string
		if p.list != nil {
			list = p.list.Val()
			slices.Reverse(list)
		} else {
			n := min(p.size, len(payloads))
			list, payloads = payloads[:n], payloads[n:]
		}
		if len(list) != p.size {
			return nil, errReply
		}
		for k, payload := range list {
			jobs = append(jobs, Fetched{Ref: Ref{Seq: p.first + uint64(k), Queue: p.queue}, Payload: payload})
		}
	}
	s.claims.grow(jobs[len(jobs)-1].Ref.Seq)
	return jobs, nil
}

// taken reads the reply of shared.lua: a line of numbers, then payloads. The numbers are the jobs looked at, the sequence
// number before the first job, then how many of each queue.
func (s *Session) taken(reply, queues []string) (jobs []Fetched, looked int, err error) {
	if len(reply) == 0 {
		return nil, 0, errReply
	}
	head, payloads := numbers{line: reply[0]}, reply[1:]
	looked = int(head.next())
	seq := head.next()
	if len(payloads) > 0 {
		jobs = make([]Fetched, 0, len(payloads))
	}
	for _, q := range queues {
		for range head.next() {
			if len(payloads) == 0 {
				return nil, 0, errReply
			}
			seq++
			jobs = append(jobs, Fetched{Ref: Ref{Seq: seq, Queue: q}, Payload: payloads[0]})
			payloads = payloads[1:]
		}
	}
	if head.bad || len(payloads) > 0 {
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
