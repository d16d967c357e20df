// Package simulate runs a world's jobs in virtual time, by discrete events, on a model of the machines: hosts with cores, Ruby processes in
// which one thread runs at a time, a PostgreSQL with cores and connections of its own, and the far sides of the fediverse.
//
// In: a Config (world, hardware over time, what goes wrong when, goals). Out: a Result. Two engines share everything but the decision what
// runs where and when:
//
//   - stock Sidekiq: threads that fetch by BRPOP from weighted or strict queues, a connection pool per process, Mastodon's breaker per
//     inbox (sidekiq.go);
//   - Queueville: the policy code of packages scheduler and dbpool, the same that the worker runs (queueville.go).
//
// The same Config gives the same Result, byte for byte. Memory is bounded by Config.MostJobs and by the number of hosts and instances, not
// by the length of the run. It starts no goroutines. What is modelled and what is left out: docs/loadtest.md.
package simulate
