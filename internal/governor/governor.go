// Package governor joins the scheduler's controller to a running worker: it reads the host and the lanes a few times a second, lets the
// controller decide, sets the limits, and tells what was decided. The decisions are scheduler's, the numbers hostload's and the lanes'.
package governor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/queueville/queueville/scheduler"
)

// Lane is an executor whose limit is decided on.
type Lane interface {
	// Sample is what the lane did since the last Sample. The first call begins the measuring.
	Sample(now time.Time) scheduler.Lane
	// Resize sets how many jobs may run at once.
	Resize(limit int)
}

// Limited is a Lane with its bounds.
type Limited struct {
	scheduler.LaneConfig
	Lane Lane
	// Complete adds what the lane does not know (CPU, Cores, Backlog, Goal, Caps); may be nil.
	Complete func(*scheduler.Lane)
}

// Config is what a Governor is made of.
type Config struct {
	Lanes   []Limited                                // at least one
	Host    func(now time.Time) scheduler.Host       // means since the last call. Required
	Every   time.Duration                            // between two decisions; default 250 ms
	Policy  scheduler.ControllerConfig               // its Lanes are set here
	Changed func(at time.Time, d scheduler.Decision) // told every change of a limit; must not block; may be nil
	Log     *slog.Logger                             // default: none
}

// Governor decides on the limits of one worker's lanes.
type Governor struct {
	cfg        Config
	controller *scheduler.Controller

	mu   sync.Mutex
	last []scheduler.Decision
}

// New checks the configuration, every problem at once. It starts nothing and sets no limit.
func New(cfg Config) (*Governor, error) {
	var problems []error
	if cfg.Host == nil {
		problems = append(problems, errors.New("no host"))
	}
	if len(cfg.Lanes) == 0 {
		problems = append(problems, errors.New("no lane"))
	}
	if cfg.Every == 0 {
		cfg.Every = 250 * time.Millisecond
	}
	if cfg.Every < 0 {
		problems = append(problems, fmt.Errorf("every %v", cfg.Every))
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.Policy.Lanes = nil
	for _, l := range cfg.Lanes {
		cfg.Policy.Lanes = append(cfg.Policy.Lanes, l.LaneConfig)
		if l.Lane == nil {
			problems = append(problems, fmt.Errorf("lane %q is none", l.Name))
		}
	}
	c, err := scheduler.NewController(cfg.Policy)
	if err = errors.Join(append(problems, err)...); err != nil {
		return nil, fmt.Errorf("governor: %w", err)
	}
	return &Governor{cfg: cfg, controller: c}, nil
}

// Run decides until ctx ends. It leaves the limits as they are then.
func (g *Governor) Run(ctx context.Context) error {
	tick := time.NewTicker(g.cfg.Every)
	defer tick.Stop()
	for {
		g.step(ctx, time.Now())
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (g *Governor) step(ctx context.Context, now time.Time) {
	host := g.cfg.Host(now)
	views := make([]scheduler.Lane, len(g.cfg.Lanes))
	for i, l := range g.cfg.Lanes {
		views[i] = l.Lane.Sample(now)
		views[i].Name = l.Name
		if l.Complete != nil {
			l.Complete(&views[i])
		}
	}
	decisions := g.controller.Step(now, host, views)
	g.mu.Lock()
	first := g.last == nil
	g.last = decisions
	g.mu.Unlock()
	for i := range decisions {
		d := &decisions[i]
		if !first && !d.Changed() {
			continue
		}
		g.cfg.Lanes[i].Lane.Resize(d.Limit)
		if d.Changed() {
			g.tell(ctx, now, d)
		}
	}
}

func (g *Governor) tell(ctx context.Context, now time.Time, d *scheduler.Decision) {
	if g.cfg.Changed != nil {
		g.cfg.Changed(now, *d)
	}
	if !g.cfg.Log.Enabled(ctx, slog.LevelDebug) {
		return
	}
	g.cfg.Log.LogAttrs(ctx, slog.LevelDebug, "limit changed", slog.String("lane", d.Lane), slog.Int("limit", d.Limit), slog.Int("was", d.Was), slog.String("why", d.Why),
		slog.String("bound", string(d.Bound)), slog.Float64("rate", d.Rate), slog.Float64("running", d.View.Running), slog.Float64("full", d.View.Full), slog.Float64("run_s", d.View.Wall),
		slog.Float64("lane_cpu", d.View.CPU), slog.Float64("busy", d.Host.Busy), slog.Float64("ours", d.Host.Ours), slog.Float64("cores", d.Host.Cores))
}

// Decisions are the last ones, one for each lane: what limits it, by how much, and what more would give. Nil before the first.
func (g *Governor) Decisions() []scheduler.Decision {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]scheduler.Decision(nil), g.last...)
}
