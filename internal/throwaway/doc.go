// Package throwaway starts real servers for a while: redis-server (also as a Sentinel), PostgreSQL and PgBouncer, each on a free
// loopback port with a data directory of its own. `queueville demo` and the tests run on them.
//
// What flows in is a context that bounds the start; what flows out is an address. The package starts processes and no goroutines,
// so a server that outlives a test does not look like a leak. A server ends with Stop, or with this process, however that ends:
// a small shell holds the reading end of a pipe, and when the last writer is gone it ends the server and removes the directory.
// (Linux' parent-death signal would follow the thread that started the child, not the process, and would leave the directory.)
//
// Nothing here listens on an address outside 127.0.0.0/8.
package throwaway
