package simulate

import (
	"github.com/queueville/queueville/loadtest/world"
	"github.com/queueville/queueville/scheduler"
)

// A list beside a queue, in Redis as the queue is: which jobs wait there is what scheduler's goals say of them when they are fetched (worker/aside.go).
type aside struct {
	scheduler.Side

	queue int
	jobs  jobRing
	mix   mix
}

// mix is what part of what is fetched from a list is Ruby's, lately.
type mix struct {
	foreign float64
	known   bool
}

// The weight that a job has in what is known of its list: of a batch of 16, worker/foreign.go gives it three tenths.
const mixWeight = 0.3 / 16

func (m *mix) note(foreign, stays bool) {
	now := 0.0
	if foreign && stays {
		now = 1
	}
	if !m.known {
		m.foreign, m.known = now, true
		return
	}
	m.foreign += mixWeight * (now - m.foreign)
}

// share is as scheduler.QueueView has it.
func (m *mix) share() float64 {
	if !m.known {
		return -1
	}
	return m.foreign
}

// lists are the queues as the goals see them, and the lists beside them.
type lists struct {
	goals [world.Queues]scheduler.Goal // of the queues' own lists
	mixes [world.Queues]mix
	sides []*aside
	of    [world.Classes]*aside // where a class waits; nil: in its queue
}

// newLists applies the rules of Mastodon's goals to the model's classes. Only the policy by goals has rules.
func newLists(cfg *Config) *lists {
	l := &lists{goals: cfg.Goals}
	if cfg.Policy != scheduler.PolicyGoals {
		return l
	}
	goals := scheduler.MastodonGoals()
	for q, name := range world.QueueNames {
		goals.Queues[name] = cfg.Goals[q]
	}
	for q, name := range world.QueueNames {
		of := goals.Lists(name)
		l.goals[q] = of.Goal
		first := len(l.sides)
		for _, side := range of.Sides {
			l.sides = append(l.sides, &aside{Side: side, queue: q})
		}
		for c := range world.ClassTable {
			class := &world.ClassTable[c]
			if int(class.Queue) != q {
				continue
			}
			list, is := of.Side(goals.Place(name, class.Name, ""))
			for _, side := range l.sides[first:] {
				if is && side.Name == list {
					l.of[c] = side
				}
			}
		}
	}
	return l
}

// beside is how many jobs wait beside a queue.
func (l *lists) beside(q int) int {
	n := 0
	for _, side := range l.sides {
		if side.queue == q {
			n += side.jobs.len()
		}
	}
	return n
}

// put moves a job that has just been fetched from its queue into the list where it waits, if anything else of the queue waits that need not wait
// for it. It tells whether it did.
func (l *lists) put(job *world.Job, own *jobRing) bool {
	q := job.Queue()
	side := l.of[job.Class]
	moves := side != nil && own.len()+l.beside(q) > 0
	foreign := kindOf(job.Class) == foreign
	l.mixes[q].note(foreign, !moves)
	if moves {
		side.mix.note(foreign, true)
		side.jobs.push(*job)
	}
	return moves
}
