package ruby

import "time"

// Observer is told what happens to the processes, for metrics. Its methods are called from several goroutines and must be fast.
type Observer interface {
	// ProcessReady: a process asked for its first job, after that long.
	ProcessReady(boot time.Duration)
	// ProcessEnded: a process ended, for one of the Ending words.
	ProcessEnded(why string)
	// BootFailed: a process or the preloaded parent ended before it was ready.
	BootFailed()
	// Stuck: a job of a class is over its limit.
	Stuck(class string)
	// Poisoned: a job's process died by itself; deaths within 72 h.
	Poisoned(class string, deaths int)
	// TickLost: a tick of the cron entry was lost with an earlier leader; madeUp if it was pushed now.
	TickLost(entry string, madeUp bool)
}

// The words for why a process ended.
const (
	EndingShrunk   = "shrunk"   // no longer needed
	EndingReplaced = "replaced" // over its memory limit, or told to be quiet by somebody else
	EndingStopped  = "stopped"  // we stop
	EndingStuck    = "stuck"    // killed for a stuck job
	// EndingConnections: its database connections were lost, or are needed by others.
	EndingConnections = "connections"
	EndingCron        = "cron"    // it ran the cron scheduler and the leadership was lost
	EndingSilent      = "silent"  // killed: it did not boot or did not answer in time
	EndingCrashed     = "crashed" // by itself: a signal that was not ours, or an exit
	EndingUnknown     = "unknown" // its parent died, so its exit status is not known
)

// NoObserver does nothing.
type NoObserver struct{}

// ProcessReady does nothing.
func (NoObserver) ProcessReady(time.Duration) {}

// ProcessEnded does nothing.
func (NoObserver) ProcessEnded(string) {}

// BootFailed does nothing.
func (NoObserver) BootFailed() {}

// Stuck does nothing.
func (NoObserver) Stuck(string) {}

// Poisoned does nothing.
func (NoObserver) Poisoned(string, int) {}

// TickLost does nothing.
func (NoObserver) TickLost(string, bool) {}
