package run

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/queueville/queueville/loadtest/scenario"
	"github.com/queueville/queueville/loadtest/simulate"
	"github.com/queueville/queueville/loadtest/world"
)

// Bounds and defaults of a Form.
const (
	DefaultLength    = time.Minute
	DefaultDrain     = time.Minute
	DefaultInstances = 300
	MaxLength        = time.Hour
	MaxDrain         = time.Hour
	maxInstances     = 5000
	maxRate          = 1000
)

// Form is how a scenario is made small enough for one machine and a person's patience.
type Form struct {
	Length    time.Duration      // of the arrivals; the scenario's whole course is squeezed into it. 0 means a minute
	Drain     time.Duration      // after the last arrival at most; 0 means a minute
	Rate      float64            // factor of how many people are there and how often anything happens; 0 means 1
	Instances int                // at most; 0 means 300
	Cores     int                // of this machine, for the job processes; 0 means that they share all with everything else
	Machine   int                // cores of this machine
	Sidekiq   []simulate.Process // stock Sidekiq's processes; nil means those of the scenario's first host
	Budget    int                // database connections; 0 means the scenario's
}

// Small returns the scenario in its small form, on one host: this machine. What is simulated and what is run of it is the same world. Times of
// events, incidents and curves are squeezed into Length; an incident lasts as long as it does, but at most a sixth of the run. Rates a second
// stay what they are, times Rate. The error lists every problem.
func Small(s *scenario.Scenario, f Form) (*scenario.Scenario, error) {
	setDefault(&f.Length, DefaultLength)
	setDefault(&f.Drain, DefaultDrain)
	setDefault(&f.Rate, 1)
	setDefault(&f.Instances, DefaultInstances)
	setDefault(&f.Machine, 1)
	var problems []error
	complain := func(ok bool, format string, args ...any) {
		if !ok {
			problems = append(problems, fmt.Errorf(format, args...))
		}
	}
	complain(f.Length >= 5*time.Second && f.Length <= MaxLength, "a length of %v; 5s to %v is possible", f.Length, MaxLength)
	complain(f.Drain >= time.Second && f.Drain <= MaxDrain, "%v to drain; 1s to %v is possible", f.Drain, MaxDrain)
	complain(f.Rate > 0 && f.Rate <= maxRate, "a rate of %v; up to %d is possible", f.Rate, maxRate)
	complain(f.Instances >= 1 && f.Instances <= maxInstances, "%d instances; 1 to %d are possible", f.Instances, maxInstances)
	complain(f.Cores >= 0 && f.Cores < max(2, f.Machine), "%d cores of %d for the job processes; one has to be left for everything else", f.Cores, f.Machine)
	complain(len(s.Hardware) > 0 && len(s.Hardware[0].Hosts) > 0, "the scenario has no hardware")
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	by := float64(f.Length) / float64(s.Length)
	small := *s
	small.Length, small.Drain = f.Length, f.Drain
	w := &small.World
	w.Server.Active = max(1, int(float64(w.Server.Active)*f.Rate))
	w.Server.Users = max(w.Server.Active, int(float64(w.Server.Users)*f.Rate))
	w.Fedi.Instances = min(w.Fedi.Instances, f.Instances)
	w.Traffic.SignUps *= f.Rate
	w.Traffic.Load, w.Traffic.Outside, w.Traffic.Arrivals = squeezed(w.Traffic.Load, by), squeezed(w.Traffic.Outside, by), squeezed(w.Traffic.Arrivals, by)
	w.Events = slices.Clone(w.Events)
	for i := range w.Events {
		e := &w.Events[i]
		e.At, e.For, e.HalfLife = scale(e.At, by), scale(e.For, by), scale(e.HalfLife, by)
		e.Rate *= f.Rate
		if e.Kind == world.DeleteFlood {
			e.Count = max(1, int(float64(e.Count)*f.Rate*by))
		}
	}
	small.Incidents = slices.Clone(s.Incidents)
	for i := range small.Incidents {
		in := &small.Incidents[i]
		in.At = scale(in.At, by)
		in.For = max(scale(in.For, by), min(in.For, f.Length/6))
	}
	small.Hardware = []simulate.Stage{hardware(s.Hardware[0], f)}
	return &small, nil
}

// hardware is this machine.
func hardware(from simulate.Stage, f Form) simulate.Stage {
	host := simulate.Host{Cores: f.Cores, Speed: 1, Sidekiq: f.Sidekiq}
	database := from.Database
	database.Cores = max(1, f.Machine-f.Cores)
	if f.Cores == 0 { // all share everything
		host.Cores = f.Machine
	}
	if host.Sidekiq == nil {
		host.Sidekiq = from.Hosts[0].Sidekiq
	}
	if f.Budget > 0 {
		database.Connections = f.Budget
	}
	return simulate.Stage{Hosts: []simulate.Host{host}, Database: database}
}

func squeezed(c world.Curve, by float64) world.Curve {
	out := slices.Clone(c)
	for i := range out {
		out[i].At = scale(out[i].At, by)
	}
	return out
}

func scale(d time.Duration, by float64) time.Duration { return time.Duration(float64(d) * by) }

func setDefault[T comparable](value *T, def T) {
	var zero T
	if *value == zero {
		*value = def
	}
}
