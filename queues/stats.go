package queues

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	dailyTTL     = 157_680_000 * time.Second // five years, Sidekiq's STATS_TTL
	minuteTTL    = 28_800 * time.Second      // eight hours
	tenMinuteTTL = 259_200 * time.Second     // three days, 8.x only
)

// FlushStats adds to the counters and to those of now's UTC day, in one transaction. It does nothing when both are 0.
func (s *Store) FlushStats(ctx context.Context, now time.Time, processed, failed int64) error {
	if processed == 0 && failed == 0 {
		return nil
	}
	pipe := s.client.TxPipeline()
	s.countInto(ctx, pipe, now, processed, failed)
	if _, err := pipe.Exec(ctx); err != nil {
		return fmt.Errorf("write counters: %w", err)
	}
	return nil
}

func (s *Store) countInto(ctx context.Context, pipe redis.Pipeliner, now time.Time, processed, failed int64) {
	day := now.UTC().Format(time.DateOnly)
	for name, n := range map[string]int64{"stat:processed": processed, "stat:failed": failed} {
		total := s.keys.sidekiq(name)
		pipe.IncrBy(ctx, total, n)
		pipe.IncrBy(ctx, total+":"+day, n)
		pipe.Expire(ctx, total+":"+day, dailyTTL)
	}
}

// histogramBounds are the upper bounds in milliseconds of all buckets but the last, Sidekiq's BUCKET_INTERVALS.
var histogramBounds = [...]int64{
	20, 30, 45, 65, 100, 150, 225, 335, 500, 750, 1100, 1700, 2500, 3800, 5750, 8500,
	13000, 20000, 30000, 45000, 65000, 100000, 150000, 225000, 335000,
}

const histogramBuckets = len(histogramBounds) + 1

func histogramBucket(ms int64) int {
	for i, bound := range histogramBounds {
		if ms < bound {
			return i
		}
	}
	return histogramBuckets - 1
}

// ExecStats collects execution metrics by class and minute until they are flushed. Safe for concurrent use.
type ExecStats struct {
	v7, v8     bool
	maxClasses int

	mu   sync.Mutex
	rows map[execKey]*execRow
}

type execKey struct {
	class  string
	minute int64 // Unix minutes
}

type execRow struct {
	runs, failures, ms int64
	buckets            [histogramBuckets]uint32
}

// NewExecStats makes an empty collection. v7 and v8 select the formats to write (neither version reads the other's);
// maxClasses bounds its memory: what comes when so many classes (times minutes) are held is left out.
func NewExecStats(v7, v8 bool, maxClasses int) *ExecStats {
	return &ExecStats{v7: v7, v8: v8, maxClasses: maxClasses, rows: make(map[execKey]*execRow)}
}

// Add counts one execution that ended at now. class is the wrapped one if there is one (Job.Name). Failures have no time
// and no place in the histogram.
func (e *ExecStats) Add(class string, now time.Time, took time.Duration, failed bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	row := e.row(execKey{class: class, minute: now.Unix() / 60})
	if row == nil {
		return
	}
	row.runs++
	if failed {
		row.failures++
		return
	}
	ms := max(0, took.Milliseconds())
	row.ms += ms
	row.buckets[histogramBucket(ms)]++
}

func (e *ExecStats) row(k execKey) *execRow {
	row := e.rows[k]
	if row == nil && len(e.rows) < e.maxClasses {
		row = new(execRow)
		e.rows[execKey{class: strings.Clone(k.class), minute: k.minute}] = row
	}
	return row
}

// Take returns what was collected and starts anew.
func (e *ExecStats) Take() *ExecStats {
	e.mu.Lock()
	defer e.mu.Unlock()
	taken := &ExecStats{v7: e.v7, v8: e.v8, maxClasses: e.maxClasses, rows: e.rows}
	e.rows = make(map[execKey]*execRow, len(taken.rows))
	return taken
}

// Merge gives back what was taken, after a flush that failed.
func (e *ExecStats) Merge(o *ExecStats) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for k, from := range o.rows {
		row := e.row(k)
		if row == nil {
			continue
		}
		row.runs += from.runs
		row.failures += from.failures
		row.ms += from.ms
		for i, n := range from.buckets {
			row.buckets[i] += n
		}
	}
}

// Empty says whether there is nothing to flush.
func (e *ExecStats) Empty() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.rows) == 0
}

// FlushMetrics adds execution metrics, which the caller has Taken, in the formats they were made for.
func (s *Store) FlushMetrics(ctx context.Context, m *ExecStats) error {
	if m == nil || len(m.rows) == 0 {
		return nil
	}
	pipe := s.client.Pipeline()
	keys := slices.SortedFunc(maps.Keys(m.rows), func(a, b execKey) int {
		if a.minute != b.minute {
			return int(a.minute - b.minute)
		}
		return strings.Compare(a.class, b.class)
	})
	for _, k := range keys {
		row := m.rows[k]
		// A class with a bar in it would break Ruby's reader.
		class := strings.ReplaceAll(k.class, "|", "_")
		t := time.Unix(k.minute*60, 0).UTC()
		if m.v7 {
			s.metricHash(ctx, pipe, fmt.Sprintf("j|%s|%d:%d", t.Format("20060102"), t.Hour(), t.Minute()), minuteTTL, class, row)
			s.histogram(ctx, pipe, fmt.Sprintf("%s-%02d-%02d:%d", class, t.Day(), t.Hour(), t.Minute()), row)
		}
		if m.v8 {
			minute := fmt.Sprintf("j|%s|%d:%02d", t.Format("060102"), t.Hour(), t.Minute())
			s.metricHash(ctx, pipe, minute, minuteTTL, class, row)
			s.metricHash(ctx, pipe, minute[:len(minute)-1], tenMinuteTTL, class, row)
			s.histogram(ctx, pipe, fmt.Sprintf("h|%s-%d-%d:%d", class, t.Day(), t.Hour(), t.Minute()), row)
		}
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return fmt.Errorf("write execution metrics: %w", err)
	}
	return nil
}

func (s *Store) metricHash(ctx context.Context, pipe redis.Pipeliner, name string, ttl time.Duration, class string, row *execRow) {
	key := s.keys.sidekiq(name)
	for field, n := range map[string]int64{"p": row.runs, "f": row.failures, "ms": row.ms} {
		if n != 0 {
			pipe.HIncrBy(ctx, key, class+"|"+field, n)
		}
	}
	pipe.Expire(ctx, key, ttl)
}

func (s *Store) histogram(ctx context.Context, pipe redis.Pipeliner, name string, row *execRow) {
	args := []any{"OVERFLOW", "SAT"}
	for i, n := range row.buckets {
		if n > 0 {
			args = append(args, "INCRBY", "u16", "#"+strconv.Itoa(i), min(n, 65_535))
		}
	}
	if len(args) == 2 {
		return
	}
	key := s.keys.sidekiq(name)
	pipe.BitField(ctx, key, args...)
	pipe.Expire(ctx, key, minuteTTL)
}
