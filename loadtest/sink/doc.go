// Package sink is the other servers of a load test, alone: receivers on loopback addresses, each a name under .test, which answer deliveries as
// a scenario's world says (quick, slow, flaky, limiting, dead), verify every signature and count what they get. With `loadtest generate`, which
// puts a scenario's deliveries into a staging Mastodon's queues, a whole Mastodon can be driven.
//
// Two guards keep real people's servers out of it: OnlyTest refuses a database that knows anybody outside of .test, and all names and
// addresses that anything is sent to are the receivers'.
//
// Start starts the goroutines of loadtest/fediverse; Sink.Close ends them.
package sink
