package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/queueville/queueville/loadtest/simulate"
)

const (
	bootTimeout = 90 * time.Second
	stopGrace   = 12 * time.Second
	sidekiqStop = "5" // seconds that stock Sidekiq lets jobs end in
)

// engine is the job processes of one engine at work.
type engine struct {
	name   simulate.EngineName
	site   *site
	o      *Options
	cpus   string // processors that they may use, as taskset reads it; "" for all
	use    usage
	procs  []simulate.Process // of stock Sidekiq
	cores  int                // of the job processes
	budget int                // of database connections

	mu        sync.Mutex
	processes []*process
}

// start starts all processes and waits until they take jobs. What was started stays in e, even with an error.
func (e *engine) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, bootTimeout, errors.New("not up in time"))
	defer cancel()
	if err := e.launch(); err != nil {
		return err
	}
	want, threads := 2, 20 // the worker, and one Ruby process beside it
	if e.name == simulate.Sidekiq {
		want, threads = len(e.procs), 0
		for i := range e.procs {
			threads += e.procs[i].Concurrency
		}
	}
	if err := e.up(ctx, want); err != nil {
		return err
	}
	return e.warm(ctx, min(3*threads, 600))
}

// launch starts all processes.
func (e *engine) launch() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.name == simulate.Queueville {
		p, err := spawn(e.site.guard, e.site.live, append(e.env(), "SSL_CERT_FILE="+e.site.caFile), e.cpus, e.command()...)
		if err != nil {
			return err
		}
		e.processes = append(e.processes, p)
		return nil
	}
	for i := range e.procs {
		p := &e.procs[i]
		words := []string{e.site.bundle, "exec", "sidekiq", "-c", strconv.Itoa(p.Concurrency), "-t", sidekiqStop}
		for _, q := range p.Queues {
			name := q.Name
			if q.Weight > 0 {
				name += "," + strconv.Itoa(q.Weight)
			}
			words = append(words, "-q", name)
		}
		env := e.env()
		if p.DBPool > 0 {
			env = append(env, "DB_POOL="+strconv.Itoa(p.DBPool))
		}
		child, err := spawn(e.site.guard, e.site.live, env, e.cpus, words...)
		if err != nil {
			return err
		}
		e.processes = append(e.processes, child)
	}
	return nil
}

// running are the processes, a copy.
func (e *engine) running() []*process {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.processes)
}

// forget takes all processes out, to be ended.
func (e *engine) forget() []*process {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := e.processes
	e.processes = nil
	return list
}

// command is this program's worker, which runs everything of Mastodon's.
func (e *engine) command() []string {
	words := append([]string{}, e.o.Worker...)
	words = append(words, "--report", e.site.socket, "--full", "--mastodon", e.site.live, "--resolver", e.site.fedi.NameServer(), "--metrics", "", "--log-level", "warn",
		"--policy", "goals", "--limits", "adaptive", "--ruby-threads", strconv.Itoa(rubyThreads(e.budget, e.cores)))
	return append(words, e.o.WorkerFlags...)
}

// rubyThreads is how many jobs one Ruby process of the worker may run, so that there can be one for each core within the budget of connections:
// loadtest/simulate has the same rule.
func rubyThreads(budget, cores int) int {
	const most, native, confirming = 25, 5, 3
	fair := budget - native
	return min(most, budget-confirming, max(2, fair/min(cores, max(1, fair/5))))
}

// env is what every job process finds in its environment.
func (e *engine) env() []string {
	return []string{
		"PATH=" + filepath.Dir(e.site.bundle) + string(os.PathListSeparator) + os.Getenv("PATH"), "HOME=" + e.site.dir, "LANG=C.UTF-8", "RAILS_ENV=production",
		"RAILS_LOG_LEVEL=warn", "RUBYAPP_RECORD=none", "RUBYOPT=-W0", "MALLOC_ARENA_MAX=2", "SIDEKIQ=" + os.Getenv("SIDEKIQ"), "RUBYLIB=" + os.Getenv("RUBYLIB"),
		"QUEUEVILLE_LOADTEST_SOCKET=" + e.site.socket, "QUEUEVILLE_LOADTEST_CA=" + e.site.caFile,
		// As in .env.production, which a test may have changed under them.
		"REDIS_URL=" + e.site.workersRedis, "DATABASE_URL=" + e.site.postgres.DatabaseDSN(database),
	}
}

// up waits until as many processes have registered.
func (e *engine) up(ctx context.Context, want int) error {
	for {
		n, err := e.site.client.SCard(ctx, "processes").Result()
		if err == nil && int(n) >= want {
			return nil
		}
		if err := e.failed(); err != nil {
			return fmt.Errorf("start %s: %w", e.name, err)
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return fmt.Errorf("start %s: %w\n%s", e.name, err, e.last())
		}
	}
}

// warm lets n jobs run that are no part of the run.
func (e *engine) warm(ctx context.Context, n int) error {
	c := e.site.conduct
	if err := c.warm(ctx, e.site.client, n); err != nil {
		return fmt.Errorf("push jobs to warm up: %w", err)
	}
	for {
		c.mu.Lock()
		warmed := c.warmed
		c.mu.Unlock()
		if warmed >= n {
			return nil
		}
		if err := e.failed(); err != nil {
			return fmt.Errorf("warm %s up: %w", e.name, err)
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("warm %s up: %w; %d of %d jobs ran\n%s", e.name, err, warmed, n, e.last())
		}
	}
}

// failed is why a process has ended by itself; nil while all run.
func (e *engine) failed() error {
	for _, p := range e.running() {
		if err := p.failed(); err != nil {
			return err
		}
	}
	return nil
}

// last is what the processes said last.
func (e *engine) last() string {
	var b strings.Builder
	for _, p := range e.running() {
		b.WriteString(p.out.String())
		b.WriteByte('\n')
	}
	return strings.TrimSpace(b.String())
}

func (e *engine) pids() []int {
	list := e.running()
	pids := make([]int, len(list))
	for i, p := range list {
		pids[i] = p.pid()
	}
	return pids
}

// stop ends all processes as a unit's stop does.
func (e *engine) stop() {
	var all sync.WaitGroup
	for _, p := range e.forget() {
		all.Go(func() { p.stop(stopGrace) })
	}
	all.Wait()
}

// kill ends all processes, Ruby's children too, as a power cut does.
func (e *engine) kill() {
	list := e.forget()
	if len(list) == 0 {
		return
	}
	pids := make([]int, len(list))
	for i, p := range list {
		pids[i] = p.pid()
	}
	killAll(tree(pids...)) // before anything has been waited for: these numbers are still theirs
	for _, p := range list {
		p.kill()
	}
}
