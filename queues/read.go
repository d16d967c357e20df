package queues

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	readChunk = 200    // names per pipeline
	readMax   = 10_000 // queues, processes or running jobs that are read at most
)

// QueueState is one queue as Sidekiq shows it.
type QueueState struct {
	Name    string
	Backlog int64   // jobs waiting
	Latency float64 // seconds; see Store.Queues
	Paused  bool
}

// Queues lists the queues that Sidekiq knows, by name, each with backlog and latency.
//
// Latency is how long the next job of the queue has waited, as Sidekiq defines it: now minus its enqueued_at, or
// created_at if that is absent; 0 for an empty queue or a payload that says neither. It is never negative: 0 when our
// clock is behind. Both forms of time are read.
func (s *Store) Queues(ctx context.Context, now time.Time) ([]QueueState, error) {
	names, err := s.scanSet(ctx, s.keys.queues)
	if err != nil {
		return nil, fmt.Errorf("list queues: %w", err)
	}
	slices.Sort(names)
	return s.QueueStates(ctx, names, now)
}

// QueueStates looks at the named queues, in that order, whether Sidekiq knows them or not.
func (s *Store) QueueStates(ctx context.Context, names []string, now time.Time) ([]QueueState, error) {
	list := make([]QueueState, 0, len(names))
	for part := range slices.Chunk(names, readChunk) {
		pipe := s.client.Pipeline()
		sizes := make([]*redis.IntCmd, len(part))
		next := make([]*redis.StringCmd, len(part))
		paused := make([]*redis.BoolCmd, len(part))
		for i, name := range part {
			sizes[i] = pipe.LLen(ctx, s.keys.queue(name))
			next[i] = pipe.LIndex(ctx, s.keys.queue(name), -1)
			paused[i] = pipe.SIsMember(ctx, s.keys.paused, name)
		}
		if _, err := pipe.Exec(ctx); err != nil && !isReply(err) {
			return nil, fmt.Errorf("read queues: %w", err)
		}
		for i, name := range part {
			list = append(list, QueueState{
				Name: name, Backlog: sizes[i].Val(), Paused: paused[i].Val(),
				Latency: latency(next[i].Val(), now),
			})
		}
	}
	return list, nil
}

// Queue looks at one queue.
func (s *Store) Queue(ctx context.Context, name string, now time.Time) (QueueState, error) {
	list, err := s.QueueStates(ctx, []string{name}, now)
	if err != nil {
		return QueueState{}, err
	}
	return list[0], nil
}

// isReply says whether Redis answered, with nil or an error about one key, such as one that is of another type.
func isReply(err error) bool {
	var reply redis.Error
	return errors.As(err, &reply) && !redis.HasErrorPrefix(err, "LOADING") && !redis.HasErrorPrefix(err, "NOAUTH")
}

func latency(payload string, now time.Time) float64 {
	job, err := ParseJob(payload)
	if err != nil {
		return 0
	}
	since := job.EnqueuedAt
	if since == 0 {
		since = job.CreatedAt
	}
	if since == 0 {
		return 0
	}
	return max(0, unixSeconds(now)-float64(since))
}

// ProcessState is one process as Sidekiq shows it, Ruby's or ours.
type ProcessState struct {
	ProcessInfo
	Busy  int
	Quiet bool
	Beat  time.Time
	RSSKB int64
	RTT   time.Duration
}

// Processes lists the processes with a live hash, by identity. What a version does not write is zero; Concurrency is
// read from the field (8.1.2) or from info; Queues from queues, capsules or weights. A process whose info is no JSON is
// shown with its identity alone.
func (s *Store) Processes(ctx context.Context) ([]ProcessState, error) {
	identities, err := s.identities(ctx)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	slices.Sort(identities)
	list := make([]ProcessState, 0, len(identities))
	for part := range slices.Chunk(identities, readChunk) {
		pipe := s.client.Pipeline()
		rows := make([]*redis.SliceCmd, len(part))
		for i, id := range part {
			rows[i] = pipe.HMGet(ctx, s.keys.process(id), "info", "concurrency", "busy", "beat", "quiet", "rss", "rtt_us")
		}
		if _, err := pipe.Exec(ctx); err != nil && !isReply(err) {
			return nil, fmt.Errorf("read processes: %w", err)
		}
		for i, id := range part {
			if p, ok := readProcess(id, rows[i].Val()); ok {
				list = append(list, p)
			}
		}
	}
	return list, nil
}

func readProcess(identity string, row []any) (ProcessState, bool) {
	const fields = 7
	if len(row) != fields {
		return ProcessState{}, false
	}
	var column [fields]string
	for i, v := range row {
		column[i], _ = v.(string)
	}
	if column[0] == "" {
		return ProcessState{}, false
	}
	p := ProcessState{ProcessInfo: readInfo(column[0])}
	p.Identity = identity
	if n, err := strconv.Atoi(column[1]); err == nil {
		p.Concurrency = n
	}
	p.Busy, _ = strconv.Atoi(column[2])
	if beat, err := strconv.ParseFloat(column[3], 64); err == nil {
		p.Beat = Timestamp(beat).Time()
	}
	p.Quiet = column[4] == "true"
	p.RSSKB, _ = strconv.ParseInt(column[5], 10, 64)
	us, _ := strconv.ParseInt(column[6], 10, 64)
	p.RTT = time.Duration(us) * time.Microsecond
	return p, true
}

// readInfo reads the info JSON of any version, each field for itself, so that a defect of one costs only that.
func readInfo(text string) ProcessInfo {
	var p ProcessInfo
	var fields map[string]json.RawMessage
	if json.Unmarshal([]byte(text), &fields) != nil {
		return p
	}
	read := func(name string, into any) bool {
		raw, ok := fields[name]
		return ok && json.Unmarshal(raw, into) == nil
	}
	read("hostname", &p.Hostname)
	read("pid", &p.PID)
	read("tag", &p.Tag)
	read("concurrency", &p.Concurrency)
	read("labels", &p.Labels)
	read("version", &p.Version)
	var started float64
	if read("started_at", &started) {
		p.StartedAt = Timestamp(started).Time()
	}
	var one map[string]int
	var many []map[string]int
	var capsules map[string]struct {
		Concurrency int            `json:"concurrency"`
		Mode        string         `json:"mode"`
		Weights     map[string]int `json:"weights"`
	}
	p.Weights = map[string]int{}
	switch {
	case read("capsules", &capsules):
		sum := 0
		for _, c := range capsules {
			p.addWeights(c.Weights)
			sum += c.Concurrency
			p.Mode = c.Mode
		}
		if p.Concurrency == 0 {
			p.Concurrency = sum
		}
	case read("weights", &many):
		for _, w := range many {
			p.addWeights(w)
		}
	case read("weights", &one):
		p.addWeights(one)
	}
	if !read("queues", &p.Queues) || p.Queues == nil {
		for q := range p.Weights {
			p.Queues = append(p.Queues, q)
		}
		slices.Sort(p.Queues)
	}
	return p
}

func (p *ProcessInfo) addWeights(w map[string]int) {
	maps.Copy(p.Weights, w)
}

// RunningJob is an entry of a process's work hash.
type RunningJob struct {
	Identity string
	WorkEntry
}

// Running lists running jobs of all processes, longest running first, at most 10,000; of :work, or of :workers for
// processes ≤ 6.4.1. Entries that are no JSON are left out.
func (s *Store) Running(ctx context.Context) ([]RunningJob, error) {
	identities, err := s.identities(ctx)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var list []RunningJob
	for _, id := range identities {
		for _, key := range []string{s.keys.work(id), s.keys.workersOf(id)} {
			n := len(list)
			it := s.client.HScan(ctx, key, 0, "", readChunk).Iterator()
			for len(list) < readMax && it.Next(ctx) {
				tid := it.Val()
				if !it.Next(ctx) {
					break
				}
				if w, ok := readWork(tid, it.Val()); ok {
					list = append(list, RunningJob{Identity: id, WorkEntry: w})
				}
			}
			if err := it.Err(); err != nil && !isReply(err) {
				return nil, fmt.Errorf("read running jobs: %w", err)
			}
			if len(list) > n {
				break
			}
		}
	}
	slices.SortStableFunc(list, func(a, b RunningJob) int { return a.RunAt.Compare(b.RunAt) })
	return list, nil
}

func readWork(tid, text string) (WorkEntry, bool) {
	var fields map[string]json.RawMessage
	if json.Unmarshal([]byte(text), &fields) != nil {
		return WorkEntry{}, false
	}
	w := WorkEntry{TID: tid}
	_ = json.Unmarshal(fields["queue"], &w.Queue)
	if json.Unmarshal(fields["payload"], &w.Payload) != nil {
		w.Payload = string(fields["payload"]) // an object, as nobody should write it
	}
	var at float64
	if json.Unmarshal(fields["run_at"], &at) == nil {
		w.RunAt = time.Unix(int64(at), 0)
	}
	return w, true
}

// Totals are the counters and set sizes.
type Totals struct {
	Processed int64 // executions, ever
	Failed    int64
	Scheduled int64 // members of the sets
	Retries   int64
	Dead      int64
	Enqueued  int64 // jobs in all queues
	Processes int64 // members of processes, dead ones too for a while
}

// Totals reads the counters and set sizes as Sidekiq's dashboard shows them.
func (s *Store) Totals(ctx context.Context) (Totals, error) {
	names, err := s.scanSet(ctx, s.keys.queues)
	if err != nil {
		return Totals{}, fmt.Errorf("read totals: %w", err)
	}
	pipe := s.client.Pipeline()
	processed, failed := pipe.Get(ctx, s.keys.sidekiq("stat:processed")), pipe.Get(ctx, s.keys.sidekiq("stat:failed"))
	scheduled, retries, dead := pipe.ZCard(ctx, s.keys.schedule), pipe.ZCard(ctx, s.keys.retry), pipe.ZCard(ctx, s.keys.dead)
	processes := pipe.SCard(ctx, s.keys.processes)
	sizes := make([]*redis.IntCmd, len(names))
	for i, name := range names {
		sizes[i] = pipe.LLen(ctx, s.keys.queue(name))
	}
	if _, err := pipe.Exec(ctx); err != nil && !isReply(err) {
		return Totals{}, fmt.Errorf("read totals: %w", err)
	}
	t := Totals{Scheduled: scheduled.Val(), Retries: retries.Val(), Dead: dead.Val(), Processes: processes.Val()}
	t.Processed, _ = processed.Int64()
	t.Failed, _ = failed.Int64()
	for _, n := range sizes {
		t.Enqueued += n.Val()
	}
	return t, nil
}

// ProcessCount is the number of members of processes, which PollInterval wants.
func (s *Store) ProcessCount(ctx context.Context) (int, error) {
	n, err := s.client.SCard(ctx, s.keys.processes).Result()
	return int(n), wrap("count processes", err)
}

// PausedQueues lists the queues in the set that Sidekiq Pro pauses with.
func (s *Store) PausedQueues(ctx context.Context) ([]string, error) {
	names, err := s.scanSet(ctx, s.keys.paused)
	slices.Sort(names)
	return names, wrap("list paused queues", err)
}

// Entry is a member of a sorted set.
type Entry struct {
	Payload string
	Score   float64 // Unix seconds
}

// Entries reads up to limit members of SetSchedule, SetRetry or SetDead, lowest score first, from offset on.
func (s *Store) Entries(ctx context.Context, set string, offset, limit int) ([]Entry, error) {
	members, err := s.client.ZRangeWithScores(ctx, s.keys.sidekiq(set), int64(offset), int64(offset+limit-1)).Result()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", set, err)
	}
	list := make([]Entry, len(members))
	for i, m := range members {
		payload, _ := m.Member.(string)
		list[i] = Entry{Payload: payload, Score: m.Score}
	}
	return list, nil
}

func (s *Store) identities(ctx context.Context) ([]string, error) {
	return s.scanSet(ctx, s.keys.processes)
}

// scanSet reads a set in steps, at most readMax members, each once.
func (s *Store) scanSet(ctx context.Context, key string) ([]string, error) {
	var names []string
	seen := make(map[string]struct{})
	it := s.client.SScan(ctx, key, 0, "", readChunk).Iterator()
	for len(names) < readMax && it.Next(ctx) {
		if _, twice := seen[it.Val()]; !twice {
			seen[it.Val()] = struct{}{}
			names = append(names, strings.Clone(it.Val()))
		}
	}
	return names, it.Err()
}
