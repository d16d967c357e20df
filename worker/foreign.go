package worker

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/queueville/queueville/queues"
	"github.com/queueville/queueville/scheduler"
)

// Foreign runs the jobs of all classes that no Handler runs: Ruby. It has its own waiting lines and decides by itself what starts where.
// worker/ruby's Supervisor is adapted to it. All methods are called from several goroutines.
type Foreign interface {
	// Run works until ctx ends, then ends what runs within the stop timeout, and returns when every job has been concluded.
	Run(ctx context.Context) error
	// Room is how many more jobs of each of these queues it wants now: about what could start soon if nothing came from the others.
	Room(queues []string) []int
	// Submit takes jobs in the order they should start. It never blocks, and takes more than Room if it has to.
	Submit(jobs []ForeignJob)
	// Withdraw takes back every job that has not started, in the order of Submit. Conclude is not called for them.
	Withdraw() []ForeignJob
	// Quiet concludes what has not started as Returned and starts nothing more.
	Quiet()
}

// ForeignJob is one job for Foreign.
type ForeignJob struct {
	Token   any // to be handed back
	Queue   string
	Class   string // the wrapped class where there is one
	JID     string
	Payload string
	Fetched time.Time
}

// ForeignResult is what became of a ForeignJob.
type ForeignResult struct {
	// Kind: Done acknowledges, whatever Failed says, for the foreign engine has written the retry; Returned gives the job back to its queue;
	// Failed buries it.
	Kind    OutcomeKind
	Failed  bool          // Done: it raised
	Label   string        // one word for metrics
	Payload string        // Failed: what to bury. Returned: what to give back, "" for the bytes as fetched
	Run     time.Duration // wall time; 0 if it was not run
	CPU     time.Duration // of its thread
	DB      time.Duration // in SQL
}

// Conclude is how Foreign reports the end of a submitted job, once for each. token is the job's.
func (w *Worker) Conclude(token any, r ForeignResult) {
	it, ok := token.(*item)
	if !ok {
		return
	}
	w.foreign.leave(1)
	event := w.event(it, Acked, r.Label, r.Run)
	event.Foreign, event.Failed, event.CPU, event.DB = true, r.Failed, r.CPU, r.DB
	if r.Run > 0 && it.job.EnqueuedAt > 0 {
		event.Wait = time.Now().Add(-r.Run).Sub(unixTime(float64(it.job.EnqueuedAt)))
	}
	switch r.Kind {
	case Failed:
		event.Result = Dead
		w.settle(settlement{item: it, op: queues.OpDead, payload: r.Payload, at: seconds(time.Now()), event: event})
	case Done:
		w.settle(settlement{item: it, op: queues.OpAck, event: event})
	default:
		event.Result = Requeued
		w.settle(settlement{item: it, op: queues.OpRequeue, payload: r.Payload, event: event})
	}
}

// RoomGrew tells the worker that Foreign.Room may have grown.
func (w *Worker) RoomGrew() { signal(w.fetcher.wake) }

// foreignSide keeps what the worker knows of Foreign's jobs.
type foreignSide struct {
	Foreign // nil without one

	mu     sync.Mutex
	inHand int
	shares map[string]mix // by list: what is fetched from it
}

const (
	// shareMemory is how much of a queue's share the last batch decides, when the batch is a large one.
	shareMemory = 0.3
	// littleShare of foreign jobs does not stop a queue that native ones are waiting in, until foreignPile of them are in hand.
	littleShare = 0.1
	foreignPile = 500
	firstTaste  = 8
	leastShare  = 0.001 // of jobs that are not put aside, to know something of them
)

func (s *foreignSide) leave(n int) {
	s.mu.Lock()
	s.inHand -= n
	s.mu.Unlock()
}

// mix is what part of a list's jobs is run by whom. What is put aside is neither.
type mix struct{ foreign, native float64 }

// learn counts the foreign and the native jobs of a batch, list by list. Those that are put aside tell what the list is like that they go to.
func (s *foreignSide) learn(all []*item) {
	type count struct{ foreign, native, total int }
	counts := map[string]count{}
	for _, it := range all {
		c := counts[it.list]
		c.total++
		foreign := it.handler == nil && it.broken == nil
		switch {
		case it.side != "":
			side := counts[it.side]
			side.total++
			if foreign {
				side.foreign++
			} else {
				side.native++
			}
			counts[it.side] = side
		case foreign:
			c.foreign++
		default:
			c.native++
		}
		counts[it.list] = c
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, it := range all {
		if it.handler == nil && it.broken == nil && it.side == "" {
			s.inHand++
		}
	}
	for list, c := range counts {
		old, known := s.shares[list]
		now := mix{float64(c.foreign) / float64(c.total), float64(c.native) / float64(c.total)}
		if !known {
			s.shares[list] = now
			continue
		}
		weight := shareMemory * min(1, float64(c.total)/16)
		s.shares[list] = mix{old.foreign + weight*(now.foreign-old.foreign), old.native + weight*(now.native-old.native)}
	}
}

// limits says how much room there is for native and for foreign jobs, and how much of each a job of each queue is expected to need. rooms are
// the engine's, queue by queue: one whose jobs compute must not be in the way of one whose jobs wait. Of a queue of which nothing is known only
// a few are taken. names become those that something may be taken from: the others are not even looked at.
// caps, if not nil, bounds what is taken from each.
func (s *foreignSide) limits(names []string, native int, rooms, caps []int) ([]string, queues.Limits) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := queues.Limits{Budgets: [2]float64{float64(native), float64(most(rooms))}, Costs: make([][2]float64, len(names)), Most: make([]int, len(names))}
	for i, q := range names {
		share, known := s.shares[q]
		l.Most[i] = fetchBatch
		switch {
		case !known:
			l.Most[i] = min(firstTaste, max(1, rooms[i]))
		case share.foreign < littleShare && s.inHand < foreignPile:
			l.Costs[i] = [2]float64{costing(share.native + share.foreign), 0}
		case share.foreign > 1-littleShare:
			l.Costs[i] = [2]float64{0, share.foreign}
			l.Most[i] = min(fetchBatch, rooms[i])
		default:
			l.Costs[i] = [2]float64{costing(share.native), share.foreign}
			l.Most[i] = min(fetchBatch, int(float64(rooms[i])/share.foreign))
		}
	}
	for i := range caps {
		l.Most[i] = min(l.Most[i], caps[i])
	}
	open := names[:0]
	for i, q := range names {
		if l.Most[i] > 0 {
			l.Costs[len(open)], l.Most[len(open)] = l.Costs[i], l.Most[i]
			open = append(open, q)
		}
	}
	l.Costs, l.Most = l.Costs[:len(open)], l.Most[:len(open)]
	return open, l
}

// costing is what a job is expected to take of the room for native ones: nothing when hardly any is, or a queue full of jobs to be put aside would
// wait for room that it does not need.
func costing(share float64) float64 {
	if share < fewOfThem {
		return 0
	}
	return min(share, 1)
}

// most is the room of the queue that has most.
func most(rooms []int) int {
	n := 0
	for _, room := range rooms {
		n = max(n, room)
	}
	return n
}

// held is how many of the worker's jobs Foreign has.
func (s *foreignSide) held() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.inHand
}

// known is how much of what is fetched from a list, and not put aside, is foreign; scheduler.Unknown if that is hardly anything.
func (s *foreignSide) known(list string) float64 {
	if s.Foreign == nil {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	share := s.shares[list]
	if share.foreign+share.native < leastShare {
		return scheduler.Unknown
	}
	return share.foreign / (share.foreign + share.native)
}

// submit hands foreign items over. The caller has counted them.
func (s *foreignSide) submit(list []*item) {
	jobs := make([]ForeignJob, len(list))
	for i, it := range list {
		jobs[i] = ForeignJob{Token: it, Queue: it.queue, Class: className(&it.job), JID: it.job.JID, Payload: it.payload, Fetched: it.fetched}
	}
	s.Submit(jobs)
}

// withdraw takes back what has not started and is not kept: what keep is true for goes on waiting, in its order.
func (s *foreignSide) withdraw(keep func(*item) bool) []*item {
	if s.Foreign == nil {
		return nil
	}
	var out []*item
	var again []ForeignJob
	for _, j := range s.Withdraw() {
		if it, ok := j.Token.(*item); ok && !keep(it) {
			out = append(out, it)
		} else {
			again = append(again, j)
		}
	}
	if len(again) > 0 {
		s.Submit(again)
	}
	s.leave(len(out))
	return out
}

// runForeign runs the foreign engine until ctx ends. Without it no foreign job would ever run, so its failure stops the worker.
func (w *Worker) runForeign(ctx context.Context) error {
	err := w.foreign.Run(ctx)
	if err != nil {
		w.log.ErrorContext(ctx, "the foreign engine has failed, stopping", slog.Any("err", err))
		w.Stop()
	}
	return err
}
