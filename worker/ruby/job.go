package ruby

import "time"

// Job is one job for Ruby.
type Job struct {
	Token   any       // the caller's own; handed back with the Result
	Queue   string    // bare name of the queue it was fetched from
	Class   string    // the class that costs are measured for: "wrapped" if the payload has it, else "class"
	JID     string    //
	Payload string    // the bytes as fetched
	Fetched time.Time // when this worker got it
}

// Kind says what became of a job.
type Kind uint8

// The kinds of result.
const (
	// Acked: Sidekiq has done with it, whether it succeeded or was written to the retry or dead set (Result.Failed). Acknowledge it.
	Acked Kind = iota
	// Returned: it did not end. Give it back to its queue, to be run next; with Result.Payload if that is not empty.
	Returned
	// Dead: it has killed too many processes. Bury Result.Payload, which is marked.
	Dead
)

// String is the kind as a word for logs and metrics.
func (k Kind) String() string {
	switch k {
	case Acked:
		return "acked"
	case Returned:
		return "returned"
	case Dead:
		return "dead"
	}
	return "unknown"
}

// The labels of a Result: a fixed list, fit for a metric.
const (
	LabelDone      = "done"      // Acked: it succeeded
	LabelFailed    = "failed"    // Acked: it raised, and Sidekiq has dealt with that
	LabelStopping  = "stopping"  // Returned: no process had it, or its process was ended by us before the job did
	LabelHeld      = "held"      // Returned: no process had it when Hold was called
	LabelRefused   = "refused"   // Returned: its process had been told to be quiet meanwhile and gave it back untouched
	LabelCrashed   = "crashed"   // Returned: its process died by itself; counted against the job
	LabelVanished  = "vanished"  // Returned: its process ended and nobody knows why; not counted
	LabelAbandoned = "abandoned" // Returned: its thread ended without acknowledging it (Sidekiq's retry code failed)
	LabelStuck     = "stuck"     // Returned: it was over its limit and its process was killed for it
	LabelPoison    = "poison"    // Dead: its processes died by themselves PoisonDeaths times
)

// Result is what became of a job and what it cost. Run, CPU and DB are 0 where Ruby did not report them.
type Result struct {
	Kind    Kind
	Label   string        // one of the Label constants
	Failed  bool          // Acked, but it raised
	Payload string        // Dead: the marked payload. Returned: "" for the bytes as fetched, else the marked ones
	Run     time.Duration // wall time in the Ruby thread
	CPU     time.Duration // CPU time of the Ruby thread
	DB      time.Duration // time in SQL, as ActiveSupport reports it
	PID     int           // of the Ruby process; 0 if none had it
}
