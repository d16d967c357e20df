package main

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/queueville/queueville/internal/mastodontest"
	"github.com/queueville/queueville/internal/sidecar"
	"github.com/queueville/queueville/internal/synthca"
	realruns "github.com/queueville/queueville/loadtest/run"
	"github.com/queueville/queueville/loadtest/scenario"
	"github.com/queueville/queueville/loadtest/sink"
)

const staged = `name: staged
about: some seconds of a small server, all of whose instances answer
length: 5s
server: {users: 2000, active: 2000}
fediverse: {tempers: {quick: 100%}}
traffic: {likes: 300}
hardware:
  - hosts: 1x1c
    sidekiq: ["-c 5"]
`

// TestStaging: what the generator pushes is delivered by a real worker to the sink, every delivery once, every signature right.
func TestStaging(t *testing.T) {
	t.Parallel()
	server := mastodontest.New(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	full, problems := scenario.Parse([]byte(staged))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	small, err := realruns.Small(full, realruns.Form{Length: 5 * time.Second, Instances: 15})
	if err != nil {
		t.Fatal(err)
	}
	db, err := pgx.Connect(ctx, server.DatabaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(ctx) //nolint:errcheck // what was read counts
	if err := sink.OnlyTest(ctx, db); err != nil {
		t.Fatalf("OnlyTest of a database that knows only .test: %v", err)
	}
	data, keys, err := sink.Accounts(ctx, db, "local.test")
	if err != nil {
		t.Fatal(err)
	}
	if len(data.Accounts) != len(server.Data.Accounts) {
		t.Errorf("%d accounts that can sign, want %d", len(data.Accounts), len(server.Data.Accounts))
	}
	cfg, err := small.Config("queueville")
	if err != nil {
		t.Fatal(err)
	}
	authority, err := synthca.New()
	if err != nil {
		t.Fatal(err)
	}
	receivers, err := sink.Start(ctx, sink.Config{World: cfg.World, Seed: 1, Keys: keys, Authority: authority})
	if err != nil {
		t.Fatal(err)
	}
	defer receivers.Close() //nolint:errcheck // nothing is lost by it

	opts := sidecar.DefaultOptions()
	opts.Mastodon, opts.Own, opts.Metrics = server.Dir, []string{"push", "pull"}, ""
	s, found := sidecar.New(ctx, opts, sidecar.Env{Version: "test", Log: slog.New(slog.DiscardHandler), Resolver: receivers.Resolver(), RootCAs: receivers.RootCAs(), AnyForeign: true})
	if s == nil {
		t.Fatal(found)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	pushed, err := realruns.Deliver(ctx, realruns.DeliveryOptions{Scenario: small, Data: data, Redis: server.Redis, Port: receivers.Port()})
	if err != nil || pushed.Pushed < 5 || pushed.Refused+pushed.Late+pushed.Dropped > 0 {
		t.Fatalf("Deliver = %+v, %v; want some pushed and nothing else", pushed, err)
	}
	for ctx.Err() == nil && int(receivers.Accepted()) < pushed.Pushed {
		time.Sleep(20 * time.Millisecond)
	}
	s.Worker.Stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	total := receivers.Total()
	if int(total.Accepted) != pushed.Pushed || total.Duplicates+total.BadSignatures+total.BadDigests+total.Unsigned > 0 {
		t.Errorf("%d pushed, receivers saw %+v", pushed.Pushed, total)
	}
}
