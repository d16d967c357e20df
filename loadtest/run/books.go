package run

import (
	"time"

	"github.com/queueville/queueville/loadtest/fediverse"
	"github.com/queueville/queueville/loadtest/world"
)

// state is where a job is, as far as is known.
type state uint8

const (
	handed    state = iota // given to the job that is to push it; not yet known to be in Redis
	queued                 // in its queue, or fetched
	running                // started, and not heard of since
	scheduled              // in the schedule set, never run
	again                  // in the retry set: failed
	held                   // in a set, put off untried: its host is down
	postponed              // in a set, put off untried: its host gets as many requests as it may
	done                   // ended well, or with a refusal that is final
	dead                   // in the dead set
	discarded              // failed for the last time; its class has no dead set
	states
)

// over says whether nothing will happen to the job any more.
func (s state) over() bool { return s == done || s == dead || s == discarded }

// record is what the books hold of a job.
type record struct {
	world.Job // Created and Enqueued are since the beginning of the run; Retries are the failures so far
	cause     uint64
	began     time.Duration
	key       fediverse.Key
	state     state
	runs      uint8 // that have begun
	requests  uint8 // that reached the receiver
	accepted  bool  // one of these was
	left      bool  // what follows from it is in Redis
	doubled   bool  // was found in two places, or began again after it was over
}

// books are the records of all jobs. They are guarded by the conductor's lock.
type books struct {
	jobs  map[uint64]*record
	byKey map[fediverse.Key]uint64
	count [states]int
	most  int
}

func newBooks(most int) *books {
	return &books{jobs: map[uint64]*record{}, byKey: map[fediverse.Key]uint64{}, most: most}
}

// full says that no more jobs can be kept account of.
func (b *books) full() bool { return len(b.jobs) >= b.most }

// add enters a job; one that is there already is returned as it is.
func (b *books) add(j *world.Job, cause uint64, s state) *record {
	if r := b.jobs[j.ID]; r != nil {
		return r
	}
	r := &record{Job: *j, cause: cause, state: s}
	b.jobs[j.ID] = r
	b.count[s]++
	return r
}

func (b *books) move(r *record, to state) {
	b.count[r.state]--
	r.state = to
	b.count[to]++
}

// open is how many jobs are in queues or run.
func (b *books) open() int { return b.count[queued] + b.count[running] }
