package sidecar

import (
	"math"
	"slices"

	"github.com/queueville/queueville/internal/governor"
	"github.com/queueville/queueville/internal/status"
	"github.com/queueville/queueville/scheduler"
)

// How many jobs run at once is decided.
const (
	limitsFixed    = "fixed"
	limitsAdaptive = "adaptive"
)

// journalKey is the stream of changed limits, below Queueville's prefix.
const journalKey = status.JournalKey

// readScheduling checks the options of what is next and how much runs.
func (o *Options) readScheduling(p *plan, bad badFunc) {
	p.goals = o.readGoals(p, bad)
	if o.Nice < 0 || o.Nice > mostNice {
		bad("nice", "use 1 to 19, or 0 to leave it as it is", "%d is out of range", o.Nice)
	}
	if !slices.Contains([]string{limitsFixed, limitsAdaptive}, o.Limits) {
		bad("limits", "use fixed or adaptive", "%q is unknown", o.Limits)
	}
	if math.IsNaN(o.CPUTarget) || o.CPUTarget < 10 || o.CPUTarget > 100 {
		bad("cpu-target", "use a percentage between 10 and 100", "%v is out of range", o.CPUTarget)
	}
	policies := []string{"", string(scheduler.PolicyGoals), string(scheduler.PolicyWeighted), string(scheduler.PolicyStrict)}
	if !slices.Contains(policies, o.Policy) {
		bad("policy", "use goals, weighted or strict", "%q is unknown", o.Policy)
	}
}

// makeGovernor makes what finds the limits, unless they are fixed.
func (s *Sidecar) makeGovernor(identity string) error {
	if s.opts.Limits != limitsAdaptive || s.opts.Shadow {
		return nil
	}
	s.journal = governor.NewJournal(s.Store.Client(), s.Store.OwnKey(journalKey), identity, s.env.Log)
	var err error
	s.governor, err = governor.New(s.newLanes().config(s))
	return err
}

// decisions are the last ones on the lanes' limits.
func (s *Sidecar) decisions() []scheduler.Decision {
	if s.governor == nil {
		return nil
	}
	return s.governor.Decisions()
}

// limits is what status shows of the lanes' limits.
func (s *Sidecar) limits() []status.Limit {
	decisions := s.decisions()
	list := make([]status.Limit, len(decisions))
	for i := range decisions {
		d := &decisions[i]
		inputs := governor.InputsOf(d)
		inputs.Round()
		list[i] = status.Limit{
			Lane: d.Lane, Limit: d.Limit, Running: round(d.View.Running), Rate: round(d.Rate), Bound: string(d.Bound), Value: round(d.Value), Unit: d.Unit, Inputs: &inputs,
		}
		if d.Gain >= 0 {
			gain := round(d.Gain)
			list[i].Gain = &gain
		}
	}
	return list
}

// sides is what status shows of the lists beside the queues.
func (s *Sidecar) sides() []status.Side {
	lists := s.Worker.SideLists()
	out := make([]status.Side, len(lists))
	for i, l := range lists {
		out[i] = status.Side{Name: l.Name, Queue: l.Queue, GoalSeconds: l.Goal.Seconds(), Behind: l.Behind, Backlog: l.Backlog, AgeSeconds: round(l.HeadAge.Seconds())}
	}
	return out
}

func round(v float64) float64 { return math.Round(v*100) / 100 }
