// Package run runs a world's jobs in real time, on real servers and real job processes on this machine: what package simulate does in virtual time.
//
// In: Options (a scenario in its small form, see Small; an engine). Out: an Outcome, whose Result has the simulator's shape, and the fate of every
// job. A conductor knows every job: Ruby processes and the worker talk to it on a local socket, the receivers ask it what to answer, and a
// generator pushes what the outside does when it does it. Deliver runs the generator alone.
//
// Run starts throwaway servers (internal/throwaway), receivers (loadtest/fediverse), job processes, and goroutines for the socket, the generator, the
// incidents and each process; all have ended when it returns. It never imports worker: the worker is a process. What is real and what is
// not: docs/loadtest.md.
package run
