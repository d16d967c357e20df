package queues

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// batchJobs is how many jobs a batch has at most: enough to be cheap, few enough to put what is left of one into the hash at once.
const batchJobs = 128

// batch is a list of payloads that were moved from a queue together. Redis copies it as a whole, so none of them has to go through Lua.
// The first job fetched is its rightmost one. It is gone when none of its jobs is held any more, or when those have been put into the
// in-flight hash.
type batch struct {
	first uint64 // sequence number of its first job
	size  int
	list  string // what follows the prefix in its list's name
	queue string
	left  int       // jobs held, as far as we know
	since time.Time // when we first heard of it
}

// name is the batch's field in the hash of batches; its value is the number of jobs that are still held.
func (b *batch) name() string {
	return strconv.FormatUint(b.first, 10) + ":" + strconv.Itoa(b.size) + ":" + b.list + " " + b.queue
}

func parseBatch(field string) (*batch, bool) {
	numbers, queue, ok := strings.Cut(field, " ")
	if !ok {
		return nil, false
	}
	first, rest, _ := strings.Cut(numbers, ":")
	size, list, _ := strings.Cut(rest, ":")
	b := &batch{queue: queue, list: list}
	var err, err2 error
	b.first, err = strconv.ParseUint(first, 10, 64)
	b.size, err2 = strconv.Atoi(size)
	return b, err == nil && err2 == nil && list != "" && b.size > 0 && b.size <= MaxBatch
}

// openBatches are the batches of a session of which jobs are still held.
type openBatches struct {
	mu   sync.Mutex
	list []*batch // by first
}

func (o *openBatches) merge(list []*batch) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, b := range list {
		at, there := find(o.list, b.first)
		if !there {
			b.since = time.Now()
			o.list = slices.Insert(o.list, at, b)
		}
	}
}

// rewind forgets what was fetched under numbers from first on: they come a second time, so Redis has forgotten those fetches.
func (o *openBatches) rewind(first uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	at, _ := find(o.list, first)
	if at > 0 && o.list[at-1].first+uint64(o.list[at-1].size) > first {
		at--
	}
	o.list = o.list[:at]
}

func find(list []*batch, first uint64) (int, bool) {
	return slices.BinarySearchFunc(list, first, func(b *batch, seq uint64) int {
		switch {
		case b.first < seq:
			return -1
		case b.first > seq:
			return 1
		}
		return 0
	})
}

// place is where a job's payload is in its batch's list.
func (b *batch) place(r Ref) int64 { return -int64(r.Seq-b.first) - 1 }

// batchOf is the batch that a job was fetched in, nil if it came alone. list is sorted.
func batchOf(list []*batch, r Ref) *batch {
	at, there := find(list, r.Seq)
	if !there {
		at--
	}
	if at < 0 || r.Seq-list[at].first >= uint64(list[at].size) || list[at].queue != r.Queue {
		return nil
	}
	return list[at]
}

// of tells for each job the batch it is in, nil for none.
func (o *openBatches) of(refs []Completion) []*batch {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := make([]*batch, len(refs))
	for i := range refs {
		out[i] = batchOf(o.list, refs[i].Ref)
	}
	return out
}

// leave counts down the batches of jobs that are held no more.
func (o *openBatches) leave(of []*batch, held []bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i, b := range of {
		if b == nil || !held[i] {
			continue
		}
		if b.left--; b.left == 0 {
			o.drop(b)
		}
	}
}

// drop forgets a batch. mu is held.
func (o *openBatches) drop(b *batch) {
	if at, there := find(o.list, b.first); there && o.list[at] == b {
		o.list = slices.Delete(o.list, at, at+1)
	}
}

// Unbatch puts the jobs of batches that were fetched before the given time into the in-flight hash, so that a job that runs for long does
// not keep the payloads of all those it was fetched with. At most limit batches, one round trip each. ErrLeaseLost without a lease.
func (s *Session) Unbatch(ctx context.Context, before time.Time, limit int) error {
	s.open.mu.Lock()
	var old []*batch
	for _, b := range s.open.list {
		if b.since.Before(before) && len(old) < limit {
			old = append(old, b)
		}
	}
	s.open.mu.Unlock()
	for _, b := range old {
		args := append(unbatchScript.begin(make([]any, 0, 11), 4), s.lease, s.inflight, s.batches, s.lists+b.list, b.name(), b.first, b.size, b.queue)
		_, err := s.store.runInt(ctx, &unbatchScript, args)
		if errors.Is(err, redis.Nil) {
			return ErrLeaseLost
		}
		if err != nil {
			return fmt.Errorf("unbatch jobs of %s: %w", s.name, err)
		}
		s.open.mu.Lock()
		s.open.drop(b)
		s.open.mu.Unlock()
	}
	return nil
}

// InFlight reads the jobs that a holder has in flight, in the order they were fetched.
func (s *Store) InFlight(ctx context.Context, holder string) ([]Fetched, error) {
	jobs, _, err := s.held(ctx, holder, func(Ref) bool { return true })
	if err != nil {
		return nil, fmt.Errorf("read jobs in flight of %s: %w", holder, err)
	}
	return jobs, nil
}

// heldRefs lists what a holder has in flight and in which batches, both in the order of fetching.
func (s *Store) heldRefs(ctx context.Context, holder string) ([]Ref, []*batch, error) {
	pipe := s.client.Pipeline()
	fields := pipe.HKeys(ctx, s.keys.inflightOf(holder))
	names := pipe.HGetAll(ctx, s.keys.batchesOf(holder))
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, nil, err
	}
	var refs []Ref
	for _, f := range fields.Val() {
		if ref, ok := parseField(f); ok {
			refs = append(refs, ref)
		}
	}
	var batches []*batch
	for name, left := range names.Val() {
		if b, ok := parseBatch(name); ok {
			b.left, _ = strconv.Atoi(left)
			batches = append(batches, b)
		}
	}
	slices.SortFunc(refs, compareSeq)
	slices.SortFunc(batches, func(a, b *batch) int { return compareSeq(Ref{Seq: a.first}, Ref{Seq: b.first}) })
	return refs, batches, nil
}

// held reads the jobs of a holder that want wants, in the order they were fetched. A job whose payload is gone from Redis is left out.
func (s *Store) held(ctx context.Context, holder string, want func(Ref) bool) ([]Fetched, []*batch, error) {
	refs, batches, err := s.heldRefs(ctx, holder)
	if err != nil {
		return nil, nil, err
	}
	refs = slices.DeleteFunc(refs, func(r Ref) bool { return !want(r) })
	jobs := make([]Fetched, 0, len(refs))
	const chunk = 200
	for part := range slices.Chunk(refs, chunk) {
		pipe := s.client.Pipeline()
		values := make([]*redis.StringCmd, len(part))
		copies := make([]*redis.StringCmd, len(part))
		for i, r := range part {
			values[i] = pipe.HGet(ctx, s.keys.inflightOf(holder), string(appendField(nil, r)))
			if b := batchOf(batches, r); b != nil {
				copies[i] = pipe.LIndex(ctx, s.keys.batchesOf(holder)+":"+b.list, b.place(r))
			}
		}
		if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
			return nil, nil, err
		}
		for i, r := range part {
			payload, err := values[i].Result()
			if payload == "" && copies[i] != nil {
				payload, err = copies[i].Result()
			}
			if errors.Is(err, redis.Nil) {
				continue // completed meanwhile
			}
			if err != nil {
				return nil, nil, err
			}
			jobs = append(jobs, Fetched{Ref: r, Payload: payload})
		}
	}
	return jobs, batches, nil
}
