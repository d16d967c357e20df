package queues

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// Op is what becomes of an in-flight job.
type Op byte

// The outcomes.
const (
	OpAck      Op = 'a' // finished
	OpRetry    Op = 'r' // ZADD retry At Payload
	OpSchedule Op = 's' // ZADD schedule At Payload
	OpDead     Op = 'd' // ZADD dead At Payload, trimmed
	OpRequeue  Op = 'q' // RPUSH to the queue it came from: of several the last one is the next to run
	OpForward  Op = 'f' // LPUSH to Queue (SADD queues), bytes as in flight
)

// Completion is one outcome. Payload "" means the bytes in flight; it is not used by Ack and Forward.
type Completion struct {
	Ref     Ref
	Op      Op
	Payload string
	At      float64 // Unix seconds, for Retry, Schedule, Dead
	Queue   string  // for Forward
}

// check refuses an outcome that would make the job vanish.
func (c *Completion) check() error {
	switch c.Op {
	case OpAck, OpRetry, OpSchedule, OpDead, OpRequeue:
		return nil
	case OpForward:
		if c.Queue != "" {
			return nil
		}
		return errors.New("forward without a queue")
	}
	return fmt.Errorf("unknown outcome %q", byte(c.Op))
}

// Complete carries all outcomes out, acks first, then the others in order; one round trip for each MaxBatch of them.
// held[i] is false where the job was no longer held (no effect). ErrLeaseLost: lease gone, none carried out (of the
// part of a list beyond MaxBatch). Any other error: unknown; calling again with the same list is safe (what was carried
// out is then not held; that is why a second call reports held=false for it). Scores that are equal within a call are
// moved apart by the smallest step.
//
// If somebody else removes fields of the in-flight hash while the lease lives, which nothing of Sidekiq or Queueville
// does, the number of acks that were not held is right, but they are reported as the last ones of the call.
func (s *Session) Complete(ctx context.Context, list []Completion) (held []bool, err error) {
	held = make([]bool, len(list))
	for from := 0; from < len(list); from += MaxBatch {
		to := min(from+MaxBatch, len(list))
		if err := s.complete(ctx, list[from:to], held[from:to]); err != nil {
			return nil, fmt.Errorf("complete %d jobs: %w", to-from, err)
		}
	}
	return held, nil
}

func (s *Session) complete(ctx context.Context, list []Completion, held []bool) error {
	for i := range list {
		if err := list[i].check(); err != nil {
			return err
		}
	}
	b := call{list: list, of: s.open.of(list), order: make([]int32, 0, len(list))}
	careful := "0"
	if !s.claims.take(list) {
		careful = "1"
	}
	st := s.store
	oldest := strconv.FormatInt(time.Now().Add(-st.DeadTimeout).Unix(), 10)
	args := append(completeScript.begin(make([]any, 0, 24+6*len(list)), 7),
		&s.lease, &s.inflight, &s.batches, &st.keys.retry, &st.keys.schedule, &st.keys.dead, &st.keys.queues,
		0, careful, oldest, st.DeadMax, &st.keys.queuePrefix, &s.lists)
	args = b.append(args)
	var reply *redis.IntSliceCmd
	err := completeScript.run(ctx, st.client, args, func(a []any) redis.Cmder {
		reply = redis.NewIntSliceCmd(ctx, a...)
		return reply
	})
	if errors.Is(err, redis.Nil) {
		return ErrLeaseLost
	}
	if err != nil {
		return err
	}
	got := reply.Val()
	if len(got) == 0 {
		return errReply
	}
	for i := range held {
		held[i] = true
	}
	for _, n := range got[1:] {
		if n < 1 || n > int64(len(list)) {
			return errReply
		}
		held[b.order[n-1]] = false
	}
	if careful == "0" {
		for k := b.acks - 1; k >= 0 && int64(k) >= got[0]; k-- {
			held[b.order[k]] = false
		}
	}
	s.open.leave(b.of, held)
	return nil
}

// call lays a list out for the script.
type call struct {
	list  []Completion
	of    []*batch // of each outcome; nil for none
	order []int32  // index in list of each outcome as the script sees it: acks first, batch by batch
	acks  int
	names []string
}

const groupCountArg = 10 // place of ARGV[1] in the argument list: after the command, the hash, the number of keys and 7 keys

func (b *call) append(args []any) []any {
	size := 0
	for i := range b.list {
		size += 21 + len(b.list[i].Ref.Queue)
		if b.list[i].Op == OpAck {
			b.order = append(b.order, int32(i))
		}
	}
	b.acks = len(b.order)
	for i := range b.list {
		if b.list[i].Op != OpAck {
			b.order = append(b.order, int32(i))
		}
	}
	byBatch := func(x, y int32) int { return cmp.Compare(b.first(x), b.first(y)) }
	if !slices.IsSortedFunc(b.order[:b.acks], byBatch) {
		slices.SortStableFunc(b.order[:b.acks], byBatch)
	}
	text := make([]byte, 0, size)
	ends := make([]int, 0, len(b.list))
	for _, i := range b.order {
		text = appendField(text, b.list[i].Ref)
		ends = append(ends, len(text))
	}
	all, from := string(text), 0
	b.names = make([]string, len(ends))
	for k, end := range ends {
		b.names[k] = all[from:end]
		from = end
	}
	groups := 0
	for k := 0; k < b.acks; {
		n := k + 1
		for n < b.acks && b.of[b.order[n]] == b.of[b.order[k]] {
			n++
		}
		args = append(args, b.batchName(b.order[k]), n-k)
		for ; k < n; k++ {
			args = append(args, &b.names[k])
		}
		groups++
	}
	args[groupCountArg] = groups
	var scores map[float64]struct{}
	if others := len(b.list) - b.acks; others > 1 {
		scores = make(map[float64]struct{}, others)
	}
	for k := b.acks; k < len(b.order); k++ {
		c := &b.list[b.order[k]]
		payload, queue := &c.Payload, &c.Queue
		if c.Op == OpForward {
			payload = &empty
		}
		if c.Op == OpRequeue {
			queue = &c.Ref.Queue
		}
		args = append(args, string(rune(c.Op)), &b.names[k], payload, score(distinct(c.At, scores)), queue, b.batchName(b.order[k]))
	}
	return args
}

// first is the first number of the batch of an outcome, 0 for none.
func (b *call) first(i int32) uint64 {
	if b.of[i] == nil {
		return 0
	}
	return b.of[i].first
}

func (b *call) batchName(i int32) string {
	if b.of[i] == nil {
		return ""
	}
	return b.of[i].name()
}

var empty string

// distinct moves at up until it is new in scores.
func distinct(at float64, scores map[float64]struct{}) float64 {
	if scores == nil {
		return at
	}
	for {
		if _, taken := scores[at]; !taken {
			scores[at] = struct{}{}
			return at
		}
		at = math.Nextafter(at, math.Inf(1))
	}
}

// score prints a score so that it survives the way through Redis. Web addresses members by it: never negative.
func score(at float64) string {
	if !(at > 0) {
		at = 0
	}
	return strconv.FormatFloat(at, 'f', -1, 64)
}
