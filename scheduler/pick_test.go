package scheduler

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func names(takes []Take) []string {
	var list []string
	for _, k := range takes {
		list = append(list, k.Queue)
	}
	return list
}

func TestPickByGoals(t *testing.T) {
	t.Parallel()
	g := MastodonGoals()
	view := func(name string, age time.Duration) QueueView {
		return QueueView{Name: name, Backlog: 10, HeadAge: age, Goal: g.Queue(name)}
	}
	for name, c := range map[string]struct {
		queues []QueueView
		want   []string
	}{
		"fresh queues go by their goals":                   {[]QueueView{view("pull", 0), view("ingress", 0), view("default", 0), view("push", 0)}, []string{"default", "push", "ingress", "pull"}},
		"one about to miss its goal goes first":            {[]QueueView{view("default", 0), view("ingress", 23*time.Second)}, []string{"ingress", "default"}},
		"one that has missed it goes by its goal again":    {[]QueueView{view("default", 0), view("ingress", 25*time.Second)}, []string{"default", "ingress"}},
		"one that is hours late holds up nobody tighter":   {[]QueueView{view("ingress", 3*time.Hour), view("push", time.Second)}, []string{"push", "ingress"}},
		"an empty one is passed over":                      {[]QueueView{{Name: "default", Goal: time.Second}, view("pull", 0)}, []string{"pull"}},
		"one of which the backlog is not known is not":     {[]QueueView{{Name: "default", Backlog: -1, Goal: time.Second}, view("pull", 0)}, []string{"default", "pull"}},
		"the same goal: by name, so that it is repeatable": {[]QueueView{view("mailers", 0), view("ingress", 0)}, []string{"ingress", "mailers"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := names(NewPicker(PolicyGoals, nil).Pick(100, c.queues)); !slices.Equal(got, c.want) {
				t.Errorf("Pick = %v, want %v", got, c.want)
			}
		})
	}
}

func TestPickLikeSidekiq(t *testing.T) {
	t.Parallel()
	queues := []QueueView{{Name: "pull", Backlog: 5, Weight: 1}, {Name: "default", Backlog: 5, Weight: 8, Most: 3}, {Name: "push", Backlog: 0, Weight: 6}}
	if got := NewPicker(PolicyStrict, nil).Pick(7, queues); !slices.Equal(got, []Take{{Queue: "pull", Jobs: 7}, {Queue: "default", Jobs: 3}}) {
		t.Errorf("strict: %v", got)
	}
	rnd, first := rand.New(rand.NewPCG(1, 2)), 0
	p := NewPicker(PolicyWeighted, rnd)
	for range 9000 {
		if p.Pick(7, queues)[0].Queue == "default" {
			first++
		}
	}
	// Of the 15 lots push has 6 and is empty; then default is before pull in 8 of 9 draws.
	if first < 7850 || first > 8150 {
		t.Errorf("default came first in %d of 9000 draws, want about 8000", first)
	}
}

// flood serves queues for some seconds with a capacity in jobs a second, and returns what share of a queue's jobs started within its goal.
func flood(t *testing.T, policy Policy, seconds int, capacity float64, rates map[string]func(t float64) float64) map[string]float64 {
	t.Helper()
	g := MastodonGoals()
	weights := map[string]int{"default": 8, "push": 6, "ingress": 4, "mailers": 2, "pull": 1, "scheduler": 1, "fasp": 1}
	p := NewPicker(policy, rand.New(rand.NewPCG(3, 4)))
	waiting := map[string][]float64{}
	list := make([]string, 0, len(rates))
	for q := range rates {
		list = append(list, q)
	}
	slices.Sort(list)
	due, kept, total := map[string]float64{}, map[string]int{}, map[string]int{}
	room := 0.0
	const dt = 0.01
	for step := range int(float64(seconds) / dt) {
		now := float64(step) * dt
		var views []QueueView
		for _, q := range list {
			for due[q] += rates[q](now) * dt; due[q] >= 1; due[q]-- {
				waiting[q] = append(waiting[q], now)
			}
			v := QueueView{Name: q, Backlog: len(waiting[q]), Goal: g.Queue(q), Weight: weights[q], Cost: 1}
			if v.Backlog > 0 {
				v.HeadAge = time.Duration((now - waiting[q][0]) * float64(time.Second))
			}
			views = append(views, v)
		}
		room += capacity * dt
		for _, k := range p.Pick(int(room), views) {
			n := min(k.Jobs, len(waiting[k.Queue]), int(room))
			for _, enqueued := range waiting[k.Queue][:n] {
				total[k.Queue]++
				if now-enqueued <= g.Queue(k.Queue).Seconds() {
					kept[k.Queue]++
				}
			}
			waiting[k.Queue] = waiting[k.Queue][n:]
			room -= float64(n)
			p.Took(k.Queue, n, 1)
		}
	}
	share := map[string]float64{}
	for q := range rates {
		late := 0 // of those that still wait
		for _, enqueued := range waiting[q] {
			if float64(seconds)-enqueued > g.Queue(q).Seconds() {
				late++
			}
		}
		share[q] = float64(kept[q]) / float64(max(1, total[q]+late))
		t.Logf("%s %s: %d started, %.1f %% within the goal, %d wait", policy, q, total[q], 100*share[q], len(waiting[q]))
	}
	return share
}

func always(rate float64) func(float64) float64 { return func(float64) float64 { return rate } }

// With ingress flooded the others keep their goals, which Sidekiq's weights do not do for them.
func TestPickFloodedIngress(t *testing.T) {
	t.Parallel()
	rates := map[string]func(float64) float64{"ingress": always(500), "default": always(60), "push": always(15), "mailers": always(1)}
	byGoals := flood(t, PolicyGoals, 600, 100, rates)
	for _, q := range []string{"default", "push", "mailers"} {
		if byGoals[q] < 0.99 {
			t.Errorf("%s: %.1f %% within the goal", q, 100*byGoals[q])
		}
	}
	if weighted := flood(t, PolicyWeighted, 600, 100, rates); weighted["default"] >= 0.99 {
		t.Errorf("with Sidekiq's weights default kept its goal too: this shows nothing")
	}
}

// A queue that is flooded without end takes from nobody else all there is.
func TestPickStarvesNobody(t *testing.T) {
	t.Parallel()
	rates := map[string]func(float64) float64{"default": always(500), "ingress": always(3), "pull": always(2)}
	p := flood(t, PolicyGoals, 600, 100, rates)
	for _, q := range []string{"ingress", "pull"} {
		if p[q] < 0.99 {
			t.Errorf("%s: %.1f %% within its goal beside a flooded default", q, 100*p[q])
		}
	}
	// Two floods: the looser one gets its part.
	both := map[string]func(float64) float64{"default": always(500), "ingress": always(500)}
	g, weightless := MastodonGoals(), NewPicker(PolicyGoals, nil)
	got := map[string]int{}
	for i := range 10_000 {
		late := time.Duration(i) * 10 * time.Millisecond
		views := []QueueView{}
		for q := range both {
			views = append(views, QueueView{Name: q, Backlog: 1000, HeadAge: late, Goal: g.Queue(q), Cost: 1})
		}
		room := 10
		for _, k := range weightless.Pick(room, views) {
			n := min(k.Jobs, room)
			room -= n
			got[k.Queue] += n
			weightless.Took(k.Queue, n, 1)
		}
	}
	if share := float64(got["ingress"]) / float64(got["default"]+got["ingress"]); share < 0.03 || share > 0.35 {
		t.Errorf("ingress got %.1f %% beside a flooded default", 100*share)
	}
}

// Pick never offers more than there is room or Most for, names only queues that it was given, and leaves out none that has jobs.
func TestPickProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		policy := rapid.SampledFrom([]Policy{PolicyGoals, PolicyWeighted, PolicyStrict, "nonsense"}).Draw(t, "policy")
		p := NewPicker(policy, rand.New(rand.NewPCG(1, 1)))
		for range rapid.IntRange(1, 30).Draw(t, "rounds") {
			room := rapid.IntRange(-1, 1000).Draw(t, "room")
			var views []QueueView
			for _, q := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c", "d"}), 0, 4, rapid.ID).Draw(t, "queues") {
				views = append(views, QueueView{
					Name: q, Backlog: rapid.IntRange(-1, 1<<40).Draw(t, "backlog"), HeadAge: time.Duration(rapid.Int64().Draw(t, "age")), Goal: time.Duration(rapid.Int64().Draw(t, "goal")),
					Weight: rapid.Int().Draw(t, "weight"), Cost: strange(t, "cost"), Most: rapid.IntRange(-1, 100).Draw(t, "most"),
				})
			}
			takes := p.Pick(room, views)
			for _, k := range takes {
				i := slices.IndexFunc(views, func(v QueueView) bool { return v.Name == k.Queue })
				if i < 0 || k.Jobs < 1 || k.Jobs > room || views[i].Most > 0 && k.Jobs > views[i].Most {
					t.Fatalf("take %+v of %+v with room for %d", k, views, room)
				}
				p.Took(k.Queue, rapid.IntRange(-5, k.Jobs).Draw(t, "took"), strange(t, "cost"))
			}
			for _, v := range views {
				if v.Backlog != 0 && room > 0 && !slices.Contains(names(takes), v.Name) {
					t.Fatalf("%s has jobs and is left out: %v", v.Name, takes)
				}
			}
		}
	})
}
