package ruby

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/queueville/queueville/internal/rubyapp"
)

// The Rails-like application with Mastodon's classes, started as Mastodon's units start theirs: its database connections are each
// child's own, and every job runs once, whatever its weight.
func TestRubyRailsApplication(t *testing.T) {
	t.Parallel()
	app := rubyapp.Start(t)
	if err := os.WriteFile(filepath.Join(app.Dir, "Gemfile"), nil, 0o600); err != nil { // its bin/bundle needs none
		t.Fatal(err)
	}
	env := append(os.Environ(), app.Env("RUBYAPP_REMOTE_MS=20", "DB_POOL=99")...)
	command, err := FindCommand(app.Dir, env, HostFiles())
	if err != nil {
		t.Fatal(err)
	}
	l := newLender(3)
	r := newRig(t, func(c *Config) {
		c.Command = command
		c.Queues = []string{"default", "push", "ingress", "mailers", "pull", "scheduler"}
		c.MinProcs, c.MaxProcs, c.DBPool = 2, 2, 6
		c.Connections = l
	})
	r.ready(2)
	mix := app.NewMix(1, rubyapp.Share{Class: rubyapp.Processing, Parts: 4}, rubyapp.Share{Class: rubyapp.FeedInsert, Parts: 2},
		rubyapp.Share{Class: rubyapp.ThreadResolve, Parts: 2}, rubyapp.Share{Class: rubyapp.Burn, Parts: 1},
		rubyapp.Share{Class: rubyapp.Wait, Parts: 1}, rubyapp.Share{Class: rubyapp.Query, Parts: 1})
	var jobs []Job
	for range 80 {
		j := mix.Next()
		payload, jid, queue := j.Payload(time.Now())
		jobs = append(jobs, Job{Queue: queue, Class: j.Class, JID: jid, Payload: payload, Fetched: time.Now()})
	}
	r.s.Submit(jobs)
	pids := map[int]int{}
	for _, j := range jobs {
		res := r.result(j.JID)
		if res.Kind != Acked || res.Failed {
			t.Errorf("%s: %+v", j.Class, res)
		}
		if j.Class == rubyapp.Query && res.DB < time.Millisecond || j.Class == rubyapp.Burn && res.CPU < time.Millisecond {
			t.Errorf("costs of %s: %+v", j.Class, res)
		}
		pids[res.PID]++
	}
	if len(pids) != 2 {
		t.Errorf("jobs by process: %v", pids)
	}
	runs := map[string]int{}
	for _, run := range app.Runs() {
		runs[run.JID]++
	}
	for _, j := range jobs {
		if runs[j.JID] != 1 {
			t.Errorf("%s %s ran %d times", j.Class, j.JID, runs[j.JID])
		}
	}
	conn, err := pgx.Connect(t.Context(), app.DatabaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context())) //nolint:errcheck // only read
	var names, most int
	err = conn.QueryRow(t.Context(), `SELECT count(*), coalesce(max(n), 0) FROM (SELECT count(*) n FROM pg_stat_activity WHERE application_name ~ '^qv-[0-9]$' GROUP BY application_name) a`).Scan(&names, &most)
	if err != nil || names != 2 || most > 6 {
		t.Errorf("%d processes have connections, at most %d each, %v", names, most, err)
	}
	var others int // the preloaded parent has closed its own
	err = conn.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database() AND application_name !~ '^qv-[0-9]$'`).Scan(&others)
	if err != nil || others != 0 {
		t.Errorf("%d connections without a name, %v", others, err)
	}
	address, err := url.Parse(app.DatabaseURL)
	if err != nil {
		t.Fatal(err)
	}
	password, _ := address.User.Password()
	for pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil || len(text) == 0 || strings.Contains(string(text), password) {
			t.Errorf("the process list shows %q, %v", strings.ReplaceAll(string(text), password, "PASSWORD"), err)
		}
	}
}
