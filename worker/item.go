package worker

import (
	"time"

	"github.com/queueville/queueville/queues"
)

// item is one job in this process's hands, from the fetch until Redis has its outcome.
type item struct {
	payload string // the bytes as fetched; all else about the job is read after it is on the books
	job     queues.Job
	handler Handler   // nil for a foreign class
	broken  error     // the payload is no job, or (with a handler) its arguments can never be run
	dest    string    // "" when it shares no limit
	queue   string    // whose job it is
	list    string    // the list it was fetched from: the queue's own, or one beside it
	side    string    // the list beside the queue that it is put into instead of being run; "" for none
	after   bool      // it goes behind the others of its batch
	fetched time.Time // monotonic

	// Written under lane.mu; the completer reads them there too.
	session *queues.Session
	ref     queues.Ref
	state   itemState
	line    *line   // where it waits or waited
	charged float64 // seconds that its destination was charged when it started

	started time.Time // written by the processor that runs it, under lane.mu
}

type itemState uint8

const (
	waiting  itemState = iota // in the lane
	running                   // a handler has it
	settling                  // its outcome is with the completer
)

// settlement is an outcome on its way to Redis.
type settlement struct {
	item    *item
	op      queues.Op
	payload string  // "" means the bytes in flight
	at      float64 // Unix seconds, for the sorted sets
	queue   string  // for a forward
	event   End
}
