package run

import (
	"container/heap"
	"context"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/queueville/queueville/loadtest/world"
)

const (
	// tolerance is how late a push may be. What is later is dropped and counted: delaying it quietly would make the load gentler.
	tolerance = time.Second
	// pushTimeout is how long a web process waits for Redis.
	pushTimeout = 2 * time.Second
	pushChunk   = 500
)

// arrival is a push that is due.
type arrival struct {
	job   world.Job
	cause uint64        // the job that it follows from; 0: none
	due   time.Duration // when it is caused
	score time.Duration // of the schedule set; 0: its queue
}

// generate pushes what the outside does, when it does it, until the end of the run's length or of ctx. It waits for nobody: what cannot be pushed in
// time is dropped, what Redis does not take is refused, and both are counted.
func (c *conductor) generate(ctx context.Context, client redis.UniversalClient) {
	stream := c.world.Stream()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		batch, next, more := c.due(stream)
		for len(batch) > 0 {
			n := min(pushChunk, len(batch))
			c.push(ctx, client, batch[:n])
			batch = batch[n:]
		}
		if !more && c.over() {
			return
		}
		c.mu.Lock()
		if !more { // nothing happens any more until the time is up
			next = c.length
		}
		wait := next - c.now()
		c.mu.Unlock()
		timer.Reset(max(0, min(wait, 50*time.Millisecond)))
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
	}
}

// over says that the time of arrivals has passed.
func (c *conductor) over() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now() >= c.length
}

// due takes what is due by now, and says when the next is; false when the world's own events are over.
func (c *conductor) due(stream *world.Stream) (batch []arrival, next time.Duration, more bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	for {
		at, ok := stream.Peek()
		if !ok || at > now {
			next, more = at, ok
			break
		}
		_, _ = stream.Next(func(p world.Push) {
			switch {
			case p.After <= 0:
				batch = append(batch, arrival{job: p.Job, due: at})
			case p.Scheduled:
				batch = append(batch, arrival{job: p.Job, due: at, score: at + p.After})
			case !c.books.full():
				c.later(p.Job)
			}
		})
	}
	for len(c.outside) > 0 && c.outside[0].Enqueued <= now {
		job := heap.Pop(&c.outside).(world.Job)
		if job.Enqueued <= c.length {
			batch = append(batch, arrival{job: job, due: job.Enqueued})
		}
	}
	if len(c.outside) > 0 && (!more || c.outside[0].Enqueued < next) {
		next, more = c.outside[0].Enqueued, c.outside[0].Enqueued <= c.length || more
	}
	if c.onlyDeliveries {
		batch = c.unfold(batch)
	}
	return batch, next, more
}

// later keeps a push for later.
func (c *conductor) later(j world.Job) { heap.Push(&c.outside, j) }

// push puts arrivals into Redis, in one pipeline.
func (c *conductor) push(ctx context.Context, client redis.UniversalClient, batch []arrival) {
	pipe := client.Pipeline()
	records := make([]*record, 0, len(batch))
	c.mu.Lock()
	now := c.now()
	wall := c.start.Add(now)
	for i := range batch {
		a := &batch[i]
		delay := now - a.due
		c.meter.latest = max(c.meter.latest, delay)
		if delay > tolerance {
			if a.due >= c.silent[0] && a.due <= c.silent[1] {
				c.meter.refused++ // by a Redis that had just not answered
			} else {
				c.meter.late++
			}
			continue
		}
		if c.books.full() {
			c.meter.dropped++
			continue
		}
		a.job.Created, a.job.Enqueued = now, now
		payload, key, err := c.write.payload(&a.job, a.cause, wall, wall)
		if err != nil {
			c.meter.dropped++
			continue
		}
		r := c.books.add(&a.job, a.cause, handed)
		c.key(r, key)
		if a.score > 0 {
			score := float64(c.start.Add(a.score).UnixMicro()) / 1e6
			pipe.ZAdd(ctx, "schedule", redis.Z{Score: score, Member: payload})
			r.Enqueued = a.score
		} else {
			pipe.LPush(ctx, "queue:"+world.QueueNames[a.job.Queue()], payload)
		}
		records = append(records, r)
	}
	c.mu.Unlock()
	if len(records) == 0 {
		return
	}
	callCtx, cancel := context.WithTimeout(ctx, pushTimeout)
	results, failed := pipe.Exec(callCtx) // each command's own error counts
	cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	if failed != nil {
		c.silent = [2]time.Duration{now, c.now()}
	}
	for i, r := range records {
		switch {
		case i < len(results) && results[i].Err() == nil:
			if r.state != handed { // somebody has started it already
				continue
			}
			if r.Enqueued > now {
				c.books.move(r, scheduled)
				continue
			}
			c.books.move(r, queued)
			c.meter.pushed(r)
		case r.state != handed: // the answer was lost, the job was not
		default:
			// Whether Redis has it after all is seen when somebody starts it, or at the end.
			c.meter.refused++
		}
	}
}

// warm pushes jobs that are no part of the run, so that processes have loaded their code and opened their connections.
func (c *conductor) warm(ctx context.Context, client redis.UniversalClient, n int) error {
	pipe := client.Pipeline()
	now := time.Now()
	for i := range n {
		id := uint64(i)
		job := world.Job{ID: id, Class: world.FeedInsert}
		c.mu.Lock()
		payload := c.write.plain(&job, &world.ClassTable[job.Class], now, now)
		c.mu.Unlock()
		pipe.LPush(ctx, "queue:"+world.QueueNames[job.Queue()], string(payload[:len(payload)-1])+`,"loadtest_warm":`+strconv.Itoa(i)+"}")
	}
	_, err := pipe.Exec(ctx)
	return err
}
