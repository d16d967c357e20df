package fullmode

import (
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/queueville/queueville/internal/faultproxy"
	"github.com/queueville/queueville/internal/rubyapp"
	"github.com/queueville/queueville/internal/status"
	"github.com/queueville/queueville/queues"
)

// PostgreSQL is away for ten seconds with many Ruby jobs queued: but for those that were running, none is run into its retry, status says why,
// jobs go on within two seconds after it is back, and in the end all have succeeded.
func TestPostgresAway(t *testing.T) {
	t.Parallel()
	app := rubyapp.Start(t)
	proxy := proxied(t, app)
	const threads = 4
	jobs := make([]rubyapp.Job, 150)
	for i := range jobs {
		jobs[i] = rubyapp.Job{Class: rubyapp.Query, Args: []any{100}}
	}
	jids := app.Push(jobs...)
	w := start(t, app, spec{Processes: 1, Threads: threads})
	eventually(t, "jobs run", time.Minute, func() bool { return len(app.Runs()) >= 10 })

	away := time.Now()
	proxy.Refuse(true)
	proxy.Cut()
	store := queues.NewStore(app.Redis, "")
	eventually(t, "status says why", 8*time.Second, func() bool {
		st, err := status.Read(t.Context(), store)
		require.NoError(t, err)
		return strings.Contains(strings.Join(st.Notes, "\n"), "starts no jobs: PostgreSQL is away since ")
	})
	time.Sleep(time.Until(away.Add(10 * time.Second)))
	begun := len(app.Started())
	require.GreaterOrEqual(t, len(jids)-begun, 50, "jobs are queued")
	failed := 0
	for _, r := range app.Runs() {
		if r.Error != "" {
			failed++
		}
	}
	back := time.Now()
	proxy.Refuse(false)
	eventually(t, "jobs go on", 5*time.Second, func() bool { return len(app.Started()) > begun })
	t.Logf("%d of %d jobs failed, the next started %v after PostgreSQL was back", failed, len(jids), time.Since(back))
	// What was running, and what each thread took up before the first failure was known: one or two jobs, on a machine that does nothing else.
	if failed > 5*threads {
		t.Errorf("%d jobs failed with %d threads", failed, threads)
	}
	retries, err := app.Redis.ZCard(t.Context(), "retry").Result()
	require.NoError(t, err)
	require.LessOrEqual(t, int(retries), failed)

	eventually(t, "all have succeeded", 90*time.Second, func() bool {
		done := map[string]bool{}
		for _, r := range app.Runs() {
			done[r.JID] = done[r.JID] || r.Error == ""
		}
		for _, jid := range jids {
			if !done[jid] {
				return false
			}
		}
		return true
	})
	w.stop()
	require.Zero(t, inFlight(t, app))
}

// proxied puts a proxy between everybody and the application's PostgreSQL.
func proxied(t *testing.T, app *rubyapp.App) *faultproxy.Proxy {
	t.Helper()
	address, err := url.Parse(app.DatabaseURL)
	require.NoError(t, err)
	proxy, err := faultproxy.Start(t.Context(), address.Host)
	require.NoError(t, err)
	t.Cleanup(func() { _ = proxy.Close() })
	through(t, app, address.Host, proxy.Addr())
	return proxy
}

// through lets everybody who comes reach the application's PostgreSQL at another address; lines are more of .env.production.
func through(t *testing.T, app *rubyapp.App, direct, addr string, lines ...string) {
	t.Helper()
	text, err := os.ReadFile(app.EnvFile)
	require.NoError(t, err)
	app.WriteEnv(t, append(lines, strings.ReplaceAll(strings.TrimSpace(string(text)), direct, addr))...)
	app.DatabaseURL = strings.ReplaceAll(app.DatabaseURL, direct, addr)
}
