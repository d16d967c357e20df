package sidecar

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"sync"

	"github.com/queueville/queueville/internal/mastodonenv"
	"github.com/queueville/queueville/internal/status"
	"github.com/queueville/queueville/queues"
	"github.com/queueville/queueville/worker"
	"github.com/queueville/queueville/worker/ruby"
)

// mastodonQueues are all queues of a Mastodon with the weights of its own configuration.
var mastodonQueues = []struct {
	name   string
	weight int
}{{"default", 8}, {"push", 6}, {"ingress", 4}, {"mailers", 2}, {"pull", 1}, {"scheduler", 1}, {"fasp", 1}}

// readyVariable names the file by which container platforms know that Sidekiq has started.
const readyVariable = "MASTODON_SIDEKIQ_READY_FILENAME"

// readFull checks what --full rules out and makes it own every queue, unless some are named.
func (o *Options) readFull(p *plan, bad badFunc) {
	if !o.Full {
		for _, flag := range o.rubyOptions() {
			bad(flag, "give --full too", "there is no Ruby without --full")
		}
		return
	}
	if o.Mastodon == "" {
		bad("full", "give --mastodon DIR", "it runs the Ruby of a Mastodon, and no directory is given")
	}
	if len(o.Shared) > 0 {
		bad("shared", "leave it away", "with --full every queue is owned")
	}
	if o.ForeignTo != "" {
		bad("foreign-to", "leave it away", "with --full there are no foreign jobs: Ruby processes of this worker run them")
	}
	if o.Shadow {
		bad("shadow", "try --shadow without --full first", "a shadow runs nothing, so it needs no Ruby")
	}
	p.shared = nil
	if len(p.owned) == 0 {
		for _, q := range mastodonQueues {
			p.owned = append(p.owned, q.name)
			p.weights[q.name] = q.weight
		}
	} else if slices.Equal(p.owned, []string{status.CronQueue}) {
		bad("own", "name another queue too", "Ruby processes that serve %s alone are not run", status.CronQueue)
	}
	if o.RubyCommand != nil && (len(o.RubyCommand) == 0 || o.RubyCommand[0] == "") {
		bad("ruby-command", "give the words with commas, e.g. bundle,exec,ruby, or leave it away", "there is no command")
	}
	if o.RubyProcesses < 0 || o.RubyProcesses > 256 {
		bad("ruby-processes", "use 1 to 256, or 0 for four times as many as there are processors", "%d is out of range", o.RubyProcesses)
	}
	if o.RubyThreads < 1 || o.RubyThreads > 1000 {
		bad("ruby-threads", "use 1 to 1000", "%d is out of range", o.RubyThreads)
	}
	if o.RubyMemoryMB < 0 || o.RubyMemoryMB > 0 && o.RubyMemoryMB < 64 {
		bad("ruby-memory", "use at least 64, or 0 for no limit", "%d MiB is out of range", o.RubyMemoryMB)
	}
	if !slices.Contains([]string{"report", "kill"}, o.RubyStuck) {
		bad("ruby-stuck", "use report or kill", "%q is unknown", o.RubyStuck)
	}
}

// rubyOptions are the flags of Ruby that are not at their defaults.
func (o *Options) rubyOptions() []string {
	var list []string
	d := DefaultOptions()
	for flag, changed := range map[string]bool{
		"ruby-processes": o.RubyProcesses != d.RubyProcesses, "ruby-threads": o.RubyThreads != d.RubyThreads, "ruby-memory": o.RubyMemoryMB != d.RubyMemoryMB,
		"ruby-stuck": o.RubyStuck != d.RubyStuck, "ruby-no-preload": o.RubyNoPreload != d.RubyNoPreload, "ruby-command": o.RubyCommand != nil,
	} {
		if changed {
			list = append(list, flag)
		}
	}
	slices.Sort(list)
	return list
}

// rubyCommand finds out how Ruby is started. readyFile is Mastodon's MASTODON_SIDEKIQ_READY_FILENAME, "" for none.
func (o *Options) rubyCommand(environ []string, readyFile string) (ruby.Command, []mastodonenv.Problem) {
	environ = rubyEnviron(environ, readyFile)
	command, err := ruby.FindCommand(o.Mastodon, environ, ruby.HostFiles())
	if o.RubyCommand != nil { // what cannot be found is given
		command.Ruby, command.Dir, command.Env, err = o.RubyCommand, o.Mastodon, environ, nil
		if !slices.ContainsFunc(environ, func(e string) bool { return strings.HasPrefix(e, "RAILS_ENV=") && e != "RAILS_ENV=" }) {
			command.Env = append(command.Env, "RAILS_ENV=production")
		}
	}
	var problems []mastodonenv.Problem
	for _, e := range unjoin(err) {
		p := problemf("--full", "", "%v", e)
		if c, ok := errors.AsType[*ruby.CommandError](e); ok {
			p.Hint = c.Hint
		}
		problems = append(problems, p)
	}
	return command, problems
}

// rubyEnviron is the environment for Ruby processes. What systemd says to the worker is not for them: Sidekiq would report its own start, end
// and watchdog. Nor is the readiness file, which Mastodon removes whenever a Sidekiq process ends; they get one of another name.
func rubyEnviron(environ []string, readyFile string) []string {
	list := slices.DeleteFunc(slices.Clone(environ), func(e string) bool {
		name, _, _ := strings.Cut(e, "=")
		return slices.Contains([]string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", readyVariable}, name)
	})
	if readyFile != "" { // also against .env.production, which counts after the environment
		list = append(list, readyVariable+"="+readyFile+".ruby")
	}
	return list
}

func unjoin(err error) []error {
	if err == nil {
		return nil
	}
	if list, ok := err.(interface{ Unwrap() []error }); ok {
		return list.Unwrap()
	}
	return []error{err}
}

// checkBeside warns of Sidekiq that fetches from the same queues: expected while moving, and a mistake when it stays.
func (s *Sidecar) checkBeside(ctx context.Context) []mastodonenv.Problem {
	callCtx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	st, err := status.Read(callCtx, s.Store)
	if err != nil {
		return []mastodonenv.Problem{problemf("--full", "", "cannot look which processes there are: %v", err)}
	}
	var problems []mastodonenv.Problem
	warn := func(hint, format string, list []string) {
		if len(list) > 0 {
			problems = append(problems, mastodonenv.Problem{Severity: mastodonenv.SeverityWarning, Name: "--full", What: fmt.Sprintf(format, strings.Join(list, " ")), Hint: hint})
		}
	}
	warn("stop its units", "Sidekiq runs already and takes jobs from the same queues, without crash safety: %s", st.Beside(s.plan.owned))
	if slices.Contains(s.plan.owned, status.CronQueue) {
		warn("stop it before this starts", "Sidekiq runs the cron scheduler already, and scheduled tasks would run twice: %s", st.Beside([]string{status.CronQueue}))
	}
	return problems
}

// rubyState is what status shows of the Ruby side; nil without --full.
func (s *Sidecar) rubyState() *status.Ruby {
	if s.ruby == nil {
		return nil
	}
	load, list := s.ruby.look()
	r := &status.Ruby{
		Running: load.Running, Waiting: load.Waiting, Threads: load.Threads, Cron: load.Cron, Problem: load.Problem, Waits: load.Waits, Held: load.Held,
		Processes: make([]status.RubyProcess, len(list)),
	}
	for i, p := range list {
		r.Processes[i] = status.RubyProcess{PID: p.PID, State: p.State, Running: p.Running, PSSBytes: p.PSS, Cron: p.Cron}
	}
	return r
}

// makeRuby makes the supervisor of the Ruby processes. Its jobs come from s.Worker, which is made after it.
func (s *Sidecar) makeRuby(identity string, observer ruby.Observer) (*engine, error) {
	stuck := ruby.Report
	if s.opts.RubyStuck == "kill" {
		stuck = ruby.Kill
	}
	memory := int64(s.opts.RubyMemoryMB) << 20
	if memory == 0 {
		memory = -1
	}
	seed := fnv.New32a()
	_, _ = fmt.Fprint(seed, s.config.LocalDomain)
	var connections ruby.Connections
	if db := s.servers.db; db.manager != nil {
		connections = lender{Manager: db.manager, threads: s.opts.RubyThreads, servers: db.servers}
	}
	watch := &watchman{ask: s.servers.db.pool.Ask, failed: make(chan struct{}, 1)}
	supervisor, err := ruby.New(ruby.Config{
		Command: s.command, Queues: s.plan.owned, Threads: s.opts.RubyThreads, MaxProcs: s.opts.RubyProcesses, NoPreload: s.opts.RubyNoPreload,
		MemoryLimit: memory, StopTimeout: s.opts.StopTimeout, Stuck: ruby.StuckPolicy{Action: stuck}, DBPool: s.opts.RubyThreads, Connections: connections, Kin: s.servers.db.kin.File(),
		Poison: s.Store, Leader: s.leader(identity), CronSeed: seed.Sum32(),
		Done: func(job ruby.Job, r ruby.Result) {
			if r.Failed {
				watch.jobFailed()
			}
			s.Worker.Conclude(job.Token, worker.ForeignResult{
				Kind: kinds[r.Kind], Failed: r.Failed, Label: r.Label, Payload: r.Payload, Run: r.Run, CPU: r.CPU, DB: r.DB,
			})
		},
		RoomGrew: func() { s.Worker.RoomGrew() },
		Observer: observer, Log: s.env.Log,
	})
	if err != nil {
		return nil, fmt.Errorf("ruby: %w", err)
	}
	watch.hold = supervisor.Hold
	watch.needed = func() bool {
		load := supervisor.Load()
		return load.Running+load.Waiting > 0
	}
	return &engine{Supervisor: supervisor, watch: watch}, nil
}

// leader is who may run the cron scheduler: nobody here, if its queue is somebody else's.
func (s *Sidecar) leader(identity string) ruby.Leader {
	if !slices.Contains(s.plan.owned, status.CronQueue) {
		return nil
	}
	return queues.NewLeader(s.Store, "cron", identity)
}

var kinds = [...]worker.OutcomeKind{ruby.Acked: worker.Done, ruby.Returned: worker.Returned, ruby.Dead: worker.Failed}

// engine is the supervisor as the worker wants it.
type engine struct {
	*ruby.Supervisor

	watch *watchman
}

// look is what metrics and status show.
func (e *engine) look() (ruby.Load, []ruby.Process) { return e.Load(), e.Processes() }

// Run implements worker.Foreign.
func (e *engine) Run(ctx context.Context) error {
	watchCtx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() { e.watch.run(watchCtx) })
	err := e.Supervisor.Run(ctx)
	cancel()
	watching.Wait()
	return err
}

// Submit implements worker.Foreign.
func (e *engine) Submit(jobs []worker.ForeignJob) {
	list := make([]ruby.Job, len(jobs))
	for i, j := range jobs {
		list[i] = ruby.Job(j)
	}
	e.Supervisor.Submit(list)
}

// Withdraw implements worker.Foreign.
func (e *engine) Withdraw() []worker.ForeignJob {
	jobs := e.Supervisor.Withdraw()
	list := make([]worker.ForeignJob, len(jobs))
	for i, j := range jobs {
		list[i] = worker.ForeignJob(j)
	}
	return list
}
