// Package scenario reads load test scenarios: readable YAML files that say who is on a server, what happens to it, what it runs on, and what
// has to hold. The twelve that come with Queueville are embedded; a person's own is a copy of one of them.
//
// In: the bytes of a file. Out: a Scenario, or every problem at once with its line. It reads files only where it is told to, and starts no
// goroutines.
package scenario
