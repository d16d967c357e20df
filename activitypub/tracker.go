package activitypub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// failureDays is how many distinct days of failure since the last success make a host unavailable.
	failureDays = 7
	flushEvery  = 500 * time.Millisecond
	flushLimit  = 10 * time.Second
	// maxTracked bounds the hosts with events that wait for Redis or Postgres.
	maxTracked = 50_000
	// trackerChunk is how many hosts one command or statement carries.
	trackerChunk = 500
)

// tracker writes what Mastodon's DeliveryFailureTracker writes (app/lib/delivery_failure_tracker.rb): per host the set of days with
// a failure, and from the seventh on a row in unavailable_domains. A success deletes both. Events of a host are merged in the order
// they came and written in batches at least once a second; what could not be written waits for the next time. A success is always
// written, whatever we believe to be there: Ruby beside us adds failure days too.
type tracker struct {
	base        redis.UniversalClient
	basePrefix  string
	cache       redis.UniversalClient
	cacheKey    string
	db          DB
	unavailable *unavailable
	log         *slog.Logger

	flushing  sync.Mutex // one flush at a time, or an older one could overtake
	mu        sync.Mutex
	pending   map[string]trackEvent // for Redis, and then Postgres
	rows      map[string]bool       // host → whether its row should exist; Redis is done, Postgres is not
	dropCache bool                  // rows changed and the Rails cache key is not deleted yet
	dropped   uint64                // events lost because maxTracked was reached
	failures  uint64                // flushes that failed
}

// trackEvent is what must be written of a host: first forget it all, if reset, then add the days.
type trackEvent struct {
	reset bool
	days  [2]string // at most two: a batch spans less than a day, and older ones are merged away
}

func (e trackEvent) withDay(day string) trackEvent {
	switch {
	case day == "" || e.days[0] == day || e.days[1] == day:
	case e.days[0] == "":
		e.days[0] = day
	default:
		e.days[1] = day
	}
	return e
}

func (t *tracker) success(host string) {
	t.add(host, func(trackEvent) trackEvent { return trackEvent{reset: true} })
}

func (t *tracker) failure(host string, now time.Time) {
	day := now.UTC().Format("20060102")
	t.add(host, func(e trackEvent) trackEvent { return e.withDay(day) })
}

func (t *tracker) add(host string, change func(trackEvent) trackEvent) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, ok := t.pending[host]
	if !ok && len(t.pending) >= maxTracked {
		t.dropped++
		return
	}
	t.pending[host] = change(e)
}

// run flushes until ctx ends, and once more after that.
func (t *tracker) run(ctx context.Context) {
	ticker := time.NewTicker(flushEvery)
	defer ticker.Stop()
	failing := false
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushLimit)
			defer cancel()
			if err := t.flush(last); err != nil {
				t.log.ErrorContext(last, "delivery failure tracker lost its last events", slog.Any("err", err))
			}
			return
		}
		limited, cancel := context.WithTimeout(ctx, flushLimit)
		err := t.flush(limited)
		cancel()
		switch {
		case err != nil && !failing && ctx.Err() == nil:
			t.log.WarnContext(ctx, "delivery failure tracker cannot write; it keeps trying", slog.Any("err", err))
			failing = true
		case err == nil && failing:
			t.log.InfoContext(ctx, "delivery failure tracker writes again")
			failing = false
		}
	}
}

// flush writes all that is pending; what fails stays pending.
func (t *tracker) flush(ctx context.Context) error {
	t.flushing.Lock()
	defer t.flushing.Unlock()
	t.mu.Lock()
	batch := t.pending
	t.pending = make(map[string]trackEvent)
	t.mu.Unlock()

	rows, redisErr := t.writeRedis(ctx, batch)
	t.mu.Lock()
	for host, e := range batch {
		t.pending[host] = mergeEvents(e, t.pending[host])
	}
	maps.Copy(t.rows, rows)
	work := t.rows
	t.rows = make(map[string]bool)
	t.mu.Unlock()

	dbErr := t.writeRows(ctx, work)
	t.mu.Lock()
	maps.Copy(t.rows, work)
	err := errors.Join(redisErr, dbErr)
	if err != nil {
		t.failures++
	}
	t.mu.Unlock()
	return errors.Join(err, t.deleteCacheKey(ctx))
}

// mergeEvents puts a newer event on top of an older one that could not be written.
func mergeEvents(older, newer trackEvent) trackEvent {
	if newer.reset {
		return newer
	}
	return older.withDay(newer.days[0]).withDay(newer.days[1])
}

// writeRedis writes the batch, takes what was written out of it, and returns which rows must or must not exist.
func (t *tracker) writeRedis(ctx context.Context, batch map[string]trackEvent) (map[string]bool, error) {
	rows := make(map[string]bool)
	chunk := make([]string, 0, trackerChunk)
	for host := range batch {
		if chunk = append(chunk, host); len(chunk) == trackerChunk {
			if err := t.writeChunk(ctx, chunk, batch, rows); err != nil {
				return rows, err
			}
			chunk = chunk[:0]
		}
	}
	if len(chunk) == 0 {
		return rows, nil
	}
	return rows, t.writeChunk(ctx, chunk, batch, rows)
}

func (t *tracker) writeChunk(ctx context.Context, hosts []string, batch map[string]trackEvent, rows map[string]bool) error {
	pipe := t.base.Pipeline()
	var reset []string
	counts := make(map[string]*redis.IntCmd)
	for _, host := range hosts {
		if batch[host].reset {
			reset = append(reset, t.key(host))
		}
	}
	if len(reset) > 0 {
		pipe.Del(ctx, reset...)
	}
	for _, host := range hosts {
		e := batch[host]
		if e.days[0] == "" {
			continue
		}
		members := []any{e.days[0]}
		if e.days[1] != "" {
			members = append(members, e.days[1])
		}
		pipe.SAdd(ctx, t.key(host), members...)
		counts[host] = pipe.SCard(ctx, t.key(host))
	}
	if _, err := pipe.Exec(ctx); err != nil {
		// All of it is repeated: every command has the same effect twice.
		return fmt.Errorf("write exhausted_deliveries: %w", err)
	}
	for _, host := range hosts {
		if batch[host].reset {
			rows[host] = false
		}
		if n, ok := counts[host]; ok && n.Val() >= failureDays {
			rows[host] = true
		}
		delete(batch, host)
	}
	return nil
}

func (t *tracker) key(host string) string { return t.basePrefix + "exhausted_deliveries:" + host }

// writeRows brings unavailable_domains in line and takes what was written out of rows.
func (t *tracker) writeRows(ctx context.Context, rows map[string]bool) error {
	var gone, listed []string
	for host, exists := range rows {
		if exists {
			listed = append(listed, host)
		} else {
			gone = append(gone, host)
		}
	}
	for len(gone) > 0 {
		part := gone[:min(len(gone), 4*trackerChunk)]
		gone = gone[len(part):]
		tag, err := t.db.Exec(ctx, `DELETE FROM unavailable_domains WHERE domain = ANY($1::text[])`, part)
		if err != nil {
			return fmt.Errorf("delete unavailable_domains: %w", err)
		}
		t.written(rows, part, tag.RowsAffected())
		t.unavailable.change(part, false)
	}
	for len(listed) > 0 {
		part := listed[:min(len(listed), 4*trackerChunk)]
		listed = listed[len(part):]
		tag, err := t.db.Exec(ctx, `INSERT INTO unavailable_domains (domain, created_at, updated_at)
			SELECT d, timezone('utc', now()), timezone('utc', now()) FROM unnest($1::text[]) AS d ON CONFLICT (domain) DO NOTHING`, part)
		if err != nil {
			return fmt.Errorf("insert unavailable_domains: %w", err)
		}
		t.written(rows, part, tag.RowsAffected())
		t.unavailable.change(part, true)
	}
	return nil
}

func (t *tracker) written(rows map[string]bool, hosts []string, affected int64) {
	for _, host := range hosts {
		delete(rows, host)
	}
	if affected > 0 {
		t.mu.Lock()
		t.dropCache = true
		t.mu.Unlock()
	}
}

// deleteCacheKey drops Rails' cached copy of unavailable_domains when rows changed; it would be stale for up to ten minutes.
func (t *tracker) deleteCacheKey(ctx context.Context) error {
	t.mu.Lock()
	drop := t.dropCache
	t.mu.Unlock()
	if !drop {
		return nil
	}
	if err := t.cache.Del(ctx, t.cacheKey).Err(); err != nil {
		return fmt.Errorf("delete cache key: %w", err)
	}
	t.mu.Lock()
	t.dropCache = false
	t.mu.Unlock()
	return nil
}

func (t *tracker) stats() (pending int, dropped, failures uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.pending) + len(t.rows), t.dropped, t.failures
}
