package sidecar

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/queueville/queueville/activitypub"
	"github.com/queueville/queueville/internal/deliveryjobs"
	"github.com/queueville/queueville/internal/governor"
	"github.com/queueville/queueville/internal/mastodonenv"
	"github.com/queueville/queueville/internal/status"
	"github.com/queueville/queueville/internal/workmetrics"
	"github.com/queueville/queueville/queues"
	"github.com/queueville/queueville/scheduler"
	"github.com/queueville/queueville/worker"
	"github.com/queueville/queueville/worker/ruby"
)

// assumedVersion is taken for Mastodon's when nothing tells it. Its header order and second knock are understood by every version.
const assumedVersion = "4.7.0"

// Env is what a Sidecar is given besides Options.
type Env struct {
	Environ []string // of the process, NAME=value
	Version string   // of Queueville
	Log     *slog.Logger

	// For synthetic worlds only: nil means the system's.
	Resolver *net.Resolver
	RootCAs  *x509.CertPool
	// AnyForeign accepts owned queues without --foreign-to, where the caller knows that they hold native jobs only.
	AnyForeign bool
	// Observe is told every delivery that was tried; may be nil.
	Observe func(class string, r activitypub.Result)
	// Ended is told every job that left the worker; may be nil.
	Ended func(worker.End)
	// Ready and Beating are called when fetching begins and after every heartbeat; may be nil.
	Ready, Beating func()
	// LeaseTTL and LoginTimeout of the database connections' lease, for tests; 0 for the defaults.
	LeaseTTL, LoginTimeout time.Duration
	// AdoptEvery and others of the worker's times can be shortened by tests through Tune; may be nil.
	Tune func(*worker.Config)
}

// Sidecar is one worker with everything it stands on.
type Sidecar struct {
	Worker    *worker.Worker
	Deliverer *activitypub.Deliverer
	Store     *queues.Store
	Signer    string // name of the signer in use, for people

	opts     *Options
	plan     plan
	env      Env
	config   *mastodonenv.Config
	servers  *servers
	metrics  *workmetrics.Metrics
	health   *workmetrics.Health
	server   *workmetrics.Server
	shadow   *worker.Shadow
	governor *governor.Governor // nil with fixed limits
	journal  *governor.Journal
	costs    *scheduler.Costs // of all classes, for people
	command  ruby.Command     // with --full
	ruby     *engine          // nil without
}

// New reads and checks everything and connects to every server. All problems come back at once, warnings too; with one of severity error
// the Sidecar is nil.
func New(ctx context.Context, opts *Options, env Env) (*Sidecar, []mastodonenv.Problem) {
	p, problems := opts.read()
	cfg, more := opts.readMastodon(env.Environ)
	problems = append(problems, more...)
	if env.AnyForeign {
		problems = slices.DeleteFunc(problems, func(p mastodonenv.Problem) bool { return p.Name == "--own" && opts.ForeignTo == "" })
	}
	var command ruby.Command
	if opts.Full && opts.Mastodon != "" {
		readyFile := ""
		if cfg != nil {
			readyFile = cfg.ReadyFilename
		}
		command, more = opts.rubyCommand(env.Environ, readyFile)
		problems = append(problems, more...)
	}
	if cfg == nil {
		return nil, problems
	}
	// Whatever is wrong so far, the servers are asked too: a person wants to hear of everything at once.
	srv, more := openServers(cfg, len(p.owned))
	problems = append(problems, more...)
	problems = append(problems, srv.probe(ctx, cfg, opts, &env, problems)...)
	if srv.sidekiq == nil {
		srv.close()
		return nil, problems
	}
	s := &Sidecar{opts: opts, plan: p, env: env, config: cfg, servers: srv, command: command, Store: queues.NewStore(srv.sidekiq, cfg.Namespace), costs: scheduler.NewCosts(scheduler.CostsConfig{})}
	if mastodonenv.Errors(problems) == nil {
		problems = append(problems, s.checkForeign(ctx)...)
		if opts.Full {
			problems = append(problems, s.checkBeside(ctx)...)
		}
	}
	if mastodonenv.Errors(problems) != nil {
		srv.close()
		return nil, problems
	}
	if err := s.assemble(ctx); err != nil {
		srv.close()
		return nil, append(problems, problemf("", "", "%v", err))
	}
	return s, problems
}

// checkForeign makes sure that what is moved to --foreign-to is served there.
func (s *Sidecar) checkForeign(ctx context.Context) []mastodonenv.Problem {
	if s.opts.ForeignTo == "" {
		return nil
	}
	callCtx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	st, err := status.Read(callCtx, s.Store)
	if err != nil {
		return []mastodonenv.Problem{problemf("--foreign-to", "", "cannot look who serves it: %v", err)}
	}
	var problems []mastodonenv.Problem
	served := false
	for i := range st.Processes {
		p := &st.Processes[i]
		if p.Worker != nil || p.BeatAge > 60 {
			continue
		}
		served = served || slices.Contains(p.Queues, s.opts.ForeignTo) && !p.Quiet
		for _, q := range s.plan.owned {
			if slices.Contains(p.Queues, q) {
				problems = append(problems, mastodonenv.Problem{
					Severity: mastodonenv.SeverityWarning, Name: "--own", What: fmt.Sprintf("the Ruby process %s serves %s too, so the queue is not owned", p.Identity, q),
					Hint: fmt.Sprintf("start it with -q %s instead of -q %s", s.opts.ForeignTo, q),
				})
			}
		}
	}
	if !served {
		problems = append(problems, problemf("--foreign-to", fmt.Sprintf("start a Sidekiq process with -q %s first", s.opts.ForeignTo),
			"no live Ruby process serves %s, so jobs that only Ruby can run would be left to nobody", s.opts.ForeignTo))
	}
	return problems
}

// assemble makes the parts.
func (s *Sidecar) assemble(ctx context.Context) error {
	if err := s.makeDeliverer(); err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	identity := queues.NewIdentity(host, os.Getpid())
	observer := &observer{Observer: worker.NopObserver{}, ended: s.env.Ended, costs: s.costs}
	s.health = workmetrics.NewHealth(45 * time.Second)
	if s.opts.Metrics != "" && !s.opts.Check { // a check does not listen: the worker that runs already may
		cfg := workmetrics.Config{
			Prefix: s.opts.MetricsPrefix, Store: s.Store, Hosts: s.Deliverer.Hosts(), Outage: s.Deliverer.LocalOutage, Signer: s.Signer, Version: s.env.Version,
			Stated: s.opts.Stated, Load: func() worker.Load { return s.Worker.Load() }, Retries: func() worker.RetryLoad { return s.Worker.Retries() },
		}
		if s.servers.db.manager != nil {
			cfg.Database, cfg.LeaseEvents = s.servers.db.manager.Stats, s.servers.db.events
		}
		if s.opts.Limits == limitsAdaptive {
			cfg.Limits = s.decisions
		}
		cfg.Costs = func() []scheduler.Cost { return s.costs.Snapshot(time.Now()) }
		if s.opts.Full {
			cfg.Ruby = func() (ruby.Load, []ruby.Process) { return s.ruby.look() }
		}
		s.metrics = workmetrics.New(cfg)
		observer.Observer = s.metrics
		if s.server, err = workmetrics.Listen(ctx, s.opts.Metrics, s.opts.MetricsPublic, s.metrics, s.health); err != nil {
			return err
		}
	}
	cfg := s.workerConfig(identity, host)
	cfg.Observer = observer
	cfg.Arrived = func(class string) { s.costs.Arrived(time.Now(), class, 1) }
	if s.opts.Shadow {
		s.shadow = worker.NewShadow(worker.ShadowConfig{
			Store: s.Store, Queues: slices.Concat(s.plan.owned, s.plan.shared), Classes: []string{deliveryjobs.Class, deliveryjobs.ClassLow},
			Share: s.plan.share, Hosts: s.plan.onlyHosts, Log: s.env.Log,
			Try: func(ctx context.Context, job *queues.Job) (string, error) {
				return deliveryjobs.Rehearse(ctx, s.Deliverer, job)
			},
		})
	}
	if s.opts.Full {
		rubyObserver := ruby.Observer(ruby.NoObserver{})
		if s.metrics != nil {
			rubyObserver = s.metrics.Ruby()
		}
		if s.ruby, err = s.makeRuby(identity, rubyObserver); err != nil {
			return err
		}
		cfg.Foreign = s.ruby
	}
	if s.env.Tune != nil {
		s.env.Tune(&cfg)
	}
	if s.Worker, err = worker.New(cfg); err != nil {
		return err
	}
	return s.makeGovernor(identity)
}

func (s *Sidecar) makeDeliverer() error {
	cfg := s.config
	signer, name := activitypub.NewSigner()
	s.Signer = name
	prefix, cachePrefix := "", "cache:"
	if cfg.Namespace != "" {
		prefix, cachePrefix = cfg.Namespace+":", cfg.Namespace+"_cache:"
	}
	var resolver activitypub.Resolver
	switch {
	case s.env.Resolver != nil:
		resolver = s.env.Resolver
	case s.opts.Resolver != "":
		resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, s.opts.Resolver)
		}}
	}
	d, err := activitypub.New(activitypub.Config{
		Version: s.mastodonVersion(), LocalDomain: cfg.LocalDomain, WebDomain: cfg.WebDomain,
		DB: s.servers.db.pool, BaseRedis: s.servers.base, BasePrefix: prefix, CacheRedis: s.servers.cache, CachePrefix: cachePrefix,
		AllowedPrivate: cfg.AllowedPrivateAddresses, HTTPProxy: cfg.HTTPProxy, HiddenProxy: cfg.HTTPHiddenProxy, AllowHidden: cfg.AllowHiddenServices,
		DisableFollowersSync: cfg.DisableFollowersSynchronization,
		EncryptionPrimaryKey: string(cfg.Encryption.PrimaryKey), EncryptionKeyDerivationSalt: string(cfg.Encryption.KeyDerivationSalt),
		RootCAs: s.env.RootCAs, Resolver: resolver, MaxIdleConns: cfg.MaxRequestPoolSize, Signer: signer, Logger: s.env.Log, HostLimit: s.opts.PerHost,
		DryRun: s.opts.Shadow,
	})
	s.Deliverer = d
	return err
}

func (s *Sidecar) mastodonVersion() string {
	return cmp.Or(s.opts.Version, s.config.Version.String(), assumedVersion)
}

func (s *Sidecar) workerConfig(identity, host string) worker.Config {
	owned := make([]scheduler.Queue, len(s.plan.owned))
	mode, weights := "strict", make(map[string]int, len(owned))
	for i, name := range s.plan.owned {
		owned[i] = scheduler.Queue{Name: name, Weight: s.plan.weights[name]}
		weights[name] = s.plan.weights[name]
		if weights[name] > 0 {
			mode = "weighted"
		}
	}
	observe := func(class string, r activitypub.Result) {
		if s.metrics != nil {
			s.metrics.Delivered(class, r)
		}
		if s.env.Observe != nil {
			s.env.Observe(class, r)
		}
	}
	return worker.Config{
		Store: s.Store,
		Process: queues.ProcessInfo{
			Identity: identity, Hostname: host, PID: os.Getpid(), StartedAt: time.Now(), Tag: s.opts.hostTag(), Concurrency: s.opts.Stated,
			Queues: s.plan.owned, Weights: weights, Mode: mode, Labels: []string{"queueville"}, Version: "queueville " + s.env.Version,
		},
		Holder:   worker.ThisProcess(identity, host),
		Handlers: []worker.Handler{deliveryjobs.NewHandler(s.Deliverer, observe)},
		Gate:     deliveryjobs.NewGate(s.Deliverer.Hosts()),
		Owned:    owned, Policy: scheduler.Policy(s.opts.Policy), Goals: s.plan.goals, Watch: s.opts.Limits == limitsAdaptive, ForeignTo: s.opts.ForeignTo, Shared: s.plan.shared, Share: s.plan.share, OnlyHosts: s.plan.onlyHosts, MaxRate: s.opts.MaxRate,
		Concurrency: s.opts.Concurrency, RetryShare: s.opts.RetryShare / 100, StopTimeout: s.opts.StopTimeout, PollAverage: s.opts.PollAverage,
		MirrorBusy: s.opts.BusyMirror, Metrics7: true, Metrics8: true,
		Jitter7: s.config.Version.Known() && !s.config.Version.AtLeast(4, 5),
		Logger:  s.env.Log,
		Ready:   s.ready,
		Beating: func() {
			s.health.Beat()
			if s.env.Beating != nil {
				s.env.Beating()
			}
		},
		Publish: s.publish,
	}
}

// observer joins the metrics, if any, to whoever else listens.
type observer struct {
	worker.Observer
	ended func(worker.End) // may be nil
	costs *scheduler.Costs
}

// Ended implements worker.Observer.
func (o *observer) Ended(e worker.End) {
	o.Observer.Ended(e)
	noteCost(o.costs, &e)
	if o.ended != nil {
		o.ended(e)
	}
}

func (s *Sidecar) ready() {
	s.health.SetReady(true)
	if name := s.config.ReadyFilename; name != "" && s.opts.Mastodon != "" {
		s.touch(filepath.Join(s.opts.Mastodon, "tmp", name))
	}
	if s.env.Ready != nil {
		s.env.Ready()
	}
}

// touch makes the file by which container platforms know that a Sidekiq process is ready, as Mastodon does.
func (s *Sidecar) touch(path string) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		s.env.Log.Warn("readiness file not written", slog.Any("err", err))
		return
	}
	_ = f.Close()
}

// publish is what `status` shows of this worker.
func (s *Sidecar) publish(load worker.Load) []byte {
	w := status.Worker{
		Owned: s.plan.owned, Shared: s.plan.shared, ForeignTo: s.opts.ForeignTo, Share: s.plan.share,
		InHand: load.InHand, Waiting: load.Waiting, Running: load.Running, Concurrency: load.Concurrency,
		Signer: s.Signer, HostsDown: s.Deliverer.Hosts().Counts(time.Now()).Down, Ruby: s.rubyState(), Destinations: s.destinations(), Retries: s.retries(),
		Database: s.servers.db.state(s.opts.RubyThreads), Limits: s.limits(), Costs: s.classCosts(time.Now()), Sides: s.sides(),
	}
	if us, since, why := s.Deliverer.LocalOutage(); us {
		w.Outage = fmt.Sprintf("%s since %s", why, since.UTC().Format(time.TimeOnly))
	}
	data, err := json.Marshal(w)
	if err != nil {
		return nil // a struct of strings and numbers
	}
	return data
}

// Close ends a Sidecar that was never run.
func (s *Sidecar) Close() { s.servers.close() }

// MetricsAddr is where the metrics are served; "" for nowhere.
func (s *Sidecar) MetricsAddr() string {
	if s.server == nil {
		return ""
	}
	return s.server.Addr()
}

// Describe says in a few words what will be done, for the first line of the log.
func (s *Sidecar) Describe() string {
	var parts []string
	if s.opts.Full {
		parts = append(parts, "runs everything, with Ruby processes")
	}
	if len(s.plan.owned) > 0 {
		parts = append(parts, "owns "+strings.Join(s.plan.owned, ", "))
	}
	if len(s.plan.shared) > 0 {
		parts = append(parts, "shares "+strings.Join(s.plan.shared, ", "))
	}
	return strings.Join(parts, "; ")
}

// Run works until ctx ends or the worker is told to stop, then ends everything in order and closes all connections.
func (s *Sidecar) Run(ctx context.Context) error {
	defer s.servers.close()
	// What the worker stands on outlives it: deliveries that end during a stop are still tracked and counted.
	backCtx, endBack := context.WithCancel(context.WithoutCancel(ctx))
	defer endBack()
	var back errgroup.Group
	back.Go(func() error { return s.Deliverer.Run(backCtx) })
	if s.server != nil {
		back.Go(func() error { return s.server.Run(backCtx) })
	}
	var err error
	if s.shadow != nil {
		s.ready()
		back.Go(func() error { return s.beatShadow(backCtx) })
		err = s.shadow.Run(ctx)
	} else {
		if s.governor != nil {
			back.Go(func() error { return s.governor.Run(backCtx) })
			back.Go(func() error { return s.journal.Run(backCtx) })
		}
		err = s.Worker.Run(ctx)
	}
	s.health.SetReady(false)
	if name := s.config.ReadyFilename; name != "" && s.opts.Mastodon != "" {
		_ = os.Remove(filepath.Join(s.opts.Mastodon, "tmp", name))
	}
	endBack()
	return errors.Join(err, back.Wait())
}

// beatShadow shows that a shadow, which has no heartbeat because it writes nothing, is alive and reaches Redis.
func (s *Sidecar) beatShadow(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		callCtx, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, err := s.Store.ProcessCount(callCtx)
		cancel()
		if err == nil {
			s.health.Beat()
			if s.env.Beating != nil {
				s.env.Beating()
			}
		} else if ctx.Err() == nil {
			s.env.Log.WarnContext(ctx, "Redis does not answer", slog.Any("err", err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Shadow is the report of a shadow run; nil without --shadow.
func (s *Sidecar) Shadow() *worker.Shadow { return s.shadow }
