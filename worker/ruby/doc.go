// Package ruby runs jobs in stock Sidekiq processes of this host: it boots them, feeds them, watches and replaces them.
//
// Jobs flow in through Supervisor.Submit, in the order in which they should start; what became of each flows out through
// Config.Done, exactly once. Between the two a job waits until the policy (Place, a pure function) gives it to a process, travels
// over a Unix socket to an idle thread of it, and is acknowledged there when Sidekiq has done with it. Only the fetcher of the
// Ruby process is ours (fetch.rb and its neighbours, embedded): middleware, locks, retries, the dead set and the heartbeat are
// Sidekiq's own code.
//
// Processes are forked from one preloaded parent, the zygote, or started one by one where preloading is off or not possible.
// Run starts every goroutine of the package (one that decides, one per connection, one per process) and waits for them.
//
// The package knows nothing of leases or of Redis beyond the two small interfaces Poison and Leader, and runs no job itself.
package ruby
