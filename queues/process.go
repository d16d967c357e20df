package queues

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

const processTTL = 60 * time.Second

// ProcessInfo is the constant part of a process's presence (spec 1.5).
type ProcessInfo struct {
	Identity    string
	Hostname    string
	PID         int
	StartedAt   time.Time
	Tag         string
	Concurrency int            // as advertised: Mastodon's post clean-up reckons with it
	Queues      []string       // only those really served
	Weights     map[string]int // queue → weight; nil: 0 for all of Queues, strict order
	Mode        string         // strict, weighted or random; "" means strict
	Labels      []string
	Version     string
}

// NewIdentity makes hostname:pid:nonce; the nonce is new for each call.
func NewIdentity(hostname string, pid int) string {
	var nonce [6]byte
	_, _ = rand.Read(nonce[:]) // never fails
	return fmt.Sprintf("%s:%d:%s", hostname, pid, hex.EncodeToString(nonce[:]))
}

// infoJSON prints the superset of what all versions' readers need.
func (p *ProcessInfo) infoJSON() (string, error) {
	mode := p.Mode
	if mode == "" {
		mode = "strict"
	}
	weights := make(Object, 0, len(p.Queues))
	for _, q := range p.Queues {
		weights = append(weights, Member{Key: q, Value: p.Weights[q]})
	}
	out, err := AppendJSON(nil, Object{
		{"hostname", p.Hostname},
		{"started_at", unixSeconds(p.StartedAt)},
		{"pid", p.PID},
		{"tag", p.Tag},
		{"concurrency", p.Concurrency},
		{"capsules", Object{{"default", Object{{"concurrency", p.Concurrency}, {"mode", mode}, {"weights", weights}}}}},
		{"queues", p.Queues},
		{"weights", []any{weights}},
		{"labels", p.Labels},
		{"identity", p.Identity},
		{"version", p.Version},
		{"embedded", false},
	}, 0)
	return string(out), err
}

// WorkEntry is a running job as Sidekiq shows it.
type WorkEntry struct {
	TID     string // unique in the process
	Queue   string // the list it was fetched from (bare name)
	Payload string // exactly as fetched
	RunAt   time.Time
}

func (w *WorkEntry) json() string {
	out := make([]byte, 0, len(w.Payload)+len(w.Payload)/8+64)
	out = append(append(out, `{"queue":`...), JSONString(w.Queue)...)
	out = append(append(out, `,"payload":`...), JSONString(w.Payload)...)
	out = append(out, `,"run_at":`...)
	return string(append(strconv.AppendInt(out, w.RunAt.Unix(), 10), '}'))
}

// Pulse is one heartbeat.
type Pulse struct {
	Now       time.Time
	Busy      int
	Quiet     bool
	RSSKB     int64
	Processed int64 // since the last beat that wrote them
	Failed    int64
	// Work is what runs; the caller bounds it (each entry costs its payload on every beat).
	Work          []WorkEntry
	MirrorWorkers bool       // also :workers, for readers ≤ 6.4.1
	Metrics       *ExecStats // Taken since the last beat that wrote them; nil: none
}

// PulseResult is what a heartbeat did and learnt. It is meaningful with an error too.
type PulseResult struct {
	RTT            time.Duration // of one PING
	First          bool          // the hash was not there: first beat, or the first after an outage
	Signal         string        // taken from the signal list: TSTP, TERM, TTIN, or any other word; "" for none
	StatsWritten   bool          // Processed and Failed are in Redis: subtract them
	MetricsWritten bool          // Metrics are in Redis, else Merge them back
}

// Beat writes counters, running jobs and presence, takes one signal, and writes metrics; four round trips. The hash
// expires after 60 s.
func (s *Store) Beat(ctx context.Context, info ProcessInfo, p Pulse) (PulseResult, error) {
	var r PulseResult
	text, err := info.infoJSON()
	if err != nil {
		return r, fmt.Errorf("beat of %s: %w", info.Identity, err)
	}
	if err := s.beatWork(ctx, info.Identity, p); err != nil {
		return r, fmt.Errorf("beat of %s: write counters and running jobs: %w", info.Identity, err)
	}
	r.StatsWritten = true
	began := time.Now()
	if err := s.client.Ping(ctx).Err(); err != nil {
		return r, fmt.Errorf("beat of %s: %w", info.Identity, err)
	}
	r.RTT = time.Since(began)

	key := s.keys.process(info.Identity)
	pipe := s.client.TxPipeline()
	pipe.SAdd(ctx, s.keys.processes, info.Identity)
	existed := pipe.Exists(ctx, key)
	pipe.HSet(ctx, key,
		"info", text, "concurrency", info.Concurrency, "busy", p.Busy, "beat", JSONFloatSeconds(unixSeconds(p.Now)),
		"rtt_us", r.RTT.Microseconds(), "quiet", strconv.FormatBool(p.Quiet), "rss", p.RSSKB)
	pipe.Expire(ctx, key, processTTL)
	signal := pipe.RPop(ctx, s.keys.signals(info.Identity))
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return r, fmt.Errorf("beat of %s: %w", info.Identity, err)
	}
	r.First, r.Signal = existed.Val() == 0, signal.Val()
	if err := s.FlushMetrics(ctx, p.Metrics); err != nil {
		return r, fmt.Errorf("beat of %s: %w", info.Identity, err)
	}
	r.MetricsWritten = true
	return r, nil
}

func (s *Store) beatWork(ctx context.Context, identity string, p Pulse) error {
	pipe := s.client.TxPipeline()
	if p.Processed != 0 || p.Failed != 0 {
		s.countInto(ctx, pipe, p.Now, p.Processed, p.Failed)
	}
	keys := []string{s.keys.work(identity)}
	if p.MirrorWorkers {
		keys = append(keys, s.keys.workersOf(identity))
	}
	values := make([]any, 0, 2*len(p.Work))
	for i := range p.Work {
		values = append(values, p.Work[i].TID, p.Work[i].json())
	}
	for _, key := range keys {
		pipe.Unlink(ctx, key)
		if len(values) > 0 {
			pipe.HSet(ctx, key, values...)
			pipe.Expire(ctx, key, processTTL)
		}
	}
	_, err := pipe.Exec(ctx)
	return err
}

// Leave takes the process out of Sidekiq's lists, for a clean stop; write the last counters before (FlushStats,
// FlushMetrics). As with Sidekiq its hash is left to expire.
func (s *Store) Leave(ctx context.Context, identity string) error {
	pipe := s.client.TxPipeline()
	pipe.SRem(ctx, s.keys.processes, identity)
	pipe.Unlink(ctx, s.keys.work(identity), s.keys.workersOf(identity), s.keys.workerOf(identity))
	if _, err := pipe.Exec(ctx); err != nil {
		return fmt.Errorf("leave %s: %w", identity, err)
	}
	return nil
}

// CleanProcesses removes members of processes whose hash is gone, at most once a minute over all processes, Ruby's and
// ours (process_cleanup).
func (s *Store) CleanProcesses(ctx context.Context) (removed int, err error) {
	first, err := s.client.SetNX(ctx, s.keys.sidekiq("process_cleanup"), "1", processTTL).Result()
	if err != nil || !first {
		return 0, wrap("clean up processes", err)
	}
	identities, err := s.identities(ctx)
	if err != nil {
		return 0, fmt.Errorf("clean up processes: %w", err)
	}
	var gone []any
	for part := range slices.Chunk(identities, readChunk) {
		pipe := s.client.Pipeline()
		found := make([]*redis.BoolCmd, len(part))
		for i, id := range part {
			found[i] = pipe.HExists(ctx, s.keys.process(id), "info")
		}
		if _, err := pipe.Exec(ctx); err != nil {
			return 0, fmt.Errorf("clean up processes: %w", err)
		}
		for i, id := range part {
			if !found[i].Val() {
				gone = append(gone, id)
			}
		}
	}
	if len(gone) == 0 {
		return 0, nil
	}
	n, err := s.client.SRem(ctx, s.keys.processes, gone...).Result()
	return int(n), wrap("clean up processes", err)
}

func wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// PublishWorker stores what status shows of a worker beyond Sidekiq's hash, opaque bytes, for 60 s.
func (s *Store) PublishWorker(ctx context.Context, identity string, data []byte) error {
	return wrap("publish state of "+identity, s.client.Set(ctx, s.keys.workerOf(identity), data, processTTL).Err())
}

// WorkerStates reads what workers have published, by identity; those without are left out.
func (s *Store) WorkerStates(ctx context.Context, identities []string) (map[string][]byte, error) {
	states := make(map[string][]byte)
	for part := range slices.Chunk(identities, readChunk) {
		names := make([]string, len(part))
		for i, id := range part {
			names[i] = s.keys.workerOf(id)
		}
		values, err := s.client.MGet(ctx, names...).Result()
		if err != nil {
			return nil, fmt.Errorf("read states of workers: %w", err)
		}
		for i, v := range values {
			if text, ok := v.(string); ok {
				states[strings.Clone(part[i])] = []byte(text)
			}
		}
	}
	return states, nil
}
