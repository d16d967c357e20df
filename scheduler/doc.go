// Package scheduler holds the policy of who decides how much runs: what jobs cost, which queues are next, how many jobs run at once, how
// destinations take turns.
//
//	ends of jobs ───► Costs ──┐
//	queues' state ──► Picker ─┼─► order and amounts of the next fetch
//	Goals, Rules ─────────────┘
//	Host, Lane ─────► Controller ──► a Decision per lane: limit, what binds, what one more unit would give; Changes for the journal
//
// All of it is plain data in and plain data out. The package starts nothing, reads no clock, no file and no network: time is a parameter, and
// the same inputs give the same answers, so that worker, plan and simulator share the code. Sensors live in internal/hostload, actuators in
// the worker. Times may jump in both directions and numbers may be missing (negative), NaN or infinite: nothing panics, no limit leaves its
// bounds. How it decides is in docs/scheduler.md.
//
// Costs is safe for concurrent use, everything else belongs to one goroutine.
package scheduler
