package queues

import (
	"context"
	"encoding/json"
	"time"
)

// ---- retry.go

// Failure is what a handler's error becomes in a payload.
type Failure struct {
	Class     string   // "error_class"
	Message   string   // "error_message"; cut to 10,000 characters and scrubbed
	Backtrace []string // innermost first; stored only if the job asks for it
}

// Verdict is where a failed job goes.
type Verdict byte

const (
	VerdictRetry   Verdict = 'r' // into the retry set, at Score
	VerdictDead    Verdict = 'd' // into the dead set, at Score
	VerdictDiscard Verdict = 'x' // nowhere
)

// Op is the completion that carries the verdict out.
func (v Verdict) Op() Op { panic("draft") }

// RetryOptions are the rules of this process and handler; the zero value is Sidekiq 8.1's.
type RetryOptions struct {
	MaxRetries      int                                       // for jobs that name no number; 0 means 25
	Delay           func(count int) (time.Duration, DelayRule) // nil: count⁴+15 s
	Jitter7         bool                                      // Sidekiq ≤ 7.3: rand(10)*(count+1); else rand(10*(count+1))
	RetryForByCount bool                                      // Sidekiq ≤ 8.0: the number of retries counts beside retry_for
	Milliseconds    bool                                      // integer milliseconds (fleets of 8.x only)
	Rand            func(n int) int                           // uniform in [0, n); nil: math/rand/v2
}

// DelayRule says what a delay function wants.
type DelayRule byte

const (
	DelayDefault DelayRule = iota // count⁴+15 s
	DelayCustom                   // the returned duration
	DelayKill                     // as if exhausted
	DelayDiscard                  // store nothing
)

// Retry is what becomes of a failed job.
type Retry struct {
	Verdict   Verdict
	Payload   string  // "" for VerdictDiscard
	Score     float64 // Unix seconds
	Count     int     // the new retry_count
	Exhausted bool    // death handlers have to run
	Reason    string  // a few words for the log
}

// RetryEntry makes the retry record of spec 3.4 and 3.5.
func RetryEntry(job Job, fetchedFrom string, failure Failure, now time.Time, o RetryOptions) (Retry, error) {
	panic("draft")
}

// ---- payload.go

// TopLevel returns the raw JSON text of one top-level field, the last one if it is there more than once.
func TopLevel(payload, name string) (raw string, ok bool) { panic("draft") }

// JSONString, JSONFloatSeconds, JSONInt print canonical Ruby JSON.
func JSONString(s string) string             { panic("draft") }
func JSONFloatSeconds(seconds float64) string { panic("draft") }
func JSONInt(n int64) string                 { panic("draft") }

// InShare says whether a jid is in a share of 10,000, the same rule as Look.Share.
func InShare(jid string, share int) bool { panic("draft") }

// ---- client.go

// Push is a job to be pushed.
type Push struct {
	Class  string
	Args   any             // slice of plain values, or json.RawMessage of an array
	Queue  string          // "" means default
	JID    string          // "" makes one
	Retry  any             // nil: true; bool or integer
	At     float64         // Unix seconds; 0: now
	Fields []Field         // further top-level fields
	_      json.RawMessage // (draft)
}

// Middleware may change a job or return false to stop it.
type Middleware func(ctx context.Context, p *Push) (bool, error)

// Client pushes jobs as Sidekiq's client does.
type Client struct{}

func NewClient(s *Store, middleware ...Middleware) *Client                          { panic("draft") }
func (c *Client) Push(ctx context.Context, p Push) (jid string, err error)          { panic("draft") }
func (c *Client) PushIn(ctx context.Context, delay float64, p Push) (string, error) { panic("draft") }

// PushBulk: one job per element of args; at may be empty, one time for all, or one for each.
func (c *Client) PushBulk(ctx context.Context, p Push, args []any, at ...float64) ([]string, error) {
	panic("draft")
}

// ---- poller.go

// Names of Sidekiq's sets.
const (
	SetRetry    = "retry"
	SetSchedule = "schedule"
	SetDead     = "dead"
)

// Polled counts what one poll did.
type Polled struct {
	Moved  int            // jobs put onto their queues
	Buried int            // members that are no jobs, moved to dead
	Queues map[string]int // moved, by queue
}

// PollDue moves up to limit due members of SetRetry or SetSchedule to their queues.
func (s *Store) PollDue(ctx context.Context, set string, now time.Time, limit int) (Polled, error) {
	panic("draft")
}

// PollInterval is the sleep between two polls; average 0 means processes × 5 s; rnd is uniform in [0, 1).
func PollInterval(processes int, average time.Duration, rnd func() float64) time.Duration {
	panic("draft")
}

// ---- process.go

// ProcessInfo is the constant part of a process's presence (spec 1.5).
type ProcessInfo struct {
	Identity    string
	Hostname    string
	PID         int
	StartedAt   time.Time
	Tag         string
	Concurrency int
	Queues      []string
	Weights     map[string]int
	Mode        string // strict, weighted, random
	Labels      []string
	Version     string
}

// NewIdentity makes hostname:pid:nonce.
func NewIdentity(hostname string, pid int) string { panic("draft") }

// WorkEntry is a running job as Sidekiq shows it.
type WorkEntry struct {
	TID     string
	Queue   string // the list it was fetched from
	Payload string
	RunAt   time.Time
}

// Pulse is one heartbeat.
type Pulse struct {
	Now           time.Time
	Busy          int
	Quiet         bool
	RSSKB         int64
	Processed     int64 // since the last successful beat
	Failed        int64
	Work          []WorkEntry
	MirrorWorkers bool       // also :workers, for readers ≤ 6.4.1
	Metrics       *ExecStats // since the last successful beat; nil: none
}

// PulseResult is what a heartbeat learnt.
type PulseResult struct {
	RTT          time.Duration
	First        bool   // the hash was not there: first beat, or the first after an outage
	Signal       string // popped from the signal list: TSTP, TERM, TTIN, … or ""
	StatsWritten bool   // Processed and Failed are in Redis (also set on error): subtract them
	MetricsWritten bool
}

// Beat writes presence, statistics and running jobs, and takes one signal.
func (s *Store) Beat(ctx context.Context, info ProcessInfo, p Pulse) (PulseResult, error) {
	panic("draft")
}

// Leave removes the process from Sidekiq's lists (clean stop). Flush the last counters before with FlushStats.
func (s *Store) Leave(ctx context.Context, identity string) error { panic("draft") }

// FlushStats adds to the counters of now's UTC day.
func (s *Store) FlushStats(ctx context.Context, now time.Time, processed, failed int64) error {
	panic("draft")
}

// FlushMetrics adds execution metrics.
func (s *Store) FlushMetrics(ctx context.Context, m *ExecStats) error { panic("draft") }

// CleanProcesses removes dead members of processes, at most once a minute over all processes.
func (s *Store) CleanProcesses(ctx context.Context) (removed int, err error) { panic("draft") }

// ExecStats collects execution metrics (spec 1.8). Safe for concurrent use.
type ExecStats struct{}

// NewExecStats: v7 and v8 select the formats to write; maxClasses bounds memory.
func NewExecStats(v7, v8 bool, maxClasses int) *ExecStats { panic("draft") }

// Add counts one execution that ended at now.
func (e *ExecStats) Add(class string, now time.Time, took time.Duration, failed bool) { panic("draft") }

// Take returns what was collected and starts anew; Merge gives it back after a failed flush.
func (e *ExecStats) Take() *ExecStats    { panic("draft") }
func (e *ExecStats) Merge(o *ExecStats) { panic("draft") }

// PublishWorker stores what status shows of a worker beyond Sidekiq's hash, for 60 s.
func (s *Store) PublishWorker(ctx context.Context, identity string, data []byte) error {
	panic("draft")
}

// WorkerStates reads them, by identity.
func (s *Store) WorkerStates(ctx context.Context, identities []string) (map[string][]byte, error) {
	panic("draft")
}

// ---- read.go

// QueueState is one queue as Sidekiq shows it.
type QueueState struct {
	Name    string
	Backlog int64
	Latency float64 // seconds; see Sidekiq's Queue#latency; never negative
	Paused  bool
}

// ProcessState is one process as Sidekiq shows it.
type ProcessState struct {
	ProcessInfo
	Busy  int
	Quiet bool
	Beat  time.Time
	RSSKB int64
	RTT   time.Duration
}

// RunningJob is an entry of a process's work hash.
type RunningJob struct {
	Identity string
	WorkEntry
}

// Totals are the counters and set sizes.
type Totals struct {
	Processed, Failed                 int64
	Scheduled, Retries, Dead, Enqueued int64
	Processes                         int64
}

func (s *Store) Queues(ctx context.Context, now time.Time) ([]QueueState, error) { panic("draft") }
func (s *Store) Queue(ctx context.Context, name string, now time.Time) (QueueState, error) {
	panic("draft")
}
func (s *Store) Totals(ctx context.Context) (Totals, error)               { panic("draft") }
func (s *Store) Processes(ctx context.Context) ([]ProcessState, error)    { panic("draft") }
func (s *Store) ProcessCount(ctx context.Context) (int, error)            { panic("draft") }
func (s *Store) Running(ctx context.Context) ([]RunningJob, error)        { panic("draft") }
func (s *Store) PausedQueues(ctx context.Context) ([]string, error)       { panic("draft") }
