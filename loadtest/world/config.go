package world

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// Config describes a world. Times are since the beginning of the run.
type Config struct {
	Seed    uint64
	Clock   time.Duration // time of day at the beginning; the daily rhythm follows it
	Length  time.Duration // nothing is enqueued after it
	Server  Server
	Fedi    Fediverse
	Traffic Traffic
	Costs   Costs
	Events  []Event
}

// Server is the people on it.
type Server struct {
	Users           int     // accounts
	Active          int     // of these, people who are there on an ordinary day
	MedianFollowers float64 // remote followers of the median active account
	Tail            float64 // exponent of the distribution of followers (Pareto); smaller is heavier. Above 0.5
	MostFollowers   float64 // of the most followed account
	Streaming       float64 // share of active people with a client open when a post arrives
	Night           float64 // how deep the night is, 0 (people of all time zones) to 1
}

// Fediverse is the instances around it.
type Fediverse struct {
	Instances int
	Tail      float64 // exponent of the distribution of sizes (Zipf)
	Tempers   []Share // what share of instances is of which temper; what is left over is quick
	Flat      bool    // dead and slow instances are as busy as others; else a dead one has few followers left
}

// Share gives a temper to a share of all instances.
type Share struct {
	Temper Temper
	Of     float64 // 0 to 1
}

// Traffic is how often what happens, on average over a day, per active person unless said otherwise.
type Traffic struct {
	Posts, Boosts, Likes, Follows, Deletes, Edits float64
	Replies                                       float64 // share of posts that answer somebody
	Media                                         float64 // share of posts with pictures
	Inbound                                       float64 // activities received
	LocalFollowers                                float64 // active local followers of the author of a received post, on average
	SignUps                                       float64 // a day, on the whole server
	SignUpFollows                                 float64 // accounts that a new person follows in the first hour
	// Load multiplies what local people do, Outside what is received, Arrivals the sign-ups. None means 1 all the time.
	Load, Outside, Arrivals Curve
}

// Knot is a point of a Curve.
type Knot struct {
	At    time.Duration
	Value float64
}

// Curve is a line through its knots; flat before the first and after the last.
type Curve []Knot

// At is the curve's value at t; 1 for a curve without knots.
func (c Curve) At(t time.Duration) float64 {
	if len(c) == 0 {
		return 1
	}
	if t <= c[0].At {
		return c[0].Value
	}
	for i := 1; i < len(c); i++ {
		if t < c[i].At {
			a, b := c[i-1], c[i]
			return a.Value + (b.Value-a.Value)*float64(t-a.At)/float64(b.At-a.At)
		}
	}
	return c[len(c)-1].Value
}

// EventKind is a kind of event.
type EventKind string

// Events that make jobs, or change the far side. (What befalls the server's own machines belongs to a scenario, not to the world.)
const (
	ViralPost      EventKind = "viral-post"      // one local post is boosted and answered from everywhere: Rate reactions a second at first, halved every HalfLife
	ReplyStorm     EventKind = "reply-storm"     // Rate answers a second to one local thread, each forwarded to the author's followers
	DeleteFlood    EventKind = "delete-flood"    // Count local accounts are deleted; each tells every known instance
	FollowWave     EventKind = "follow-wave"     // Rate follows a second from everywhere
	Firehose       EventKind = "relay-firehose"  // Rate posts a second from a relay
	DuplicateStorm EventKind = "duplicate-storm" // Rate copies a second of one delivery (mastodon/mastodon#16446)
	Burst          EventKind = "burst"           // one post by somebody with Count remote followers
	Turn           EventKind = "turn"            // Of of all instances become Temper
)

// Event is something out of the ordinary.
type Event struct {
	Kind     EventKind
	At, For  time.Duration // For 0: until the end
	Rate     float64       // a second
	HalfLife time.Duration
	Count    int
	Of       float64
	Temper   Temper
}

// Bounds of a world: what a scenario's file may ask for.
const (
	MaxInstances = 100_000
	MaxUsers     = 10_000_000
	MaxRate      = 100_000 // events a second of one source
	MaxLength    = 30 * 24 * time.Hour
)

// check returns every problem of the configuration.
func (c *Config) check() error {
	var problems []error
	within := func(name string, value, low, high float64) {
		if !(value >= low && value <= high) { // NaN fails
			problems = append(problems, fmt.Errorf("%s is %v; %v to %v is possible", name, value, low, high))
		}
	}
	within("length in hours", c.Length.Hours(), 0.001, MaxLength.Hours())
	within("users", float64(c.Server.Users), 1, MaxUsers)
	within("active users", float64(c.Server.Active), 1, float64(c.Server.Users))
	within("median followers", c.Server.MedianFollowers, 0, 1e6)
	within("most followers", c.Server.MostFollowers, 1, 1e8)
	within("exponent of followers", c.Server.Tail, 0.5, 10)
	within("share of streaming people", c.Server.Streaming, 0, 1)
	within("depth of the night", c.Server.Night, 0, 1)
	within("instances", float64(c.Fedi.Instances), 1, MaxInstances)
	within("exponent of instances' sizes", c.Fedi.Tail, 0, 3)
	sum := 0.0
	for _, s := range c.Fedi.Tempers {
		within("share of "+string(s.Temper)+" instances", s.Of, 0, 1)
		sum += s.Of
	}
	within("sum of the instances' shares", sum, 0, 1+1e-9)
	t := &c.Traffic
	for name, rate := range map[string]float64{"posts": t.Posts, "boosts": t.Boosts, "likes": t.Likes, "follows": t.Follows, "deletes": t.Deletes, "edits": t.Edits, "inbound": t.Inbound} {
		within(name+" a day and person", rate, 0, 1e5)
	}
	within("sign-ups a day", t.SignUps, 0, 1e7)
	within("follows of a new person", t.SignUpFollows, 0, 1e4)
	within("share of replies", t.Replies, 0, 1)
	within("share of posts with media", t.Media, 0, 1)
	within("local followers of remote authors", t.LocalFollowers, 0, 1e5)
	for i := range c.Events {
		e := &c.Events[i]
		within(string(e.Kind)+": rate a second", e.Rate, 0, MaxRate)
		within(string(e.Kind)+": count", float64(e.Count), 0, 1e7)
		within(string(e.Kind)+": share", e.Of, 0, 1)
	}
	for _, s := range []float64{c.Costs.CPU, c.Costs.DB, c.Costs.Net} {
		within("a cost factor", s, 0, 1000)
	}
	return errors.Join(problems...)
}

// fill sets what 0 stands for.
func (c *Config) fill() {
	for _, f := range []*float64{&c.Costs.CPU, &c.Costs.DB, &c.Costs.Net} {
		if *f == 0 {
			*f = 1
		}
	}
	for i := range c.Events {
		if e := &c.Events[i]; e.For <= 0 {
			e.For = max(0, c.Length-e.At)
		}
	}
}

// rhythm is how busy people are at a time of day, 1 on average: low at four in the morning, high in the evening. Depth is how deep the
// night is, 0 to 1. One harmonic and a half as strong second one, the usual shape of activity of one time zone.
func rhythm(clock time.Duration, depth float64) float64 {
	x := 2 * math.Pi * (clock.Hours() - 16.5) / 24
	return max(0.05, 1+depth*(0.8*math.Cos(x)+0.25*math.Cos(2*x)))
}

// remoteNight is the depth of the night of all the world.
const remoteNight = 0.25
