package rubyapp

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/queueville/queueville/internal/mastodontest"
	"github.com/queueville/queueville/internal/pgtest"
	"github.com/queueville/queueville/loadtest/fediverse"
)

const (
	callTimeout  = time.Minute // for one Ruby program
	checkTimeout = 30 * time.Second
)

// App is the application in a directory of a test's own, on servers of a test's own: Dir, EnvFile, RedisURL, DatabaseURL, Redis, Fedi and
// Data are those of the embedded server.
type App struct {
	*mastodontest.Server

	Bundle string // Dir/bin/bundle

	tb testing.TB
}

// Start writes the application into a Mastodon directory of the test's own and prepares its database. Nothing of Ruby runs yet. A machine
// without the Ruby packages skips the test; under CI=true the test fails.
func Start(tb testing.TB, hosts ...fediverse.Host) *App {
	tb.Helper()
	need(tb)
	return StartOn(tb, pgtest.DB(tb), hosts...)
}

// StartOn is Start on a given empty database.
func StartOn(tb testing.TB, dsn string, hosts ...fediverse.Host) *App {
	tb.Helper()
	need(tb)
	a := &App{Server: mastodontest.NewOn(tb, dsn, hosts...), tb: tb}
	ctx, cancel := context.WithTimeout(tb.Context(), checkTimeout)
	defer cancel()
	var err error
	if a.Bundle, err = Write(a.Dir); err != nil {
		tb.Fatal(err)
	}
	conn, err := pgx.Connect(ctx, a.DatabaseURL)
	if err != nil {
		tb.Fatal(err)
	}
	defer conn.Close(ctx) //nolint:errcheck // what Prepare says counts
	if err := Prepare(ctx, conn); err != nil {
		tb.Fatal(err)
	}
	return a
}

// missing is "" when Ruby and the libraries are there, else what is wrong and how to get them. Asked once per test binary: it takes 0.3 s.
var missing = sync.OnceValue(func() string {
	ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
	defer cancel()
	words := ruby()
	// Sidekiq may be a checkout in RUBYLIB, which no gem is known for.
	program := `require "sidekiq"; ARGV.each { |g| abort "no gem #{g}" if g != "sidekiq" && Gem::Specification.find_all_by_name(g).empty? }`
	cmd := exec.CommandContext(ctx, words[0], append(append(words[1:], "-e", program), Gems()...)...) //nolint:gosec // the words come from the developer
	out, err := cmd.CombinedOutput()
	if err == nil {
		return ""
	}
	packages := "ruby-" + strings.Join(Gems(), " ruby-")
	return fmt.Sprintf("the Ruby application cannot run: %v %s(apt-get install -y --no-install-recommends %s)", err, out, packages)
})

// need skips or fails the test when Ruby or a library is missing.
func need(tb testing.TB) {
	tb.Helper()
	message := missing()
	if message == "" {
		return
	}
	if os.Getenv("CI") == "true" {
		tb.Fatal(message)
	}
	tb.Skip(message)
}

// ruby is what starts Ruby: the words of the variable RUBY, else ruby, in the tree of RUBYAPP_CHROOT if that is set.
func ruby() []string {
	if tree := os.Getenv("RUBYAPP_CHROOT"); tree != "" {
		return []string{"chroot", tree, "ruby"}
	}
	if words := strings.Fields(os.Getenv("RUBY")); len(words) > 0 {
		return words
	}
	return []string{"ruby"}
}

// Env is what a Ruby process gets besides this process's environment: RAILS_ENV, and where the servers are. The directory's .env.production
// says the same of the servers.
func (a *App) Env(more ...string) []string {
	env := []string{
		"RAILS_ENV=production", "REDIS_URL=" + a.RedisURL, "DATABASE_URL=" + a.DatabaseURL, "LANG=C.UTF-8", "MALLOC_ARENA_MAX=2",
		"PATH=" + filepath.Dir(a.Bundle) + string(os.PathListSeparator) + os.Getenv("PATH"),
	}
	return append(env, more...)
}

// Push pushes jobs as a foreign client does, without Ruby and so without taking locks, and returns their jids. The first of a queue runs first.
func (a *App) Push(jobs ...Job) []string {
	a.tb.Helper()
	jids := make([]string, len(jobs))
	now := time.Now()
	const slice = 500
	for start := 0; start < len(jobs); start += slice {
		pipe := a.Redis.Pipeline()
		for i, j := range jobs[start:min(start+slice, len(jobs))] {
			payload, jid, queue := j.Payload(now)
			jids[start+i] = jid
			pipe.SAdd(a.tb.Context(), "queues", queue)
			pipe.LPush(a.tb.Context(), "queue:"+queue, payload)
		}
		if _, err := pipe.Exec(a.tb.Context()); err != nil {
			a.tb.Fatalf("push: %v", err)
		}
	}
	return jids
}

// PushMix pushes n jobs of a mix and returns their jids.
func (a *App) PushMix(m *Mix, n int) []string {
	a.tb.Helper()
	jobs := make([]Job, n)
	for i := range jobs {
		jobs[i] = m.Next()
	}
	return a.Push(jobs...)
}

// NewMix is NewMix with the accounts of the test's server.
func (a *App) NewMix(seed uint64, shares ...Share) *Mix {
	return NewMix(seed, a.Data.Accounts, shares...)
}

// Eval runs a Ruby program in the application, as a client, and returns what it printed.
func (a *App) Eval(program string) string {
	a.tb.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(a.tb.Context()), callTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, a.Bundle, "exec", "ruby", "-r", "./app.rb", "-e", program) //nolint:gosec // the test's own program
	cmd.Dir = a.Dir
	cmd.Env = append(os.Environ(), a.Env("RAILS_LOG_LEVEL=warn")...)
	cmd.WaitDelay = 5 * time.Second
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		a.tb.Fatalf("ruby: %v\n%s\n%s%s", err, program, &out, &errs)
	}
	return out.String()
}

// PushRuby pushes jobs with Ruby's own client in one process, client middleware (locks) included: each line of the program is an expression
// such as `ResolveAccountWorker.perform_async("a@b.test")` or `Mail.call("hello")`, which enqueues an ActiveJob mail. It returns the jids, ""
// for a push that a lock refused.
func (a *App) PushRuby(expressions ...string) []string {
	a.tb.Helper()
	var program strings.Builder
	program.WriteString("Mail = ->(*args) { ActionMailer::MailDeliveryJob.perform_later('UserMailer', 'welcome', 'deliver_now', args: args).provider_job_id }\njids = []\n")
	for _, e := range expressions {
		program.WriteString("jids << (" + e + ")\n")
	}
	program.WriteString("print JSON.generate(jids)\n")
	var list []*string
	out := a.Eval(program.String())
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		a.tb.Fatalf("ruby printed %q: %v", out, err)
	}
	jids := make([]string, len(list))
	for i, jid := range list {
		if jid != nil {
			jids[i] = *jid
		}
	}
	return jids
}

// Locks lists the digests of the unique locks that are held.
func (a *App) Locks() []string {
	a.tb.Helper()
	list, err := a.Redis.ZRange(a.tb.Context(), "uniquejobs:digests", 0, -1).Result()
	if err != nil {
		a.tb.Fatalf("read locks: %v", err)
	}
	slices.Sort(list)
	return list
}

// Launches lists what bin/bundle was told to run so far, as "pid words…".
func (a *App) Launches() []string {
	a.tb.Helper()
	text, err := os.ReadFile(filepath.Join(a.Dir, "bundle.log"))
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		a.tb.Fatalf("read bundle.log: %v", err)
	}
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}
