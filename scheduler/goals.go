package scheduler

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// A Goal is how long a job may wait for its start, counted from when it was enqueued; 99 % of the jobs shall keep it.
type Goal = time.Duration

// DefaultGoal is the goal of a queue of which nobody said anything.
const DefaultGoal Goal = time.Minute

// What a goal can be.
const (
	ShortestGoal = 50 * time.Millisecond // a fetch, a decision and a start take a few milliseconds each
	LongestGoal  = 30 * 24 * time.Hour
	maxRules     = 200
)

// Goals say what every queue is to keep, and which jobs differ.
type Goals struct {
	Queues  map[string]Goal
	Rules   []Rule // the first that matches counts
	Default Goal   // of other queues; zero means DefaultGoal
}

// Rule gives some jobs of a queue another goal or place than the rest of it. An empty field matches everything.
type Rule struct {
	Queue string
	Class string    // exactly, or up to a * at the end
	Arg   *ArgMatch // nil: whatever the arguments
	Goal  Goal      // zero: the queue's
	// Behind lets these jobs start only when no other job of their queue waits, until they have waited BehindLimit times their goal: so they
	// never starve.
	Behind bool
}

// ArgMatch looks at one argument of a job. Strings are compared without their quotes, everything else as its JSON text.
type ArgMatch struct {
	Index  int
	Prefix string
	Exact  bool // the whole argument equals Prefix
}

// BehindLimit is how many times its goal a job waits behind the others of its queue before it takes its turn like them.
const BehindLimit = 4

// MastodonGoals are the goals of Mastodon's seven queues, and the classes that differ, as docs/scheduler.md explains them.
func MastodonGoals() Goals {
	return Goals{
		Queues: map[string]Goal{
			"default":   5 * time.Second,
			"push":      10 * time.Second,
			"ingress":   30 * time.Second,
			"mailers":   30 * time.Second,
			"scheduler": time.Minute,
			"pull":      5 * time.Minute,
			"fasp":      10 * time.Minute,
		},
		Rules: []Rule{
			{Queue: "pull", Class: "ActivityPub::LowPriorityDeliveryWorker", Behind: true},
			{Queue: "pull", Class: "BackupWorker", Goal: time.Hour},
			{Queue: "pull", Class: "Admin::*", Goal: 15 * time.Minute},
			{Queue: "pull", Class: "AccountDeletionWorker", Goal: 15 * time.Minute, Behind: true},
			{Queue: "default", Class: "RegenerationWorker", Goal: 15 * time.Second},
			{Queue: "default", Class: "GenerateAnnualReportWorker", Goal: time.Hour, Behind: true},
		},
		Default: DefaultGoal,
	}
}

// Validate reports every problem at once.
func (g Goals) Validate() error {
	var problems []error
	check := func(what string, goal Goal) {
		if goal < ShortestGoal || goal > LongestGoal {
			problems = append(problems, fmt.Errorf("%s: a goal is between %v and %v, not %v", what, ShortestGoal, LongestGoal, goal))
		}
	}
	for name, goal := range g.Queues {
		check(fmt.Sprintf("queue %q", name), goal)
	}
	if g.Default != 0 {
		check("default goal", g.Default)
	}
	if len(g.Rules) > maxRules {
		problems = append(problems, fmt.Errorf("%d rules: at most %d", len(g.Rules), maxRules))
	}
	for i, r := range g.Rules {
		what := fmt.Sprintf("rule %d", i+1)
		if r.Goal != 0 {
			check(what, r.Goal)
		}
		if i := strings.IndexByte(r.Class, '*'); i >= 0 && i != len(r.Class)-1 {
			problems = append(problems, fmt.Errorf("%s: a * stands at the end of the class only: %q", what, r.Class))
		}
		if r.Arg != nil && (r.Arg.Index < 0 || r.Arg.Index >= maxArgs) {
			problems = append(problems, fmt.Errorf("%s: an argument's index is 0 to %d", what, maxArgs-1))
		}
		if r.Goal == 0 && !r.Behind {
			problems = append(problems, fmt.Errorf("%s: neither a goal nor behind: it changes nothing", what))
		}
	}
	return errors.Join(append(problems, g.checkSides()...)...)
}

// Queue is the goal of a queue.
func (g Goals) Queue(name string) Goal {
	if goal, ok := g.Queues[name]; ok && goal > 0 {
		return goal
	}
	if g.Default > 0 {
		return g.Default
	}
	return DefaultGoal
}

// Placement is what the goals say of one job.
type Placement struct {
	Goal   Goal
	Behind bool
	Rule   int // index of the rule that matched; −1: none
}

// Place finds the goal of a job. args is the raw JSON text of its arguments, looked at only by rules that need it; class is the wrapped class
// where there is one.
func (g Goals) Place(queue, class, args string) Placement {
	p := Placement{Goal: g.Queue(queue), Rule: -1}
	for i := range g.Rules {
		r := &g.Rules[i]
		if r.Queue != "" && r.Queue != queue || !r.matchesClass(class) || r.Arg != nil && !r.Arg.matches(args) {
			continue
		}
		p.Rule, p.Behind = i, r.Behind
		if r.Goal > 0 {
			p.Goal = r.Goal
		}
		return p
	}
	return p
}

func (r *Rule) matchesClass(class string) bool {
	if prefix, ok := strings.CutSuffix(r.Class, "*"); ok {
		return strings.HasPrefix(class, prefix)
	}
	return r.Class == "" || r.Class == class
}

func (m *ArgMatch) matches(args string) bool {
	raw, ok := argument(args, m.Index)
	if !ok {
		return false
	}
	if len(raw) >= 2 && raw[0] == '"' {
		raw = raw[1 : len(raw)-1]
	}
	if m.Exact {
		return raw == m.Prefix
	}
	return strings.HasPrefix(raw, m.Prefix)
}

// Due is the time by which a job should have started, and the order in which waiting jobs do. A job that is behind the others is due when it
// has waited BehindLimit times its goal.
func (p Placement) Due(enqueued time.Time) time.Time {
	if p.Behind {
		return enqueued.Add(min(p.Goal, LongestGoal) * BehindLimit)
	}
	return enqueued.Add(p.Goal)
}

// maxArgs bounds the arguments looked at.
const maxArgs = 64

// argument cuts the argument with the given index out of the JSON text of an array, without decoding it. It does not judge whether the text
// is valid JSON: of invalid text it finds something or nothing.
func argument(args string, index int) (string, bool) {
	i := skipSpace(args, 0)
	if i >= len(args) || args[i] != '[' || index < 0 || index >= maxArgs {
		return "", false
	}
	i++
	for n := 0; ; n++ {
		start := skipSpace(args, i)
		end := skipValue(args, start)
		if end == start || end >= len(args) {
			return "", false // also [] and a text that is cut off
		}
		if n == index {
			return strings.TrimRight(args[start:end], " \t\r\n"), true
		}
		if args[end] != ',' {
			return "", false
		}
		i = end + 1
	}
}

func skipSpace(s string, i int) int {
	for i < len(s) && (s[i] == ' ' || s[i] == '\t' || s[i] == '\n' || s[i] == '\r') {
		i++
	}
	return i
}

// skipValue returns where the value that begins at i ends: at the comma or bracket behind it.
func skipValue(s string, i int) int {
	depth := 0
	for i < len(s) {
		switch s[i] {
		case '"':
			for i++; i < len(s) && s[i] != '"'; i++ {
				if s[i] == '\\' {
					i++
				}
			}
		case '[', '{':
			depth++
		case ']', '}':
			if depth == 0 {
				return i
			}
			depth--
		case ',':
			if depth == 0 {
				return i
			}
		}
		i++
	}
	return len(s)
}
