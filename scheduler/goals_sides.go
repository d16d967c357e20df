package scheduler

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A Side is a list beside a queue, in which those of its jobs wait that have more time than the others. Its name says what it is, so that a
// worker with other rules can serve it too: the queue's, a colon, and "behind" or "within-" and the goal. Sidekiq takes it for a queue.
type Side struct {
	Name   string
	Queue  string
	Goal   Goal // of the list. Of one behind the others: after so long it takes its turn like them
	Behind bool
}

// MaxSides is how many side lists the rules may make of one queue.
const MaxSides = 8

const (
	behindName = "behind"
	withinName = "within-"
)

// Lists are a queue's own list and those beside it, as the rules have them. Their number depends on the rules, never on jobs.
type Lists struct {
	Queue string
	Goal  Goal   // of the queue's own list: the tightest of what may be in it
	Sides []Side // tightest goal first, at most one behind, last; none: the rules leave the queue as it is
}

// Lists says in which lists the jobs of a queue wait. Beside its own, which goes by the tightest goal of its rules, there is one for each
// goal that is looser, and one for all that goes behind the others; that one goes by the tightest goal of its rules, so that every job keeps
// its own.
func (g Goals) Lists(queue string) Lists {
	plain := g.Queue(queue)
	l := Lists{Queue: queue, Goal: plain}
	looser := []Goal{plain}
	behind := Goal(0)
	for i := range g.Rules {
		r := &g.Rules[i]
		if r.Queue != "" && r.Queue != queue {
			continue
		}
		goal := cmp.Or(r.Goal, plain)
		if !r.Behind {
			looser = append(looser, goal)
			continue
		}
		if goal = min(goal, LongestGoal) * BehindLimit; behind == 0 || goal < behind {
			behind = goal
		}
	}
	slices.Sort(looser)
	looser = slices.Compact(looser)
	l.Goal = looser[0]
	for _, goal := range looser[1:min(len(looser), MaxSides)] {
		l.Sides = append(l.Sides, Side{Name: withinList(queue, goal), Queue: queue, Goal: goal})
	}
	if behind > 0 {
		l.Sides = append(l.Sides, Side{Name: queue + ":" + behindName, Queue: queue, Goal: behind, Behind: true})
	}
	return l
}

// Side is the list beside the queue in which a job waits; false: it waits in the queue's own.
func (l *Lists) Side(p Placement) (name string, aside bool) {
	for i := len(l.Sides) - 1; i >= 0; i-- {
		s := &l.Sides[i]
		if p.Behind && s.Behind || !p.Behind && !s.Behind && s.Goal <= p.Goal {
			return s.Name, true
		}
	}
	return "", false
}

func withinList(queue string, goal Goal) string { return queue + ":" + withinName + goalText(goal) }

// goalText is a duration as people write it: 1h, not 1h0m0s.
func goalText(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// ParseSide reads the name of a side list, whoever's rules have made it. Of one behind the others the name does not tell the goal: it is four
// times what g says of the queue, unless g has a rule for it.
func (g Goals) ParseSide(name string) (Side, bool) {
	i := strings.LastIndexByte(name, ':')
	if i <= 0 {
		return Side{}, false
	}
	s := Side{Name: name, Queue: name[:i]}
	kind := name[i+1:]
	if kind == behindName {
		s.Behind, s.Goal = true, min(g.Queue(s.Queue), LongestGoal)*BehindLimit
		if sides := g.Lists(s.Queue).Sides; len(sides) > 0 && sides[len(sides)-1].Behind {
			s = sides[len(sides)-1]
		}
		return s, true
	}
	text, ok := strings.CutPrefix(kind, withinName)
	if !ok {
		return Side{}, false
	}
	goal, err := time.ParseDuration(text)
	if err != nil || goal < ShortestGoal || goal > LongestGoal || goalText(goal) != text { // one name for one list
		return Side{}, false
	}
	s.Goal = goal
	return s, true
}

// checkSides reports queues of which the rules would make too many lists.
func (g Goals) checkSides() []error {
	names := []string{""} // any other
	for i := range g.Rules {
		names = append(names, g.Rules[i].Queue)
	}
	slices.Sort(names)
	var problems []error
	for _, name := range slices.Compact(names) {
		goals := []Goal{g.Queue(name)}
		for i := range g.Rules {
			if r := &g.Rules[i]; (r.Queue == "" || r.Queue == name) && !r.Behind && r.Goal > 0 {
				goals = append(goals, r.Goal)
			}
		}
		slices.Sort(goals)
		if n := len(slices.Compact(goals)); n > MaxSides {
			problems = append(problems, fmt.Errorf("queue %q: its rules have %d different goals: at most %d", name, n, MaxSides))
		}
	}
	return problems
}
