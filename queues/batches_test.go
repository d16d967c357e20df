package queues

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// batchKeys lists the keys of a session's batches.
func batchKeys(t *testing.T, c *redis.Client, s *Session) []string {
	t.Helper()
	keys, err := c.Keys(t.Context(), s.batches+"*").Result()
	require.NoError(t, err)
	slices.Sort(keys)
	return keys
}

func TestALargeFetchIsMovedInBatches(t *testing.T) {
	store, c := newStore(t)
	s := newSession(t, store, "h:1:a")
	jobs := numbered(300)
	push(t, c, "queue:a", jobs...)
	got, err := s.Fetch(t.Context(), []string{"a"}, 290)
	require.NoError(t, err)
	equal(t, "jobs", payloadsOf(got), jobs[:290])
	for i, j := range got {
		require.Equal(t, Ref{Seq: uint64(i + 1), Queue: "a"}, j.Ref)
	}
	equal(t, "queue", list(t, c, "queue:a"), []string{jobs[290], jobs[291], jobs[292], jobs[293], jobs[294], jobs[295], jobs[296], jobs[297], jobs[298], jobs[299]})
	require.Equal(t, jobs[0], c.HGet(t.Context(), s.inflight, "1 a").Val(), "the first few are in the hash")
	require.Empty(t, c.HGet(t.Context(), s.inflight, "9 a").Val(), "the others are in batches")
	require.Equal(t, map[string]string{"9:128:1.1 a": "128", "137:128:1.2 a": "128", "265:26:1.3 a": "26"}, c.HGetAll(t.Context(), s.batches).Val())

	held, err := s.Complete(t.Context(), acks(got[:200]))
	require.NoError(t, err)
	require.NotContains(t, held, false)
	require.Equal(t, []string{s.batches, s.lists + "1.2", s.lists + "1.3"}, batchKeys(t, c, s), "a batch goes with its last job")
	flying, err := store.InFlight(t.Context(), s.Name())
	require.NoError(t, err)
	require.Equal(t, got[200:], flying)

	held, err = s.Complete(t.Context(), acks(got[100:]))
	require.NoError(t, err)
	for i, h := range held {
		require.Equal(t, i >= 100, h, "job %d", 100+i)
	}
	require.Empty(t, batchKeys(t, c, s))
	require.Empty(t, s.open.list)
	require.EqualValues(t, 1, c.HLen(t.Context(), s.inflight).Val())
}

func TestOutcomesOfBatchedJobs(t *testing.T) {
	store, c := newStore(t)
	s := newSession(t, store, "h:1:a")
	jobs := numbered(20)
	push(t, c, "queue:a", jobs...)
	got, err := s.Fetch(t.Context(), []string{"a"}, 20)
	require.NoError(t, err)
	held, err := s.Complete(t.Context(), []Completion{
		{Ref: got[19].Ref, Op: OpRequeue},
		{Ref: got[10].Ref, Op: OpForward, Queue: "r"},
		{Ref: got[11].Ref, Op: OpRetry, At: 5},
		{Ref: got[12].Ref, Op: OpDead, At: float64(time.Now().Unix()), Payload: `{"changed":1}`},
		{Ref: got[0].Ref, Op: OpRequeue},
	})
	require.NoError(t, err)
	require.NotContains(t, held, false)
	equal(t, "back, the oldest last", list(t, c, "queue:a"), []string{jobs[0], jobs[19]})
	equal(t, "forwarded", list(t, c, "queue:r"), []string{jobs[10]})
	require.Equal(t, []string{jobs[11]}, c.ZRange(t.Context(), "retry", 0, -1).Val())
	require.Equal(t, []string{`{"changed":1}`}, c.ZRange(t.Context(), "dead", 0, -1).Val())
	require.Equal(t, "8", c.HGet(t.Context(), s.batches, "9:12:1.1 a").Val())
}

func TestOldBatchesAreDissolved(t *testing.T) {
	store, c := newStore(t)
	s := newSession(t, store, "h:1:a")
	jobs := numbered(60)
	push(t, c, "queue:a", jobs...)
	got, err := s.Fetch(t.Context(), []string{"a"}, 60)
	require.NoError(t, err)
	_, err = s.Complete(t.Context(), acks(got[:57]))
	require.NoError(t, err)
	require.NoError(t, s.Unbatch(t.Context(), time.Now().Add(-time.Minute), 10))
	require.NotEmpty(t, batchKeys(t, c, s), "it is not old")
	require.NoError(t, s.Unbatch(t.Context(), time.Now().Add(time.Second), 10))
	require.Empty(t, batchKeys(t, c, s))
	flying, err := store.InFlight(t.Context(), s.Name())
	require.NoError(t, err)
	require.Equal(t, got[57:], flying)

	held, err := s.Complete(t.Context(), []Completion{{Ref: got[58].Ref, Op: OpRequeue}, {Ref: got[57].Ref, Op: OpAck}, {Ref: got[3].Ref, Op: OpRequeue}})
	require.NoError(t, err)
	require.Equal(t, []bool{true, true, false}, held)
	equal(t, "back", list(t, c, "queue:a"), []string{jobs[58]})
	require.Empty(t, batchKeys(t, c, s), "an outcome that comes after leaves no counter behind")

	c.Del(t.Context(), s.lease)
	s.open.merge([]*batch{{first: 9, size: 52, list: "1.1", queue: "a", left: 3}})
	require.ErrorIs(t, s.Unbatch(t.Context(), time.Now().Add(time.Second), 10), ErrLeaseLost)
}

func TestADeletedBatchIsReported(t *testing.T) {
	store, c := newStore(t)
	s := newSession(t, store, "h:1:a")
	jobs := numbered(40)
	push(t, c, "queue:a", jobs...)
	_, err := s.Fetch(t.Context(), []string{"a"}, 40)
	require.NoError(t, err)
	c.Del(t.Context(), s.lease, s.lists+"1.1")
	n, err := store.Adopt(t.Context(), s.Name(), false)
	require.ErrorContains(t, err, "32 jobs are lost")
	require.Equal(t, 8, n)
	equal(t, "back", list(t, c, "queue:a"), jobs[:8])
	require.Empty(t, c.Keys(t.Context(), "queueville:inflight*").Val())
}

// A server whose ACL does not allow SORT gets the slower way.
func TestFetchWithoutSort(t *testing.T) {
	store, c := newStore(t)
	require.NoError(t, c.Do(t.Context(), "ACL", "SETUSER", "nosort", "on", ">secret", "~*", "&*", "+@all", "-sort").Err())
	t.Cleanup(func() { c.Do(t.Context(), "ACL", "DELUSER", "nosort") })
	options := *c.Options()
	options.Username, options.Password = "nosort", "secret"
	limited := redis.NewClient(&options)
	t.Cleanup(func() { _ = limited.Close() })
	s := newSession(t, NewStore(limited, ""), "h:1:a")
	jobs := numbered(300)
	push(t, c, "queue:a", jobs...)
	got, err := s.Fetch(t.Context(), []string{"a"}, 300)
	require.NoError(t, err)
	equal(t, "jobs", payloadsOf(got), jobs)
	require.Empty(t, batchKeys(t, c, s))
	require.Equal(t, jobs[299], c.HGet(t.Context(), s.inflight, "300 a").Val())
	_ = store
}

// TestInFlightAgainstAModel fetches, completes, dissolves and adopts at random: no job is lost or doubled, and nothing is left over.
func TestInFlightAgainstAModel(t *testing.T) {
	store, c := newStore(t)
	rapid.Check(t, func(rt *rapid.T) {
		c.FlushDB(t.Context())
		s := newSession(t, store, "h:1:a")
		next := 0
		var flying []Fetched
		waiting := map[string][]string{} // by queue, the next one first
		done := 0
		rt.Repeat(map[string]func(*rapid.T){
			"push": func(rt *rapid.T) {
				q := rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "queue")
				for range rapid.IntRange(1, 200).Draw(rt, "jobs") {
					next++
					p := fmt.Sprintf(`{"class":"C","jid":"%d","x":"%s"}`, next, strings.Repeat("y", next%50))
					push(t, c, "queue:"+q, p)
					waiting[q] = append(waiting[q], p)
				}
			},
			"fetch": func(rt *rapid.T) {
				limit := rapid.IntRange(1, 400).Draw(rt, "limit")
				got, err := s.Fetch(t.Context(), []string{"a", "b"}, limit)
				require.NoError(rt, err)
				for _, j := range got {
					require.NotEmpty(rt, waiting[j.Ref.Queue])
					require.Equal(rt, waiting[j.Ref.Queue][0], j.Payload)
					waiting[j.Ref.Queue] = waiting[j.Ref.Queue][1:]
				}
				flying = append(flying, got...)
			},
			"complete": func(rt *rapid.T) {
				if len(flying) == 0 {
					return
				}
				var out []Completion
				var kept []Fetched
				share := rapid.IntRange(1, 100).Draw(rt, "percent")
				for i, j := range flying {
					switch (i*37 + done) % 100 {
					default:
						if (i*61)%100 < share {
							out = append(out, Completion{Ref: j.Ref, Op: OpAck})
							continue
						}
						kept = append(kept, j)
					case 7:
						out = append(out, Completion{Ref: j.Ref, Op: OpRequeue})
						waiting[j.Ref.Queue] = append([]string{j.Payload}, waiting[j.Ref.Queue]...)
					}
				}
				if len(out) == 0 {
					return
				}
				slices.Reverse(out[:len(out)/2]) // in any order, but returns keep theirs
				slices.Reverse(out[:len(out)/2])
				held, err := s.Complete(t.Context(), out)
				require.NoError(rt, err)
				require.NotContains(rt, held, false)
				flying = kept
				done++
			},
			"dissolve": func(*rapid.T) {
				require.NoError(rt, s.Unbatch(t.Context(), time.Now().Add(time.Second), rapid.IntRange(1, 4).Draw(rt, "batches")))
			},
			"": func(rt *rapid.T) {
				got, err := store.InFlight(t.Context(), s.Name())
				require.NoError(rt, err)
				if len(got) != len(flying) {
					rt.Fatalf("%d in flight, want %d", len(got), len(flying))
				}
				for i := range got {
					require.Equal(rt, flying[i], got[i])
				}
				for q, want := range waiting {
					require.EqualValues(rt, len(want), c.LLen(t.Context(), "queue:"+q).Val())
				}
			},
		})
		back, err := s.Close(t.Context())
		require.NoError(rt, err)
		require.Equal(rt, len(flying), back)
		for q, rest := range waiting {
			var want []string
			for _, j := range flying {
				if j.Ref.Queue == q {
					want = append(want, j.Payload)
				}
			}
			equal(t, "queue "+q, list(t, c, "queue:"+q), append(want, rest...))
		}
		require.Empty(rt, c.Keys(t.Context(), "queueville:*:h:1:a*").Val())
	})
}
