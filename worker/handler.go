package worker

import (
	"context"
	"time"

	"github.com/queueville/queueville/queues"
)

// Handler runs the native jobs of some classes. It is declared here and implemented elsewhere, so that the worker does not know
// what a delivery is. All methods are called from many goroutines.
type Handler interface {
	// Classes are the exact "class" names this handler runs.
	Classes() []string

	// Destination names what the job shares a limit with, for instance the host it will contact, read cheaply from the raw JSON text
	// of args; "" when it shares none. An error means that the arguments can never be run: the job fails at once, as a run would.
	// It is called on the fetcher's goroutine and must not block.
	Destination(class, args string) (string, error)

	// Run runs the job to its end. It must return soon after ctx ends; context.Cause(ctx) is ErrStopping at the stop timeout.
	Run(ctx context.Context, job *queues.Job) Outcome

	// RetryDelay is the class's own delay before retry number count (from 0), without Sidekiq's jitter.
	RetryDelay(class string, count int) time.Duration

	// GiveUpAfter bounds the life of a job from its first failure or deferral; 0 leaves it to the retry count alone.
	GiveUpAfter(class string) time.Duration
}

// OutcomeKind says what becomes of a job after Run.
type OutcomeKind uint8

// The kinds of outcome.
const (
	Done     OutcomeKind = iota // finished, whatever Label says: acknowledged
	Failed                      // raised: Sidekiq's retry record
	Held                        // not tried: back to a set, without using up a retry
	Returned                    // not tried and not to be judged (we are stopping): back to the queue
)

// Outcome is the result of one run.
type Outcome struct {
	Kind  OutcomeKind
	Label string // one word from a small fixed list, for metrics and the log: "delivered", "unsalvageable", "timeout" …

	// For Failed: what Sidekiq's retry record says. NotBefore, if later than the schedule says, moves the retry (Retry-After).
	ErrorClass   string
	ErrorMessage string
	NotBefore    time.Time

	// For Held: when the next try makes sense, and why not now.
	Until  time.Time
	Reason string
}

// Verdict is a gate's answer.
type Verdict uint8

// The answers of a gate.
const (
	Start    Verdict = iota // run it now; Release must follow
	Full                    // as many as allowed are running: ask again after a Release for this destination
	HeldBack                // known to be down: do not wait here
	Later                   // none may start at this moment: ask again at Until, which is soon
)

// Admission is a gate's answer with its reason. Until is set for HeldBack and Later, Reason for HeldBack.
type Admission struct {
	Verdict Verdict
	Until   time.Time
	Reason  string
}

// Gate limits what runs at once per destination. Calls must be fast: they are made under the lane's lock.
type Gate interface {
	Acquire(destination string, now time.Time) Admission
	Release(destination string, now time.Time)
}

// Pacer is a Gate that knows how far apart jobs of a destination should come back that were put off; 0 if it does not know.
type Pacer interface {
	Pace(destination string) time.Duration
}

// openGate admits everything; used when no gate is configured.
type openGate struct{}

func (openGate) Acquire(string, time.Time) Admission { return Admission{Verdict: Start} }
func (openGate) Release(string, time.Time)           {}
