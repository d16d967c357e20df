package queues

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
)

// HolderState is a registration as others see it.
type HolderState struct {
	Holder
	Name     string // <identity>/<epoch>
	Alive    bool   // its lease lives
	InFlight int    // jobs it holds
}

// Holders lists registrations, by name, with whether their lease lives and how many jobs they hold. One whose JSON cannot
// be read has only its name, identity and epoch. In-flight hashes without a registration are found by Strays.
func (s *Store) Holders(ctx context.Context) ([]HolderState, error) {
	all, err := s.client.HGetAll(ctx, s.keys.workers).Result()
	if err != nil {
		return nil, fmt.Errorf("list holders: %w", err)
	}
	list := make([]HolderState, 0, len(all))
	for name, text := range all {
		h := HolderState{Name: name}
		if json.Unmarshal([]byte(text), &h.Holder) != nil {
			h.Holder = Holder{}
		}
		if h.Identity == "" {
			h.Identity, _, _ = strings.Cut(name, "/")
		}
		list = append(list, h)
	}
	slices.SortFunc(list, func(a, b HolderState) int { return strings.Compare(a.Name, b.Name) })
	if len(list) == 0 {
		return nil, nil
	}
	pipe := s.client.Pipeline()
	type answer interface{ Val() int64 }
	answers := make([]answer, 0, 3*len(list))
	counter := make([]interface{ Val() bool }, 0, len(list))
	for i := range list {
		answers = append(answers, pipe.Exists(ctx, s.keys.lease(list[i].Name)), pipe.HLen(ctx, s.keys.inflightOf(list[i].Name)))
		counter = append(counter, pipe.HExists(ctx, s.keys.inflightOf(list[i].Name), "#"))
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, fmt.Errorf("look at holders: %w", err)
	}
	for i := range list {
		list[i].Alive = answers[2*i].Val() > 0
		list[i].InFlight = int(answers[2*i+1].Val())
		if counter[i].Val() {
			list[i].InFlight--
		}
	}
	return list, nil
}

// Strays finds holders that have an in-flight hash but no registration (somebody deleted queueville:workers), by a SCAN of
// the whole database: for `release` and now and then, not for every look. Adopt takes their names.
func (s *Store) Strays(ctx context.Context) ([]string, error) {
	var found []string
	known, err := s.client.HKeys(ctx, s.keys.workers).Result()
	if err != nil {
		return nil, fmt.Errorf("list holders: %w", err)
	}
	escaped := strings.NewReplacer("*", `\*`, "?", `\?`, "[", `\[`, `\`, `\\`).Replace(s.keys.inflight)
	it := s.client.Scan(ctx, 0, escaped+"*", 1000).Iterator()
	for it.Next(ctx) {
		name := strings.TrimPrefix(it.Val(), s.keys.inflight)
		// A namespace called "inflight" would have other keys here; a holder's name has a slash before its epoch.
		if strings.Contains(name, "/") && !slices.Contains(known, name) && !slices.Contains(found, name) {
			found = append(found, name)
		}
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("search in-flight jobs: %w", err)
	}
	slices.Sort(found)
	return found, nil
}

// Adopt gives the jobs of a holder without a lease back to their queues (right end, oldest rightmost), in chunks, then
// removes its registration. With certain=true the caller knows the process is gone and the lease is ended first. Returns
// how many jobs went back; 0, nil when the lease lives. Several may adopt the same holder at once.
func (s *Store) Adopt(ctx context.Context, holder string, certain bool) (int, error) {
	if certain {
		if err := s.client.Del(ctx, s.keys.lease(holder)).Err(); err != nil {
			return 0, fmt.Errorf("adopt %s: %w", holder, err)
		}
	}
	n, err := s.giveBack(ctx, holder, "gone")
	if errors.Is(err, ErrLeaseLost) {
		return 0, nil
	}
	if err != nil {
		return n, fmt.Errorf("adopt %s: %w", holder, err)
	}
	return n, nil
}

// giveBackChunk bounds how long one script holds Redis up, and how much memory it needs at once.
const giveBackChunk = 200

// giveBack moves all in-flight jobs of a holder back, provided that its lease is in the given state ("own", "gone";
// ErrLeaseLost if not), and ends the holder.
func (s *Store) giveBack(ctx context.Context, holder, state string) (int, error) {
	lease, inflight, batchesKey := s.keys.lease(holder), s.keys.inflightOf(holder), s.keys.batchesOf(holder)
	lists := batchesKey + ":"
	total, missing := 0, 0
	for {
		refs, batches, err := s.heldRefs(ctx, holder)
		if err != nil {
			return total, err
		}
		slices.Reverse(refs)
		for part := range slices.Chunk(refs, giveBackChunk) {
			args := append(givebackScript.begin(make([]any, 0, 9+4*len(part)), 3),
				lease, inflight, s.keys.queues, state, s.keys.queuePrefix, lists)
			for _, r := range part {
				list, place := "", int64(0)
				if b := batchOf(batches, r); b != nil {
					list, place = b.list, b.place(r)
				}
				args = append(args, appendField(nil, r), r.Queue, list, place)
			}
			var reply *redis.IntSliceCmd
			err := givebackScript.run(ctx, s.client, args, func(a []any) redis.Cmder {
				reply = redis.NewIntSliceCmd(ctx, a...)
				return reply
			})
			if err != nil {
				return total, err
			}
			got := reply.Val()
			if len(got) != 2 {
				return total, errReply
			}
			if got[0] < 0 {
				return total, ErrLeaseLost
			}
			total += int(got[0])
			missing += int(got[1])
		}
		args := append(forgetScript.begin(make([]any, 0, 10), 4), lease, inflight, batchesKey, s.keys.workers, state, holder, lists)
		n, err := s.runInt(ctx, &forgetScript, args)
		if err != nil {
			return total, err
		}
		if n < 0 {
			return total, ErrLeaseLost
		}
		if n > 0 || len(refs) == 0 {
			// With no jobs left that we can name, what is in the hash is not ours: it stays.
			if missing > 0 {
				return total, fmt.Errorf("%d jobs are lost: somebody has deleted %s*", missing, lists)
			}
			return total, nil
		}
		// Something was fetched between the list and the end (only a session's own Close): once more.
	}
}
