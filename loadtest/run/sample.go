package run

import (
	"context"
	"encoding/json"
	"math"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/queueville/queueville/loadtest/world"
)

const sampleTimeout = 900 * time.Millisecond

// look samples everything once, and says how many jobs are in queues; −1 when Redis does not answer.
func (s *site) look(ctx context.Context, e *engine) (backlog int) {
	ctx, cancel := context.WithTimeout(ctx, sampleTimeout)
	defer cancel()
	pipe := s.client.Pipeline()
	var lengths [world.Queues]*redis.IntCmd
	var heads [world.Queues]*redis.StringCmd
	for i, name := range world.QueueNames {
		lengths[i], heads[i] = pipe.LLen(ctx, "queue:"+name), pipe.LIndex(ctx, "queue:"+name, -1)
	}
	sets := [3]*redis.IntCmd{pipe.ZCard(ctx, "retry"), pipe.ZCard(ctx, "schedule"), pipe.ZCard(ctx, "dead")}
	_, _ = pipe.Exec(ctx) // a queue that is empty has no head; the lengths' errors count
	failed := lengths[0].Err() != nil
	var now sample
	now.cpu, now.memory = e.use.look(e.pids()...)
	now.database, _ = s.databaseUse.look(s.postgres.PID())
	if !s.stalled.Load() {
		// Not while PostgreSQL is frozen: a statement that times out costs the connection.
		_ = s.db.QueryRow(ctx, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name <> $1", samplerName).Scan(&now.connections)
	}
	wall := time.Now()

	c := s.conduct
	c.mu.Lock()
	defer c.mu.Unlock()
	at := max(0, c.now()-time.Millisecond)
	b := c.meter.bin(at)
	for i := range lengths {
		b.backlog[i] = int(lengths[i].Val())
		backlog += b.backlog[i]
		b.latency[i] = ageOf(heads[i].Val(), wall)
	}
	now.retry, now.schedule, now.dead = int(sets[0].Val()), int(sets[1].Val()), int(sets[2].Val())
	now.held = c.books.count[held] + c.books.count[postponed]
	for i := range c.dests {
		if !c.world.Temper(int32(i), at).Healthy() {
			now.unhealthy++
		}
	}
	b.sample, b.sampled = now, true
	if failed {
		return -1
	}
	return backlog
}

// ageOf is how long ago a payload was enqueued, in seconds.
func ageOf(payload string, now time.Time) float64 {
	var p struct {
		Enqueued float64 `json:"enqueued_at"`
		Created  float64 `json:"created_at"`
	}
	if payload == "" || json.Unmarshal([]byte(payload), &p) != nil {
		return 0
	}
	at := p.Enqueued
	if at == 0 {
		at = p.Created
	}
	if at > 1e12 { // milliseconds
		at /= 1e3
	}
	return math.Max(0, float64(now.UnixNano())/1e9-at)
}
