package sidecar

import (
	"math"
	"slices"
	"time"

	"github.com/queueville/queueville/internal/governor"
	"github.com/queueville/queueville/internal/hostload"
	"github.com/queueville/queueville/internal/status"
	"github.com/queueville/queueville/scheduler"
	"github.com/queueville/queueville/worker"
)

// How many jobs run at once is decided.
const (
	limitsFixed    = "fixed"
	limitsAdaptive = "adaptive"
)

// journalKey is the stream of changed limits, below Queueville's prefix.
const journalKey = "scheduler:journal"

// readScheduling checks the options of what is next and how much runs.
func (o *Options) readScheduling(bad badFunc) {
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
	sensor := hostload.New(hostload.Config{PIDs: s.rubyPIDs})
	s.journal = governor.NewJournal(s.Store.Client(), s.Store.OwnKey(journalKey), identity, s.env.Log)
	var err error
	s.governor, err = governor.New(governor.Config{
		Lanes: []governor.Limited{{
			LaneConfig: scheduler.LaneConfig{Name: worker.LaneNative, Max: s.opts.Concurrency, Start: min(firstDeliveries, s.opts.Concurrency)},
			Lane:       s.Worker,
			Complete: func(v *scheduler.Lane) {
				v.CPU, _ = sensor.Split()
			},
		}},
		Host:    func(now time.Time) scheduler.Host { return sensor.Read(now) },
		Policy:  scheduler.ControllerConfig{TargetCPU: s.opts.CPUTarget / 100},
		Changed: s.journal.Add, Log: s.env.Log,
	})
	return err
}

// firstDeliveries run at once before anything is known of them. They mostly wait, so more than a few processors' worth do no harm.
const firstDeliveries = 32

// rubyPIDs are the processes whose use of processors is ours too.
func (s *Sidecar) rubyPIDs() []int {
	if s.ruby == nil {
		return nil
	}
	var pids []int
	for _, p := range s.ruby.Processes() {
		if p.PID > 0 {
			pids = append(pids, p.PID)
		}
	}
	return pids
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
	for i, d := range decisions {
		list[i] = status.Limit{
			Lane: d.Lane, Limit: d.Limit, Running: round(d.View.Running), Rate: round(d.Rate), Bound: string(d.Bound), Value: round(d.Value), Unit: d.Unit,
		}
		if d.Gain >= 0 {
			gain := round(d.Gain)
			list[i].Gain = &gain
		}
	}
	return list
}

func round(v float64) float64 { return math.Round(v*100) / 100 }
