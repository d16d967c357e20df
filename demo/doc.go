// Package demo is `queueville demo`: a whole Mastodon server's deliveries on this machine, in under a minute.
//
// It starts throwaway Redis and PostgreSQL servers, writes Mastodon-shaped tables and a .env.production, starts a synthetic
// fediverse that verifies every signature, enqueues deliveries in Sidekiq's form, runs a worker that the caller injects, and ends
// when every job has had its first outcome. What the worker says of itself is shown, but not believed: each job is looked for in
// Redis and in the receivers' books, and one that is in neither is lost.
//
// Run starts the worker, the receivers and one goroutine that watches; all have ended, and all servers and files are gone, when it
// returns, also when its context is cancelled.
package demo
