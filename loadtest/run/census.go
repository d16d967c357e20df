package run

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/queueville/queueville/loadtest/world"
	"github.com/queueville/queueville/queues"
)

// fates say where every job is when all is over: the enqueued are the sum of all but Handed.
type fates struct {
	Enqueued  int `json:"enqueued"`  // jobs that were ever in Redis
	Done      int `json:"done"`      // ended well, or with a refusal that is final
	Again     int `json:"retry"`     // in the retry set, or put off untried
	Scheduled int `json:"scheduled"` // in the schedule set, never run
	Dead      int `json:"dead"`
	Discarded int `json:"discarded"` // failed for the last time; their class has no dead set
	Waiting   int `json:"waiting"`   // in their queue
	Running   int `json:"in_flight"` // in a worker's hash: the next worker gives them back
	Unheard   int `json:"unheard"`   // of those done: their worker was killed between the end of the job and its report; the receiver has them
	Missing   int `json:"missing"`   // nowhere
	Doubled   int `json:"doubled"`   // in two places at once, or begun again after they were over: at least once is what Sidekiq promises

	Left        [world.Queues]int `json:"-"`
	MissingJIDs []string          `json:"missing_jids,omitempty"` // some of them
	DoubledJIDs []string          `json:"doubled_jids,omitempty"`
}

const maxNamed = 20

// place is where a job was found in Redis.
type place uint8

const (
	nowhere place = iota
	inQueue
	inRetry
	inSchedule
	inDead
	inFlight
)

const scanChunk = 1000

// census looks for every job in Redis, once nobody moves any more, and closes the books. The conductor's lock must not be held.
func census(ctx context.Context, client redis.UniversalClient, c *conductor) (fates, error) {
	found := map[string]place{}
	var twice []string
	note := func(p place) func(string) {
		return func(payload string) {
			jid := quickJID(payload)
			if found[jid] != nowhere {
				twice = append(twice, jid)
			}
			found[jid] = p
		}
	}
	var problems []error
	for set, p := range map[string]place{"retry": inRetry, "schedule": inSchedule, "dead": inDead} {
		problems = append(problems, eachMember(ctx, client, set, note(p)))
	}
	var f fates
	for i, name := range world.QueueNames {
		problems = append(problems, eachQueued(ctx, client, name, func(payload string) {
			f.Left[i]++
			note(inQueue)(payload)
		}))
	}
	problems = append(problems, eachInFlight(ctx, client, note(inFlight)))
	if err := errors.Join(problems...); err != nil {
		return f, fmt.Errorf("look for every job: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.books.jobs {
		f.enter(r, found[jidOf(r.ID)], c.meter)
	}
	for _, jid := range twice {
		if _, ours := idOf(jid); ours {
			f.Doubled++
			f.DoubledJIDs = append(f.DoubledJIDs, jid)
		}
	}
	slices.Sort(f.MissingJIDs)
	slices.Sort(f.DoubledJIDs)
	f.MissingJIDs = f.MissingJIDs[:min(maxNamed, len(f.MissingJIDs))]
	f.DoubledJIDs = f.DoubledJIDs[:min(maxNamed, len(f.DoubledJIDs))]
	return f, nil
}

// enter decides one job's fate.
func (f *fates) enter(r *record, at place, m *meter) {
	if r.state == handed {
		if at == nowhere {
			return // its parent was cut off before it pushed: it never was
		}
		m.pushed(r)
		if r.cause == 0 { // taken, and the answer was lost
			m.refused--
		}
	}
	f.Enqueued++
	if r.doubled || at != nowhere && r.state.over() && (at != inDead || r.state != dead) {
		f.Doubled++
		f.DoubledJIDs = append(f.DoubledJIDs, jidOf(r.ID))
	}
	switch {
	case r.state == done:
		f.Done++
	case r.accepted && at == nowhere && r.state == queued: // a Ruby process would have told that it began
		f.Done++
		f.Unheard++
	case r.state == discarded:
		f.Discarded++
	case at == inDead || r.state == dead:
		f.Dead++
	case at == inQueue:
		f.Waiting++
	case at == inFlight:
		f.Running++
	case at == inSchedule && r.state == scheduled:
		f.Scheduled++
	case at == inRetry, at == inSchedule:
		f.Again++
	default:
		f.Missing++
		f.MissingJIDs = append(f.MissingJIDs, fmt.Sprintf("%s (%s, %s)", jidOf(r.ID), world.ClassTable[r.Class].Name, r.state))
	}
}

// String is a word for people.
func (s state) String() string {
	return [...]string{"handed over", "queued", "running", "scheduled", "failed before", "put off", "done", "dead", "discarded"}[s]
}

// quickJID finds the job id without parsing: a quote inside a JSON string is always escaped, so this text is a key.
func quickJID(payload string) string {
	_, rest, _ := strings.Cut(payload, `"jid":"`)
	jid, _, _ := strings.Cut(rest, `"`)
	return jid
}

func eachMember(ctx context.Context, client redis.UniversalClient, set string, use func(string)) error {
	for start := int64(0); ; start += scanChunk {
		list, err := client.ZRange(ctx, set, start, start+scanChunk-1).Result()
		if err != nil {
			return fmt.Errorf("read %s: %w", set, err)
		}
		for _, payload := range list {
			use(payload)
		}
		if len(list) < scanChunk {
			return nil
		}
	}
}

func eachQueued(ctx context.Context, client redis.UniversalClient, queue string, use func(string)) error {
	for start := int64(0); ; start += scanChunk {
		list, err := client.LRange(ctx, "queue:"+queue, start, start+scanChunk-1).Result()
		if err != nil {
			return fmt.Errorf("read queue %s: %w", queue, err)
		}
		for _, payload := range list {
			use(payload)
		}
		if len(list) < scanChunk {
			return nil
		}
	}
}

// eachInFlight reads what workers have in hand: Queueville's hashes, and nothing of stock Sidekiq, which keeps it in its memory.
func eachInFlight(ctx context.Context, client redis.UniversalClient, use func(string)) error {
	const prefix = "queueville:inflight:"
	keys := client.Scan(ctx, 0, prefix+"*", scanChunk).Iterator()
	for keys.Next(ctx) {
		jobs, err := queues.NewStore(client, "").InFlight(ctx, strings.TrimPrefix(keys.Val(), prefix))
		if err != nil {
			return err
		}
		for _, j := range jobs {
			use(j.Payload)
		}
	}
	if err := keys.Err(); err != nil {
		return fmt.Errorf("read jobs in flight: %w", err)
	}
	return nil
}

// since is a bound for a call to a server that ought to answer at once.
const callTimeout = 10 * time.Second
