package scheduler

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
)

// maxWeight bounds a queue's weight, so that a sum of them fits an int anywhere.
const maxWeight = 1_000_000

// Queue is a queue with its weight. Weight 0 means that none was given.
type Queue struct {
	Name   string
	Weight int
}

// ParseQueueFlag reads the value of Sidekiq's -q: "default" or "default,8". A queue's name is whatever stands before the first comma, without
// white space.
func ParseQueueFlag(s string) (Queue, error) {
	name, weight, given := strings.Cut(s, ",")
	if name == "" || strings.ContainsAny(name, " \t\r\n\x00") {
		return Queue{}, fmt.Errorf("queue %q: a name is needed, without white space", s)
	}
	if !given {
		return Queue{Name: name}, nil
	}
	n, err := strconv.Atoi(weight)
	if err != nil || n < 0 || n > maxWeight {
		return Queue{}, fmt.Errorf("queue %q: the weight behind the comma is a whole number from 0 to %d", s, maxWeight)
	}
	return Queue{Name: name, Weight: n}, nil
}

// Order returns the queues' names in the order of one fetch, as Sidekiq chooses it: strict if no queue has a weight, else weighted.
func Order(queues []Queue, rnd *rand.Rand) []string {
	for _, q := range queues {
		if q.Weight > 0 {
			return Weighted(queues, rnd)
		}
	}
	names := make([]string, len(queues))
	for i, q := range queues {
		names[i] = q.Name
	}
	return Strict(names)
}

// Strict returns the names as they are, each once: a queue is looked at only when all before it are empty.
func Strict(names []string) []string {
	out := make([]string, 0, len(names))
	for _, name := range names {
		if !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}

// Weighted returns each name once in an order drawn anew for every fetch: a queue comes first with probability weight/total, then the next
// among the rest, and so on. Sidekiq repeats each queue max(weight, 1) times, shuffles and drops repetitions, which draws from the same
// distribution; a name given twice has the sum of both weights. rnd must not be shared between goroutines; nil is the global source.
func Weighted(queues []Queue, rnd *rand.Rand) []string {
	rest := make([]Queue, 0, len(queues))
	total := 0
	for _, q := range queues {
		q.Weight = min(max(q.Weight, 1), maxWeight)
		total += q.Weight
		if i := slices.IndexFunc(rest, func(r Queue) bool { return r.Name == q.Name }); i >= 0 {
			rest[i].Weight += q.Weight
			continue
		}
		rest = append(rest, q)
	}
	intN := rand.IntN
	if rnd != nil {
		intN = rnd.IntN
	}
	out := make([]string, 0, len(rest))
	for len(rest) > 0 {
		n, i := intN(total), 0
		for n >= rest[i].Weight {
			n -= rest[i].Weight
			i++
		}
		out = append(out, rest[i].Name)
		total -= rest[i].Weight
		rest = slices.Delete(rest, i, i+1)
	}
	return out
}
