package worker

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/queueville/queueville/queues"
	"github.com/queueville/queueville/scheduler"
)

const (
	pickEvery = 250 * time.Millisecond // between two looks at the owned queues: a twentieth of the shortest goal of Mastodon's queues
	pickStale = 5 * time.Second        // after so long without an answer from Redis nothing is known of the queues
)

// picks knows the owned queues and the lists beside them, and chooses their order by their goals. One goroutine looks at them, the fetcher asks.
type picks struct {
	store    *queues.Store
	names    []string // of the views; changed by the looking goroutine only
	sides    bool     // there may be lists beside the queues
	goals    scheduler.Goals
	foreign  func(list string) float64 // how much of a list's jobs is; see foreignSide.known
	wake     func()                    // something waits in a list that nobody waits for
	observer Observer
	log      *slog.Logger
	searched time.Time // when lists of other workers' rules were last looked for

	mu     sync.Mutex
	picker *scheduler.Picker
	views  []scheduler.QueueView // as at the last look
	at     time.Time             // of the last look; zero: none yet
	flows  []flow                // of the views
	paused map[string]bool       // queues, at the last look
	homes  map[string]string     // by list: the queue it is beside
}

func newPicks(cfg *Config) *picks {
	p := &picks{
		store: cfg.Store, goals: cfg.Goals, sides: cfg.Policy == scheduler.PolicyGoals, observer: cfg.Observer, log: cfg.Logger,
		foreign: func(string) float64 { return 0 }, wake: func() {}, picker: scheduler.NewPicker(scheduler.PolicyGoals, nil),
		paused: map[string]bool{}, homes: map[string]string{},
	}
	for _, q := range cfg.Owned {
		p.add(scheduler.QueueView{Name: q.Name, Backlog: scheduler.Unknown, Goal: cfg.Goals.Lists(q.Name).Goal})
	}
	if p.sides {
		for _, q := range cfg.Owned {
			for _, side := range cfg.Goals.Lists(q.Name).Sides {
				p.addSide(side)
			}
		}
	}
	return p
}

// add looks at one more list from now on.
func (p *picks) add(v scheduler.QueueView) {
	p.names = append(p.names, v.Name)
	p.views = append(p.views, v)
	p.flows = append(p.flows, flow{})
}

func (p *picks) addSide(s scheduler.Side) {
	p.homes[s.Name] = s.Queue
	p.add(scheduler.QueueView{Name: s.Name, Goal: s.Goal, Of: s.Queue, Behind: s.Behind})
}

// Run looks at the queues until ctx ends.
func (p *picks) Run(ctx context.Context) error {
	tick := time.NewTicker(pickEvery)
	defer tick.Stop()
	failed := false
	for {
		err := p.look(ctx)
		if err != nil && ctx.Err() == nil {
			p.observer.RedisError("look")
			if !failed {
				p.log.WarnContext(ctx, "queues not looked at, their order stays", slog.Any("err", err))
			}
		}
		failed = err != nil
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (p *picks) look(ctx context.Context) error {
	callCtx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	if err := p.search(callCtx); err != nil {
		return err
	}
	states, err := p.store.QueueStates(callCtx, p.names, time.Now())
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	since := now.Sub(p.at)
	if p.at.IsZero() {
		since = 0
	}
	p.at = now
	for i := range states {
		p.flows[i].look(int(states[i].Backlog)-p.views[i].Backlog, since)
		p.views[i].Backlog = int(states[i].Backlog)
		p.views[i].HeadAge = time.Duration(min(states[i].Latency, 1e9) * float64(time.Second))
		p.paused[states[i].Name] = states[i].Paused
	}
	for i := range p.views {
		if p.ready(&p.views[i]) {
			p.wake()
			break
		}
	}
	return nil
}

// order is the order of a fetch for so many jobs, with at most so many of each. A queue may come twice: first with what it may take for
// having waited too long, then in its turn. A queue that was empty at the last look is asked all the same, last: it may not be any more.
func (p *picks) order(room int) (names []string, most []int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	views := slices.Clone(p.views)
	since := time.Since(p.at)
	for i := range views {
		if p.at.IsZero() || since > pickStale {
			views[i].Backlog, views[i].HeadAge = scheduler.Unknown, 0
			if views[i].Of != "" { // nobody but workers puts something there, and they would know
				views[i].Backlog = 0
			}
			continue
		}
		views[i].HeadAge += since
		switch {
		case views[i].Of != "":
			if !p.ready(&views[i]) {
				views[i].Backlog = 0
			}
		case views[i].Backlog == 0:
			views[i].Backlog, views[i].HeadAge = scheduler.Unknown, 0
		case views[i].Backlog <= p.flows[i].fetched:
			views[i].Backlog = scheduler.Unknown
		}
		views[i].Foreign = p.foreign(views[i].Name)
	}
	for _, k := range p.picker.Pick(room, views) {
		names = append(names, k.Queue)
		most = append(most, k.Jobs)
	}
	return names, most
}

// took tells the picker what a fetch has brought.
func (p *picks) took(jobs []queues.Fetched) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := 0; i < len(jobs); {
		n := i + 1
		for n < len(jobs) && jobs[n].Ref.Queue == jobs[i].Ref.Queue {
			n++
		}
		p.picker.Took(jobs[i].Ref.Queue, n-i, 1)
		for k := range p.views {
			if p.views[k].Name == jobs[i].Ref.Queue {
				p.flows[k].fetched += n - i
			}
		}
		i = n
	}
}

// Queues is what is known of the owned queues, for whoever decides on limits: jobs that wait, and how long the oldest has. Unless they are looked
// at (see Demand) there is nothing to tell.
func (w *Worker) Queues() []scheduler.QueueView {
	if w.picks == nil {
		return nil
	}
	w.picks.mu.Lock()
	defer w.picks.mu.Unlock()
	return slices.Clone(w.picks.views[:len(w.cfg.Owned)]) // lists beside them come after
}
