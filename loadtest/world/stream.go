package world

import (
	"math"
	"time"
)

// Push is one job to be enqueued, After a while, seen from the event that causes it.
type Push struct {
	Job   Job
	After time.Duration
	// Scheduled says that the job waits in Sidekiq's schedule set, until a poller finds it due. Otherwise the wait is the outside's: a person's
	// next click, another server's answer.
	Scheduled bool
}

// cell is the resolution in which rates change.
const cell = 10 * time.Second

// Stream is what happens on the server and around it, in order of time. It remembers one time per kind of event.
type Stream struct {
	w       *World
	sources []source
}

// source is one kind of event: a Poisson process whose rate changes, or a clock.
type source struct {
	dice     Dice
	salt     uint64
	count    uint64 // events so far
	next     time.Duration
	from, to time.Duration
	rate     func(t time.Duration) float64 // a second; nil for a clock
	every    time.Duration
	happen   func(d *Dice, emit func(Push))
}

// Stream starts the world's events anew. Every stream of a world has the same ones.
func (w *World) Stream() *Stream {
	s := &Stream{w: w}
	c, t := &w.cfg, &w.cfg.Traffic
	people := func(perDay float64) func(time.Duration) float64 {
		base := perDay * float64(c.Server.Active) / 86400
		return func(at time.Duration) float64 { return base * rhythm(c.Clock+at, c.Server.Night) * t.Load.At(at) }
	}
	s.poisson(people(t.Posts), w.post)
	s.poisson(people(t.Boosts), w.boost)
	s.poisson(people(t.Likes), w.like)
	s.poisson(people(t.Follows), w.follow)
	s.poisson(people(t.Deletes), w.remove)
	s.poisson(people(t.Edits), w.edit)
	inbound := t.Inbound * float64(c.Server.Active) / 86400
	s.poisson(func(at time.Duration) float64 { return inbound * rhythm(c.Clock+at, remoteNight) * t.Outside.At(at) }, w.inbound)
	s.poisson(func(at time.Duration) float64 {
		return t.SignUps / 86400 * rhythm(c.Clock+at, c.Server.Night) * t.Arrivals.At(at)
	}, w.signUp)
	s.clock(time.Minute, func(d *Dice, emit func(Push)) { w.plain(d, SchedulerSmall, emit) })
	s.clock(5*time.Minute, func(d *Dice, emit func(Push)) { w.plain(d, SchedulerTrends, emit) })
	for i := range c.Events {
		s.event(&c.Events[i])
	}
	return s
}

func (s *Stream) add(src source) {
	// Each source draws for itself, so that adding an event changes nothing of the others.
	src.salt = uint64(len(s.sources)) + 1
	src.dice = NewDice(s.w.cfg.Seed^0x736f7572, src.salt)
	if src.to == 0 {
		src.to = s.w.cfg.Length
	}
	src.to = min(src.to, s.w.cfg.Length)
	src.next = src.from
	if src.every == 0 {
		src.advance()
	} else {
		src.next += time.Duration(src.dice.Float64() * float64(src.every))
	}
	s.sources = append(s.sources, src)
}

func (s *Stream) poisson(rate func(time.Duration) float64, happen func(*Dice, func(Push))) {
	s.add(source{rate: rate, happen: happen})
}

func (s *Stream) clock(every time.Duration, happen func(*Dice, func(Push))) {
	s.add(source{every: every, happen: happen})
}

// once is an event that happens n times at one moment.
func (s *Stream) once(at time.Duration, n int, happen func(*Dice, func(Push))) {
	done := false
	s.add(source{from: at, every: s.w.cfg.Length + 1, happen: func(d *Dice, emit func(Push)) {
		if done {
			return
		}
		done = true
		for range n {
			happen(d, emit)
		}
	}})
	s.sources[len(s.sources)-1].next = at
}

// advance draws when the source's next event is: an exponential variable, used up cell by cell as the rate changes.
func (src *source) advance() {
	if src.every > 0 {
		src.next += src.every
		return
	}
	left := src.dice.Exp()
	for src.next < src.to {
		end := src.next - src.next%cell + cell
		rate := src.rate(src.next - src.next%cell + cell/2)
		if area := rate * (end - src.next).Seconds(); area >= left {
			src.next += time.Duration(left / rate * float64(time.Second))
			return
		} else {
			left -= area
		}
		src.next = end
	}
}

// first is the source whose event is next; −1 when all is over.
func (s *Stream) first() int {
	best := -1
	for i := range s.sources {
		if src := &s.sources[i]; src.next < src.to && (best < 0 || src.next < s.sources[best].next) {
			best = i
		}
	}
	return best
}

// Peek is when the next event happens; false when all are over.
func (s *Stream) Peek() (time.Duration, bool) {
	if i := s.first(); i >= 0 {
		return s.sources[i].next, true
	}
	return 0, false
}

// Next takes the next event and calls emit with each job that it leads to. It returns when that is, false when all events are over.
func (s *Stream) Next(emit func(Push)) (time.Duration, bool) {
	i := s.first()
	if i < 0 {
		return 0, false
	}
	src := &s.sources[i]
	at := src.next
	src.count++
	d := NewDice(s.w.cfg.Seed^src.salt<<32, src.count)
	src.happen(&d, func(p Push) {
		p.Job.Created = at + p.After
		p.Job.Enqueued = p.Job.Created
		emit(p)
	})
	src.advance()
	return at, true
}

// event adds what an Event does.
func (s *Stream) event(e *Event) {
	w := s.w
	during := func(rate func(since time.Duration) float64, happen func(*Dice, func(Push))) {
		s.add(source{from: e.At, to: e.At + e.For, rate: func(at time.Duration) float64 { return rate(max(0, at-e.At)) }, happen: happen})
	}
	steady := func(time.Duration) float64 { return e.Rate }
	// Something that spreads is at its height after a few minutes and then halves every HalfLife.
	spreading := func(since time.Duration) float64 {
		rise := 1 - math.Exp(-since.Seconds()/120)
		half := max(e.HalfLife, time.Minute)
		return e.Rate * rise * math.Exp2(-since.Seconds()/half.Seconds())
	}
	switch e.Kind {
	case ViralPost:
		s.once(e.At, 1, func(d *Dice, emit func(Push)) { w.postBy(d, 0, int32(e.Count), emit) })
		during(spreading, w.reaction)
	case ReplyStorm:
		during(spreading, w.answer)
	case DeleteFlood:
		s.once(e.At, e.Count, func(d *Dice, emit func(Push)) {
			job := w.job(d, AccountDeletion)
			job.What, job.Author = Everyone, w.author(d)
			emit(Push{Job: job})
		})
	case FollowWave:
		during(steady, w.followed)
	case Firehose:
		during(steady, w.relayed)
	case DuplicateStorm:
		dice := NewDice(w.cfg.Seed, 0x647570)
		dest := w.lively(&dice, e.At)
		during(steady, func(d *Dice, emit func(Push)) {
			job := w.job(d, Delivery)
			job.Dest = dest
			emit(Push{Job: job})
		})
	case Burst:
		s.once(e.At, 1, func(d *Dice, emit func(Push)) { w.postBy(d, 0, int32(e.Count), emit) })
	case Turn: // see instances
	}
}
