package queues

import (
	"context"
	"fmt"
)

// A look of this size costs Redis 1 to 2.5 ms, nearly all of it for handing the bytes to Lua, which hashes every one (2.2 ns each in Redis 7),
// and for taking, which costs twice as much a job as looking: so a look goes deeper than it takes. BenchmarkSharedLook measures it.
const (
	WindowJobs  = 160       // Look.WindowJobs
	WindowBytes = 384 << 10 // Look.WindowBytes
	LookJobs    = 64        // Look.Max
)

// Look is one bounded look at shared queues.
type Look struct {
	Queues      []string
	Classes     []string // exact class names to take
	Max         int      // jobs to take at most (at most MaxBatch)
	WindowJobs  int      // per queue, from the fetched end
	WindowBytes int      // over all queues; the job that crosses it is still looked at
	Share       int      // of 10,000, decided by InShare so that a job stays in or out; 10,000 = all, 0 = none
	Hosts       []string // if not empty: only jobs whose args contain an inbox at one of these hosts (host[:port])
}

// FetchShared takes matching jobs and leaves the order of all others. One round trip, and one script over all queues.
// looked is how many jobs it looked at. A job matches if the class member of its object itself is one of Classes; a payload
// that is so odd that this is not seen cheaply (the class named twice, the name written with escapes or white space
// around the colon) may be left to Ruby. Errors as Fetch.
func (s *Session) FetchShared(ctx context.Context, l Look) (jobs []Fetched, looked int, err error) {
	limit := min(l.Max, MaxBatch)
	if limit <= 0 || l.Share <= 0 || len(l.Queues) == 0 || len(l.Classes) == 0 {
		return nil, 0, nil
	}
	args := append(sharedScript.begin(make([]any, 0, 12+2*len(l.Queues)+len(l.Classes)+len(l.Hosts)), 3+len(l.Queues)),
		&s.lease, &s.inflight, &s.store.keys.paused)
	for _, q := range l.Queues {
		args = append(args, s.store.keys.queue(q))
	}
	args = append(args, limit, l.WindowJobs, l.WindowBytes, l.Share, len(l.Classes), len(l.Hosts))
	for _, list := range [][]string{l.Classes, l.Hosts, l.Queues} {
		for i := range list {
			args = append(args, &list[i])
		}
	}
	reply, err := s.moveJobs(ctx, &sharedScript, args)
	if err != nil {
		return nil, 0, fmt.Errorf("fetch from shared queues: %w", err)
	}
	if jobs, looked, err = s.taken(reply, l.Queues); err != nil {
		return nil, 0, fmt.Errorf("fetch from shared queues: %w", err)
	}
	return jobs, looked, nil
}
