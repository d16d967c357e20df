// Package queues is Sidekiq's protocol on Redis. (Draft of the public surface: move each part to its file, keep the shapes.)
package queues

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"
)

// ErrLeaseLost: this holder's lease is gone; nothing was changed.
var ErrLeaseLost = errors.New("lease lost")

// Timestamp is a time as a payload holds it; zero when absent. See spec: fraction/exponent → seconds, integer → ms (integers below 1e11 are seconds).
type Timestamp float64 // Unix seconds

// Job is a payload with what an engine reads of it. Strings are substrings of Payload where possible (no copy).
type Job struct {
	Payload string // exactly as stored
	Class   string // "class"
	Wrapped string // "wrapped", "" if absent
	JID     string
	Queue   string // the payload's own "queue"; can differ from the list it was in
	Args    string // raw JSON text of "args"

	Retry         RetryRule // as read from "retry", "dead", "retry_for", "retry_queue", "backtrace"
	RetryCount    int       // meaningful when HasRetryCount; -1 after "retry now"
	HasRetryCount bool
	CreatedAt     Timestamp
	EnqueuedAt    Timestamp
	FailedAt      Timestamp
	RetriedAt     Timestamp
}

// RetryRule is what a payload says about its retries.
type RetryRule struct {
	Enabled    bool   // false: "retry": false
	Max        int    // 25 for true and any other truthy thing
	Missing    bool   // "retry" absent or null: treated as Enabled with the default
	RetryFor   time.Duration
	RetryQueue string
	NoDead     bool // "dead": false
	Backtrace  int  // 0 none, -1 all
}

// MalformedJobError says why a payload is not a job.
type MalformedJobError struct{ Reason string }

func (e *MalformedJobError) Error() string { return "malformed job: " + e.Reason }

// ParseJob reads a payload's top level without decoding args. *MalformedJobError for anything that is not a JSON object
// (whole-input validation included: what Ruby's parser refuses is refused).
func ParseJob(payload string) (Job, error) { panic("draft") }

// Field is one top-level field to set; Raw is canonical JSON text (see String, Float, Int helpers); Raw == "" deletes the field.
type Field struct{ Name, Raw string }

// SetFields returns payload with the given top-level fields set, every other byte as it was; a duplicated key becomes single.
func SetFields(payload string, fields ...Field) (string, error) { panic("draft") }

// Store is Sidekiq's Redis with a namespace. Safe for concurrent use.
type Store struct {
	// unexported: redis.UniversalClient, keys
}

// NewStore: client must not retry commands by itself (MaxRetries -1), for fetches are not idempotent.
// DeadMax and DeadTimeout bound the dead set: 10,000 (one fewer is kept) and 180 days; set before use.
func NewStore(client redis.UniversalClient, namespace string) *Store { panic("draft") }

// Holder is what identifies a registration to others that may have to adopt its jobs.
type Holder struct {
	Identity  string  `json:"identity"` // hostname:pid:nonce
	Epoch     int64   `json:"epoch"`
	Hostname  string  `json:"hostname"`
	PID       int     `json:"pid"`
	BootID    string  `json:"boot_id"`
	PIDNS     string  `json:"pid_ns"`
	StartTick uint64  `json:"start_tick"` // field 22 of /proc/<pid>/stat
	StartedAt float64 `json:"started_at"`
}

// Session is one registration: lease plus in-flight hash. All methods are safe for concurrent use.
type Session struct{}

// Register takes a new epoch, writes the lease (ttl) and the registration. restore, if not empty, is put into the new in-flight hash
// (used when Redis has forgotten) and returned with new Refs in the same order.
func (s *Store) Register(ctx context.Context, h Holder, ttl time.Duration, restore []Fetched) (*Session, []Fetched, error) {
	panic("draft")
}

// Epoch, Holder name and the generation seen at Register.
func (s *Session) Epoch() int64       { panic("draft") }
func (s *Session) Name() string       { panic("draft") } // <identity>/<epoch>
func (s *Session) Generation() string { panic("draft") }

// Renew extends the lease; ErrLeaseLost when it is gone (it is never re-created).
func (s *Session) Renew(ctx context.Context) error { panic("draft") }

// Generation reads the current generation ("" if Redis has none).
func (s *Store) Generation(ctx context.Context) (string, error) { panic("draft") }

// Ref names an in-flight job of a session.
type Ref struct {
	Seq   uint64
	Queue string // the list it was fetched from (bare name)
}

// Fetched is one job moved into the in-flight hash.
type Fetched struct {
	Ref     Ref
	Payload string
}

// Fetch moves up to max jobs from owned queues, in the order given (a queue is exhausted before the next is touched), skipping paused ones.
// ErrLeaseLost without a lease. One round trip.
func (s *Session) Fetch(ctx context.Context, queues []string, max int) ([]Fetched, error) {
	panic("draft")
}

// Look is one bounded look at shared queues.
type Look struct {
	Queues      []string
	Classes     []string // exact class names to take
	Max         int      // jobs to take at most
	WindowJobs  int      // per queue, from the fetched end
	WindowBytes int      // over all queues
	Share       int      // of 10,000, decided by the jid so that a job stays in or out; 10,000 = all
	Hosts       []string // if not empty: only jobs whose args contain an inbox at one of these hosts (host[:port])
}

// FetchShared takes matching jobs and leaves the order of all others. One round trip. Looked is how many jobs it looked at.
func (s *Session) FetchShared(ctx context.Context, l Look) (jobs []Fetched, looked int, err error) {
	panic("draft")
}

// Await blocks until queue has a job or timeout has passed (BLMOVE of a list onto itself: nothing ever leaves it). Paused is the caller's matter.
func (s *Store) Await(ctx context.Context, queue string, timeout time.Duration) (bool, error) {
	panic("draft")
}

// Unknown returns in-flight jobs whose Seq known() denies: those whose fetch reply was lost.
func (s *Session) Unknown(ctx context.Context, known func(seq uint64) bool) ([]Fetched, error) {
	panic("draft")
}

// Op is what becomes of an in-flight job.
type Op byte

const (
	OpAck      Op = 'a' // finished
	OpRetry    Op = 'r' // ZADD retry At Payload
	OpSchedule Op = 's' // ZADD schedule At Payload
	OpDead     Op = 'd' // ZADD dead At Payload, trimmed
	OpRequeue  Op = 'q' // RPUSH to its queue, bytes as in flight
	OpForward  Op = 'f' // LPUSH to Queue (SADD queues), bytes as in flight
)

// Completion is one outcome. Payload "" means the bytes in flight.
type Completion struct {
	Ref     Ref
	Op      Op
	Payload string
	At      float64 // Unix seconds, for Retry, Schedule, Dead
	Queue   string  // for Forward
}

// Complete carries all outcomes out in one round trip, in order. held[i] is false where the job was no longer held (no effect).
// ErrLeaseLost: lease gone, none carried out. Any other error: unknown; calling again with the same list is safe
// (what was carried out is then not held; that is why a second call reports held=false for it).
func (s *Session) Complete(ctx context.Context, list []Completion) (held []bool, err error) {
	panic("draft")
}

// Requeue-all of a session's own in-flight hash and removal of lease and registration; for a clean stop.
func (s *Session) Close(ctx context.Context) (returned int, err error) { panic("draft") }

// Holders lists registrations with whether their lease lives and how many jobs they hold.
func (s *Store) Holders(ctx context.Context) ([]HolderState, error) { panic("draft") }

type HolderState struct {
	Holder
	Name     string
	Alive    bool
	InFlight int
}

// Adopt gives the jobs of a holder without a lease back to their queues (right end, oldest rightmost), in chunks, then removes its registration.
// With certain=true the caller knows the process is gone and the lease is ended first. Returns how many jobs went back. 0, nil when the lease lives.
func (s *Store) Adopt(ctx context.Context, holder string, certain bool) (int, error) { panic("draft") }
