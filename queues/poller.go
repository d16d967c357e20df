package queues

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// Polled counts what one poll did.
type Polled struct {
	Due    int            // members it found due; equal to the limit means that there may be more
	Moved  int            // jobs put onto their queues
	Buried int            // members that are no jobs, moved to dead
	Queues map[string]int // moved, by queue
}

// pollChunk bounds what is read and sent at once: payloads can be large.
const pollChunk = 50

// PollDue moves up to limit due members of SetRetry or SetSchedule to their queues, soonest first, with a new
// enqueued_at, what Sidekiq's client would add if it is missing (retry, queue, jid, created_at) and without a stored
// "at". What is no job (not an object, no class, args not an array) is buried; Ruby loses it. Each is moved by exactly one
// of any number of processes, Ruby's included.
func (s *Store) PollDue(ctx context.Context, set string, now time.Time, limit int) (Polled, error) {
	done := Polled{Queues: map[string]int{}}
	key := s.keys.sidekiq(set)
	at := score(unixSeconds(now))
	oldest := strconv.FormatInt(now.Add(-s.DeadTimeout).Unix(), 10)
	for done.Due < limit {
		want := min(pollChunk, limit-done.Due)
		members, err := s.client.ZRangeByScore(ctx, key, &redis.ZRangeBy{Min: "-inf", Max: at, Count: int64(want)}).Result()
		if err != nil {
			return done, fmt.Errorf("poll %s: %w", set, err)
		}
		done.Due += len(members)
		if len(members) == 0 {
			return done, nil
		}
		args := append(dueScript.begin(make([]any, 0, 11+3*len(members)), 3), key, s.keys.queues, s.keys.dead,
			at, at, oldest, s.DeadMax, s.keys.queuePrefix)
		queues := make([]string, len(members))
		for i, m := range members {
			queue, payload := s.prepareDue(m, now)
			queues[i] = queue
			args = append(args, m, queue, payload)
		}
		var reply *redis.StringCmd
		err = dueScript.run(ctx, s.client, args, func(a []any) redis.Cmder {
			reply = redis.NewStringCmd(ctx, a...)
			return reply
		})
		if err != nil {
			return done, fmt.Errorf("poll %s: %w", set, err)
		}
		for i, what := range []byte(reply.Val()) {
			switch what {
			case 'm':
				done.Moved++
				done.Queues[queues[i]]++
			case 'b':
				done.Buried++
			}
		}
		if len(members) < want {
			return done, nil
		}
	}
	return done, nil
}

// prepareDue makes the payload to push; queue "" means that the member is no job, and payload what to bury of it.
func (s *Store) prepareDue(member string, now time.Time) (queue, payload string) {
	job, err := ParseJob(member)
	if err != nil || job.Class == "" || len(job.Args) == 0 || job.Args[0] != '[' {
		return "", Burial(member)
	}
	stamp := stampJSON(unixSeconds(now), s.Milliseconds)
	fields := make([]Field, 0, 6)
	fields = append(fields, Field{"enqueued_at", stamp}, Field{"at", ""})
	queue = job.Queue
	if queue == "" {
		if _, there := TopLevel(member, "queue"); there {
			return "", Burial(member)
		}
		queue = "default"
		fields = append(fields, Field{"queue", `"default"`})
	}
	if job.Retry.Missing {
		if _, there := TopLevel(member, "retry"); !there {
			fields = append(fields, Field{"retry", "true"})
		}
	}
	if job.JID == "" {
		fields = append(fields, Field{"jid", JSONString(newJID())})
	}
	if job.CreatedAt == 0 {
		if _, there := TopLevel(member, "created_at"); !there {
			fields = append(fields, Field{"created_at", stamp})
		}
	}
	payload, err = SetFields(member, fields...)
	if err != nil {
		return "", Burial(member)
	}
	return queue, payload
}

func newJID() string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// PollInterval is the sleep between two polls, so that all processes together poll once every average/processes; average
// 0 means processes × 5 s; rnd is uniform in [0, 1). Below 10 processes it lies in [average/2, 3·average/2), from 10 on in
// [0, 2·average), as Sidekiq 8.0.10 has it.
func PollInterval(processes int, average time.Duration, rnd func() float64) time.Duration {
	processes = max(1, processes)
	if average <= 0 {
		average = time.Duration(processes) * 5 * time.Second
	}
	if processes < 10 {
		return average/2 + time.Duration(rnd()*float64(average))
	}
	return time.Duration(rnd() * 2 * float64(average))
}
