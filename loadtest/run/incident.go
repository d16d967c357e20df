package run

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/queueville/queueville/loadtest/simulate"
)

// act is something that is done at a time of the run.
type act struct {
	at time.Duration
	do func(context.Context) error
}

// acts are what befalls the server itself: beginning and end of each incident, in order of time.
func (s *site) acts(list []simulate.Incident, e *engine) []act {
	var acts []act
	add := func(in *simulate.Incident, begin, end func(context.Context) error) {
		acts = append(acts, act{in.At, begin}, act{in.At + in.For, end})
	}
	for i := range list {
		in := &list[i]
		switch in.Kind {
		case simulate.Outage:
			add(in, func(context.Context) error {
				s.outage.Store(true)
				e.kill()
				return nil
			}, func(context.Context) error {
				defer s.outage.Store(false)
				return e.launch()
			})
		case simulate.RedisFailover:
			if s.proxy != nil {
				add(in, func(context.Context) error {
					s.proxy.Refuse(true)
					s.proxy.Cut()
					return nil
				}, func(context.Context) error {
					s.proxy.Refuse(false)
					return nil
				})
				continue
			}
			add(in, func(context.Context) error { return s.redis.Kill() }, s.redis.Restart)
		case simulate.PostgresStall:
			add(in, func(context.Context) error {
				s.stalled.Store(true)
				return s.postgres.Pause()
			}, func(context.Context) error {
				defer s.stalled.Store(false)
				return s.postgres.Resume()
			})
		}
	}
	slices.SortStableFunc(acts, func(a, b act) int { return int(a.at - b.at) })
	return acts
}

// befall does the acts, each at its time. When ctx ends in between, what has begun is ended, so that everything can be looked at and stopped.
func (s *site) befall(ctx context.Context, acts []act) error {
	var problems []error
	for _, a := range acts {
		s.conduct.mu.Lock()
		wait := a.at - s.conduct.now()
		s.conduct.mu.Unlock()
		if err := pause(ctx, max(0, wait)); err != nil {
			break
		}
		callCtx, cancel := context.WithTimeout(ctx, bootTimeout)
		problems = append(problems, a.do(callCtx))
		cancel()
	}
	if err := errors.Join(problems...); err != nil {
		return fmt.Errorf("an incident of the scenario: %w", err)
	}
	return nil
}

// mend ends whatever incident is still going on, but for the job processes, which are about to end anyway.
func (s *site) mend(ctx context.Context) error {
	var problems []error
	if s.stalled.Swap(false) {
		problems = append(problems, s.postgres.Resume())
	}
	if s.proxy != nil {
		s.proxy.Refuse(false)
	}
	if s.redis != nil && s.redis.PID() == 0 {
		problems = append(problems, s.redis.Restart(ctx))
	}
	return errors.Join(problems...)
}

// mayLose says whether an engine promises nothing under such incidents: stock Sidekiq keeps the jobs that it runs in its memory only.
func mayLose(engine simulate.EngineName, list []simulate.Incident) bool {
	return engine == simulate.Sidekiq && slices.ContainsFunc(list, func(in simulate.Incident) bool { return in.Kind != simulate.PostgresStall })
}
