// Package measure reads what a benchmark reports: the CPU time and memory of other processes, what a Redis server did, which machine
// this is, and how figures become a table. It starts no goroutines and changes nothing.
package measure
