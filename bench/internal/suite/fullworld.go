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
