package conformance

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/queueville/queueville/internal/mastodontest"
	"github.com/queueville/queueville/internal/oracle"
	"github.com/queueville/queueville/internal/sidecar"
	"github.com/queueville/queueville/loadtest/fediverse"
	"github.com/queueville/queueville/queues"
	"github.com/queueville/queueville/worker"
)

// mastodon is a small Mastodon server with Ruby at hand.
type mastodon struct {
	*mastodontest.Server
	t    *testing.T
	ruby *oracle.Oracle
}

func newMastodon(t *testing.T, hosts ...fediverse.Host) *mastodon {
	t.Helper()
	s := mastodontest.New(t, hosts...)
	return &mastodon{Server: s, t: t, ruby: oracle.New(t, s.RedisURL)}
}

// problems are those of an attempt to start.
func (m *mastodon) prepare(opts *sidecar.Options) (*sidecar.Sidecar, string) {
	m.t.Helper()
	opts.Mastodon, opts.Metrics = m.Dir, ""
	s, problems := sidecar.New(m.t.Context(), opts, sidecar.Env{
		Version: "test", Log: slog.New(slog.DiscardHandler), Resolver: m.Fedi.Resolver(), RootCAs: m.Fedi.RootCAs(),
		Tune: func(cfg *worker.Config) {
			cfg.BeatEvery, cfg.PollFirst, cfg.PollAverage, cfg.StopTimeout = beatEvery, 50*time.Millisecond, 300*time.Millisecond, 5*time.Second
		},
	})
	var texts []string
	for _, p := range problems {
		texts = append(texts, p.String())
	}
	return s, strings.Join(texts, "\n")
}

// start runs a sidecar until the test ends.
func (m *mastodon) start(opts *sidecar.Options) (stop func()) {
	m.t.Helper()
	s, problems := m.prepare(opts)
	if s == nil {
		m.t.Fatalf("the sidecar does not start:\n%s", problems)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(m.t.Context()))
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	ended := false
	stop = func() {
		if ended {
			return
		}
		ended = true
		cancel()
		if err := <-done; err != nil {
			m.t.Errorf("the sidecar ended with %v", err)
		}
	}
	m.t.Cleanup(stop)
	return stop
}

// echoes are the arguments of OracleEcho jobs in the order Ruby ran them.
func (m *mastodon) echoes(ctx context.Context) []string {
	var out []string
	for _, line := range m.Redis.LRange(ctx, "oracle:echo", 0, -1).Val() {
		var e struct{ Args json.RawMessage }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			m.t.Fatal(err)
		}
		out = append(out, string(e.Args))
	}
	return out
}

// mixed pushes deliveries among Ruby's jobs and returns Ruby's payloads in order.
func (m *mastodon) mixed(queue string, ruby, deliveries int, host string) (theirs []string) {
	m.t.Helper()
	var all []string
	for i := range ruby {
		p := strings.Replace(payload("OracleEcho", fmt.Sprintf("[%d]", i), jid(i), ""), `"default"`, `"`+queue+`"`, 1)
		all, theirs = append(all, p), append(theirs, p)
		if i%(ruby/deliveries) == 0 && len(all)-len(theirs) < deliveries {
			d, _ := m.Delivery(m.t, host)
			all = append(all, d)
		}
	}
	m.Push(m.t, queue, all...)
	return theirs
}

// TestConformanceSidecarOnASharedQueue: the sidecar takes deliveries only, and Ruby's jobs stay as and where they were; then a delivery
// that failed in Ruby (which has no such class here) is finished by Go, and one that fails in Go is shown by Ruby.
func TestConformanceSidecarOnASharedQueue(t *testing.T) {
	t.Parallel()
	m := newMastodon(t, fediverse.Host{Name: "good.test"}, fediverse.Host{Name: "ill.test", Behaviour: fediverse.Behaviour{Status: 500}})
	ctx := t.Context()
	theirs := m.mixed("push", 150, 30, "good.test")
	stop := m.start(sidecar.DefaultOptions())
	waitFor(t, "30 deliveries", func() bool { return m.Fedi.Accepted() == 30 })
	if got := m.Queue(t, "push"); !slices.Equal(got, theirs) {
		t.Errorf("Ruby's jobs are not as they were: %d of %d left", len(got), len(theirs))
	}
	// A sidecar on shared queues lists none of them: Mastodon and people count on who serves a queue.
	v := m.ruby.Inspect("processes")
	if len(v.Processes) != 1 || fmt.Sprint(v.Processes[0]["queues"]) != "[]" || fmt.Sprint(v.Processes[0]["concurrency"]) != "25" {
		t.Errorf("Ruby sees %s", v.Raw)
	}

	failing, failingID := m.Delivery(t, "ill.test")
	m.Push(t, "push", failing)
	waitFor(t, "a retry by Go", func() bool { return m.Redis.ZCard(ctx, "retry").Val() == 1 })
	v = m.ruby.Inspect("retry")
	if r := v.Retry[0]; r.JID != failingID || r.Queue != "push" || r.DisplayClass != "ActivityPub::DeliveryWorker" || !strings.Contains(string(r.Item), "Mastodon::UnexpectedResponseError") {
		t.Errorf("Ruby sees %s", v.Raw)
	}
	m.Redis.Del(ctx, "retry")
	stop()

	byRuby, rubyID := m.Delivery(t, "good.test")
	m.Push(t, "push", byRuby)
	sidekiq := m.ruby.StartSidekiq(nil, "-q", "push", "-c", "1")
	waitFor(t, "Ruby's jobs", func() bool { return len(m.echoes(ctx)) == len(theirs) && m.Redis.ZCard(ctx, "retry").Val() == 1 })
	for i, args := range m.echoes(ctx) {
		if want := fmt.Sprintf("[%d]", i); args != want {
			t.Fatalf("Ruby's job number %d had the arguments %s", i, args)
		}
	}
	// Beside a Ruby that is there: what Ruby failed with NameError comes back and is delivered, whoever polls.
	m.start(sidecar.DefaultOptions())
	sidekiq.Stop() // an idle Ruby would win the job and fail it again
	if !m.ruby.Control("retry-now", rubyID) {
		t.Error("Ruby does not find its own retry")
	}
	waitFor(t, "the delivery that Ruby could not make", func() bool { return m.Fedi.Accepted() == 31 })
	total := m.Fedi.Total()
	if total.BadSignatures+total.BadDigests+total.Unsigned+total.Duplicates != 0 {
		t.Errorf("receivers saw %+v", total)
	}
	m.ruby.WebSmoke()
}

// TestConformanceOwnedQueueWithForeignTo: refused while nobody serves the other queue; then deliveries leave through Go and everything else
// goes to Ruby, byte for byte and in order.
func TestConformanceOwnedQueueWithForeignTo(t *testing.T) {
	t.Parallel()
	m := newMastodon(t, fediverse.Host{Name: "good.test"})
	ctx := t.Context()
	opts := func(change func(*sidecar.Options)) *sidecar.Options {
		o := sidecar.DefaultOptions()
		o.Own, o.Shared, o.ForeignTo = []string{"push"}, []string{}, "push_ruby"
		if change != nil {
			change(o)
		}
		return o
	}
	if s, problems := m.prepare(opts(nil)); s != nil || !strings.Contains(problems, "no live Ruby process serves push_ruby") || !strings.Contains(problems, "-q push_ruby") {
		t.Fatalf("not refused although nobody serves it: %s", problems)
	}
	if s, problems := m.prepare(opts(func(o *sidecar.Options) { o.ForeignTo = "" })); s != nil || !strings.Contains(problems, "--foreign-to") {
		t.Fatalf("not refused without --foreign-to: %s", problems)
	}
	// A Ruby process that serves another queue does not count.
	sidekiq := m.ruby.StartSidekiq(nil, "-q", "other", "-c", "1")
	waitFor(t, "Ruby's heartbeat", func() bool { return m.Redis.SCard(ctx, "processes").Val() == 1 })
	if s, _ := m.prepare(opts(nil)); s != nil {
		t.Fatal("not refused although Ruby serves another queue")
	}
	sidekiq.Stop()

	sidekiq = m.ruby.StartSidekiq(nil, "-q", "push_ruby", "-c", "1")
	store := queues.NewStore(m.Redis, "")
	waitFor(t, "Ruby to serve push_ruby", func() bool {
		list, err := store.Processes(ctx)
		return err == nil && len(list) == 1 && slices.Contains(list[0].Queues, "push_ruby")
	})
	theirs := m.mixed("push", 300, 60, "good.test")
	m.Redis.LPush(ctx, "queue:push", `{"class":"NoSuchClass","args":[{"a":1.50}],"jid":"`+jid(1000)+`","queue":"push","retry":0,"created_at":1795291060.5,"enqueued_at":1795291060.5}`)
	m.start(opts(nil))
	waitFor(t, "60 deliveries", func() bool { return m.Fedi.Accepted() == 60 })
	waitFor(t, "Ruby's jobs", func() bool { return len(m.echoes(ctx)) == len(theirs) && m.Redis.ZCard(ctx, "dead").Val() == 1 })
	for i, args := range m.echoes(ctx) {
		if want := fmt.Sprintf("[%d]", i); args != want {
			t.Fatalf("Ruby's job number %d had the arguments %s", i, args)
		}
	}
	if dead := m.Redis.ZRange(ctx, "dead", 0, -1).Val(); !strings.Contains(dead[0], "NameError") {
		t.Errorf("an unknown class is Ruby's to fail: %s", dead[0])
	}
	v := m.ruby.Inspect("processes", "stats")
	if len(v.Processes) != 2 || v.Stats.Enqueued != 0 || v.Stats.Retry != 0 {
		t.Errorf("Ruby sees %s", v.Raw)
	}
	// The other end: Ruby dies and its process list shows it; a further start is refused.
	sidekiq.Stop()
	if s, _ := m.prepare(opts(nil)); s != nil {
		t.Error("not refused after Ruby was stopped")
	}
	m.ruby.WebSmoke()
}
