package worker

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/queueville/queueville/queues"
	"github.com/queueville/queueville/scheduler"
)

// Which jobs of a queue wait beside it is decided when they are fetched, for only then is it seen what they are (ADR 14). One that has more time
// than others that still wait goes into a list beside its queue, by one script together with leaving the in-flight hash, as a foreign job does
// that is forwarded. That list is a queue of Sidekiq's like any other, except that its jobs belong to the queue it is beside: they are counted,
// retried and run as that queue's.

const (
	searchEvery = 2 * time.Second  // for side lists of other workers' rules
	mostSides   = 128              // that are served at most
	mergeFor    = 10 * time.Second // to give side lists back; what is left then is the next one's
)

// home is the queue whose jobs are in a list.
func (p *picks) home(list string) string {
	if p == nil || !p.sides {
		return list
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if queue, ok := p.homes[list]; ok {
		return queue
	}
	return list
}

// homesOf is home for many.
func (p *picks) homesOf(lists []string) []string {
	if p == nil || !p.sides {
		return lists
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	out := slices.Clone(lists)
	for i, list := range out {
		if queue, ok := p.homes[list]; ok {
			out[i] = queue
		}
	}
	return out
}

// ready tells whether a list is beside a queue, has jobs and is not stopped: a pause of the queue is one of its side lists. mu is held.
func (p *picks) ready(v *scheduler.QueueView) bool {
	return v.Of != "" && v.Backlog > 0 && !p.paused[v.Of]
}

// waiting adds the side lists that have jobs.
func (p *picks) waiting(lists []string) []string {
	if p == nil || !p.sides {
		return lists
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.views {
		if p.ready(&p.views[i]) {
			lists = append(lists, p.views[i].Name)
		}
	}
	return lists
}

// search finds side lists that other workers' rules have made, or former ones, now and then. Only the looking goroutine calls it.
func (p *picks) search(ctx context.Context) error {
	if !p.sides || time.Since(p.searched) < searchEvery {
		return nil
	}
	names, err := p.store.Names(ctx)
	if err != nil {
		return err
	}
	p.searched = time.Now()
	slices.Sort(names)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range names {
		side, ok := p.goals.ParseSide(name)
		if ok && len(p.homes) < mostSides && slices.Contains(p.names, side.Queue) && !slices.Contains(p.names, name) {
			p.addSide(side)
		}
	}
	return nil
}

// alone tells whether nothing more of a queue waits, as far as is known, so that what was fetched of it need not wait for anything.
func (p *picks) alone(queue string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.at.IsZero() || time.Since(p.at) > pickStale {
		return false
	}
	for i := range p.views {
		if v := &p.views[i]; (v.Name == queue || v.Of == queue) && v.Backlog > p.flows[i].fetched {
			return false
		}
	}
	return true
}

// moved tells that fetched jobs of a queue are on their way into a list beside it.
func (p *picks) moved(queue, side string, jobs int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.picker.Returned(queue, jobs, 1)
	if i := slices.IndexFunc(p.views, func(v scheduler.QueueView) bool { return v.Name == side }); i >= 0 {
		p.views[i].Backlog += jobs
		p.flows[i].fetched -= jobs // they do not come in: they were there
	}
}

// listsOf are the lists of the owned queues of which some jobs may wait beside them.
func listsOf(cfg *Config) map[string]*scheduler.Lists {
	lists := map[string]*scheduler.Lists{}
	for _, q := range cfg.Owned {
		if l := cfg.Goals.Lists(q.Name); len(l.Sides) > 0 {
			lists[q.Name] = &l
		}
	}
	return lists
}

// sort decides what becomes of fetched jobs that have more time than others of their queue.
func (w *Worker) sort(all []*item) {
	if len(w.lists) == 0 || w.quiet.Load() {
		return
	}
	alone, moved := map[string]bool{}, map[[2]string]int{}
	for _, it := range all {
		lists := w.lists[it.queue]
		if lists == nil || it.list != it.queue || it.broken != nil || it.handler == nil && w.foreign.Foreign == nil {
			continue
		}
		side, aside := lists.Side(w.cfg.Goals.Place(it.queue, className(&it.job), it.job.Args))
		if !aside {
			continue
		}
		free, known := alone[it.queue]
		if !known {
			free = w.picks.alone(it.queue)
			alone[it.queue] = free
		}
		if it.after = free; free {
			continue
		}
		it.side = side
		moved[[2]string{it.queue, side}]++
	}
	for names, n := range moved {
		w.picks.moved(names[0], names[1], n)
	}
}

// setAside puts a job into a list beside its queue, byte for byte.
func (w *Worker) setAside(it *item) {
	w.settle(settlement{item: it, op: queues.OpForward, queue: it.side, event: w.event(it, Aside, "more time", 0)})
}

// rank is 0 for what goes first, 1 for what goes behind it.
func rank(it *item) int {
	if it.after {
		return 1
	}
	return 0
}

// SideList is a list beside an owned queue as this worker last saw it.
type SideList struct {
	scheduler.Side
	Backlog int
	HeadAge time.Duration // how long its oldest job has waited
}

// SideLists are the lists beside the owned queues that this worker takes jobs from; none without goals.
func (w *Worker) SideLists() []SideList {
	if w.picks == nil || !w.picks.sides {
		return nil
	}
	w.picks.mu.Lock()
	defer w.picks.mu.Unlock()
	var list []SideList
	for i := range w.picks.views {
		if v := &w.picks.views[i]; v.Of != "" {
			list = append(list, SideList{scheduler.Side{Name: v.Name, Queue: v.Of, Goal: v.Goal, Behind: v.Behind}, max(0, v.Backlog), v.HeadAge})
		}
	}
	return list
}

// mergeSides gives what is beside the served queues back to them, unless a live worker other than except takes jobs from there.
func (w *Worker) mergeSides(ctx context.Context, except string) {
	ours := func(queue string) bool {
		return slices.Contains(w.cfg.Shared, queue) || slices.ContainsFunc(w.cfg.Owned, func(q scheduler.Queue) bool { return q.Name == queue })
	}
	callCtx, cancel := context.WithTimeout(ctx, mergeFor)
	defer cancel()
	merged, err := mergeSides(callCtx, w.cfg.Store, except, ours)
	for _, m := range merged {
		w.log.InfoContext(ctx, "gave back what waited beside a queue", slog.String("queue", m.Queue), slog.Int("jobs", m.Jobs))
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		w.observer.RedisError("merge")
		w.log.WarnContext(ctx, "what waits beside a queue was not given back", slog.Any("err", err))
	}
}

// Merged says how many jobs that had waited beside a queue went back into it.
type Merged struct {
	Queue string
	Jobs  int
}

// mergeSides gives side lists back to the queues that are wanted, except to those of which a live holder other than except serves them.
func mergeSides(ctx context.Context, store *queues.Store, except string, wanted func(queue string) bool) ([]Merged, error) {
	names, err := store.Names(ctx)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	beside := map[string][]string{}
	for _, name := range names {
		if side, ok := (scheduler.Goals{}).ParseSide(name); ok && wanted(side.Queue) {
			beside[side.Queue] = append(beside[side.Queue], name)
		}
	}
	if len(beside) == 0 {
		return nil, nil
	}
	served, err := store.SidesServed(ctx, except)
	if err != nil {
		return nil, err
	}
	var merged []Merged
	for _, queue := range slices.Sorted(maps.Keys(beside)) {
		if slices.Contains(served, queue) {
			continue
		}
		n, err := store.Merge(ctx, queue, beside[queue])
		if n > 0 {
			merged = append(merged, Merged{queue, n})
		}
		if err != nil {
			return merged, err
		}
	}
	return merged, nil
}
