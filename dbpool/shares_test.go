package dbpool

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestShares(t *testing.T) {
	h := func(name string, demand, current int) HostDemand {
		return HostDemand{Name: name, Demand: demand, Min: 2, Current: current}
	}
	first := func(d HostDemand, priority int) HostDemand { d.Priority = priority; return d }
	tests := map[string]struct {
		budget int
		hosts  []HostDemand
		want   []int
	}{
		"nobody":                        {10, nil, nil},
		"idle hosts keep their minimum": {10, []HostDemand{h("a", 0, 0), h("b", 0, 9)}, []int{2, 2}},
		"one busy host gets what it wants and room":  {100, []HostDemand{h("a", 20, 0), h("b", 0, 0)}, []int{26, 2}},
		"two busy ones share":                        {20, []HostDemand{h("a", 50, 20), h("b", 50, 0)}, []int{10, 10}},
		"the odd one goes to who has more":           {21, []HostDemand{h("a", 50, 0), h("b", 50, 3)}, []int{10, 11}},
		"a small demand is met before a large one":   {20, []HostDemand{h("a", 3, 0), h("b", 50, 0)}, []int{3, 17}},
		"priority goes first, after the minimum":     {20, []HostDemand{first(h("a", 50, 0), 1), h("b", 50, 20)}, []int{18, 2}},
		"small waves move nothing":                   {100, []HostDemand{h("a", 20, 30), h("b", 5, 8)}, []int{30, 8}},
		"what is far above demand goes back":         {100, []HostDemand{h("a", 4, 60), h("b", 0, 0)}, []int{6, 2}},
		"no room for the third":                      {5, []HostDemand{h("a", 1, 2), h("b", 1, 0), h("c", 9, 2)}, []int{2, 0, 3}},
		"a higher priority takes a seat from others": {4, []HostDemand{h("a", 1, 2), h("b", 1, 2), first(h("c", 1, 0), 5)}, []int{2, 0, 2}},
		"no budget": {0, []HostDemand{h("a", 1, 0)}, []int{0}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			grants := Shares(test.budget, test.hosts)
			var got []int
			for i, g := range grants {
				got = append(got, g.Connections)
				if g.Connections == 0 && !strings.Contains(g.Reason, "no room") || g.Name != test.hosts[i].Name {
					t.Errorf("grant %+v", g)
				}
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("Shares = %v, want %v", got, test.want)
			}
		})
	}
}

func TestSharesKeepTheirPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		budget := rapid.IntRange(0, 60).Draw(t, "budget")
		least := rapid.IntRange(0, 4).Draw(t, "min")
		n := rapid.IntRange(0, 12).Draw(t, "hosts")
		hosts := make([]HostDemand, n)
		for i := range hosts {
			hosts[i] = HostDemand{
				Name: fmt.Sprint("h", i), Demand: rapid.IntRange(0, 40).Draw(t, "demand"), Min: least,
				Priority: rapid.IntRange(0, 2).Draw(t, "priority"), Current: rapid.IntRange(0, 20).Draw(t, "current"),
			}
		}
		grants := Shares(budget, hosts)
		sum, seated, unmet := 0, 0, 0
		for i, g := range grants {
			sum += g.Connections
			if g.Connections >= max(least, 1) {
				seated++
			} else if g.Connections != 0 {
				t.Fatalf("%d is less than the minimum %d", g.Connections, least)
			}
			if g.Connections < hosts[i].Demand {
				unmet++
			}
		}
		if sum > budget {
			t.Fatalf("%d of %d given", sum, budget)
		}
		if least > 0 && seated != min(n, budget/least) {
			t.Fatalf("%d of %d hosts seated, budget %d, minimum %d", seated, n, budget, least)
		}
		if least == 0 && unmet > 0 && sum < budget {
			t.Fatalf("%d of %d given although %d hosts want more", sum, budget, unmet)
		}
		// The order does not matter, and hosts that have what they were given keep it.
		shuffled := slices.Clone(hosts)
		slices.Reverse(shuffled)
		again := Shares(budget, shuffled)
		slices.Reverse(again)
		if !slices.Equal(grants, again) {
			t.Fatalf("in another order %v, not %v", again, grants)
		}
		for i := range hosts {
			hosts[i].Current = grants[i].Connections
		}
		if settled := Shares(budget, hosts); !slices.EqualFunc(settled, grants, func(a, b Grant) bool { return a.Connections == b.Connections }) {
			next := slices.Clone(hosts)
			for i := range next {
				next[i].Current = settled[i].Connections
			}
			if final := Shares(budget, next); !slices.Equal(final, settled) {
				t.Fatalf("shares flap: %v, %v, %v", grants, settled, final)
			}
		}
	})
}

func TestApplicationName(t *testing.T) {
	names := map[string]string{}
	for _, cluster := range []string{"c", "social.example.org", "a/b", ""} {
		for _, host := range []string{"web1", strings.Repeat("long", 30) + "1", strings.Repeat("long", 30) + "2", "mit/strich", "ümläut", ""} {
			c := part(cluster, clusterBytes)
			epoch := newEpoch()
			name := leaseName(c, host, epoch, "worker-of-many-things", false)
			if len(name) > 63 {
				t.Errorf("%q has %d bytes", name, len(name))
			}
			gotHost, gotEpoch, _, ok := parseName(c, name)
			if !ok || gotEpoch != epoch || gotHost != part(host, hostBytes) || part(gotHost, hostBytes) != gotHost {
				t.Errorf("parseName(%q) = %q %q %v", name, gotHost, gotEpoch, ok)
			}
			if c != "c" {
				if _, _, _, ok := parseName("c", name); ok {
					t.Errorf("%q is taken for another cluster's", name)
				}
			}
			key := c + "/" + gotHost
			if other, ok := names[key]; ok && other != cluster+"/"+host {
				t.Errorf("%q and %q have one name", other, cluster+"/"+host)
			}
			names[key] = cluster + "/" + host
		}
	}
	if _, _, _, ok := parseName("c", leaseName("c", "h", newEpoch(), "r", true)); ok {
		t.Error("a name behind PgBouncer is taken for a direct one")
	}
}

func FuzzParseName(f *testing.F) {
	f.Add("queueville/c/h/abcdefghij/worker")
	f.Add("queueville/c/h/abc")
	f.Fuzz(func(t *testing.T, name string) {
		host, epoch, role, ok := parseName("c", name)
		if ok && "queueville/c/"+host+"/"+epoch+"/"+role != name {
			t.Errorf("parseName(%q) = %q %q %q", name, host, epoch, role)
		}
	})
}

func FuzzParseLease(f *testing.F) {
	f.Add("w L 17 30 0 12 0 1795291060123 1795291050123 h -")
	f.Fuzz(func(_ *testing.T, text string) { _, _ = parseLease("e", text) })
}

func TestProcessGone(t *testing.T) {
	self := processName(nil)
	if self == "-" && os.Getenv("CI") != "true" {
		t.Skip("no /proc")
	}
	at, _, _ := strings.Cut(self, ":")
	for name, want := range map[string]bool{
		self: false, "-": false, "": false, "x:1:1": false, at + ":99999999:1": true, at + ":1:0": true, at + ":x:y": false, at + ":-1:1": false,
		self + ":1-kin": false, at + ":99999999:1:1-kin": true,
	} {
		if got := processGone(name); got != want {
			t.Errorf("processGone(%q) = %v, want %v", name, got, want)
		}
	}
}
