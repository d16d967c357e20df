package deliveryjobs

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/queueville/queueville/activitypub"
	"github.com/queueville/queueville/dbpool"
	"github.com/queueville/queueville/internal/mastodonenv"
	"github.com/queueville/queueville/internal/mastodontest"
	"github.com/queueville/queueville/loadtest/fediverse"
	"github.com/queueville/queueville/queues"
	"github.com/queueville/queueville/scheduler"
	"github.com/queueville/queueville/worker"
)

// inbox is a TLS server that gets through so many requests a second, or is down, or takes whatever comes.
type inbox struct {
	*httptest.Server
	slots chan struct{}
	mode  atomic.Int32

	mu       sync.Mutex
	arrivals []time.Time
}

const (
	ordinary int32 = iota // two requests at once, 40 ms each
	away                  // connections are cut
	generous              // answers everything at once
)

const serves = 40 * time.Millisecond

func startInbox(t *testing.T, roots *x509.CertPool) *inbox {
	t.Helper()
	in := &inbox{slots: make(chan struct{}, 2)}
	in.Server = httptest.NewUnstartedServer(in)
	in.Config.ErrorLog = log.New(io.Discard, "", 0)
	in.StartTLS()
	t.Cleanup(in.Close)
	roots.AddCert(in.Certificate())
	return in
}

func (in *inbox) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	mode := in.mode.Load()
	if mode == away {
		panic(http.ErrAbortHandler)
	}
	in.mu.Lock()
	in.arrivals = append(in.arrivals, time.Now())
	in.mu.Unlock()
	_, _ = io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, 1<<20))
	if mode == ordinary {
		in.slots <- struct{}{}
		time.Sleep(serves)
		<-in.slots
	}
	w.WriteHeader(http.StatusAccepted)
}

// between gives the arrivals from one time to another.
func (in *inbox) between(from, to time.Time) (list []time.Time) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, at := range in.arrivals {
		if !at.Before(from) && at.Before(to) {
			list = append(list, at)
		}
	}
	return list
}

// mostInASecond is the most of them in any one second.
func mostInASecond(arrivals []time.Time) int {
	most, first := 0, 0
	for i, at := range arrivals {
		for at.Sub(arrivals[first]) >= time.Second {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

// TestNoStorm: a whole worker, real requests over TLS. A host is away with much waiting for it, and when it answers again it gets no more than
// twice what it got before in any second, whatever it would take now. Meanwhile deliveries to another host go on.
func TestNoStorm(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	m := mastodontest.New(t, fediverse.Host{Name: "ok.test"})
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
	roots := m.Fedi.RootCAs().Clone()
	host, other := startInbox(t, roots), startInbox(t, roots)
	signer, _ := activitypub.NewSigner()
	d, err := activitypub.New(activitypub.Config{
		Version: "4.7.0", LocalDomain: cfg.LocalDomain, WebDomain: cfg.WebDomain, DB: db, BaseRedis: m.Redis, AllowedPrivate: cfg.AllowedPrivateAddresses,
		EncryptionPrimaryKey: string(cfg.Encryption.PrimaryKey), EncryptionKeyDerivationSalt: string(cfg.Encryption.KeyDerivationSalt),
		RootCAs: roots, Resolver: m.Fedi.Resolver(), Signer: signer, Logger: slog.New(slog.DiscardHandler), FirstBackoff: time.Second, DisableFollowersSync: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	identity := queues.NewIdentity("test", 1)
	var ended sync.Map
	w, err := worker.New(worker.Config{
		Store: queues.NewStore(m.Redis, ""), Process: queues.ProcessInfo{Identity: identity, Hostname: "test", PID: 1, Concurrency: 1, Queues: []string{"push"}},
		Holder: queues.Holder{Identity: identity, Hostname: "test", PID: 1}, Handlers: []worker.Handler{NewHandler(d, func(_ string, r activitypub.Result) { ended.Store(r.Outcome, true) })},
		Gate: NewGate(d.Hosts()), Owned: []scheduler.Queue{{Name: "push"}}, ForeignTo: "elsewhere",
		Concurrency: 64, Window: 2000, PerDest: 900, MaxWait: time.Minute, PollAverage: 300 * time.Millisecond, PollFirst: time.Millisecond, StopTimeout: time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	running.Go(func() { _ = w.Run(ctx) })
	running.Go(func() { _ = d.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })

	push := func(to *inbox, n int) {
		list := make([]string, n)
		for i := range list {
			payload, _ := m.Delivery(t, "ok.test")
			list[i] = strings.ReplaceAll(payload, m.Fedi.InboxURL("ok.test"), to.URL+"/inbox")
		}
		m.Push(t, "push", list...)
	}
	// pass lets time pass, with one delivery after the other to the other host.
	pass := func(length time.Duration) {
		for end := time.Now().Add(length); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
			push(other, 1)
		}
	}
	push(host, 400)
	began := time.Now()
	pass(7 * time.Second)
	before := mostInASecond(host.between(began, time.Now()))

	host.mode.Store(away)
	gone := time.Now()
	push(host, 400)
	// What was under way when it went away may still be answered, which closes a breaker that has just opened.
	for deadline := gone.Add(20 * time.Second); d.Hosts().Counts(time.Now()).Down != 1 || time.Since(gone) < 4*time.Second; pass(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("Counts = %+v while a host is away: %+v", d.Hosts().Counts(time.Now()), d.Hosts().Snapshot(time.Now(), 3))
		}
		push(host, 10)
	}
	host.mode.Store(generous)
	push(host, 1500)
	for deadline := time.Now().Add(20 * time.Second); len(host.between(gone.Add(time.Second), time.Now())) == 0; pass(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the host is not tried again: %+v", d.Hosts().Snapshot(time.Now(), 3))
		}
		push(host, 20) // what was held when it was away is not due yet
	}
	back := host.between(gone.Add(time.Second), time.Now())[0]
	push(host, 1500)
	pass(14 * time.Second)

	// For a moment everything that waits may be on its way back from where it was put off.
	said := func() bool {
		s, lines := d.Hosts().Bound(time.Now(), 5), w.Destinations(1)
		return len(s) > 0 && s[0].Bound == "reopening" && s[0].Rate > 0 && len(lines) > 0 && lines[0].Waiting > 0
	}
	for deadline := time.Now().Add(5 * time.Second); !said(); pass(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Errorf("Bound = %+v, the longest line %+v", d.Hosts().Bound(time.Now(), 5), w.Destinations(1))
			break
		}
	}
	after := host.between(back, time.Now())
	most, first := mostInASecond(after), len(host.between(back, back.Add(time.Second)))
	late := len(host.between(back.Add(11*time.Second), back.Add(13*time.Second))) / 2
	t.Logf("before: %d in a second; back: %d in the first second, %d at most, %d twelve seconds later", before, first, most, late)
	if before < 30 || before > 75 {
		t.Fatalf("%d in a second before, the host gets through 50", before)
	}
	if most > 2*before {
		t.Errorf("%d in one second, %d before", most, before)
	}
	if first > before/2 {
		t.Errorf("%d in the first second, %d before", first, before)
	}
	if late < before*3/4 {
		t.Errorf("%d a second twelve seconds later, %d before", late, before)
	}
	if n, want := len(other.between(began, time.Now())), 150; n < want {
		t.Errorf("%d deliveries to the other host, want %d", n, want)
	}
}
