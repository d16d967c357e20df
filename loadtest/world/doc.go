// Package world is a Mastodon server and the fediverse around it, in numbers: who is on it, who follows them from where, what happens when,
// and which Sidekiq jobs come of it. It is what the simulator runs and what real load is generated from.
//
// In: a Config. Out: a World, which answers three questions without remembering anything that grows:
//
//   - Stream.Next: what is enqueued next, and when (open loop: nothing waits for anybody);
//   - World.Spawn: which jobs a job leaves behind when it ends well;
//   - World.Attempt: what the far side says to one request.
//
// Everything is drawn from the seed and from the number of the job, never from the order in which somebody asks: two engines that run
// the same world meet the same jobs with the same sizes, costs and answers. Sources and assumptions: docs/loadtest.md.
// It starts no goroutines and reads no clock.
package world
