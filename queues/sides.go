package queues

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Names lists the queues that Sidekiq knows, in no order, at most 10,000.
func (s *Store) Names(ctx context.Context) ([]string, error) {
	names, err := s.scanSet(ctx, s.keys.queues)
	return names, wrap("list queues", err)
}

// SidesServed lists the queues of which a live holder, other than the one named, serves the side lists, in no order, some perhaps twice. One that
// is quiet serves nothing: what its last heartbeat has said of that counts.
func (s *Store) SidesServed(ctx context.Context, except string) ([]string, error) {
	holders, err := s.Holders(ctx)
	if err != nil {
		return nil, err
	}
	holders = slices.DeleteFunc(holders, func(h HolderState) bool { return h.Sides == "" || !h.Alive || h.Name == except })
	if len(holders) == 0 {
		return nil, nil
	}
	pipe := s.client.Pipeline()
	quiet := make([]*redis.StringCmd, len(holders))
	for i := range holders {
		quiet[i] = pipe.HGet(ctx, s.keys.process(holders[i].Identity), "quiet")
	}
	if _, err := pipe.Exec(ctx); err != nil && !isReply(err) {
		return nil, fmt.Errorf("look who is quiet: %w", err)
	}
	var served []string
	for i := range holders {
		if quiet[i].Val() != "true" {
			served = append(served, strings.Fields(holders[i].Sides)...)
		}
	}
	return served, nil
}

// mergeChunk is how many jobs of each list are looked at and moved at once: payloads can be large.
const mergeChunk = 50

// Merge moves all jobs of other lists to the right end of a queue, so that they are the next to run, the oldest of all first, and takes the
// names of the emptied lists off Sidekiq's. Each job is moved by one command: whatever happens, it is in one place. It returns how many were
// moved, also beside an error. Several may merge the same lists at once; then the order is only about right.
func (s *Store) Merge(ctx context.Context, queue string, lists []string) (int, error) {
	most, err := s.jobsIn(ctx, lists)
	if err != nil {
		return 0, fmt.Errorf("merge into %s: %w", queue, err)
	}
	total := 0
	for total < most { // not for ever, should somebody still put jobs in
		turns, err := s.youngest(ctx, lists)
		if err == nil && len(turns) > 0 {
			var n int
			n, err = s.mergeTurns(ctx, queue, turns)
			total += n
		}
		if err != nil {
			return total, fmt.Errorf("merge into %s: %w", queue, err)
		}
		if len(turns) == 0 {
			break
		}
	}
	args := append(unlistScript.begin(make([]any, 0, 5+2*len(lists)), 1+len(lists)), s.keys.queues)
	for _, list := range lists {
		args = append(args, s.keys.queue(list))
	}
	for i := range lists {
		args = append(args, &lists[i])
	}
	if _, err := s.runInt(ctx, &unlistScript, args); err != nil {
		return total, fmt.Errorf("merge into %s: %w", queue, err)
	}
	return total, nil
}

func (s *Store) jobsIn(ctx context.Context, lists []string) (int, error) {
	pipe := s.client.Pipeline()
	lengths := make([]*redis.IntCmd, len(lists))
	for i, list := range lists {
		lengths[i] = pipe.LLen(ctx, s.keys.queue(list))
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return 0, err
	}
	n := 0
	for _, l := range lengths {
		n += int(l.Val())
	}
	return n, nil
}

// youngest says of which lists the next jobs are to be taken, from the left, so that the youngest of all goes first. It looks no further than
// it can see in all of them.
func (s *Store) youngest(ctx context.Context, lists []string) ([]string, error) {
	pipe := s.client.Pipeline()
	jobs := make([]*redis.StringSliceCmd, len(lists))
	for i, list := range lists {
		jobs[i] = pipe.LRange(ctx, s.keys.queue(list), 0, mergeChunk-1)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, err
	}
	type head struct {
		list  string
		since []Timestamp
		more  bool // behind what was read
	}
	heads := make([]head, 0, len(lists))
	for i, list := range lists {
		h := head{list: list, more: len(jobs[i].Val()) == mergeChunk}
		last := Timestamp(0)
		for _, payload := range jobs[i].Val() {
			job, err := ParseJob(payload)
			if since := cmp.Or(job.EnqueuedAt, job.CreatedAt); err == nil && since != 0 {
				last = since // what says nothing goes with its neighbour
			}
			h.since = append(h.since, last)
		}
		if len(h.since) > 0 {
			heads = append(heads, h)
		}
	}
	var turns []string
	for len(heads) > 0 {
		at := 0
		for i := range heads {
			if heads[i].since[0] > heads[at].since[0] {
				at = i
			}
		}
		h := &heads[at]
		turns = append(turns, h.list)
		if h.since = h.since[1:]; len(h.since) == 0 {
			if h.more {
				break
			}
			heads = slices.Delete(heads, at, at+1)
		}
	}
	return turns, nil
}

func (s *Store) mergeTurns(ctx context.Context, queue string, turns []string) (int, error) {
	n := 0
	for part := range slices.Chunk(turns, 2*mergeChunk) {
		pipe := s.client.Pipeline()
		pipe.SAdd(ctx, s.keys.queues, queue)
		moves := make([]*redis.StringCmd, len(part))
		for i, list := range part {
			moves[i] = pipe.LMove(ctx, s.keys.queue(list), s.keys.queue(queue), "LEFT", "RIGHT")
		}
		_, _ = pipe.Exec(ctx) // each command has its own error
		var failed error
		for _, m := range moves {
			switch err := m.Err(); {
			case err == nil:
				n++
			case !errors.Is(err, redis.Nil): // nil: somebody else was quicker
				failed = err
			}
		}
		if failed != nil {
			return n, failed
		}
	}
	return n, nil
}
