package deliveryjobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/queueville/queueville/activitypub"
	"github.com/queueville/queueville/dbpool"
	"github.com/queueville/queueville/internal/mastodonenv"
	"github.com/queueville/queueville/internal/mastodontest"
	"github.com/queueville/queueville/internal/pgtest"
	"github.com/queueville/queueville/internal/redistest"
	"github.com/queueville/queueville/loadtest/fediverse"
	"github.com/queueville/queueville/queues"
	"github.com/queueville/queueville/worker"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := errors.Join(redistest.Stop(), pgtest.Stop()); err != nil {
		fmt.Fprintln(os.Stderr, "stop the shared servers:", err)
		code = 1
	}
	os.Exit(code)
}

var now = time.Unix(1_795_291_060, 0)

// TestOutcome: every outcome of activitypub, and what becomes of the job.
func TestOutcome(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	cases := map[string]struct {
		in   activitypub.Result
		want worker.Outcome
	}{
		"delivered":                  {activitypub.Result{Outcome: activitypub.Delivered, Status: 202}, worker.Outcome{Kind: worker.Done, Label: "delivered"}},
		"a final no":                 {activitypub.Result{Outcome: activitypub.Unsalvageable, Status: 410, Err: boom, Kind: activitypub.Kind4xx}, worker.Outcome{Kind: worker.Done, Label: "unsalvageable"}},
		"listed as unavailable":      {activitypub.Result{Outcome: activitypub.Unavailable}, worker.Outcome{Kind: worker.Done, Label: "unavailable"}},
		"a private address":          {activitypub.Result{Outcome: activitypub.HostRefused, Err: boom, Kind: activitypub.KindPrivate}, worker.Outcome{Kind: worker.Done, Label: "host_refused"}},
		"our own fault":              {activitypub.Result{Outcome: activitypub.Deferred, Err: boom, Kind: activitypub.KindLocal}, worker.Outcome{Kind: worker.Held, Label: "deferred", Until: now.Add(deferral), Reason: "held by us: local"}},
		"a 500":                      {activitypub.Result{Outcome: activitypub.Failed, Status: 500, Err: boom, ErrorClass: "Mastodon::UnexpectedResponseError", Kind: activitypub.Kind5xx}, worker.Outcome{Kind: worker.Failed, Label: "5xx", ErrorClass: "Mastodon::UnexpectedResponseError", ErrorMessage: "boom"}},
		"a 429 with Retry-After":     {activitypub.Result{Outcome: activitypub.Failed, Status: 429, Err: boom, ErrorClass: "E", Kind: activitypub.Kind429, RetryAfter: time.Minute}, worker.Outcome{Kind: worker.Failed, Label: "429", ErrorClass: "E", ErrorMessage: "boom", NotBefore: now.Add(time.Minute)}},
		"a timeout":                  {activitypub.Result{Outcome: activitypub.Failed, Err: boom, ErrorClass: "HTTP::TimeoutError", Kind: activitypub.KindTimeout}, worker.Outcome{Kind: worker.Failed, Label: "timeout", ErrorClass: "HTTP::TimeoutError", ErrorMessage: "boom"}},
		"failed without an error":    {activitypub.Result{Outcome: activitypub.Failed, ErrorClass: "E", Kind: activitypub.KindDNS}, worker.Outcome{Kind: worker.Failed, Label: "dns", ErrorClass: "E"}},
		"an outcome not yet made up": {activitypub.Result{Outcome: 99, Err: boom}, worker.Outcome{Kind: worker.Failed, Label: "unknown outcome", ErrorClass: "RuntimeError", ErrorMessage: "boom"}},
	}
	seen := map[activitypub.Outcome]bool{}
	for name, c := range cases {
		seen[c.in.Outcome] = true
		if got := outcome(c.in, now); got != c.want {
			t.Errorf("%s: outcome(%+v) = %+v, want %+v", name, c.in, got, c.want)
		}
	}
	for o := activitypub.Delivered; !strings.HasPrefix(o.String(), "outcome("); o++ {
		if !seen[o] {
			t.Errorf("no case for %v", o)
		}
	}
}

// TestArguments: what cannot be run fails as in Ruby, without anything being sent; there is no deliverer here that could.
func TestArguments(t *testing.T) {
	t.Parallel()
	h := NewHandler(nil, nil)
	for args, class := range map[string]string{
		`[]`:                               "ArgumentError",
		`["{}",1]`:                         "ArgumentError",
		`["{}",1,"https://a.test/i",{},5]`: "ArgumentError",
	} {
		got := h.Run(t.Context(), &queues.Job{Class: Class, Args: args})
		if got.Kind != worker.Failed || got.ErrorClass != class || got.Label != "bad_arguments" || got.ErrorMessage == "" {
			t.Errorf("Run(%s) = %+v", args, got)
		}
	}
	for args, want := range map[string]string{
		`["{}",1,"https://A.test/inbox"]`:      "a.test",
		`["{}",1,"https://a.test:8443/inbox"]`: "a.test:8443",
		`["{}",1,"not a url"]`:                 "",
		`[]`:                                   "",
		`broken`:                               "",
	} {
		if got, err := h.Destination(Class, args); got != want || err != nil {
			t.Errorf("Destination(%s) = %q, %v, want %q", args, got, err, want)
		}
	}
	if got := fmt.Sprint(h.Classes()); got != "[ActivityPub::DeliveryWorker ActivityPub::LowPriorityDeliveryWorker]" {
		t.Errorf("Classes = %s", got)
	}
}

// TestTimes: giving up after Mastodon's total, and delays that grow.
func TestTimes(t *testing.T) {
	t.Parallel()
	h := NewHandler(nil, nil)
	if d := h.GiveUpAfter(Class); d < 50*time.Hour || d > 75*time.Hour {
		t.Errorf("GiveUpAfter = %v", d)
	}
	if d := h.GiveUpAfter(ClassLow); d < 78*time.Minute || d > 126*time.Minute {
		t.Errorf("GiveUpAfter, low priority = %v", d)
	}
	last := time.Duration(0)
	for _, count := range []int{0, 2, 5, 10} {
		d := h.RetryDelay(Class, count)
		if d <= last {
			t.Errorf("RetryDelay(%d) = %v after %v", count, d, last)
		}
		last = d
	}
}

// TestRun: whole deliveries to hosts that act differently, and the gate of the same hosts.
func TestRun(t *testing.T) {
	t.Parallel()
	m := mastodontest.New(t, fediverse.Host{Name: "ok.test"}, fediverse.Host{Name: "gone.test", Behaviour: fediverse.Behaviour{Status: 410}},
		fediverse.Host{Name: "ill.test", Behaviour: fediverse.Behaviour{Status: 500}}, fediverse.Host{Name: "nameless.test", Behaviour: fediverse.Behaviour{Naming: fediverse.NameMissing}})
	env, problems := mastodonenv.Load(m.Dir, nil)
	cfg, more := env.Config()
	if err := errors.Join(mastodonenv.Errors(problems), mastodonenv.Errors(more)); err != nil {
		t.Fatal(err)
	}
	db, err := dbpool.Open(t.Context(), dbpool.Config{DSN: m.DatabaseURL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	signer, _ := activitypub.NewSigner()
	d, err := activitypub.New(activitypub.Config{
		Version: "4.7.0", LocalDomain: cfg.LocalDomain, WebDomain: cfg.WebDomain, DB: db, BaseRedis: m.Redis, AllowedPrivate: cfg.AllowedPrivateAddresses,
		EncryptionPrimaryKey: string(cfg.Encryption.PrimaryKey), EncryptionKeyDerivationSalt: string(cfg.Encryption.KeyDerivationSalt),
		RootCAs: m.Fedi.RootCAs(), Resolver: m.Fedi.Resolver(), Signer: signer, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
	})
	var observed []string
	h := NewHandler(d, func(class string, r activitypub.Result) { observed = append(observed, class+" "+r.Outcome.String()) })
	g := NewGate(d.Hosts())
	run := func(ctx context.Context, host, class string) worker.Outcome {
		payload, _ := m.Delivery(t, host)
		job, err := queues.ParseJob(payload)
		if err != nil {
			t.Fatal(err)
		}
		job.Class = class
		dest, err := h.Destination(job.Class, job.Args)
		if err != nil || !strings.HasPrefix(dest, host) {
			t.Fatalf("Destination = %q, %v", dest, err)
		}
		if adm := g.Acquire(dest, time.Now()); adm.Verdict != worker.Start {
			t.Fatalf("Acquire(%s) = %+v", dest, adm)
		}
		defer g.Release(dest, time.Now())
		return h.Run(ctx, &job)
	}
	if got := run(t.Context(), "ok.test", Class); got.Kind != worker.Done || got.Label != "delivered" {
		t.Errorf("delivered: %+v", got)
	}
	if got := run(t.Context(), "gone.test", ClassLow); got.Kind != worker.Done || got.Label != "unsalvageable" {
		t.Errorf("410: %+v", got)
	}
	if got := run(t.Context(), "ill.test", Class); got.Kind != worker.Failed || got.Label != "5xx" || got.ErrorClass != "Mastodon::UnexpectedResponseError" || !strings.Contains(got.ErrorMessage, "500") {
		t.Errorf("500: %+v", got)
	}
	if got := run(t.Context(), "nameless.test", Class); got.Kind != worker.Failed || got.Label != "dns" || got.ErrorClass == "" {
		t.Errorf("no such name: %+v", got)
	}
	if want := []string{Class + " delivered", ClassLow + " unsalvageable", Class + " failed", Class + " failed"}; !slices.Equal(observed, want) {
		t.Errorf("observed %v, want %v", observed, want)
	}
	stopping, stop := context.WithCancel(t.Context())
	stop()
	if got := run(stopping, "ok.test", Class); got.Kind != worker.Returned {
		t.Errorf("while stopping: %+v", got)
	}

	// Rehearse signs and sends nothing.
	before := m.Fedi.Total().Requests
	payload, _ := m.Delivery(t, "ok.test")
	job, err := queues.ParseJob(payload)
	if err != nil {
		t.Fatal(err)
	}
	if dest, err := Rehearse(t.Context(), d, &job); err != nil || !strings.HasPrefix(dest, "ok.test:") {
		t.Errorf("Rehearse = %q, %v", dest, err)
	}
	if after := m.Fedi.Total().Requests; after != before {
		t.Errorf("Rehearse sent %d requests", after-before)
	}

	// The gate: as many as may be in flight, then full, then again after a release; a broken host is held back.
	started := 0
	for range 100 {
		if g.Acquire("b.test", time.Now()).Verdict != worker.Start {
			break
		}
		started++
	}
	if adm := g.Acquire("b.test", time.Now()); started == 0 || adm.Verdict != worker.Full {
		t.Errorf("after %d starts: %+v", started, adm)
	}
	g.Release("b.test", time.Now())
	if adm := g.Acquire("b.test", time.Now()); adm.Verdict != worker.Start {
		t.Errorf("after a release: %+v", adm)
	}
	held := worker.Admission{}
	for range 20 {
		if held = g.Acquire(hostOf(t, h, "ill.test", m), time.Now()); held.Verdict != worker.Start {
			break
		}
		g.Release(hostOf(t, h, "ill.test", m), time.Now())
		payload, _ := m.Delivery(t, "ill.test")
		failing, err := queues.ParseJob(payload)
		if err != nil {
			t.Fatal(err)
		}
		h.Run(t.Context(), &failing)
	}
	if held.Verdict != worker.HeldBack || held.Reason == "" || !held.Until.After(time.Now()) {
		t.Errorf("a host that answers 500 only: %+v", held)
	}
}

func hostOf(t *testing.T, h *Handler, host string, m *mastodontest.Server) string {
	t.Helper()
	dest, err := h.Destination(Class, `["{}",1,"`+m.Fedi.InboxURL(host)+`"]`)
	if err != nil {
		t.Fatal(err)
	}
	return dest
}
