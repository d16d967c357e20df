package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/queueville/queueville/loadtest/fediverse"
	"github.com/queueville/queueville/queues"
)

const (
	scanChunk   = 500  // entries of a list or set read at once: about a megabyte
	maxLostJIDs = 1000 // that are listed by id
	// maxBacklogRead is the longest backlog that is read through for jobs without outcome: a few megabytes.
	maxBacklogRead = 2000
)

// tracked is one job, from the demo's own books.
type tracked struct {
	key      fediverse.Key
	host     int
	enqueued time.Time
	first    time.Time // first outcome; zero while there is none
}

// tracker follows every job by looking at Redis and at the receivers.
type tracker struct {
	site    *site
	jobs    []tracked
	byJID   map[string]int
	pending map[int]struct{} // jobs without a first outcome
	others  int              // first outcomes that were no delivery, for the progress bar
}

func newTracker(s *site) *tracker {
	t := &tracker{
		site: s, jobs: make([]tracked, len(s.jobs)), byJID: make(map[string]int, len(s.jobs)), pending: make(map[int]struct{}, len(s.jobs)),
	}
	for i := range s.jobs {
		job := &s.jobs[i]
		t.jobs[i] = tracked{key: fediverse.DeliveryKey(s.world.Hosts[job.Host].Name, "/inbox", job.Body.Raw), host: job.Host}
		t.byJID[job.JID] = i
		t.pending[i] = struct{}{}
	}

	return t
}

// pushed notes when jobs were enqueued.
func (t *tracker) pushed(first, n int, at time.Time) {
	for i := first; i < first+n; i++ {
		t.jobs[i].enqueued = at
	}
}

// settle notes a first outcome.
func (t *tracker) settle(i int, at time.Time) {
	delete(t.pending, i)
	t.jobs[i].first = at
}

// look finds first outcomes: answers at the receivers, and entries of the sets.
func (t *tracker) look(ctx context.Context) error {
	for i := range t.pending {
		answer, known := t.site.fedi.Lookup(t.jobs[i].key)
		if !known {
			continue
		}
		if answer.Accepted == 0 {
			if !final(answer.LastStatus) {
				continue // its retry will show in the set
			}
			t.others++
		}
		t.settle(i, answer.FirstAnswer)
	}
	for _, set := range []string{"retry", "schedule", "dead"} {
		err := t.eachEntry(ctx, set, func(payload string) {
			i, ours := t.byJID[quickJID(payload)]
			if _, waiting := t.pending[i]; !ours || !waiting {
				return
			}
			var e entry
			if json.Unmarshal([]byte(payload), &e) == nil {
				t.settle(i, t.entryTime(i, &e))
				t.others++
			}
		})
		if err != nil {
			return err
		}
	}

	return nil
}

// entryTime is when the first outcome of a job was that is in a set: the answer if there was one, else what the entry says.
func (t *tracker) entryTime(i int, e *entry) time.Time {
	if answer, known := t.site.fedi.Lookup(t.jobs[i].key); known {
		return answer.FirstAnswer
	}
	for _, stamp := range []json.Number{e.HeldSince, e.FailedAt} {
		if at, ok := readTime(stamp); ok {
			return at
		}
	}

	return time.Now()
}

// final says whether an answer ends a delivery that it does not accept: Mastodon's rule for unsalvageable answers.
func final(status int) bool {
	switch status {
	case 401, 408, 429:
		return false
	case 501:
		return true
	default:
		return status/100 == 4
	}
}

// entry is what is read of a payload.
type entry struct {
	JID       string          `json:"jid"`
	FailedAt  json.Number     `json:"failed_at"`
	Hold      json.RawMessage `json:"queueville_hold"`
	HeldSince json.Number     `json:"queueville_held_since"`
}

// held says whether it waits without having been tried.
func (e *entry) held() bool { return len(e.Hold) > 0 }

// quickJID finds the job id without parsing: a quote inside a JSON string is always escaped, so this text is a key. The sets are read
// every second, and the machine has better things to do.
func quickJID(payload string) string {
	_, rest, _ := strings.Cut(payload, `"jid":"`)
	jid, _, _ := strings.Cut(rest, `"`)

	return jid
}

// readTime reads a payload's time: integers are milliseconds, numbers with a point or an exponent seconds.
func readTime(n json.Number) (time.Time, bool) {
	if n == "" {
		return time.Time{}, false
	}
	if ms, err := n.Int64(); err == nil {
		return time.UnixMilli(ms), true
	}
	seconds, err := n.Float64()
	if err != nil {
		return time.Time{}, false
	}

	return time.UnixMicro(int64(seconds * 1e6)), true
}

// eachEntry reads a sorted set in chunks. Entries that move meanwhile can be missed or seen twice: the caller looks again.
func (t *tracker) eachEntry(ctx context.Context, set string, use func(payload string)) error {
	for start := int64(0); ; start += scanChunk {
		payloads, err := t.site.client.ZRange(ctx, set, start, start+scanChunk-1).Result()
		if err != nil {
			return fmt.Errorf("read %s: %w", set, err)
		}
		for _, payload := range payloads {
			use(payload)
		}
		if len(payloads) < scanChunk {
			return nil
		}
	}
}

// absent returns the pending jobs that Redis does not have, neither queued nor in flight; false while there are too many queued to look.
// Queues are read before the in-flight hashes, in the direction that jobs move.
func (t *tracker) absent(ctx context.Context) ([]int, bool, error) {
	var queued int64
	for _, queue := range t.site.server.Queues {
		n, err := t.site.client.LLen(ctx, "queue:"+queue).Result()
		if err != nil {
			return nil, false, fmt.Errorf("read queue %s: %w", queue, err)
		}
		queued += n
	}
	if queued > maxBacklogRead {
		return nil, false, nil
	}
	present := make(map[int]struct{})
	note := func(payload string) {
		if i, ours := t.byJID[quickJID(payload)]; ours {
			present[i] = struct{}{}
		}
	}
	for _, queue := range t.site.server.Queues {
		if err := t.eachQueued(ctx, queue, note); err != nil {
			return nil, false, err
		}
	}
	inFlight, err := t.inFlight(ctx)
	if err != nil {
		return nil, false, err
	}
	for _, payload := range inFlight {
		note(payload)
	}
	// What left Redis' queues and flights meanwhile has its outcome by now.
	if err := t.look(ctx); err != nil {
		return nil, false, err
	}
	var absent []int
	for i := range t.pending {
		if _, there := present[i]; !there {
			absent = append(absent, i)
		}
	}

	return absent, true, nil
}

// inFlight returns the payloads in all in-flight hashes.
func (t *tracker) inFlight(ctx context.Context) ([]string, error) {
	var payloads []string
	keys := t.site.client.Scan(ctx, 0, "queueville:inflight:*", scanChunk).Iterator()
	for keys.Next(ctx) {
		jobs, err := queues.NewStore(t.site.client, "").InFlight(ctx, strings.TrimPrefix(keys.Val(), "queueville:inflight:"))
		if err != nil {
			return nil, err
		}
		for _, j := range jobs {
			payloads = append(payloads, j.Payload)
		}
	}
	if err := keys.Err(); err != nil {
		return nil, fmt.Errorf("read jobs in flight: %w", err)
	}

	return payloads, nil
}

// skipped settles those of the absent jobs that are for unavailable hosts: they end without a trace. It returns the others.
func (t *tracker) skipped(absent []int) []int {
	now := time.Now()

	return slices.DeleteFunc(absent, func(i int) bool {
		if !t.site.world.Class(t.jobs[i].host).Unavailable {
			return false
		}
		t.settle(i, now)
		t.others++

		return true
	})
}

// fate is where a job is when all is over.
type fate byte

const (
	lost fate = iota
	delivered
	retrying
	held
	givenUp
	unavailable
	waiting // back in its queue, or still in flight
	fates   // how many there are
)

// census finds every job's fate. Doubled are the ids of jobs that are in two places at once.
func (t *tracker) census(ctx context.Context) (result []fate, doubled []string, err error) {
	result = make([]fate, len(t.jobs))
	place := func(f fate) func(payload string) {
		return func(payload string) {
			var e entry
			if json.Unmarshal([]byte(payload), &e) != nil {
				return // not JSON any more: nobody's job, so it shows as lost
			}
			i, ours := t.byJID[e.JID]
			if !ours {
				return
			}
			if result[i] != lost && len(doubled) < maxLostJIDs {
				doubled = append(doubled, e.JID)
			}
			if result[i] = f; f == retrying && e.held() {
				result[i] = held
			}
		}
	}
	for set, f := range map[string]fate{"retry": retrying, "schedule": held, "dead": givenUp} {
		if err := t.eachEntry(ctx, set, place(f)); err != nil {
			return nil, nil, err
		}
	}
	for _, queue := range t.site.server.Queues {
		if err := t.eachQueued(ctx, queue, place(waiting)); err != nil {
			return nil, nil, err
		}
	}
	payloads, err := t.inFlight(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, payload := range payloads {
		place(waiting)(payload)
	}
	for i := range result {
		if result[i] == lost {
			result[i] = t.ended(i)
		}
	}
	slices.Sort(doubled)

	return result, doubled, nil
}

// ended is the fate of a job that Redis no longer has.
func (t *tracker) ended(i int) fate {
	answer, known := t.site.fedi.Lookup(t.jobs[i].key)
	switch {
	case known && answer.Accepted > 0:
		return delivered
	case known && final(answer.LastStatus):
		return givenUp
	case !known && t.site.world.Class(t.jobs[i].host).Unavailable:
		return unavailable
	default:
		return lost
	}
}

// eachQueued reads a list in chunks.
func (t *tracker) eachQueued(ctx context.Context, queue string, use func(payload string)) error {
	for start := int64(0); ; start += scanChunk {
		payloads, err := t.site.client.LRange(ctx, "queue:"+queue, start, start+scanChunk-1).Result()
		if err != nil {
			return fmt.Errorf("read queue %s: %w", queue, err)
		}
		for _, payload := range payloads {
			use(payload)
		}
		if len(payloads) < scanChunk {
			return nil
		}
	}
}

// redisVersion reads which Redis ran.
func redisVersion(ctx context.Context, client *redis.Client) string {
	info, err := client.Info(ctx, "server").Result()
	if err != nil {
		return ""
	}
	for line := range strings.Lines(info) {
		if version, ok := strings.CutPrefix(line, "redis_version:"); ok {
			return strings.TrimSpace(version)
		}
	}

	return ""
}
