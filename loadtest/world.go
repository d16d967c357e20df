package loadtest

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/queueville/queueville/loadtest/fediverse"
)

// Class is a kind of host: how many of all hosts are of it, how busy each is, and how it behaves.
type Class struct {
	Name string `json:"name"`
	// About says in a few words what its hosts do.
	About string `json:"about"`
	// Share of all hosts, relative to the other classes' shares. Every class has at least one host.
	Share float64 `json:"share"`
	// Weight (0 to 1) is the chance that a host of the class follows an author: how busy it is.
	Weight float64 `json:"weight"`
	// Behaviours are dealt out to the class's hosts in turn; at least one.
	Behaviours []fediverse.Behaviour `json:"behaviours"`
	// Unavailable hosts have given up being tried: they are in unavailable_domains.
	Unavailable bool `json:"unavailable,omitempty"`
	// Ends says that deliveries to it end with the first answer, though not accepted: a 4xx or 501 that trying again will not change.
	Ends bool `json:"ends,omitempty"`
}

// DefaultClasses is a fediverse on an ordinary day: most of it quick, a tail of slow, moody and dead hosts. The shares are a guess
// after what admins report (a fifth of known instances answers badly or not at all), leaning to the side of trouble; see docs/demo.md.
func DefaultClasses() []Class {
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	one := func(b fediverse.Behaviour) []fediverse.Behaviour { return []fediverse.Behaviour{b} }
	status := func(codes ...int) (list []fediverse.Behaviour) {
		for _, code := range codes {
			list = append(list, fediverse.Behaviour{Status: code, LatencyMin: ms(5), LatencyMax: ms(40)})
		}

		return list
	}

	return []Class{
		{Name: "quick", About: "answers in 1–20 ms", Share: 56, Weight: 1, Behaviours: []fediverse.Behaviour{
			{LatencyMin: ms(1), LatencyMax: ms(20)}, {LatencyMin: ms(1), LatencyMax: ms(20)}, {LatencyMin: ms(1), LatencyMax: ms(20), HTTP1Only: true},
		}},
		{Name: "medium", About: "answers in 80–300 ms", Share: 12, Weight: 0.8, Behaviours: one(fediverse.Behaviour{LatencyMin: ms(80), LatencyMax: ms(300)})},
		{Name: "slow", About: "answers in 1–3 s", Share: 4, Weight: 0.15, Behaviours: one(fediverse.Behaviour{LatencyMin: ms(1000), LatencyMax: ms(3000)})},
		{Name: "flaky", About: "one in five answers is 503", Share: 4, Weight: 0.6, Behaviours: one(fediverse.Behaviour{FailShare: 0.2, LatencyMin: ms(5), LatencyMax: ms(60)})},
		{Name: "modern", About: "wants RFC 9421 signatures", Share: 3, Weight: 0.6, Behaviours: one(fediverse.Behaviour{WantRFC9421: true, LatencyMin: ms(5), LatencyMax: ms(40)})},
		{Name: "limiting", About: "429 above 20 a second", Share: 2, Weight: 0.6, Behaviours: one(fediverse.Behaviour{PerSecond: 20, RetryAfter: 30 * time.Second, LatencyMin: ms(5), LatencyMax: ms(40)})},
		{Name: "chatty", About: "answers with 4 MiB", Share: 1, Weight: 0.1, Behaviours: one(fediverse.Behaviour{ResponseBytes: 4 << 20, LatencyMin: ms(5), LatencyMax: ms(40)})},
		{Name: "rejecting", About: "403, 404 or 410", Share: 3, Weight: 0.3, Behaviours: status(403, 404, 410), Ends: true},
		{Name: "unsupported", About: "501", Share: 1, Weight: 0.2, Behaviours: status(501), Ends: true},
		{Name: "broken", About: "500, or 503 with Retry-After", Share: 2, Weight: 0.3, Behaviours: []fediverse.Behaviour{
			{Status: 500, LatencyMin: ms(5), LatencyMax: ms(40)}, {Status: 503, RetryAfter: time.Minute, LatencyMin: ms(5), LatencyMax: ms(40)},
		}},
		{Name: "redirecting", About: "302 to elsewhere", Share: 1, Weight: 0.2, Behaviours: one(fediverse.Behaviour{Status: 302, Location: "https://elsewhere.test/inbox"})},
		{Name: "refused", About: "nothing listens", Share: 3, Weight: 0.4, Behaviours: one(fediverse.Behaviour{Connecting: fediverse.ConnectRefuse})},
		{Name: "hanging", About: "never answers", Share: 2, Weight: 0.3, Behaviours: []fediverse.Behaviour{
			{Hang: true}, {Connecting: fediverse.ConnectSilent},
		}},
		{Name: "dark", About: "packets vanish", Share: 2, Weight: 0.3, Behaviours: one(fediverse.Behaviour{Connecting: fediverse.ConnectBlackhole})},
		{Name: "nameless", About: "name does not resolve", Share: 2, Weight: 0.3, Behaviours: []fediverse.Behaviour{
			{Naming: fediverse.NameMissing}, {Naming: fediverse.NameServfail}, {Naming: fediverse.NameTimeout},
		}},
		{Name: "expired", About: "certificate expired", Share: 1, Weight: 0.3, Behaviours: one(fediverse.Behaviour{Certificate: fediverse.CertificateExpired})},
		{Name: "unavailable", About: "in unavailable_domains", Share: 1, Weight: 0.2, Behaviours: one(fediverse.Behaviour{Connecting: fediverse.ConnectRefuse}), Unavailable: true},
	}
}

// World is a set of hosts, drawn from classes.
type World struct {
	Hosts   []fediverse.Host
	Classes []Class
	classOf []int     // of each host
	weights []float64 // of each host
}

// NewWorld deals n hosts out to the classes by their shares, each class getting at least one.
func NewWorld(classes []Class, n int) (*World, error) {
	if n < len(classes) || n > fediverse.MaxHosts {
		return nil, fmt.Errorf("%d hosts for %d classes, want between %d and %d", n, len(classes), len(classes), fediverse.MaxHosts)
	}
	var total float64
	for i := range classes {
		class := &classes[i]
		if class.Share <= 0 || class.Weight <= 0 || class.Weight > 1 || len(class.Behaviours) == 0 {
			return nil, fmt.Errorf("class %q: want a share above 0, a weight up to 1 and a behaviour", class.Name)
		}
		total += class.Share
	}
	if total == 0 {
		return nil, errors.New("no classes")
	}
	w := &World{Classes: classes}
	for i, count := range deal(classes, total, n) {
		class := &classes[i]
		for k := range count {
			w.Hosts = append(w.Hosts, fediverse.Host{
				Name:      fmt.Sprintf("%s-%03d.fedi.test", strings.ReplaceAll(class.Name, "_", "-"), k),
				Class:     class.Name,
				Behaviour: class.Behaviours[k%len(class.Behaviours)],
			})
			w.classOf = append(w.classOf, i)
			w.weights = append(w.weights, class.Weight)
		}
	}

	return w, nil
}

// deal shares n out: one to each class, the rest by largest remainder, so that the sum is n exactly.
func deal(classes []Class, total float64, n int) []int {
	counts := make([]int, len(classes))
	remainders := make([]float64, len(classes))
	left := n - len(classes)
	given := 0
	for i := range classes {
		exact := max(classes[i].Share/total*float64(n)-1, 0)
		whole := min(int(math.Floor(exact)), left-given)
		counts[i], remainders[i] = 1+whole, exact-float64(whole)
		given += whole
	}
	for ; given < left; given++ {
		best := 0
		for i := range remainders {
			if remainders[i] > remainders[best] {
				best = i
			}
		}
		counts[best]++
		remainders[best]--
	}

	return counts
}

// Class returns the class of the host numbered i.
func (w *World) Class(i int) *Class { return &w.Classes[w.classOf[i]] }

// Unavailable returns the names of the hosts that are listed as unavailable.
func (w *World) Unavailable() []string {
	var names []string
	for i := range w.Hosts {
		if w.Class(i).Unavailable {
			names = append(names, w.Hosts[i].Name)
		}
	}

	return names
}

// Reach draws the hosts that one activity goes to: each with its weight as the chance, in the order of an index lookup, that is, none.
func (w *World) Reach(rng *rand.Rand) []int {
	var reach []int
	for _, i := range rng.Perm(len(w.Hosts)) {
		if rng.Float64() < w.weights[i] {
			reach = append(reach, i)
		}
	}

	return reach
}
