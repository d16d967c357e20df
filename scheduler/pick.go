package scheduler

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// Policy is how the next queue is chosen.
type Policy string

// The policies.
const (
	PolicyGoals    Policy = "goals"    // by latency goals
	PolicyWeighted Policy = "weighted" // as Sidekiq with weights: drawn anew for every fetch
	PolicyStrict   Policy = "strict"   // as Sidekiq without: a queue only when all before it are empty
)

const (
	// margin is the part of a goal after which a queue is as late as if it had been missed: what is started then has a fifth of its goal left
	// for what the sensors see too late.
	margin = 0.8

	ageShare = 0.05 // of what is taken, a late queue may claim first, for each doubling of its lateness
	mostAged = 0.20 // and this much all late queues together
	mostAge  = 365 * 24 * time.Hour
)

// QueueView is what the choice of queues is made on.
type QueueView struct {
	Name    string
	Backlog int           // jobs that wait there; negative: not known
	HeadAge time.Duration // how long the oldest has waited
	Goal    Goal          // zero: DefaultGoal
	Weight  int           // for the weighted policy
	Cost    float64       // of one of its jobs, in the unit of what is scarce, e.g. seconds of a slot; 0 or less: not known
	Most    int           // jobs to take at most; 0: no limit

	Of      string  // of a Side: its queue
	Behind  bool    // of a Side: while other jobs of its queue wait, it has no turn until its goal has passed
	Foreign float64 // share of its jobs that run in the other lane; negative: not known
}

// Take is what to take from a queue.
type Take struct {
	Queue string
	Jobs  int // at most
	// Aged: this is the share of a queue that has waited too long for too long, before its turn. The queue may come again, in its turn.
	Aged bool
}

// Picker chooses from which queues to fetch next. Its memory are the claims of late queues.
//
// With goals, the queue goes first whose oldest job has the least time left until four fifths of its goal. A queue that has missed that is
// overloaded, and being first would only make the others miss theirs too: it counts as if its oldest job had just come in, and so goes
// behind the tighter goals and before the looser ones. So that this starves nobody, late queues may claim a share first, 5 % each for
// every doubling of the lateness, 20 % together.
type Picker struct {
	policy Policy
	rnd    *rand.Rand
	claims map[string]*claim
}

type claim struct {
	credit float64 // in units of cost, at most a few jobs' worth
	weight float64 // share of what others take, from the last Pick
	cost   float64
}

// NewPicker makes a Picker. rnd is for the weighted policy; nil is the global source.
func NewPicker(policy Policy, rnd *rand.Rand) *Picker {
	return &Picker{policy: policy, rnd: rnd, claims: make(map[string]*claim)}
}

// Pick says from which queues to take, in order, and how many jobs of each at most, when there is room for so many. The amounts may add up to
// more than room: what a queue does not have, the next may fill. A queue that is known to be empty is passed over. After each fetch Took
// has to be told what came of it.
func (p *Picker) Pick(room int, queues []QueueView) []Take {
	if room <= 0 || len(queues) == 0 {
		return nil
	}
	most := func(q *QueueView) int {
		n := room
		if q.Most > 0 {
			n = min(n, q.Most)
		}
		return n
	}
	if p.policy != PolicyGoals {
		return p.likeSidekiq(queues, most)
	}
	takes := make([]Take, 0, len(queues)+1)
	takes = append(takes, p.aged(room, queues)...)
	order := make([]int, 0, len(queues))
	for i := range queues {
		if queues[i].Backlog != 0 && !queues[i].waitsFor(queues) {
			order = append(order, i)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(left(&queues[a]), left(&queues[b])), cmp.Compare(goal(&queues[a]), goal(&queues[b])), cmp.Compare(queues[a].Name, queues[b].Name))
	})
	for _, i := range order {
		takes = append(takes, Take{Queue: queues[i].Name, Jobs: most(&queues[i])})
	}
	return takes
}

// likeSidekiq is the order of the other two policies.
func (p *Picker) likeSidekiq(queues []QueueView, most func(*QueueView) int) []Take {
	list := make([]Queue, len(queues))
	views := make(map[string]*QueueView, len(queues))
	for i := range queues {
		list[i] = Queue{Name: queues[i].Name, Weight: queues[i].Weight}
		views[queues[i].Name] = &queues[i]
	}
	var names []string
	if p.policy == PolicyWeighted {
		names = Weighted(list, p.rnd)
	} else {
		names = make([]string, len(list))
		for i := range list {
			names[i] = list[i].Name
		}
		names = Strict(names)
	}
	takes := make([]Take, 0, len(names))
	for _, name := range names {
		if views[name].Backlog != 0 {
			takes = append(takes, Take{Queue: name, Jobs: most(views[name])})
		}
	}
	return takes
}

func goal(q *QueueView) Goal {
	if q.Goal <= 0 {
		return DefaultGoal
	}
	return min(q.Goal, LongestGoal)
}

func age(q *QueueView) time.Duration { return min(max(q.HeadAge, 0), mostAge) }

// left is how much time a queue's oldest job has until four fifths of its goal; all of it again when that has passed.
func left(q *QueueView) time.Duration {
	most := time.Duration(margin * float64(goal(q)))
	if rest := most - age(q); rest > 0 {
		return rest
	}
	return most
}

// fewOfThem is the share of a list's jobs below which it does not count that they are in a lane.
const fewOfThem = 0.02

// waitsFor tells whether the jobs of a list are behind others of their queue that are known to wait. What runs in the other lane is not in their
// way, and of a list of which nothing is known a taste is had.
func (q *QueueView) waitsFor(queues []QueueView) bool {
	if !q.Behind || q.Foreign < 0 || age(q) >= goal(q) {
		return false
	}
	return slices.ContainsFunc(queues, func(o QueueView) bool {
		if o.Behind || o.Backlog <= 0 || o.Name != q.Of && o.Of != q.Of {
			return false
		}
		return o.Foreign < 0 || min(q.Foreign, o.Foreign) > fewOfThem || min(1-q.Foreign, 1-o.Foreign) > fewOfThem
	})
}

// aged is what late queues may take before anybody's turn.
func (p *Picker) aged(room int, queues []QueueView) []Take {
	total := 0.0
	for _, c := range p.claims {
		c.weight = 0
	}
	for i := range queues {
		q := &queues[i]
		late := float64(age(q)) / float64(goal(q))
		if q.Backlog == 0 || late < 1 {
			delete(p.claims, q.Name)
			continue
		}
		c := p.claims[q.Name]
		if c == nil {
			c = &claim{}
			p.claims[q.Name] = c
		}
		c.weight = ageShare * (1 + math.Log2(late))
		c.cost = cost(q)
		total += c.weight
	}
	var takes []Take
	for i := range queues {
		c := p.claims[queues[i].Name]
		if c == nil {
			continue
		}
		if total > mostAged {
			c.weight *= mostAged / total
		}
		if n := min(int(c.credit/c.cost), room); n > 0 {
			if queues[i].Most > 0 {
				n = min(n, queues[i].Most)
			}
			takes = append(takes, Take{Queue: queues[i].Name, Jobs: n, Aged: true})
		}
	}
	for name, c := range p.claims {
		if c.weight == 0 {
			delete(p.claims, name) // no longer served
		}
	}
	return takes
}

// mostCredit bounds what a late queue can claim at once, in jobs: a share, not a debt that grows while nothing is taken.
const mostCredit = 64

// Took tells what a fetch has brought from a queue.
func (p *Picker) Took(queue string, jobs int, costOfOne float64) {
	if p.policy != PolicyGoals || jobs <= 0 {
		return
	}
	spent := float64(jobs) * sane(costOfOne)
	for name, c := range p.claims {
		c.credit = min(c.credit+c.weight*spent, mostCredit*c.cost)
		if name == queue {
			c.credit = max(0, c.credit-spent)
		}
	}
}

// Returned tells that jobs which a fetch had brought were only put elsewhere: they have used nothing of the queue's share.
func (p *Picker) Returned(queue string, jobs int, costOfOne float64) {
	if c := p.claims[queue]; c != nil && jobs > 0 {
		c.credit = min(c.credit+float64(jobs)*sane(costOfOne), mostCredit*c.cost)
	}
}

func cost(q *QueueView) float64 { return sane(q.Cost) }

// sane is a cost that can be divided by.
func sane(c float64) float64 {
	if !(c > 0) || math.IsInf(c, 0) { // also NaN
		return 1
	}
	return min(max(c, 1e-6), 1e6)
}
