package scheduler

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestGoalsOfMastodon(t *testing.T) {
	t.Parallel()
	g := MastodonGoals()
	if err := g.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		queue, class string
		goal         time.Duration
		behind       bool
	}{
		"an ordinary job has its queue's goal":           {"default", "FeedInsertWorker", 5 * time.Second, false},
		"a class has its own":                            {"pull", "BackupWorker", time.Hour, false},
		"low-priority deliveries go behind":              {"pull", "ActivityPub::LowPriorityDeliveryWorker", 5 * time.Minute, true},
		"a class by its beginning":                       {"pull", "Admin::DomainPurgeWorker", 15 * time.Minute, false},
		"the same class elsewhere has that queue's goal": {"push", "BackupWorker", 10 * time.Second, false},
		"an unknown queue has the default":               {"plugin", "X", DefaultGoal, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if p := g.Place(c.queue, c.class, "[]"); p.Goal != c.goal || p.Behind != c.behind {
				t.Errorf("Place(%q, %q) = %+v", c.queue, c.class, p)
			}
		})
	}
}

func TestGoalsByArgument(t *testing.T) {
	t.Parallel()
	g := Goals{Rules: []Rule{{Queue: "push", Arg: &ArgMatch{Index: 2, Prefix: "https://slow.example/"}, Goal: time.Hour}}}
	for args, want := range map[string]time.Duration{
		`["{\"a\": [1, \"]\"]}", 7, "https://slow.example/inbox", {}]`: time.Hour,
		`[[1,{"x":","}],{"y":[]}, "https://slow.example/inbox"]`:       time.Hour,
		`["https://slow.example/inbox"]`:                               DefaultGoal,
		`[1,2,"https://fast.example/inbox"]`:                           DefaultGoal,
		`[1,2,`:                                                        DefaultGoal,
		`nonsense`:                                                     DefaultGoal,
		``:                                                             DefaultGoal,
	} {
		if p := g.Place("push", "ActivityPub::DeliveryWorker", args); p.Goal != want {
			t.Errorf("Place(%s) = %v, want %v", args, p.Goal, want)
		}
	}
}

func TestGoalsValidate(t *testing.T) {
	t.Parallel()
	bad := Goals{
		Queues: map[string]Goal{"a": 0, "b": -time.Second, "c": time.Second}, Default: 1,
		Rules: []Rule{{Class: "A*B", Behind: true}, {Class: "A"}, {Arg: &ArgMatch{Index: -1}, Behind: true}},
	}
	err := bad.Validate()
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{`queue "a"`, `queue "b"`, "default goal", "rule 1", "rule 2", "rule 3"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %q", want, err)
		}
	}
}

func TestPlacementDue(t *testing.T) {
	t.Parallel()
	if got := (Placement{Goal: time.Minute}).Due(t0); got != t0.Add(time.Minute) {
		t.Error(got)
	}
	if got := (Placement{Goal: time.Minute, Behind: true}).Due(t0); got != t0.Add(4*time.Minute) {
		t.Error(got)
	}
}

// Of valid JSON arrays argument finds what the decoder finds; of anything else it returns.
func FuzzArgument(f *testing.F) {
	for _, s := range []string{`[]`, `[1,"a\"]",[2,{"b":"}"}]]`, `["\\",2]`, `[`, `["`, `[1,`, ` [ null , {} ] `, `[1 2]`} {
		f.Add(s, 1)
	}
	f.Fuzz(func(t *testing.T, args string, index int) {
		got, ok := argument(args, index)
		var all []json.RawMessage
		if json.Unmarshal([]byte(args), &all) != nil || !strings.HasPrefix(strings.TrimLeft(args, " \t\r\n"), "[") {
			return
		}
		want := index >= 0 && index < min(len(all), maxArgs)
		if ok != want || want && got != string(all[index]) {
			t.Errorf("argument(%q, %d) = %q, %v", args, index, got, ok)
		}
	})
}
