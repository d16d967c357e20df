// Package worker runs jobs: it fetches them from Sidekiq's queues, lets them wait for what limits them, runs the native ones on a pool
// and writes their outcomes back.
//
//	queues ─► fetcher ─► lane ─► processors (pond) ─► completer ─► Redis
//	             ▲         ▲                              │
//	             └─ room ──┴────────── slots ─────────────┘
//
// Run starts one goroutine each for the lease keeper, the completer, the heartbeat, the poller, the adopter, the sweeper and the fetcher,
// one for each owned queue, and as many processors as run jobs. All of them have ended when Run returns.
//
// It stops from the front to the back: the fetcher first, then the lane gives back what has not started, running jobs get the stop
// timeout, then their context ends and they are given back too; the completer ends when everything is settled, then the lease is given
// up with whatever could not be settled.
//
// The package does not know what a job does: see Handler and Gate.
package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/queueville/queueville/queues"
	"github.com/queueville/queueville/scheduler"
)

// ErrStopping is the cause of a handler's context when the stop timeout has passed.
var ErrStopping = errors.New("worker is stopping")

// Config is what a Worker is made of. Zero values mean the stated defaults.
type Config struct {
	Store    *queues.Store      // Sidekiq's Redis. Required
	Process  queues.ProcessInfo // what Sidekiq shows of this process. Required: Identity
	Holder   queues.Holder      // what others need to know to adopt its jobs. Required: Identity
	Handlers []Handler          // at least one
	Gate     Gate               // nil admits everything

	Owned     []scheduler.Queue // queues that only this fleet fetches from
	Policy    scheduler.Policy  // which of them is next; default: weighted with weights, else strict, as Sidekiq
	Goals     scheduler.Goals   // for the policy of goals
	Watch     bool              // look at the owned queues four times a second, for Demand, whatever the policy
	ForeignTo string            // where jobs of foreign classes from owned queues go; required with Owned unless every class is native or Foreign is given
	Foreign   Foreign           // runs the jobs of foreign classes; nil: they are forwarded
	Shared    []string          // queues that Ruby serves too
	Share     int               // of 10,000 jobs on shared queues, how many to take; 0 means all
	OnlyHosts []string          // take only jobs for these destinations from shared queues; nil means all
	MaxRate   float64           // jobs fetched per second at most; 0 means no limit

	Concurrency int // jobs running at once at most; default 512
	Window      int // jobs in hand at most; default twice the concurrency, but no more than the greater of 1024 and 128 above it, at least 200
	PerDest     int // jobs waiting for one destination at most, more for one that is quick (scheduler.LineRoom); default an eighth of the window, at least 32

	RetryShare float64 // of starts and slots that retries may take while first tries want them; default 0.2, 1 and more: no bound

	WindowJobs  int // how deep a look at a shared queue goes, in jobs; default queues.WindowJobs
	WindowBytes int // the same over all shared queues, in bytes; default queues.WindowBytes

	LeaseTTL    time.Duration // default 30 s
	RenewEvery  time.Duration // default 5 s
	BeatEvery   time.Duration // default 10 s
	AdoptEvery  time.Duration // default 10 s
	MaxWait     time.Duration // a job that has not started for so long is deferred; default 30 s
	StopTimeout time.Duration // running jobs get this long at a stop; default 25 s
	PollAverage time.Duration // between two polls of the sets; default processes × 5 s
	PollFirst   time.Duration // before the first poll; default 10 s + up to 5 s

	MaxRetries   int  // for jobs that name no number; default 25
	Jitter7      bool // Sidekiq ≤ 7.3's retry jitter
	Milliseconds bool // write integer milliseconds, for fleets of Sidekiq 8 only
	MirrorBusy   bool // write the busy list for readers ≤ 6.4.1 too
	Metrics7     bool // write Sidekiq 7's execution metrics
	Metrics8     bool // write Sidekiq 8's execution metrics

	Logger   *slog.Logger
	Observer Observer
	Ready    func()              // called once the worker is registered and fetching
	Beating  func()              // called after each successful heartbeat, for a watchdog
	Arrived  func(class string)  // told of each job that was fetched and can be read; must be quick; may be nil
	Publish  func(Load) []byte   // what status shows beyond Sidekiq's hash; nil publishes nothing
	Signal   func(signal string) // told of signals from Sidekiq::Web other than TSTP and TERM; may be nil
}

// withDefaults fills in what was left out and reports every problem at once.
func (c Config) withDefaults() (Config, error) {
	var problems []error
	need := func(ok bool, what string) {
		if !ok {
			problems = append(problems, errors.New("worker: "+what))
		}
	}
	need(c.Store != nil, "no store")
	need(c.Process.Identity != "" && c.Process.Identity == c.Holder.Identity, "process and holder need the same identity")
	need(len(c.Handlers) > 0, "no handler")
	need(len(c.Owned)+len(c.Shared) > 0, "no queue to serve")
	for _, q := range c.Owned {
		need(!slices.Contains(c.Shared, q.Name), fmt.Sprintf("queue %q cannot be owned and shared", q.Name))
		need(q.Name != c.ForeignTo, "foreign jobs cannot go to an owned queue")
	}
	need(c.Share >= 0 && c.Share <= 10_000, "share must be between 0 and 10,000")
	need(c.MaxRate >= 0, "rate must not be negative")
	need(c.RetryShare >= 0, "the retries' share must not be negative")
	if c.Policy == scheduler.PolicyGoals {
		if err := c.Goals.Validate(); err != nil {
			problems = append(problems, fmt.Errorf("worker: %w", err))
		}
		for _, q := range c.Owned {
			side, ok := c.Goals.ParseSide(q.Name)
			need(!ok || !slices.ContainsFunc(c.Owned, func(o scheduler.Queue) bool { return o.Name == side.Queue }), fmt.Sprintf("queue %q is a side list of %q", q.Name, side.Queue))
		}
		var names []string
		for _, q := range c.Owned {
			names = append(names, q.Name)
		}
		c.Holder.Sides = strings.Join(names, " ")
	}

	setDefault(&c.Gate, Gate(openGate{}))
	setDefault(&c.Share, 10_000)
	setDefault(&c.Concurrency, 512)
	setDefault(&c.Window, max(200, min(2*c.Concurrency, max(1024, c.Concurrency+128))))
	setDefault(&c.PerDest, max(32, c.Window/8))
	setDefault(&c.RetryShare, scheduler.DefaultRetryShare)
	setDefault(&c.WindowJobs, queues.WindowJobs)
	setDefault(&c.WindowBytes, queues.WindowBytes)
	setDefault(&c.LeaseTTL, 30*time.Second)
	setDefault(&c.RenewEvery, 5*time.Second)
	setDefault(&c.BeatEvery, 10*time.Second)
	setDefault(&c.AdoptEvery, 10*time.Second)
	setDefault(&c.MaxWait, 30*time.Second)
	setDefault(&c.StopTimeout, 25*time.Second)
	setDefault(&c.PollFirst, 10*time.Second+rand.N(5*time.Second))
	setDefault(&c.Logger, slog.New(slog.DiscardHandler))
	setDefault(&c.Observer, Observer(NopObserver{}))
	need(c.Concurrency > 0 && c.Window > 0 && c.PerDest > 0, "concurrency, window and per-destination limit must be positive")
	need(slices.Contains([]scheduler.Policy{"", scheduler.PolicyGoals, scheduler.PolicyWeighted, scheduler.PolicyStrict}, c.Policy), fmt.Sprintf("unknown policy %q", c.Policy))
	need(c.RenewEvery < c.LeaseTTL-margin(c.LeaseTTL), "the lease must be renewed well before it ends")
	return c, errors.Join(problems...)
}

// order is the order of the owned queues for one fetch, as Sidekiq chooses it.
func (c Config) order() []string {
	switch c.Policy {
	case scheduler.PolicyWeighted:
		return scheduler.Weighted(c.Owned, nil)
	case scheduler.PolicyStrict:
		names := make([]string, len(c.Owned))
		for i, q := range c.Owned {
			names[i] = q.Name
		}
		return scheduler.Strict(names)
	default:
		return scheduler.Order(c.Owned, nil)
	}
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Worker is one worker process. Make it with New, run it with Run.
type Worker struct {
	cfg       Config
	handlers  map[string]Handler
	lane      *lane
	keeper    *keeper
	fetcher   *fetcher
	completer *completer
	foreign   foreignSide
	pacer     *pacer
	picks     *picks                      // nil without goals, unless the queues are watched
	lists     map[string]*scheduler.Lists // of the owned queues of which some jobs may wait beside them; nil without goals
	counts    *counts
	observer  Observer
	log       *slog.Logger

	workCtx  context.Context //nolint:containedctx // handed to every handler; ends at the stop timeout
	endWork  context.CancelCauseFunc
	quiet    atomic.Bool
	stop     chan struct{} // closed by Stop
	stopOnce sync.Once
	endFetch context.CancelFunc
	fetchEnd context.Context //nolint:containedctx // ended by Quiet and Stop
	fetched  chan struct{}   // closed when the fetcher has ended and its last batch is dispatched: nothing comes into the lane any more
}

// New checks the configuration and makes a worker. It starts nothing.
func New(cfg Config) (*Worker, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	w := &Worker{cfg: cfg, handlers: map[string]Handler{}, pacer: newPacer(), observer: cfg.Observer, log: cfg.Logger, stop: make(chan struct{}), fetched: make(chan struct{})}
	var classes []string
	for _, h := range cfg.Handlers {
		for _, class := range h.Classes() {
			w.handlers[class] = h
			classes = append(classes, class)
		}
	}
	w.foreign = foreignSide{Foreign: cfg.Foreign, shares: map[string]mix{}}
	w.counts = newCounts(cfg.Metrics7, cfg.Metrics8)
	w.workCtx, w.endWork = context.WithCancelCause(context.Background())
	w.fetchEnd, w.endFetch = context.WithCancel(context.Background())

	w.lane = newLane(cfg.Gate, cfg.Concurrency, cfg.Window, cfg.PerDest)
	w.lane.budget = scheduler.NewRetryBudget(cfg.RetryShare)
	w.pacer.gate, _ = cfg.Gate.(Pacer)
	w.keeper = &keeper{
		store: cfg.Store, holder: cfg.Holder, ttl: cfg.LeaseTTL, every: cfg.RenewEvery, lane: w.lane,
		log: w.log, observer: w.observer, dropped: w.dropLost,
	}
	w.lane.fresh, w.lane.run, w.lane.hold = w.keeper.fresh, w.runItem, w.holdAll
	w.completer = &completer{
		in: make(chan settlement, 2*cfg.Window+2*foreignPile), lane: w.lane, keeper: w.keeper, observer: w.observer, log: w.log, ended: w.ended,
		linger: completeLinger,
	}
	w.fetcher = &fetcher{
		store: cfg.Store, keeper: w.keeper, lane: w.lane, order: cfg.order, owned: len(cfg.Owned) > 0,
		book: w.book, bookNew: w.bookNew, booked: make(chan []*item, 1), observer: w.observer, log: w.log, wake: make(chan struct{}, 1),
		look: queues.Look{
			Queues: cfg.Shared, Classes: classes, WindowJobs: cfg.WindowJobs, WindowBytes: cfg.WindowBytes, Share: cfg.Share, Hosts: cfg.OnlyHosts,
		},
	}
	if goals := cfg.Policy == scheduler.PolicyGoals; (goals || cfg.Watch) && len(cfg.Owned) > 0 {
		w.picks = newPicks(&cfg)
		w.picks.foreign, w.picks.wake = w.foreign.known, func() { signal(w.fetcher.wake) }
		if goals {
			w.fetcher.picks = w.picks
			w.lists = listsOf(&cfg)
		}
	}
	for _, q := range cfg.Owned {
		w.fetcher.awaiters = append(w.fetcher.awaiters, &awaiter{queue: q.Name, arm: make(chan struct{}, 1)})
	}
	if cfg.Foreign != nil {
		w.lane.elsewhere = w.foreign.held
		w.fetcher.foreign = &w.foreign
		w.completer.linger = completeForeign
	}
	if cfg.MaxRate > 0 {
		w.fetcher.limiter = rate.NewLimiter(rate.Limit(cfg.MaxRate), max(1, int(cfg.MaxRate)))
	}
	return w, nil
}

// Quiet takes no new jobs from now on and gives back what has not started; running jobs go on. There is no way back.
func (w *Worker) Quiet() {
	if w.quiet.Swap(true) {
		return
	}
	w.log.Info("quiet: no new jobs")
	w.endFetch()
}

// Stop makes Run return after running jobs have ended or the stop timeout has passed.
func (w *Worker) Stop() {
	w.stopOnce.Do(func() { close(w.stop) })
}

// Load reports how full the worker is.
func (w *Worker) Load() Load { return w.lane.load() }

// Resize sets how many jobs may run at once.
func (w *Worker) Resize(concurrency int) { w.lane.resize(concurrency) }

// Run works until ctx ends or Stop is called, then stops gracefully. It returns an error only if it could not register.
func (w *Worker) Run(ctx context.Context) error {
	if err := w.keeper.register(ctx); err != nil {
		return err
	}

	// Four generations of goroutines, ended one after the other: fetching, completing, background, and the lease that all of them need.
	leaseCtx, endLease := context.WithCancel(context.WithoutCancel(ctx))
	completeCtx, endComplete := context.WithCancel(leaseCtx)
	backCtx, endBack := context.WithCancel(leaseCtx)
	defer endLease()
	defer endComplete()
	defer endBack()

	var lease, completing, background, fetching errgroup.Group
	lease.Go(func() error { return w.keeper.Run(leaseCtx) })
	w.adoptFirst(ctx)
	settled := make(chan struct{})
	completing.Go(func() error { return w.completer.Run(completeCtx, settled) })
	background.Go(func() error { return w.beat(backCtx) })
	background.Go(func() error { return w.adopt(backCtx) })
	background.Go(func() error { return w.sweep(backCtx) })
	background.Go(func() error { return w.unbatch(backCtx) })
	foreignCtx, endForeign := context.WithCancel(leaseCtx)
	defer endForeign()
	foreign := make(chan struct{})
	go func() {
		defer close(foreign)
		if w.foreign.Foreign != nil {
			_ = w.runForeign(foreignCtx)
		}
	}()
	fetching.Go(func() error { return w.poll(w.fetchEnd) })
	fetching.Go(func() error { return w.fetcher.Run(w.fetchEnd, leaseCtx) })
	if w.picks != nil {
		fetching.Go(func() error { return w.picks.Run(w.fetchEnd) })
	}
	fetching.Go(func() error {
		defer close(w.fetched)
		w.fetcher.pass(w.dispatch)
		return nil
	})
	for _, a := range w.fetcher.awaiters {
		fetching.Go(func() error { return w.fetcher.await(w.fetchEnd, a) })
	}
	if w.cfg.Ready != nil {
		w.cfg.Ready()
	}

	w.waitForStop(ctx)
	w.Quiet()
	endForeign()
	w.finish(leaseCtx)
	w.await(leaseCtx, foreign)

	close(settled)
	stuck := time.AfterFunc(completeTimeout, endComplete) // Redis is away: what is not written stays in flight, to be adopted
	_ = completing.Wait()
	stuck.Stop()
	endBack()
	_ = background.Wait()
	_ = fetching.Wait()
	endLease() // before the registration is given up, or the keeper would take it for lost and register again
	_ = lease.Wait()
	w.leave(context.WithoutCancel(ctx))
	return nil
}

// adoptFirst takes care of predecessors before anything is fetched, so that their jobs come first, as they did before.
func (w *Worker) adoptFirst(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, adoptTimeout)
	defer cancel()
	w.adoptNeighbours(ctx)
}

// waitForStop returns when the worker has to stop. Quiet on the way there gives back what has not started, once the last fetch is in:
// its jobs are the youngest and must not end up in front.
func (w *Worker) waitForStop(ctx context.Context) {
	quiet := w.fetchEnd.Done()
	var fetched <-chan struct{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.stop:
			return
		case <-quiet:
			quiet, fetched = nil, w.fetched
			w.lane.close()
		case <-fetched:
			fetched = nil
			w.giveBack(w.lane.takeWaiting())
			if w.foreign.Foreign != nil {
				w.foreign.Quiet()
			}
		}
	}
}

// await waits for the foreign engine's end. It has its own stop timeout, which began with the worker's.
func (w *Worker) await(ctx context.Context, foreign <-chan struct{}) {
	unwind := time.NewTimer(w.cfg.StopTimeout + foreignUnwind)
	defer unwind.Stop()
	select {
	case <-foreign:
	case <-unwind.C:
		w.log.ErrorContext(ctx, "the foreign engine did not end; its jobs are given back", slog.Int("jobs", w.foreign.held()))
	}
}

// foreignUnwind is how long processes have to be gone once they have been killed.
const foreignUnwind = 10 * time.Second

// finish lets running jobs end, at most for the stop timeout, then ends their context and gives them back.
func (w *Worker) finish(ctx context.Context) {
	w.lane.close()
	timeout := time.NewTimer(w.cfg.StopTimeout)
	defer timeout.Stop()
	select {
	case <-w.fetched:
	case <-time.After(fetchTimeout): // Redis is away: what the last fetch has brought goes back with the registration
	}
	w.giveBack(w.lane.takeWaiting())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.lane.pool.StopAndWait()
	}()
	select {
	case <-done:
		return
	case <-timeout.C:
	}
	w.log.WarnContext(ctx, "stop timeout: giving back running jobs", slog.Int("jobs", w.lane.load().Running))
	w.endWork(ErrStopping)
	unwind := time.NewTimer(unwindTimeout)
	defer unwind.Stop()
	select {
	case <-done:
	case <-unwind.C: // a handler that does not obey its context: closing the session gives its job back, and its outcome has no effect
		w.log.ErrorContext(ctx, "handlers did not end", slog.Int("jobs", w.lane.load().Running))
	}
}

// unwindTimeout is how long handlers have to return once their context has ended.
const unwindTimeout = 3 * time.Second

// leave flushes the last counters and takes the process off all lists.
func (w *Worker) leave(ctx context.Context) {
	callCtx, cancel := context.WithTimeout(ctx, completeTimeout)
	defer cancel()
	w.counts.flush(callCtx, w.cfg.Store, w.log)
	session := w.keeper.current()
	returned, err := session.Close(callCtx)
	if errors.Is(err, queues.ErrLeaseLost) { // nobody else need wait for its turn to adopt us
		returned, err = w.cfg.Store.Adopt(callCtx, session.Name(), false)
	}
	if err != nil {
		w.log.WarnContext(ctx, "registration not removed, it will expire", slog.Any("err", err))
	}
	if returned > 0 {
		w.log.InfoContext(ctx, "jobs given back at the end", slog.Int("jobs", returned))
	}
	if err == nil { // now that the registration is gone: of several that stop at once the last one finds nobody
		w.mergeSides(context.WithoutCancel(ctx), session.Name())
	}
	if err := w.cfg.Store.Leave(callCtx, w.cfg.Process.Identity); err != nil {
		w.log.WarnContext(ctx, "process list not cleaned", slog.Any("err", err))
	}
}

// ended counts a job after Redis has its outcome.
func (w *Worker) ended(s settlement) {
	w.counts.end(&s.event)
	w.observer.Ended(s.event)
	w.logEnd(w.workCtx, &s.event)
}

// dropLost counts jobs that were lost with their lease before they started, those with the foreign engine too.
func (w *Worker) dropLost(list []*item) {
	w.dropAll(append(list, w.foreign.withdraw(w.lane.ours)...))
}

// dropAll counts jobs that were lost with their lease before they started.
func (w *Worker) dropAll(list []*item) {
	for _, it := range list {
		w.ended(settlement{item: it, event: w.event(it, Dropped, "lease lost", 0)})
	}
}
