package sidecar

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/queueville/queueville/internal/status"
	"github.com/queueville/queueville/scheduler"
	"github.com/queueville/queueville/worker"
)

// noteCost counts a job that was run. Of native jobs nobody measures processor and database time one by one.
func noteCost(costs *scheduler.Costs, e *worker.End) {
	if e.Run <= 0 {
		return
	}
	r := scheduler.Run{Class: e.Class, Wall: e.Run, CPU: scheduler.Unknown, DB: scheduler.Unknown, Failed: e.Failed}
	if e.Foreign {
		r.CPU, r.DB = e.CPU, e.DB
	} else {
		r.Failed = e.Result == worker.Retried || e.Result == worker.Dead || e.Result == worker.Discarded
	}
	costs.Observe(time.Now(), r)
}

// classCosts is what status shows of the classes that take most time.
func (s *Sidecar) classCosts(now time.Time) []status.Cost {
	all := slices.DeleteFunc(s.costs.Snapshot(now), func(k scheduler.Cost) bool { return k.Weight == 0 })
	slices.SortStableFunc(all, func(a, b scheduler.Cost) int {
		return cmp.Or(cmp.Compare(b.Rate*b.Wall, a.Rate*a.Wall), cmp.Compare(b.Runs, a.Runs))
	})
	list := make([]status.Cost, min(len(all), status.MaxCosts))
	for i := range list {
		k := &all[i]
		list[i] = status.Cost{
			Class: k.Class, Wall: micro(k.Wall), FailureShare: micro(k.FailureShare), Arrivals: round(k.Arrivals), Rate: round(k.Rate), Runs: k.Runs,
		}
		if k.CPUKnown {
			cpu := micro(k.CPU)
			list[i].CPU = &cpu
		}
		if k.DBKnown {
			db := micro(k.DB)
			list[i].DB = &db
		}
	}
	return list
}

// micro rounds seconds to microseconds.
func micro(v float64) float64 { return math.Round(v*1e6) / 1e6 }
