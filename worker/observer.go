package worker

import "time"

// End is the end of one job in this process, told to the Observer after Redis has it.
type End struct {
	Queue  string
	Class  string // wrapped class where there is one
	JID    string
	Result Result
	Label  string // the handler's word for the outcome, or the worker's for what it did itself
	Reason string // for Held: why

	Wait time.Duration // from enqueue to start; negative when the payload does not say
	Run  time.Duration // 0 when it was not run

	Foreign bool          // it was run by Foreign, which keeps Sidekiq's statistics of it itself
	Failed  bool          // Foreign: it raised, and the foreign engine has dealt with that
	CPU     time.Duration // Foreign: of its thread
	DB      time.Duration // Foreign: in SQL
}

// Result is how a job left this process. Every fetched job ends in exactly one of these.
type Result uint8

// The results.
const (
	Acked     Result = iota // finished
	Retried                 // failed and stored in the retry set
	Dead                    // failed for the last time, or unreadable: in the dead set
	Discarded               // failed for the last time with "dead": false, or given up
	Deferred                // not tried: stored in the schedule or retry set with the reason
	Requeued                // given back to its queue
	Forwarded               // a foreign class, moved to the queue Ruby serves
	Dropped                 // the lease was lost before its outcome reached Redis; whoever holds it now decides
	Aside                   // put into a list beside its queue, for it has more time than others that wait
)

// String gives the word used in metrics and logs.
func (r Result) String() string {
	names := [...]string{"acked", "retried", "dead", "discarded", "deferred", "requeued", "forwarded", "dropped", "aside"}
	if int(r) < len(names) {
		return names[r]
	}
	return "unknown"
}

// Observer is told what happens. Methods are called from several goroutines and must be quick; the zero Observer is NopObserver.
type Observer interface {
	Fetched(queue string, jobs int, took time.Duration)
	Started(queue, class string)
	Ended(End)
	LeaseLost(reason string)
	Adopted(holder string, jobs int)
	RedisError(during string)
}

// NopObserver ignores everything. Embed it to implement only some methods.
type NopObserver struct{}

// Fetched implements Observer.
func (NopObserver) Fetched(string, int, time.Duration) {}

// Started implements Observer.
func (NopObserver) Started(string, string) {}

// Ended implements Observer.
func (NopObserver) Ended(End) {}

// LeaseLost implements Observer.
func (NopObserver) LeaseLost(string) {}

// Adopted implements Observer.
func (NopObserver) Adopted(string, int) {}

// RedisError implements Observer.
func (NopObserver) RedisError(string) {}
