package sidecar

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/queueville/queueville/scheduler"
)

// TestGoalOptions: goals that are given take the place of Mastodon's; every mistake is said, with what to do.
func TestGoalOptions(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		goals  []string
		policy string
		want   map[string]time.Duration
		wrong  []string
	}{
		"none given":                {nil, "goals", map[string]time.Duration{"default": 5 * time.Second, "pull": 5 * time.Minute, "mine": time.Minute}, nil},
		"one queue, and all others": {[]string{"pull=10m", "*=2m"}, "goals", map[string]time.Duration{"default": 5 * time.Second, "pull": 10 * time.Minute, "mine": 2 * time.Minute}, nil},
		"another policy":            {[]string{"pull=10m"}, "strict", nil, []string{"nothing goes by goals"}},
		"mistakes, all at once":     {[]string{"pull", "a b=1s", "push=5", "default=1ms", "x=1s", "x=2s"}, "goals", nil, []string{`"pull" is no goal`, `"a b" is not a queue name`, `"push=5" is no goal`, "1ms is out of range", `"x" is named twice`}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := DefaultOptions()
			o.Goals, o.Policy = c.goals, c.policy
			var said []string
			goals := o.readGoals(&plan{}, func(flag, hint, format string, args ...any) {
				said = append(said, fmt.Sprintf(format, args...))
				if flag != "goal" || hint == "" {
					t.Errorf("--%s, hint %q", flag, hint)
				}
			})
			for queue, want := range c.want {
				if got := goals.Queue(queue); got != want {
					t.Errorf("goal of %s = %v, want %v", queue, got, want)
				}
			}
			if len(said) != len(c.wrong) {
				t.Errorf("said %q, want %q", said, c.wrong)
			}
			for _, want := range c.wrong {
				if !strings.Contains(strings.Join(said, "\n"), want) {
					t.Errorf("said %q, want %q", said, want)
				}
			}
		})
	}
}

// TestRuleOptions: rules for classes and arguments come before Mastodon's own.
func TestRuleOptions(t *testing.T) {
	t.Parallel()
	owned := &plan{owned: []string{"pull", "push", "default"}}
	read := func(t *testing.T, goals, behind []string) (scheduler.Goals, []string) {
		t.Helper()
		o := DefaultOptions()
		o.Goals, o.Behind, o.Policy = goals, behind, "goals"
		var said []string
		g := o.readGoals(owned, func(flag, hint, format string, args ...any) {
			said = append(said, "--"+flag+": "+fmt.Sprintf(format, args...))
			if hint == "" {
				t.Errorf("--%s: no hint", flag)
			}
		})
		return g, said
	}
	g, said := read(t, []string{"pull=10m", "pull/LinkCrawlWorker=30s", "pull/Web::*=1h", "push/*/2:https://a.example/x?y=z=2m"}, []string{"pull/Web::*", "push/ActivityPub::DeliveryWorker/2:https://slow.example/*"})
	if len(said) > 0 {
		t.Fatalf("said %q", said)
	}
	for name, c := range map[string]struct {
		queue, class, args string
		goal               time.Duration
		behind             bool
	}{
		"the queue's goal":             {"pull", "ThreadResolveWorker", "[]", 10 * time.Minute, false},
		"a class's":                    {"pull", "LinkCrawlWorker", "[]", 30 * time.Second, false},
		"a goal and behind":            {"pull", "Web::PushWorker", "[]", time.Hour, true},
		"the beginning of an argument": {"push", "ActivityPub::DeliveryWorker", `["{}",1,"https://slow.example/inbox"]`, 10 * time.Second, true},
		"a whole argument":             {"push", "Any", `["{}",1,"https://a.example/x?y=z"]`, 2 * time.Minute, false},
		"Mastodon's rules stay":        {"pull", "BackupWorker", "[]", time.Hour, false},
	} {
		if p := g.Place(c.queue, c.class, c.args); p.Goal != c.goal || p.Behind != c.behind {
			t.Errorf("%s: Place = %+v", name, p)
		}
	}
	if l := g.Lists("pull"); l.Goal != 30*time.Second || len(l.Sides) != 4 {
		t.Errorf("lists of pull: %+v", l)
	}
	over, said := read(t, []string{"pull/ActivityPub::LowPriorityDeliveryWorker=5m"}, nil)
	if p := over.Place("pull", "ActivityPub::LowPriorityDeliveryWorker", "[]"); p.Behind || len(said) > 0 {
		t.Errorf("Mastodon's rule is not taken back: %+v, said %q", p, said)
	}
	many := make([]string, 9)
	for i := range many {
		many[i] = fmt.Sprintf("pull/C%d=%dm", i, i+6)
	}
	for name, c := range map[string]struct{ goals, behind, wrong []string }{
		"no class":         {nil, []string{"pull/", "pull"}, []string{`--behind: "pull/": a class is needed`, `--behind: "pull": a class is needed`}},
		"a star inside":    {[]string{"pull/A*B=1m"}, nil, []string{"--goal: \"pull/A*B\": a * stands at the end of the class only"}},
		"no argument":      {nil, []string{"pull/A/x", "pull/A/64:x", "pull/A/-1:x"}, []string{"N from 0 to 63", "N from 0 to 63", "N from 0 to 63"}},
		"white space":      {nil, []string{"pull/A B"}, []string{"a class has no white space"}},
		"too long":         {nil, []string{"pull/" + strings.Repeat("A", 1000)}, []string{"more than 1000 bytes"}},
		"not owned":        {nil, []string{"mailers/A"}, []string{`queue "mailers" is not owned`}},
		"no queue":         {nil, []string{"/A"}, []string{`"" is not a queue name`, `queue "" is not owned`}},
		"twice":            {[]string{"pull/A=1m", "pull/A=2m"}, []string{"pull/B", "pull/B"}, []string{`--goal: "pull/A" is named twice`, `--behind: "pull/B" is named twice`}},
		"out of range":     {[]string{"pull/A=1ms"}, nil, []string{"1ms is out of range"}},
		"too many of them": {many, nil, []string{`queue "pull": its rules have 12 different goals: at most 8`}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, said := read(t, c.goals, c.behind)
			for _, want := range c.wrong {
				if !strings.Contains(strings.Join(said, "\n"), want) {
					t.Errorf("said %q, want %q", said, want)
				}
			}
			if len(said) < len(c.wrong) {
				t.Errorf("said %q", said)
			}
		})
	}
	sides := &plan{owned: []string{"pull", "pull:behind"}}
	var wrong []string
	DefaultOptions().readGoals(sides, func(flag, _, format string, args ...any) {
		wrong = append(wrong, "--"+flag+": "+fmt.Sprintf(format, args...))
	})
	if len(wrong) != 1 || !strings.Contains(wrong[0], `"pull:behind" is where jobs of "pull" wait`) {
		t.Errorf("said %q", wrong)
	}
}
