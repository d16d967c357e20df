package world

import (
	"fmt"
	"math"
	"time"
)

// Job is one job, before it is written as JSON: what an engine needs to run it.
type Job struct {
	ID       uint64        // draws everything about it; two jobs of a world have different ones
	Enqueued time.Duration // when it was put on its queue the last time
	Created  time.Duration
	Dest     int32 // instance; −1 for none
	Author   int32 // rank of the local author, 0 the most followed; −1 for none
	Fan      int32 // jobs that it will leave behind, where their number is known
	Class    ClassID
	Retries  uint8 // failures so far
	What     Activity
}

// Queue is the number of the queue that the job goes to.
func (j *Job) Queue() int { return int(ClassTable[j.Class].Queue) }

// Activity is what a job is about, where it decides what follows.
type Activity uint8

// What jobs are about.
const (
	Plain     Activity = iota
	FromRelay          // nobody here follows the author
	ToThread           // an answer to a local thread: forwarded
	Reaction           // a boost or like of a local post
	Everyone           // goes to every instance known
	NewPerson          // of somebody who has just signed up
	Boosted            // an Announce, not a Create
)

// World answers what happens. Safe for concurrent use, except for its Streams.
type World struct {
	cfg Config
	in  *instances
}

// New builds a world. It returns every problem of cfg at once.
func New(cfg Config) (*World, error) {
	cfg.fill()
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("world: %w", err)
	}
	return &World{cfg: cfg, in: newInstances(&cfg)}, nil
}

// Instances is how many there are.
func (w *World) Instances() int { return len(w.in.weights) }

// Temper is what an instance is like at a time.
func (w *World) Temper(dest int32, now time.Duration) Temper {
	return w.in.temperAt(w.cfg.Seed, dest, now)
}

// Turns are the times at which tempers change, ascending, at most 2 per event.
func (w *World) Turns() []time.Duration {
	var times []time.Duration
	for _, t := range w.in.turned {
		times = append(times, t.at, t.until)
	}
	return times
}

// Followers is how many remote followers the active account of that rank has: a Pareto distribution by rank, cut off at the top.
func (w *World) Followers(rank int32) int {
	s := &w.cfg.Server
	// The median is at half of the ranks, so the scale is median/2^(1/tail).
	low := s.MedianFollowers / math.Pow(2, 1/s.Tail)
	return int(min(s.MostFollowers, low*math.Pow(float64(s.Active)/float64(rank+1), 1/s.Tail)))
}

// Reach calls visit with every instance from which somebody follows the account of that rank, each once. The same account has the same
// ones every time. seen is scratch space.
func (w *World) Reach(rank int32, seen *Seen, visit func(dest int32)) {
	w.reach(NewDice(w.cfg.Seed^0x72656163, uint64(rank)), w.Followers(rank), seen, visit)
}

// reach draws followers one by one while they are few; of many, it asks each instance whether it has one.
func (w *World) reach(d Dice, followers int, seen *Seen, visit func(dest int32)) {
	n := len(w.in.weights)
	if followers > 3*n {
		for i, weight := range w.in.weights {
			if d.Float64() < -math.Expm1(-float64(followers)*weight) {
				visit(int32(i))
			}
		}
		return
	}
	seen.reset(n)
	for range followers {
		if dest := w.in.pick(&d); seen.first(dest) {
			visit(dest)
		}
	}
}

// Seen remembers which instances have been visited in one round. Its zero value is ready.
type Seen struct {
	round  uint32
	rounds []uint32
}

func (s *Seen) reset(n int) {
	if len(s.rounds) < n {
		s.rounds = make([]uint32, n)
	}
	s.round++
	if s.round == 0 { // wrapped around
		clear(s.rounds)
		s.round = 1
	}
}

func (s *Seen) first(i int32) bool {
	if s.rounds[i] == s.round {
		return false
	}
	s.rounds[i] = s.round
	return true
}

// author draws who does something. Those with many followers post more: the rank is skewed to the top.
func (w *World) author(d *Dice) int32 {
	u := d.Float64()
	return int32(math.Pow(u, 1.25) * float64(w.cfg.Server.Active))
}

// localFans draws how many active people here follow the author of a received post: most have one or two followers here, a few hundreds.
func (w *World) localFans(d *Dice) int32 {
	mean := w.cfg.Traffic.LocalFollowers
	return int32(min(float64(w.cfg.Server.Active), math.Ceil(mean*d.LogNorm(1.3))))
}

// homeFans is how many active people here follow a local author: in proportion to the remote followers, at most a quarter of all who are active.
func (w *World) homeFans(rank int32) int32 { return w.fansOf(float64(w.Followers(rank))) }

func (w *World) fansOf(followers float64) int32 {
	return int32(min(float64(w.cfg.Server.Active)/4, 2+0.25*followers))
}
