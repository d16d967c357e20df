package sidecar

import (
	"time"

	"github.com/queueville/queueville/dbpool"
	"github.com/queueville/queueville/internal/governor"
	"github.com/queueville/queueville/internal/hostload"
	"github.com/queueville/queueville/scheduler"
	"github.com/queueville/queueville/worker"
	"github.com/queueville/queueville/worker/ruby"
)

const (
	// firstDeliveries run at once before anything is known of them. They mostly wait, so more than a few processors' worth do no harm.
	firstDeliveries = 32
	// waitWeight is how much of one look counts in what waits for connections: single waits are no bottleneck.
	waitWeight = 0.1
)

// lanes completes what the lanes say of themselves with what only the whole worker knows. The governor asks from one goroutine, once a step.
type lanes struct {
	ruby    *engine // nil without --full
	sensor  *hostload.Sensor
	demand  func() (native, foreign worker.Demand, known bool)
	waiting func() int // native jobs fetched and not started
	stats   func() dbpool.Stats

	// Of this step.
	own, children            float64 // cores
	nativeDemand, rubyDemand worker.Demand
	known                    bool
	lease                    dbpool.Stats
	wanting                  float64 // connections of deliveries that are waited for, smoothed
}

func (s *Sidecar) newLanes() *lanes {
	l := &lanes{ruby: s.ruby, demand: s.Worker.Demand, waiting: func() int { return s.Worker.Load().Waiting }}
	l.sensor = hostload.New(hostload.Config{PIDs: l.pids})
	if s.servers.db.manager != nil {
		l.stats = s.servers.db.manager.Stats
	}
	return l
}

// config is the governor's.
func (l *lanes) config(s *Sidecar) governor.Config {
	cfg := governor.Config{
		Lanes: []governor.Limited{{
			LaneConfig: scheduler.LaneConfig{Name: worker.LaneNative, Max: s.opts.Concurrency, Start: min(firstDeliveries, s.opts.Concurrency)},
			Lane:       s.Worker, Complete: l.completeNative,
		}},
		Host: l.read, Policy: scheduler.ControllerConfig{TargetCPU: s.opts.CPUTarget / 100}, Changed: s.journal.Add, Log: s.env.Log,
	}
	if l.ruby != nil {
		cfg.Lanes = append(cfg.Lanes, governor.Limited{
			LaneConfig: scheduler.LaneConfig{Name: ruby.LaneRuby, Max: l.ruby.Most(), Start: l.ruby.FirstLimit()}, Lane: l.ruby, Complete: l.completeRuby,
		})
	}
	return cfg
}

// pids are the processes whose use of processors is ours too.
func (l *lanes) pids() []int {
	if l.ruby == nil {
		return nil
	}
	return l.ruby.PIDs()
}

// read begins a step.
func (l *lanes) read(now time.Time) scheduler.Host {
	h := l.sensor.Read(now)
	l.own, l.children = l.sensor.Split()
	l.nativeDemand, l.rubyDemand, l.known = l.demand()
	if l.stats != nil {
		l.lease = l.stats()
		waiting := float64(l.lease.Roles[deliveryRole].Waiting)
		l.wanting += waitWeight * (waiting - l.wanting)
	}
	return h
}

// deliveryRole is whose connections deliveries use.
const deliveryRole = "worker"

func (l *lanes) completeNative(v *scheduler.Lane) {
	v.CPU = l.own
	l.addDemand(v, &l.nativeDemand, l.waiting())
	if l.stats == nil {
		return
	}
	switch r := l.lease.Roles[deliveryRole]; {
	case l.lease.Limit == 0: // no delivery gets far without a connection
		v.Caps = append(v.Caps, scheduler.Cap{By: scheduler.ByDB, Slots: 0})
	case l.wanting >= 1 && r.InUse > 0: // more at once would only wait for one another's connections
		v.Caps = append(v.Caps, scheduler.Cap{By: scheduler.ByDB, Slots: max(v.Running, 1)})
	}
}

func (l *lanes) completeRuby(v *scheduler.Lane) {
	v.CPU = l.children
	load := l.ruby.Load()
	l.addDemand(v, &l.rubyDemand, load.Waiting)
}

// addDemand adds what waits for the lane in Redis and here.
func (l *lanes) addDemand(v *scheduler.Lane, d *worker.Demand, here int) {
	if !l.known {
		return
	}
	v.Backlog, v.Arrivals, v.Goal = d.Backlog+float64(here), d.Arrivals, d.Goal
}
