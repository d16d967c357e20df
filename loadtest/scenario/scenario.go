package scenario

import (
	"time"

	"github.com/queueville/queueville/loadtest/simulate"
	"github.com/queueville/queueville/loadtest/world"
	"github.com/queueville/queueville/scheduler"
)

// Scenario is what a file says.
type Scenario struct {
	Name  string
	About string        // one line
	Story string        // what it is taken from, and what is assumed
	Seed  uint64        // 0 means 1
	Clock time.Duration // time of day at the beginning
	Zone  string        // what that clock shows, for the report

	Length, Drain time.Duration

	World      world.Config
	Incidents  []simulate.Incident
	Hardware   []simulate.Stage
	Goals      simulate.Goals
	Thresholds map[simulate.EngineName][]Threshold
}

// Config is the scenario for one engine. The error lists every problem of the world.
func (s *Scenario) Config(engine simulate.EngineName) (simulate.Config, error) {
	w, err := world.New(s.worldConfig())
	if err != nil {
		return simulate.Config{}, err
	}
	return simulate.Config{
		World: w, Engine: engine, Seed: s.Seed, Length: s.Length, Drain: s.Drain, Stages: s.Hardware, Incidents: s.Incidents, Goals: s.Goals, Marks: s.Marks(),
	}, nil
}

func (s *Scenario) worldConfig() world.Config {
	c := s.World
	c.Seed, c.Clock, c.Length = s.Seed, s.Clock, s.Length
	return c
}

// Marks are the stretches of time of which the report says how long it took to recover from them.
func (s *Scenario) Marks() []simulate.Mark {
	var marks []simulate.Mark
	for _, in := range s.Incidents {
		marks = append(marks, simulate.Mark{Name: string(in.Kind), At: in.At, For: in.For})
	}
	for _, e := range s.World.Events {
		// What happens in a moment, or does not end, is nothing to recover from.
		if e.For > 0 && e.At+e.For < s.Length && e.Kind != world.Burst && e.Kind != world.DeleteFlood {
			marks = append(marks, simulate.Mark{Name: string(e.Kind), At: e.At, For: e.For})
		}
	}
	return marks
}

// DefaultGoals are the goals of Mastodon's queues that the scheduler has (docs/scheduler.md).
func DefaultGoals() simulate.Goals {
	var goals simulate.Goals
	from := scheduler.MastodonGoals()
	for i, name := range world.QueueNames {
		goals[i] = from.Queue(name)
	}
	return goals
}
