package scenario

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/queueville/queueville/loadtest/simulate"
	"github.com/queueville/queueville/loadtest/world"
	"github.com/queueville/queueville/scheduler"
)

// Parse reads a scenario. It returns every problem, by line; the scenario is of use only when there is none.
func Parse(text []byte) (*Scenario, []Problem) {
	r := &reader{}
	if len(text) > maxBytes {
		return nil, []Problem{{Text: fmt.Sprintf("%d bytes; a scenario has at most %d", len(text), maxBytes)}}
	}
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(text))
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, []Problem{{Text: "the file is empty"}}
		}
		return nil, []Problem{yamlProblem(err)}
	}
	if len(doc.Content) == 0 {
		return nil, []Problem{{Text: "the file is empty"}}
	}
	s := &Scenario{Seed: 1, Drain: time.Hour, Goals: DefaultGoals(), Thresholds: map[simulate.EngineName][]Threshold{}, World: defaultWorld()}
	r.scenario(doc.Content[0], s)
	if len(r.problems) == 0 {
		r.across(doc.Content[0], s)
	}
	return s, r.sorted()
}

var yamlLine = regexp.MustCompile(`^yaml: line (\d+): (.*)$`)

// yamlProblem takes the line out of the library's text, which says it nowhere else.
func yamlProblem(err error) Problem {
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		line, _ := strconv.Atoi(m[1])
		return Problem{Line: line, Text: m[2]}
	}
	return Problem{Text: strings.TrimPrefix(err.Error(), "yaml: ")}
}

// defaultWorld is a server of 20,000 accounts, 3,000 of them active, on an ordinary day. docs/loadtest.md says where the figures come from.
func defaultWorld() world.Config {
	return world.Config{
		Server: world.Server{Users: 20_000, Active: 3_000, MedianFollowers: 22, Tail: 1.35, MostFollowers: 30_000, Streaming: 0.08, Night: 0.7},
		Fedi: world.Fediverse{Instances: 12_000, Tail: 1.25, Tempers: []world.Share{
			{Temper: world.Medium, Of: 0.2},
			{Temper: world.Slow, Of: 0.03},
			{Temper: world.Flaky, Of: 0.02},
			{Temper: world.Limiting, Of: 0.01},
			{Temper: world.Rejecting, Of: 0.02},
			{Temper: world.Broken, Of: 0.01},
			{Temper: world.Refused, Of: 0.02},
			{Temper: world.Dark, Of: 0.015},
			{Temper: world.Hanging, Of: 0.005},
		}},
		Traffic: world.Traffic{
			Posts: 0.6, Boosts: 0.5, Likes: 3, Follows: 0.4, Deletes: 0.06, Edits: 0.03, Replies: 0.5, Media: 0.2,
			Inbound: 50, LocalFollowers: 4.5, SignUps: 20, SignUpFollows: 15,
		},
	}
}

func (r *reader) scenario(n *yaml.Node, s *Scenario) {
	r.mapping(n, "the scenario", fields{
		"name":  func(n *yaml.Node) { s.Name = r.name(n) },
		"about": func(n *yaml.Node) { s.About = r.text(n, "about") },
		"story": func(n *yaml.Node) { s.Story = r.text(n, "story") },
		"seed":  func(n *yaml.Node) { s.Seed = uint64(r.number(n, "seed", 0, 1<<53)) },
		"start": func(n *yaml.Node) { s.Clock = r.clock(n, "start") },
		"zone":  func(n *yaml.Node) { s.Zone = r.text(n, "zone") },
		"length": func(n *yaml.Node) {
			s.Length = r.duration(n, "length", time.Second, world.MaxLength)
		},
		"drain":      func(n *yaml.Node) { s.Drain = r.duration(n, "drain", 0, world.MaxLength) },
		"server":     func(n *yaml.Node) { r.server(n, &s.World.Server) },
		"fediverse":  func(n *yaml.Node) { r.fediverse(n, &s.World.Fedi) },
		"traffic":    func(n *yaml.Node) { r.traffic(n, &s.World.Traffic) },
		"costs":      func(n *yaml.Node) { r.costs(n, &s.World.Costs) },
		"events":     func(n *yaml.Node) { r.list(n, "events", func(n *yaml.Node) { r.event(n, s) }) },
		"incidents":  func(n *yaml.Node) { r.list(n, "incidents", func(n *yaml.Node) { r.incident(n, s) }) },
		"hardware":   func(n *yaml.Node) { r.list(n, "hardware", func(n *yaml.Node) { r.hardware(n, s) }) },
		"goals":      func(n *yaml.Node) { r.goals(n, &s.Goals) },
		"thresholds": func(n *yaml.Node) { r.thresholds(n, s) },
	}, "name", "about", "length", "hardware")
}

var nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)

func (r *reader) name(n *yaml.Node) string {
	name := r.text(n, "name")
	if !nameForm.MatchString(name) {
		r.complain(n, "name: %q: small letters, digits and hyphens, at most 64", name)
	}
	return name
}

func (r *reader) server(n *yaml.Node, s *world.Server) {
	r.mapping(n, "server", fields{
		"users":            func(n *yaml.Node) { s.Users = r.whole(n, "users", 1, world.MaxUsers) },
		"active":           func(n *yaml.Node) { s.Active = r.whole(n, "active", 1, world.MaxUsers) },
		"median_followers": func(n *yaml.Node) { s.MedianFollowers = r.number(n, "median_followers", 0, 1e6) },
		"follower_tail":    func(n *yaml.Node) { s.Tail = r.number(n, "follower_tail", 0.5, 10) },
		"most_followers":   func(n *yaml.Node) { s.MostFollowers = r.number(n, "most_followers", 1, 1e8) },
		"night":            func(n *yaml.Node) { s.Night = r.number(n, "night", 0, 1) },
		"streaming":        func(n *yaml.Node) { s.Streaming = r.number(n, "streaming", 0, 1) },
	})
}

func (r *reader) fediverse(n *yaml.Node, f *world.Fediverse) {
	r.mapping(n, "fediverse", fields{
		"instances": func(n *yaml.Node) { f.Instances = r.whole(n, "instances", 1, world.MaxInstances) },
		"size_tail": func(n *yaml.Node) { f.Tail = r.number(n, "size_tail", 0, 3) },
		"dead_are_busy": func(n *yaml.Node) {
			f.Flat = r.text(n, "dead_are_busy") == "true"
		},
		"tempers": func(n *yaml.Node) {
			f.Tempers = nil
			known := fields{}
			for _, t := range world.Tempers {
				known[string(t)] = func(n *yaml.Node) {
					f.Tempers = append(f.Tempers, world.Share{Temper: t, Of: r.number(n, string(t), 0, 1)})
				}
			}
			r.mapping(n, "tempers", known)
		},
	})
}

func (r *reader) traffic(n *yaml.Node, t *world.Traffic) {
	daily := func(name string, to *float64) func(*yaml.Node) {
		return func(n *yaml.Node) { *to = r.number(n, name, 0, 1e5) }
	}
	curve := func(name string, to *world.Curve) func(*yaml.Node) {
		return func(n *yaml.Node) { *to = r.curve(n, name) }
	}
	r.mapping(n, "traffic", fields{
		"posts": daily("posts", &t.Posts), "boosts": daily("boosts", &t.Boosts), "likes": daily("likes", &t.Likes), "follows": daily("follows", &t.Follows),
		"deletes": daily("deletes", &t.Deletes), "edits": daily("edits", &t.Edits), "inbound": daily("inbound", &t.Inbound),
		"local_followers": daily("local_followers", &t.LocalFollowers),
		"sign_ups":        func(n *yaml.Node) { t.SignUps = r.number(n, "sign_ups", 0, 1e7) },
		"sign_up_follows": func(n *yaml.Node) { t.SignUpFollows = r.number(n, "sign_up_follows", 0, 1e4) },
		"replies":         func(n *yaml.Node) { t.Replies = r.number(n, "replies", 0, 1) },
		"media":           func(n *yaml.Node) { t.Media = r.number(n, "media", 0, 1) },
		"load":            curve("load", &t.Load), "outside": curve("outside", &t.Outside), "arrivals": curve("arrivals", &t.Arrivals),
	})
}

// curve reads a list of [time, factor].
func (r *reader) curve(n *yaml.Node, what string) world.Curve {
	var c world.Curve
	r.list(n, what, func(n *yaml.Node) {
		if n.Kind != yaml.SequenceNode || len(n.Content) != 2 {
			r.complain(n, "%s: want [time, factor], as in [6h, 1.5]", what)
			return
		}
		k := world.Knot{At: r.duration(n.Content[0], what, 0, world.MaxLength), Value: r.number(n.Content[1], what, 0, 1e5)}
		if len(c) > 0 && k.At <= c[len(c)-1].At {
			r.complain(n, "%s: %v is not after the entry before it", what, k.At)
		}
		c = append(c, k)
	})
	return c
}

func (r *reader) costs(n *yaml.Node, c *world.Costs) {
	factor := func(name string, to *float64) func(*yaml.Node) {
		return func(n *yaml.Node) { *to = r.number(n, name, 0.001, 1000) }
	}
	r.mapping(n, "costs", fields{"cpu": factor("cpu", &c.CPU), "database": factor("database", &c.DB), "network": factor("network", &c.Net)})
}

var eventKinds = []world.EventKind{
	world.ViralPost, world.ReplyStorm, world.DeleteFlood, world.FollowWave, world.Firehose, world.DuplicateStorm, world.Burst, world.Turn,
}

func (r *reader) event(n *yaml.Node, s *Scenario) {
	var e world.Event
	r.mapping(n, "event", fields{
		"kind": func(n *yaml.Node) {
			e.Kind = world.EventKind(r.text(n, "kind"))
			names := make([]string, len(eventKinds))
			for i, k := range eventKinds {
				names[i] = string(k)
			}
			if slices.Contains(eventKinds, e.Kind) {
				return
			}
			r.complain(n, "event: unknown kind %q%s", e.Kind, suggest(string(e.Kind), names))
		},
		"at":        func(n *yaml.Node) { e.At = r.duration(n, "at", 0, world.MaxLength) },
		"for":       func(n *yaml.Node) { e.For = r.duration(n, "for", time.Second, world.MaxLength) },
		"rate":      func(n *yaml.Node) { e.Rate = r.number(n, "rate", 0, world.MaxRate) },
		"half_life": func(n *yaml.Node) { e.HalfLife = r.duration(n, "half_life", time.Second, world.MaxLength) },
		"count":     func(n *yaml.Node) { e.Count = r.whole(n, "count", 1, 10_000_000) },
		"share":     func(n *yaml.Node) { e.Of = r.number(n, "share", 0, 1) },
		"into": func(n *yaml.Node) {
			e.Temper = world.Temper(r.text(n, "into"))
			names := make([]string, len(world.Tempers))
			for i, t := range world.Tempers {
				names[i] = string(t)
				if t == e.Temper {
					return
				}
			}
			r.complain(n, "event: unknown temper %q%s", e.Temper, suggest(string(e.Temper), names))
		},
	}, "kind", "at")
	need := func(missing bool, key string) {
		if missing {
			r.complain(n, "event %s: %q is missing", e.Kind, key)
		}
	}
	switch e.Kind {
	case world.ViralPost, world.ReplyStorm, world.FollowWave, world.Firehose, world.DuplicateStorm:
		need(e.Rate == 0, "rate")
	case world.DeleteFlood, world.Burst:
		need(e.Count == 0, "count")
	case world.Turn:
		need(e.Of == 0, "share")
		need(e.Temper == "", "into")
	}
	s.World.Events = append(s.World.Events, e)
}

func (r *reader) incident(n *yaml.Node, s *Scenario) {
	var in simulate.Incident
	r.mapping(n, "incident", fields{
		"kind": func(n *yaml.Node) {
			in.Kind = simulate.IncidentKind(r.text(n, "kind"))
			names := []string{string(simulate.Outage), string(simulate.RedisFailover), string(simulate.PostgresStall)}
			if slices.Contains(names, string(in.Kind)) {
				return
			}
			r.complain(n, "incident: unknown kind %q%s", in.Kind, suggest(string(in.Kind), names))
		},
		"at":  func(n *yaml.Node) { in.At = r.duration(n, "at", 0, world.MaxLength) },
		"for": func(n *yaml.Node) { in.For = r.duration(n, "for", time.Second, world.MaxLength) },
	}, "kind", "at", "for")
	s.Incidents = append(s.Incidents, in)
}

func (r *reader) hardware(n *yaml.Node, s *Scenario) {
	stage := simulate.Stage{Database: simulate.Database{Cores: 4, RoundTrip: 300 * time.Microsecond}}
	var hosts []simulate.Host
	var procs []simulate.Process
	memory := 0.0
	r.mapping(n, "hardware", fields{
		"at": func(n *yaml.Node) { stage.At = r.duration(n, "at", 0, world.MaxLength) },
		"hosts": func(n *yaml.Node) {
			list, err := ParseHosts(r.text(n, "hosts"))
			if err != nil {
				r.complain(n, "hosts: %v", err)
			}
			hosts = list
		},
		"memory_gib": func(n *yaml.Node) { memory = r.number(n, "memory_gib", 0.1, 1e5) },
		"sidekiq": func(n *yaml.Node) {
			r.list(n, "sidekiq", func(n *yaml.Node) {
				p, err := ParseSidekiq(r.text(n, "sidekiq"))
				if err != nil {
					r.complain(n, "sidekiq: %v", err)
					return
				}
				procs = append(procs, p...)
			})
		},
		"database": func(n *yaml.Node) {
			r.mapping(n, "database", fields{
				"cores":       func(n *yaml.Node) { stage.Database.Cores = r.whole(n, "cores", 1, 1024) },
				"round_trip":  func(n *yaml.Node) { stage.Database.RoundTrip = r.duration(n, "round_trip", 0, time.Second) },
				"connections": func(n *yaml.Node) { stage.Database.Connections = r.whole(n, "connections", 5, 1_000_000) },
			})
		},
	}, "hosts", "sidekiq")
	for i := range hosts {
		hosts[i].Memory, hosts[i].Sidekiq = memory, procs
	}
	stage.Hosts = hosts
	s.Hardware = append(s.Hardware, stage)
}

func (r *reader) goals(n *yaml.Node, goals *simulate.Goals) {
	known := fields{}
	for i, name := range world.QueueNames {
		known[name] = func(n *yaml.Node) { goals[i] = r.duration(n, name, 50*time.Millisecond, 30*24*time.Hour) }
	}
	r.mapping(n, "goals", known)
}

func (r *reader) thresholds(n *yaml.Node, s *Scenario) {
	of := func(engine simulate.EngineName) func(*yaml.Node) {
		return func(n *yaml.Node) {
			r.list(n, "thresholds", func(n *yaml.Node) {
				t, err := ParseThreshold(r.text(n, "threshold"))
				if err != nil {
					r.complain(n, "threshold: %v", err)
					return
				}
				s.Thresholds[engine] = append(s.Thresholds[engine], t)
			})
		}
	}
	r.mapping(n, "thresholds", fields{"sidekiq": of(simulate.Sidekiq), "queueville": of(simulate.Queueville)})
}

// across checks what concerns more than one entry.
func (r *reader) across(n *yaml.Node, s *Scenario) {
	if len(s.Hardware) == 0 || s.Hardware[0].At != 0 {
		r.complain(n, "hardware: the first entry has to be there from the beginning (at: 0)")
	}
	for i := 1; i < len(s.Hardware); i++ {
		if s.Hardware[i].At <= s.Hardware[i-1].At {
			r.complain(n, "hardware: entry %d is not after the one before it", i+1)
		}
	}
	if s.World.Server.Active > s.World.Server.Users {
		r.complain(n, "server: %d active of %d users", s.World.Server.Active, s.World.Server.Users)
	}
	for _, e := range s.World.Events {
		if e.At >= s.Length {
			r.complain(n, "event %s at %v: the scenario is over after %v", e.Kind, e.At, s.Length)
		}
	}
	for _, in := range s.Incidents {
		if in.At >= s.Length {
			r.complain(n, "incident %s at %v: the scenario is over after %v", in.Kind, in.At, s.Length)
		}
	}
	if len(r.problems) > 0 {
		return
	}
	if _, err := world.New(s.worldConfig()); err != nil {
		for line := range strings.Lines(err.Error()) {
			r.complain(nil, "%s", strings.TrimSpace(strings.TrimPrefix(line, "world: ")))
		}
	}
}

var hostForm = regexp.MustCompile(`^(?:(\d+)\s*x\s*)?(\d+)c(?:@([0-9.]+))?$`)

// ParseHosts reads a list of machines: "3x8c" is three of eight cores, "1x4c,2x16c@1.3" are others besides whose cores are 1.3 times as fast.
func ParseHosts(text string) ([]simulate.Host, error) {
	var hosts []simulate.Host
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		m := hostForm.FindStringSubmatch(part)
		if m == nil {
			return nil, fmt.Errorf("%q: write 3x8c for three machines of eight cores, 3x8c@1.3 for faster ones", part)
		}
		count, speed := 1, 1.0
		if m[1] != "" {
			count, _ = strconv.Atoi(m[1])
		}
		cores, _ := strconv.Atoi(m[2])
		if m[3] != "" {
			speed, _ = strconv.ParseFloat(m[3], 64)
		}
		if count < 1 || count > 2000 || cores < 1 || cores > 1024 || speed < 0.01 || speed > 100 {
			return nil, fmt.Errorf("%q: 1 to 2000 machines of 1 to 1024 cores, of 0.01 to 100 times the speed", part)
		}
		for range count {
			hosts = append(hosts, simulate.Host{Cores: cores, Speed: speed})
		}
	}
	if len(hosts) > 2000 {
		return nil, fmt.Errorf("%d machines; at most 2000", len(hosts))
	}
	return hosts, nil
}

// defaultQueues are those of Mastodon's config/sidekiq.yml.
var defaultQueues = []scheduler.Queue{{Name: "default", Weight: 8}, {Name: "push", Weight: 6}, {Name: "ingress", Weight: 4}, {Name: "mailers", Weight: 2}, {Name: "pull"}, {Name: "scheduler"}}

// ParseSidekiq reads a Sidekiq command line's options: "-c 25 -q default,8 -q push". Without -q it is Mastodon's configuration, without -c 25,
// as in Mastodon's unit. DB_POOL=N before them sets the pool, 4x before everything means four such processes.
func ParseSidekiq(text string) ([]simulate.Process, error) {
	p := simulate.Process{Concurrency: 25}
	count := 1
	words := strings.Fields(text)
	for i := 0; i < len(words); i++ {
		word := words[i]
		value := func() (string, error) {
			if i++; i < len(words) {
				return words[i], nil
			}
			return "", fmt.Errorf("%q: a value is missing behind %s", text, word)
		}
		number := func(from string, high int) (int, error) {
			n, err := strconv.Atoi(from)
			if err != nil || n < 1 || n > high {
				return 0, fmt.Errorf("%q: %q is no number from 1 to %d", text, from, high)
			}
			return n, nil
		}
		var err error
		var v string
		switch {
		case word == "-c" || word == "--concurrency":
			if v, err = value(); err == nil {
				p.Concurrency, err = number(v, 1000)
			}
		case word == "-q" || word == "--queue":
			var q scheduler.Queue
			if v, err = value(); err == nil {
				if q, err = scheduler.ParseQueueFlag(v); err == nil {
					if world.QueueNumber(q.Name) < 0 {
						return nil, fmt.Errorf("%q: Mastodon has no queue %q; it has %s", text, q.Name, strings.Join(world.QueueNames[:], ", "))
					}
					p.Queues = append(p.Queues, q)
				}
			}
		case strings.HasPrefix(word, "DB_POOL="):
			p.DBPool, err = number(word[len("DB_POOL="):], 10_000)
		case i == 0 && strings.HasSuffix(word, "x"):
			count, err = number(strings.TrimSuffix(word, "x"), 200)
		default:
			return nil, fmt.Errorf("%q: %q is not understood; write [4x] [DB_POOL=25] -c 25 -q default,8 -q push,6", text, word)
		}
		if err != nil {
			return nil, err
		}
	}
	if len(p.Queues) == 0 {
		p.Queues = defaultQueues
	}
	procs := make([]simulate.Process, count)
	for i := range procs {
		procs[i] = p
	}
	return procs, nil
}
