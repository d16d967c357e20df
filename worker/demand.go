package worker

import (
	"math"
	"time"

	"github.com/queueville/queueville/scheduler"
)

// Demand is what waits for a lane, and how fast more comes in.
type Demand struct {
	Backlog  float64        // jobs on owned queues that are expected to be the lane's
	Arrivals float64        // a second, lately
	Goal     scheduler.Goal // the tightest of the queues in which some of them wait, by what the goals say; 0: none waits
}

// flow is what comes into a queue.
type flow struct {
	fetched int     // since the last look
	rate    float64 // jobs a second
	known   bool
}

const (
	flowMemory = 2 * time.Second // after which a rate counts for a third
	fewOfThem  = 0.02            // share of a queue's jobs below which their goal is not the queue's
)

// look takes in by how much a queue has grown since the last look.
func (f *flow) look(growth int, since time.Duration) {
	came := max(0, growth+f.fetched)
	f.fetched = 0
	if since <= 0 || since > pickStale {
		f.known = false
		return
	}
	rate := float64(came) / since.Seconds()
	if !f.known {
		f.rate, f.known = rate, true
		return
	}
	f.rate += (rate - f.rate) * (1 - math.Exp(-since.Seconds()/flowMemory.Seconds()))
}

// Demand is what waits for the native jobs' lane and for Foreign, for whoever decides on their limits. It is known only of owned queues, and only
// while they are looked at (Config.Policy goals, or Config.Watch) and Redis answers.
func (w *Worker) Demand() (native, foreign Demand, known bool) {
	p := w.picks
	if p == nil || len(w.cfg.Shared) > 0 {
		return native, foreign, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.at.IsZero() || time.Since(p.at) > pickStale {
		return native, foreign, false
	}
	for i := range p.views {
		q := &p.views[i]
		share := w.foreign.share(q.Name)
		native.add(q, &p.flows[i], 1-share)
		foreign.add(q, &p.flows[i], share)
	}
	return native, foreign, true
}

// add counts a share of a queue.
func (d *Demand) add(q *scheduler.QueueView, f *flow, share float64) {
	backlog := share * float64(max(0, q.Backlog))
	d.Backlog += backlog
	d.Arrivals += share * f.rate
	if share > fewOfThem && backlog >= 1 && (d.Goal == 0 || q.Goal < d.Goal) {
		d.Goal = q.Goal
	}
}

// share is how much of what is fetched from a list is foreign; of one of which nothing is known, none or, with Foreign, half.
func (s *foreignSide) share(queue string) float64 {
	if s.Foreign == nil {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if share, known := s.shares[queue]; known {
		return share.foreign
	}
	return 0.5
}
