// Package queues is Sidekiq's protocol on Redis: payloads, queues, the schedule, retry and dead sets, processes and
// counters, for Sidekiq 6.4 to 8.1, plus a crash-safe way to hold jobs that Sidekiq itself does not have.
//
// In flows what Ruby clients, pollers and the Web UI write; out flow the same bytes, edited only where a field has to
// change. Every change that could lose or repeat a job is one Lua script (lua/*.lua) that first checks the lease of its
// holder, then adds, then removes, so that a refused write changes nothing.
//
// The package starts no goroutines, keeps no connections of its own and logs nothing.
package queues

import (
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// Names of Sidekiq's sorted sets.
const (
	SetRetry    = "retry"
	SetSchedule = "schedule"
	SetDead     = "dead"
)

const (
	defaultDeadMax     = 10_000
	defaultDeadTimeout = 180 * 24 * time.Hour
)

// Store is Sidekiq's Redis with a namespace. Safe for concurrent use; set the exported fields before the first use.
type Store struct {
	// DeadMax bounds the dead set as Sidekiq's dead_max_jobs does: one member fewer than this is kept. Default 10,000.
	DeadMax int
	// DeadTimeout is how long a member stays in the dead set, Sidekiq's dead_timeout_in_seconds. Default 180 days.
	DeadTimeout time.Duration
	// Milliseconds makes new timestamps in payloads integer milliseconds, which only Sidekiq 8 reads right.
	// Default false: float seconds, the one form that every version reads right.
	Milliseconds bool

	client redis.UniversalClient
	keys   keys
	epoch  atomic.Int64 // highest one that Register has got: a Redis that forgot must not give it again
}

// NewStore returns a store on client with Sidekiq's keys under namespace ("" for none; Mastodon ≤ 4.3 calls it
// REDIS_NAMESPACE). The client must not repeat commands by itself (MaxRetries -1): a fetch is not idempotent.
func NewStore(client redis.UniversalClient, namespace string) *Store {
	return &Store{DeadMax: defaultDeadMax, DeadTimeout: defaultDeadTimeout, client: client, keys: newKeys(namespace)}
}

// Client returns the Redis client the store works on.
func (s *Store) Client() redis.UniversalClient { return s.client }

// Key returns a Sidekiq key with the store's namespace: Key("queues"), Key("queue:default").
func (s *Store) Key(name string) string { return s.keys.sidekiq(name) }

// OwnKey returns a key of Queueville's own: OwnKey("scheduler:journal").
func (s *Store) OwnKey(name string) string { return s.keys.own + name }

// keys makes Redis key names: Sidekiq's with the prefix "<ns>:", ours with "queueville:<ns>:".
type keys struct {
	prefix string // "" or "<ns>:"
	own    string // "queueville:" or "queueville:<ns>:"

	queues, queuePrefix, paused    string
	retry, schedule, dead          string
	processes                      string
	workers, leasePrefix, inflight string
	batches                        string
	epoch, generation, workerState string
}

func newKeys(namespace string) keys {
	k := keys{own: "queueville:"}
	if namespace != "" {
		k.prefix = namespace + ":"
		k.own += namespace + ":"
	}
	k.queues = k.prefix + "queues"
	k.queuePrefix = k.prefix + "queue:"
	k.paused = k.prefix + "paused"
	k.retry = k.prefix + SetRetry
	k.schedule = k.prefix + SetSchedule
	k.dead = k.prefix + SetDead
	k.processes = k.prefix + "processes"
	k.workers = k.own + "workers"
	k.leasePrefix = k.own + "lease:"
	k.inflight = k.own + "inflight:"
	k.batches = k.own + "batches:"
	k.epoch = k.own + "epoch"
	k.generation = k.own + "generation"
	k.workerState = k.own + "worker:"
	return k
}

func (k *keys) sidekiq(name string) string       { return k.prefix + name }
func (k *keys) queue(name string) string         { return k.queuePrefix + name }
func (k *keys) lease(holder string) string       { return k.leasePrefix + holder }
func (k *keys) inflightOf(holder string) string  { return k.inflight + holder }
func (k *keys) batchesOf(holder string) string   { return k.batches + holder }
func (k *keys) workerOf(identity string) string  { return k.workerState + identity }
func (k *keys) process(identity string) string   { return k.prefix + identity }
func (k *keys) work(identity string) string      { return k.prefix + identity + ":work" }
func (k *keys) workersOf(identity string) string { return k.prefix + identity + ":workers" }
func (k *keys) signals(identity string) string   { return k.prefix + identity + "-signals" }
