package sidecar

import (
	"time"

	"github.com/queueville/queueville/activitypub"
	"github.com/queueville/queueville/internal/status"
	"github.com/queueville/queueville/worker"
)

const (
	// boundShown is how many destinations that something holds back a worker publishes.
	boundShown = 10
	// linesLooked is how many waiting lines are looked at for how many jobs they have.
	linesLooked = 1000
)

// destinations is what status shows of the destinations, and what binds those that could have got more.
func (s *Sidecar) destinations() *status.Destinations {
	now := time.Now()
	c := s.Deliverer.Hosts().Counts(now)
	if c.Known == 0 {
		return nil
	}
	d := &status.Destinations{Known: c.Known, Down: c.Down, Holding: c.Holding, Reopening: c.Reopening, Limited: c.Limited}
	bound := s.Deliverer.Hosts().Bound(now, boundShown)
	if len(bound) == 0 {
		return d
	}
	lines := map[string]worker.DestinationLoad{}
	for _, l := range s.Worker.Destinations(linesLooked) {
		lines[l.Name] = l
	}
	for i := range bound {
		d.Bound = append(d.Bound, explainHost(&bound[i], lines[bound[i].Host], now))
	}
	return d
}

// explainHost says what binds a destination, its value, and what one more unit would give.
func explainHost(h *activitypub.HostState, l worker.DestinationLoad, now time.Time) status.Destination {
	d := status.Destination{Host: h.Host, Bound: h.Bound, InFlight: h.InFlight, Waiting: l.Waiting, Retries: l.Retries, Peak: round(h.Peak)}
	gain := func(v float64) {
		v = round(v)
		d.Gain = &v
	}
	switch h.Bound {
	case "limit":
		d.Unit, d.Value = "request at once", float64(h.Limit)
		if h.AnswerSeconds > 0 {
			gain(1 / h.AnswerSeconds)
		}
	case "reopening":
		d.Unit, d.Value = "request a second", round(h.Rate)
		gain(1)
	default:
		d.Unit, d.Value = "second", round(max(0, h.HeldUntil.Sub(now).Seconds()))
		d.LastError = h.LastError.String()
	}
	return d
}

// retries is what status shows of the budget of retries.
func (s *Sidecar) retries() *status.Retries {
	r := s.Worker.Retries()
	if r.Share >= 1 {
		return nil
	}
	return &status.Retries{Share: r.Share, Used: round(r.Used), Running: r.Running, Waiting: r.Waiting, Slots: r.Slots, Scarce: r.Scarce}
}
