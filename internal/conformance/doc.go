// Package conformance is the proof against the original: the whole worker and the whole sidecar beside a real Sidekiq on one Redis,
// judged by Ruby's API, its Web UI and its worker process (package oracle). It holds tests only. What single parts write and read is
// judged by Ruby in package queues; docs/conformance.md says which test stands for which item of the list.
//
// Every test's name begins with TestConformance, by which scripts/test-sidekiq.sh finds it.
package conformance
