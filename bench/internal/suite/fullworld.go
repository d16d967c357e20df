package suite

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/queueville/queueville/internal/rubyapp"
	"github.com/queueville/queueville/internal/throwaway"
	"github.com/redis/go-redis/v9"

	"github.com/queueville/queueville/bench/internal/jobs"
	"github.com/queueville/queueville/bench/internal/measure"
	"github.com/queueville/queueville/bench/internal/peers"
	"github.com/queueville/queueville/bench/internal/receiver"
	"github.com/queueville/queueville/bench/internal/ruby"
)

// full is what all rounds of the full suite share: the application's directory, a Postgres, and the server that jobs wait for.
type full struct {
	o      Options
	cores  int
	dir    string // Mastodon's directory
	bundle string
	db     *database
	remote *http.Server
	url    string // of remote

	inboxes *receivers // of deliveries; nil without receive
	before  int        // deliveries of earlier runs
}

func newFull(ctx context.Context, o Options) (f *full, err error) {
	f = &full{o: o, cores: runtime.NumCPU(), dir: filepath.Join(o.Dir, "live")}
	if f.bundle, err = rubyapp.Write(f.dir); err != nil {
		return nil, err
	}
	version := filepath.Join(f.dir, "lib", "mastodon")
	if err := os.MkdirAll(version, 0o700); err != nil {
		return nil, fmt.Errorf("make %s: %w", version, err)
	}
	if err := os.WriteFile(filepath.Join(version, "version.rb"), []byte("MAJOR = 4\nMINOR = 5\nPATCH = 0\n"), 0o600); err != nil {
		return nil, fmt.Errorf("write Mastodon's version: %w", err)
	}
	if err := f.listen(ctx); err != nil {
		return nil, err
	}
	server, err := throwaway.Postgres(ctx, throwaway.PostgresConfig{MaxConnections: 1000}) // eight processes of a hundred threads
	if err != nil {
		return nil, errors.Join(err, f.remote.Close())
	}
	f.db = &database{server: server, keys: map[string]string{}}
	if err := f.db.fill(ctx); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

func (f *full) close() {
	_ = f.remote.Close()
	_ = f.db.server.Stop()
}

// listen starts the server that stands for all others: it answers everything, late.
func (f *full) listen(ctx context.Context) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("start the slow server: %w", err)
	}
	body := []byte(`{"type":"Note","title":"a page","content":"` + strings.Repeat("<p>lantern</p>", 100) + `"}`)
	f.remote = &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-time.After(f.o.Latency):
			w.Header().Set("Content-Type", "application/activity+json")
			_, _ = w.Write(body)
		}
	})}
	f.url = "http://" + l.Addr().String()
	go func() { _ = f.remote.Serve(l) }() // ends with Close
	return nil
}

// receive starts the inboxes of deliveries, on https, which answer late too, and writes the Ruby worker that delivers to them.
func (f *full) receive(ctx context.Context) (err error) {
	dir := filepath.Join(f.dir, "app", "workers", "activitypub")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", dir, err)
	}
	if _, err := ruby.Write(dir, ruby.Delivery); err != nil {
		return err
	}
	f.inboxes, err = startReceivers(ctx, f.o, receiver.Config{Hosts: deliveryHosts, TLS: true, Latency: f.o.Latency, Keys: f.db.keys})
	return err
}

// supported says whether the queueville of this tree has full mode.
func (f *full) supported(ctx context.Context) bool {
	binary, err := f.o.build(ctx, true)
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, _ := exec.CommandContext(ctx, binary, "work", "--help").CombinedOutput() //nolint:gosec // our own; its text is what counts, whatever its status
	return strings.Contains(string(out), "--full")
}

// reset empties what rounds leave in the database, so that every contender finds the same.
func (f *full) reset(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, f.db.server.DSN())
	if err != nil {
		return fmt.Errorf("connect to postgres: %w", err)
	}
	defer conn.Close(ctx) //nolint:errcheck // the statements' own errors count
	if err := rubyapp.Prepare(ctx, conn); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "TRUNCATE statuses, account_stats RESTART IDENTITY"); err != nil {
		return fmt.Errorf("empty tables: %w", err)
	}
	return rubyapp.Prepare(ctx, conn)
}

// run runs one contender on a fresh Redis: a quarter of the jobs before, so that all code is loaded and whoever adapts has adapted; then the
// clock runs from the push of the jobs to the end of the last.
func (f *full) run(ctx context.Context, l load, name string, s setting, seed uint64, n int) (got fullFigure, err error) {
	ctx, cancel := context.WithTimeout(ctx, fullLimit)
	defer cancel()
	if err := f.reset(ctx); err != nil {
		return got, err
	}
	server, err := throwaway.Redis(ctx, throwaway.RedisConfig{Dir: f.o.Dir})
	if err != nil {
		return got, err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer func() { err = errors.Join(err, client.Close()) }()
	list, err := f.start(ctx, name, s, server)
	defer func() {
		for _, p := range list {
			p.stop(15 * time.Second)
		}
	}()
	if err != nil {
		return got, err
	}
	if err := f.up(ctx, client, list); err != nil {
		return got, err
	}
	warm := n / 4
	if f.before, err = f.delivered(ctx); err != nil {
		return got, err
	}
	var mix *rubyapp.Mix
	if l.shares != nil {
		mix = rubyapp.NewMix(seed, f.db.data.Accounts, l.shares...)
	}
	maker := jobs.NewMaker(seed, deliveryBytes-200, deliveryBytes+200, f.db.accounts(), f.inboxes.Inboxes)
	before, all := mingle(draw(mix, warm), maker, l.deliveries), mingle(draw(mix, n), maker, l.deliveries)
	if err := push(ctx, client, before); err != nil {
		return got, err
	}
	if err := f.until(ctx, client, list, warm); err != nil {
		return got, err
	}
	cpu, err := treeCPU(list)
	if err != nil {
		return got, err
	}
	used, stolen := hostCPU()
	start := time.Now()
	if err := push(ctx, client, all); err != nil {
		return got, err
	}
	if err := f.until(ctx, client, list, warm+n); err != nil {
		return got, err
	}
	took := time.Since(start)
	usedThen, stolenThen := hostCPU()
	whole := took.Seconds() * float64(f.cores)
	got.stolen, got.idle = (stolenThen-stolen)/whole, max(0, 1-(usedThen-used)/whole)
	after, err := treeCPU(list)
	if err != nil {
		return got, err
	}
	if got.pss, got.processes, err = treePSS(list); err != nil {
		return got, err
	}
	got.Figure = Figure{Jobs: n, PerSecond: float64(n) / took.Seconds(), CPU: micros(after-cpu) / float64(n), PeakMiB: got.pss}
	return got, f.clean(ctx, client, warm+n)
}

// env is what all processes get.
func (f *full) env(server *throwaway.RedisServer) []string {
	env := []string{
		"RAILS_ENV=production", "REDIS_URL=" + server.URL(), "DATABASE_URL=" + f.db.server.DSN(), "RUBYAPP_REMOTE=" + f.url, "RUBYAPP_RECORD=count", "RUBYAPP_GEMS=1",
		"RAILS_LOG_LEVEL=warn", "RUBYOPT=-W0", "MALLOC_ARENA_MAX=2", "PATH=" + filepath.Dir(f.bundle) + ":" + os.Getenv("PATH"),
	}
	if f.inboxes != nil {
		env = append(env, "SSL_CERT_FILE="+f.inboxes.caFile)
	}
	return env
}

// start starts a contender's processes. Those that were started are returned even with an error.
func (f *full) start(ctx context.Context, name string, s setting, server *throwaway.RedisServer) ([]*process, error) {
	env := f.env(server)
	if name == fullQueueville {
		p, err := f.startQueueville(ctx, env, s)
		if err != nil {
			return nil, err
		}
		return []*process{p}, nil
	}
	return f.startSidekiq(ctx, env, s)
}

// startSidekiq starts stock Sidekiq. Processes that were started are returned even with an error.
func (f *full) startSidekiq(ctx context.Context, env []string, s setting) ([]*process, error) {
	var list []*process
	for range s.processes {
		// As Mastodon's unit does it, but for the directory: the weights of config/sidekiq.yml, less scheduler, whose jobs come by the clock.
		p, err := startIn(ctx, f.dir, fullSidekiq, env, f.bundle, "exec", "sidekiq", "-c", strconv.Itoa(s.threads), "-t", "5",
			"-q", "default,8", "-q", "push,6", "-q", "ingress,4", "-q", "mailers,2", "-q", "pull")
		if err != nil {
			return list, err
		}
		list = append(list, p)
	}
	return list, nil
}

// startQueueville starts the one worker that starts all the rest, with more flags if there are. Without a setting it sizes itself.
func (f *full) startQueueville(ctx context.Context, env []string, s setting, more ...string) (*process, error) {
	binary, err := f.o.build(ctx, true)
	if err != nil {
		return nil, err
	}
	file := []string{"LOCAL_DOMAIN=" + peers.Domain, "ALLOWED_PRIVATE_ADDRESSES=127.0.0.0/8", "SECRET_KEY_BASE=" + strings.Repeat("0", 128)}
	for _, line := range env {
		if strings.HasPrefix(line, "REDIS_URL=") || strings.HasPrefix(line, "DATABASE_URL=") {
			file = append(file, line)
		}
	}
	for _, name := range []string{"PRIMARY_KEY", "DETERMINISTIC_KEY", "KEY_DERIVATION_SALT"} {
		file = append(file, "ACTIVE_RECORD_ENCRYPTION_"+name+"=0123456789abcdef0123456789abcdef")
	}
	if err := os.WriteFile(filepath.Join(f.dir, ".env.production"), []byte(strings.Join(file, "\n")+"\n"), 0o600); err != nil {
		return nil, fmt.Errorf("write environment file: %w", err)
	}
	if err := storeBudget(ctx, binary, f.dir, 900); err != nil {
		return nil, err
	}
	args := []string{binary, "work", "--full", "--mastodon", f.dir, "--metrics", "127.0.0.1:0", "--log-level", "warn"}
	if s.processes > 0 {
		args = append(args, "--ruby-processes", strconv.Itoa(s.processes))
	}
	if s.threads > 0 {
		args = append(args, "--ruby-threads", strconv.Itoa(s.threads))
	}
	return startIn(ctx, f.dir, fullQueueville, env, append(args, more...)...)
}

// startIn is start in a directory.
func startIn(ctx context.Context, dir, name string, env []string, command ...string) (*process, error) {
	return start(ctx, name, env, append([]string{"env", "-C", dir}, command...)...) // env replaces itself
}

// up waits until every process of the list has registered in Redis, or, for a worker that registers Ruby processes beside itself, until one
// of those has.
func (f *full) up(ctx context.Context, client *redis.Client, list []*process) error {
	want := len(list)
	if list[0].name == fullQueueville {
		want = 2
	}
	for {
		n, err := client.SCard(ctx, "processes").Result()
		if err == nil && int(n) >= want {
			return nil
		}
		if err := errors.Join(pause(ctx, 50*time.Millisecond), alive(list)); err != nil {
			return fmt.Errorf("%s does not come up: %w\n%s", list[0].name, err, list[0].out)
		}
	}
}

func alive(list []*process) error {
	for _, p := range list {
		if err := p.failed(); err != nil {
			return err
		}
	}
	return nil
}

// delivered counts the deliveries that were not made in Ruby, of all runs.
func (f *full) delivered(ctx context.Context) (int, error) {
	if f.inboxes == nil {
		return 0, nil
	}
	c, err := f.inboxes.counts(ctx)
	return int(c.Received - c.Ruby), err
}

// done counts the jobs of a run that have ended: those that Ruby counted, and the deliveries that it did not make.
func (f *full) done(ctx context.Context, client *redis.Client) (int, error) {
	count, err := client.Get(ctx, "ran:count").Int()
	if err != nil && !errors.Is(err, redis.Nil) {
		return 0, fmt.Errorf("count jobs: %w", err)
	}
	native, err := f.delivered(ctx)
	return count + native - f.before, err
}

// until waits for the end of the nth job.
func (f *full) until(ctx context.Context, client *redis.Client, list []*process, n int) error {
	for {
		count, err := f.done(ctx, client)
		if err != nil {
			return err
		}
		if count >= n {
			return nil
		}
		if err := errors.Join(pause(ctx, 10*time.Millisecond), alive(list)); err != nil {
			return fmt.Errorf("%d of %d jobs: %w\n%s", count, n, err, list[0].out)
		}
	}
}

// clean says that no job failed and none ran twice.
func (f *full) clean(ctx context.Context, client *redis.Client, n int) error {
	if err := pause(ctx, 300*time.Millisecond); err != nil {
		return err
	}
	count, err := f.done(ctx, client)
	if err != nil {
		return err
	}
	failed, err := client.ZCard(ctx, "retry").Result()
	if err != nil {
		return fmt.Errorf("count failures: %w", err)
	}
	dead, err := client.ZCard(ctx, "dead").Result()
	if err != nil {
		return fmt.Errorf("count failures: %w", err)
	}
	if count != n || failed+dead > 0 {
		return fmt.Errorf("%d jobs ran as %d executions, %d failed: %w", n, count, failed+dead, errLost)
	}
	return nil
}

// job is what can be enqueued.
type job interface {
	Payload(now time.Time) (payload, jid, queue string)
}

// delivery is a job of push.
type delivery struct{ jobs.Delivery }

// Payload is as rubyapp.Job's.
func (d delivery) Payload(now time.Time) (payload, jid, queue string) {
	return d.Sidekiq(peers.Queue, now), "", peers.Queue
}

// draw makes n jobs of a mix, or, without one, jobs that do nothing. Signing their activities takes longer than running them, so it is done before the clock runs.
func draw(mix *rubyapp.Mix, n int) []job {
	list := make([]job, n)
	for i := range list {
		if mix == nil {
			list[i] = rubyapp.Job{Class: rubyapp.Burn, Args: []any{0}}
			continue
		}
		list[i] = mix.Next()
	}
	return list
}

// mingle puts deliveries in the places of a share of the jobs, evenly.
func mingle(list []job, maker *jobs.Maker, share float64) []job {
	for i := range list {
		if int(share*float64(i+1)) > int(share*float64(i)) {
			list[i] = delivery{maker.Next()}
		}
	}
	return list
}

// push enqueues jobs.
func push(ctx context.Context, client *redis.Client, list []job) error {
	pipe := client.Pipeline()
	now := time.Now()
	for i, j := range list {
		payload, _, queue := j.Payload(now)
		pipe.SAdd(ctx, "queues", queue)
		pipe.LPush(ctx, "queue:"+queue, payload)
		if i%500 == 499 || i == len(list)-1 {
			if _, err := pipe.Exec(ctx); err != nil {
				return fmt.Errorf("enqueue: %w", err)
			}
		}
	}
	return nil
}

// pushMix enqueues n jobs of a mix.
func pushMix(ctx context.Context, client *redis.Client, mix *rubyapp.Mix, n int) error {
	return push(ctx, client, draw(mix, n))
}

// tree lists the processes of a list and all that descend from them.
func tree(list []*process) ([]int, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	children := map[int][]int{}
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // ended meanwhile
		}
		// "pid (comm) state ppid …"; comm can hold anything, so look behind its last parenthesis.
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		pid, pidErr := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if len(fields) < 2 || pidErr != nil {
			continue
		}
		if parent, err := strconv.Atoi(fields[1]); err == nil {
			children[parent] = append(children[parent], pid)
		}
	}
	var pids []int
	for _, p := range list {
		pids = append(pids, p.pid())
	}
	for i := 0; i < len(pids); i++ {
		for _, child := range children[pids[i]] {
			if !slices.Contains(pids, child) {
				pids = append(pids, child)
			}
		}
	}
	return pids, nil
}

// treeCPU sums the CPU time of a contender's processes that are there now, and of those that they had and that ended.
func treeCPU(list []*process) (sum time.Duration, err error) {
	pids, err := tree(list)
	if err != nil {
		return 0, err
	}
	for _, pid := range pids {
		if cpu, err := measure.CPU(pid); err == nil {
			sum += cpu + endedCPU(pid)
		}
	}
	return sum, nil
}

// endedCPU is the CPU time of a process's children that have ended, to a hundredth of a second: a Ruby process that runs the cron scheduler takes
// the place of the first one.
func endedCPU(pid int) time.Duration {
	const tick = 10 * time.Millisecond
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0 // ended meanwhile
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:])) // from the state on
	var sum time.Duration
	for _, i := range []int{13, 14} {
		if i < len(fields) {
			n, _ := strconv.ParseInt(fields[i], 10, 64)
			sum += time.Duration(n) * tick
		}
	}
	return sum
}

// treePSS sums the proportional memory of a contender's processes, in MiB, and counts them.
func treePSS(list []*process) (sum float64, n int, err error) {
	pids, err := tree(list)
	if err != nil {
		return 0, 0, err
	}
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			continue // ended meanwhile
		}
		for line := range strings.Lines(string(text)) {
			if value, ok := strings.CutPrefix(line, "Pss:"); ok {
				kb, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 64)
				if err != nil {
					return 0, 0, fmt.Errorf("read the memory of process %d: %w", pid, err)
				}
				sum += kb / 1024
				n++
			}
		}
	}
	return sum, n, nil
}
