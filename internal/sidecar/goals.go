package sidecar

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/queueville/queueville/scheduler"
)

// anyQueue stands for the queues that have no goal of their own.
const anyQueue = "*"

const (
	hintGoal   = "write QUEUE=TIME or QUEUE/CLASS=TIME, e.g. pull=10m, default=2s or pull/BackupWorker=1h"
	hintBehind = "write QUEUE/CLASS, e.g. pull/LinkCrawlWorker, or QUEUE/CLASS/N:VALUE for those whose argument N (from 0) is VALUE"
)

// readGoals are Mastodon's goals with those that were given in their place. p has the queues.
func (o *Options) readGoals(p *plan, bad badFunc) scheduler.Goals {
	goals := scheduler.MastodonGoals()
	goals.Queues = maps.Clone(goals.Queues)
	if o.Policy != string(scheduler.PolicyGoals) {
		if len(o.Goals) > 0 {
			bad("goal", "give --policy goals, or leave --goal away", "nothing goes by goals without --policy goals")
		}
		if len(o.Behind) > 0 {
			bad("behind", "give --policy goals, or leave --behind away", "nothing goes behind others without --policy goals")
		}
	}
	var seen []string
	var rules ruleList
	for _, entry := range o.Goals {
		at := strings.LastIndexByte(entry, '=') // an argument may have one too
		goal, err := time.ParseDuration(entry[at+1:])
		if at < 0 || err != nil {
			bad("goal", hintGoal, "%q is no goal", entry)
			continue
		}
		what := entry[:at]
		if slices.Contains(seen, what) {
			bad("goal", "name each only once", "%q is named twice", what)
			continue
		}
		seen = append(seen, what)
		forClass := strings.Contains(what, "/")
		if !forClass && what != anyQueue {
			checkQueueName("goal", what, bad)
		}
		if goal < scheduler.ShortestGoal || goal > scheduler.LongestGoal {
			bad("goal", "use 50ms to 720h", "%q: %v is out of range", entry, goal)
			continue
		}
		switch {
		case forClass:
			if r := rules.of(p, "goal", what, bad); r != nil {
				r.Goal = goal
			}
		case what == anyQueue:
			goals.Default = goal
		default:
			goals.Queues[what] = goal
		}
	}
	for _, entry := range o.Behind {
		if r := rules.of(p, "behind", entry, bad); r != nil {
			if r.Behind {
				bad("behind", "name each only once", "%q is named twice", entry)
			}
			r.Behind = true
		}
	}
	goals.Rules = append(rules.list(), goals.Rules...) // the first that matches counts
	if err := goals.Validate(); err != nil && len(rules.texts) > 0 && !rules.failed {
		bad("goal", "leave some of them away, or make some goals the same", "%v", err)
	}
	p.checkSides(goals, bad)
	return goals
}

// checkSides makes sure that no queue is taken for a list beside another.
func (p *plan) checkSides(goals scheduler.Goals, bad badFunc) {
	for _, q := range p.owned {
		if side, ok := goals.ParseSide(q); ok && slices.Contains(p.owned, side.Queue) {
			bad("own", "own "+side.Queue+" alone", "%q is where jobs of %q wait that have more time than others", q, side.Queue)
		}
	}
}

// ruleList are the rules that were given, each once, in their order.
type ruleList struct {
	texts  []string
	rules  []*scheduler.Rule
	failed bool // one of them could not be read
}

// of is the rule for what was given, made if it is new; nil if it cannot be read.
func (l *ruleList) of(p *plan, flag, text string, bad badFunc) *scheduler.Rule {
	if i := slices.Index(l.texts, text); i >= 0 {
		return l.rules[i]
	}
	r, err := readRule(text)
	if err != nil {
		l.failed = true
		hint := hintBehind
		if flag == "goal" {
			hint = hintGoal + ", or QUEUE/CLASS/N:VALUE=TIME for those whose argument N (from 0) is VALUE"
		}
		bad(flag, hint, "%q: %v", text, err)
		return nil
	}
	checkQueueName(flag, r.Queue, bad)
	if !slices.Contains(p.owned, r.Queue) {
		hint := "give --own " + r.Queue + " or --full"
		if len(p.owned) > 0 {
			hint = "owned are " + strings.Join(p.owned, ", ")
		}
		bad(flag, hint, "%q: queue %q is not owned, so its order is Ruby's", text, r.Queue)
	}
	l.texts, l.rules = append(l.texts, text), append(l.rules, &r)
	return &r
}

func (l *ruleList) list() []scheduler.Rule {
	list := make([]scheduler.Rule, len(l.rules))
	for i, r := range l.rules {
		list[i] = *r
	}
	return list
}

// maxRule bounds what is given for one rule, in bytes.
const maxRule = 1000

// readRule reads QUEUE/CLASS or QUEUE/CLASS/N:VALUE. CLASS and VALUE may end with a * for everything that begins so; CLASS alone may be one.
func readRule(text string) (scheduler.Rule, error) {
	queue, rest, _ := strings.Cut(text, "/")
	class, arg, byArg := strings.Cut(rest, "/")
	r := scheduler.Rule{Queue: queue, Class: class}
	switch {
	case len(text) > maxRule:
		return r, fmt.Errorf("more than %d bytes", maxRule)
	case class == "":
		return r, errors.New("a class is needed")
	case strings.Contains(class[:len(class)-1], "*"):
		return r, errors.New("a * stands at the end of the class only")
	case strings.ContainsAny(class, " \t\r\n\x00"):
		return r, errors.New("a class has no white space")
	case !byArg:
		return r, nil
	}
	number, value, ok := strings.Cut(arg, ":")
	index, err := strconv.Atoi(number)
	if !ok || err != nil || index < 0 || index > 63 {
		return r, errors.New("an argument is N:VALUE, N from 0 to 63")
	}
	prefix, open := strings.CutSuffix(value, "*")
	r.Arg = &scheduler.ArgMatch{Index: index, Prefix: prefix, Exact: !open}
	return r, nil
}
