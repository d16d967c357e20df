package sidecar

import (
	"fmt"
	"strings"
	"testing"
	"time"
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
			goals := o.readGoals(func(flag, hint, format string, args ...any) {
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
