package scheduler

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestListsOfMastodon(t *testing.T) {
	t.Parallel()
	g := MastodonGoals()
	for queue, want := range map[string][]Side{
		"pull": {
			{Name: "pull:within-15m", Queue: "pull", Goal: 15 * time.Minute},
			{Name: "pull:within-1h", Queue: "pull", Goal: time.Hour},
			{Name: "pull:behind", Queue: "pull", Goal: 20 * time.Minute, Behind: true},
		},
		"default": {
			{Name: "default:within-15s", Queue: "default", Goal: 15 * time.Second}, {Name: "default:behind", Queue: "default", Goal: 4 * time.Hour, Behind: true},
		},
		"push": nil,
	} {
		l := g.Lists(queue)
		if !slices.Equal(l.Sides, want) || l.Goal != g.Queue(queue) {
			t.Errorf("Lists(%q) = %+v", queue, l)
		}
	}
	for name, c := range map[string]struct{ queue, class, side string }{
		"an ordinary job stays":             {"pull", "LinkCrawlWorker", ""},
		"low-priority deliveries go behind": {"pull", "ActivityPub::LowPriorityDeliveryWorker", "pull:behind"},
		"a looser goal has its list":        {"pull", "BackupWorker", "pull:within-1h"},
		"one that does both goes behind":    {"pull", "AccountDeletionWorker", "pull:behind"},
		"the class is nothing elsewhere":    {"push", "BackupWorker", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := g.Lists(c.queue)
			if side, aside := l.Side(g.Place(c.queue, c.class, "[]")); side != c.side || aside != (c.side != "") {
				t.Errorf("Side = %q, %v", side, aside)
			}
		})
	}
}

// A class with a tighter goal than its queue: the queue's own list goes by it, and all others wait beside it.
func TestListsOfATighterGoal(t *testing.T) {
	t.Parallel()
	g := Goals{Queues: map[string]Goal{"pull": 5 * time.Minute}, Rules: []Rule{{Queue: "pull", Class: "Urgent", Goal: 10 * time.Second}, {Class: "Slow*", Goal: time.Hour}}}
	l := g.Lists("pull")
	if l.Goal != 10*time.Second || len(l.Sides) != 2 || l.Sides[0].Name != "pull:within-5m" || l.Sides[1].Name != "pull:within-1h" {
		t.Fatalf("Lists = %+v", l)
	}
	for class, want := range map[string]string{"Urgent": "", "Other": "pull:within-5m", "SlowWorker": "pull:within-1h"} {
		if side, _ := l.Side(g.Place("pull", class, "[]")); side != want {
			t.Errorf("%s waits in %q, want %q", class, side, want)
		}
	}
}

func TestTooManyLists(t *testing.T) {
	t.Parallel()
	var g Goals
	for i := range 7 {
		g.Rules = append(g.Rules, Rule{Queue: "pull", Class: fmt.Sprint("C", i), Goal: time.Duration(i+2) * time.Minute})
	}
	if err := g.Validate(); err != nil {
		t.Fatalf("seven and the queue's own: %v", err)
	}
	g.Rules = append(g.Rules, Rule{Class: "D", Goal: time.Hour})
	err := g.Validate()
	if err == nil || !strings.Contains(err.Error(), `queue "pull": its rules have 9 different goals: at most 8`) {
		t.Fatalf("Validate = %v", err)
	}
	if l := g.Lists("pull"); len(l.Sides) >= MaxSides {
		t.Errorf("%d lists", len(l.Sides))
	}
}

func TestPickBehind(t *testing.T) {
	t.Parallel()
	main := QueueView{Name: "pull", Backlog: 10, Goal: 5 * time.Minute}
	within := QueueView{Name: "pull:within-1h", Of: "pull", Backlog: 10, Goal: time.Hour}
	behind := QueueView{Name: "pull:behind", Of: "pull", Behind: true, Backlog: 10, Goal: 20 * time.Minute}
	with := func(v QueueView, edit func(*QueueView)) QueueView { edit(&v); return v }
	empty, unknown := func(v *QueueView) { v.Backlog = 0 }, func(v *QueueView) { v.Backlog = Unknown }
	for name, c := range map[string]struct {
		queues []QueueView
		want   []string
	}{
		"it waits for its queue":                      {[]QueueView{behind, main}, []string{"pull"}},
		"and for the other lists of its queue":        {[]QueueView{behind, with(main, empty), within}, []string{"pull:within-1h"}},
		"nothing else waits":                          {[]QueueView{behind, with(main, empty), with(within, empty)}, []string{"pull:behind"}},
		"what is not known to wait is asked before":   {[]QueueView{behind, with(main, unknown)}, []string{"pull", "pull:behind"}},
		"other queues are not in its way":             {[]QueueView{behind, {Name: "push", Backlog: 10, Goal: time.Second}}, []string{"push", "pull:behind"}},
		"it has waited long enough":                   {[]QueueView{with(behind, func(v *QueueView) { v.HeadAge = 20 * time.Minute }), main}, []string{"pull", "pull:behind"}},
		"what runs elsewhere is not in its way":       {[]QueueView{behind, with(main, func(v *QueueView) { v.Foreign = 1 })}, []string{"pull", "pull:behind"}},
		"what runs partly elsewhere is":               {[]QueueView{behind, with(main, func(v *QueueView) { v.Foreign = 0.9 })}, []string{"pull"}},
		"nothing is known of the others":              {[]QueueView{behind, with(main, func(v *QueueView) { v.Foreign = Unknown })}, []string{"pull"}},
		"one of which nothing is known is tasted":     {[]QueueView{with(behind, func(v *QueueView) { v.Foreign = Unknown }), main}, []string{"pull", "pull:behind"}},
		"a looser goal is a queue of its own":         {[]QueueView{within, main}, []string{"pull", "pull:within-1h"}},
		"which goes first when its time is near":      {[]QueueView{with(within, func(v *QueueView) { v.HeadAge = 47 * time.Minute }), main}, []string{"pull:within-1h", "pull"}},
		"one behind is not in another's way, nor its": {[]QueueView{behind, with(behind, func(v *QueueView) { v.Name, v.Of = "default:behind", "default" })}, []string{"default:behind", "pull:behind"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := names(NewPicker(PolicyGoals, nil).Pick(100, c.queues)); !slices.Equal(got, c.want) {
				t.Errorf("Pick = %v, want %v", got, c.want)
			}
		})
	}
}

// What was only put aside has used nothing of a late queue's share.
func TestReturnedIsNotTaken(t *testing.T) {
	t.Parallel()
	p := NewPicker(PolicyGoals, nil)
	views := []QueueView{{Name: "late", Backlog: 1000, Goal: time.Second, HeadAge: time.Hour}, {Name: "other", Backlog: 1000, Goal: time.Millisecond}}
	p.Pick(100, views)
	p.Took("other", 1000, 1)
	before := p.Pick(100, views)[0]
	p.Took("late", 50, 1)
	p.Returned("late", 50, 1)
	p.Returned("nobody", 50, 1)
	if after := p.Pick(100, views)[0]; after != before || !after.Aged {
		t.Errorf("first %+v, then %+v", before, after)
	}
}

// Whatever a job says it is, it waits in one of the lists that the rules have made, and their names can be read back.
func FuzzSide(f *testing.F) {
	f.Add("pull", "ActivityPub::LowPriorityDeliveryWorker", "[1]", uint32(60))
	f.Add("pull:behind", "Admin::\x00", `["`, uint32(0))
	f.Add("a:within-1h", "BackupWorker:within-1h", `[[[`, uint32(90))
	f.Fuzz(func(t *testing.T, queue, class, args string, seconds uint32) {
		g := MastodonGoals()
		goal := min(max(time.Duration(seconds)*time.Second/8, ShortestGoal), LongestGoal)
		g.Rules = append(g.Rules, Rule{Class: "Admin::*", Goal: goal}, Rule{Arg: &ArgMatch{Prefix: "x"}, Behind: true})
		l := g.Lists(queue)
		if len(l.Sides) > MaxSides {
			t.Fatalf("%d lists", len(l.Sides))
		}
		if side, aside := l.Side(g.Place(queue, class, args)); aside && !slices.ContainsFunc(l.Sides, func(s Side) bool { return s.Name == side }) {
			t.Fatalf("side %q is not of %+v", side, l.Sides)
		}
		for _, s := range l.Sides {
			got, ok := g.ParseSide(s.Name)
			if queue != "" && (!ok || got != s) {
				t.Fatalf("ParseSide(%q) = %+v, %v, want %+v", s.Name, got, ok, s)
			}
		}
		if s, ok := g.ParseSide(class); ok && !s.Behind && withinList(s.Queue, s.Goal) != class {
			t.Fatalf("ParseSide(%q) = %+v", class, s)
		}
	})
}
