package fediverse

import (
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// answer is a response whose body has been read.
type answer struct {
	status, proto int
	header        http.Header
	bytes         int64
}

// deliver sends r and reads the answer.
func deliver(t *testing.T, c *http.Client, r *http.Request) answer {
	t.Helper()
	response, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, response.Body)
	if err := errors.Join(err, response.Body.Close()); err != nil {
		t.Fatal(err)
	}

	return answer{status: response.StatusCode, proto: response.ProtoMajor, header: response.Header, bytes: n}
}

func TestSignaturesAreVerified(t *testing.T) {
	f := start(t, Host{Name: "quick-000.fedi.test", Class: "quick"})
	c := client(t, f)
	inbox := f.InboxURL("quick-000.fedi.test")
	body := []byte(`{"id":"https://local.test/1","type":"Create"}`)
	cases := map[string]struct {
		make func() *http.Request
		want int
		get  func(*Counts) uint64
	}{
		"a right cavage signature is accepted": {
			func() *http.Request { return cavageRequest(t, inbox, body) }, 202,
			func(c *Counts) uint64 { return c.Cavage },
		},
		"a right RFC 9421 signature is accepted": {
			func() *http.Request { return rfc9421Request(t, inbox, []byte("two")) }, 202,
			func(c *Counts) uint64 { return c.RFC9421 },
		},
		"a changed body is a bad digest": {
			func() *http.Request {
				r := cavageRequest(t, inbox, body)
				r.Body = io.NopCloser(strings.NewReader(strings.Replace(string(body), "Create", "Delete", 1)))

				return r
			}, 401, func(c *Counts) uint64 { return c.BadDigests },
		},
		"a changed body is a bad content digest": {
			func() *http.Request {
				r := rfc9421Request(t, inbox, body)
				r.Body = io.NopCloser(strings.NewReader(strings.Replace(string(body), "Create", "Delete", 1)))

				return r
			}, 401, func(c *Counts) uint64 { return c.BadDigests },
		},
		"a signature for another inbox is bad": {
			func() *http.Request {
				r := cavageRequest(t, inbox, body)
				r.URL.Path = "/users/bob/inbox"

				return r
			}, 401, func(c *Counts) uint64 { return c.BadSignatures },
		},
		"an RFC 9421 signature for another inbox is bad": {
			func() *http.Request {
				r := rfc9421Request(t, inbox, body)
				r.URL.Path = "/users/bob/inbox"

				return r
			}, 401, func(c *Counts) uint64 { return c.BadSignatures },
		},
		"a changed date is bad": {
			func() *http.Request {
				r := cavageRequest(t, inbox, body)
				r.Header.Set("Date", time.Now().Add(-2*time.Second).UTC().Format(http.TimeFormat))

				return r
			}, 401, func(c *Counts) uint64 { return c.BadSignatures },
		},
		"a date of yesterday is bad": {
			func() *http.Request {
				r := cavageRequest(t, inbox, body)
				r.Header.Set("Date", time.Now().Add(-24*time.Hour).UTC().Format(http.TimeFormat))

				return r
			}, 401, func(c *Counts) uint64 { return c.BadSignatures },
		},
		"an unknown key is bad": {
			func() *http.Request {
				r := cavageRequest(t, inbox, body)
				r.Header.Set("Signature", strings.Replace(r.Header.Get("Signature"), "alice", "mallory", 1))

				return r
			}, 401, func(c *Counts) uint64 { return c.BadSignatures },
		},
		"a signature that leaves out the digest is bad": {
			func() *http.Request {
				r := cavageRequest(t, inbox, body)
				r.Header.Set("Signature", strings.Replace(r.Header.Get("Signature"), " digest", "", 1))

				return r
			}, 401, func(c *Counts) uint64 { return c.BadSignatures },
		},
		"no signature is counted apart": {
			func() *http.Request {
				r := cavageRequest(t, inbox, body)
				r.Header.Del("Signature")

				return r
			}, 401, func(c *Counts) uint64 { return c.Unsigned },
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			before := f.Total()
			response := deliver(t, c, tc.make())
			if response.status != tc.want {
				t.Errorf("status = %d, want %d", response.status, tc.want)
			}
			after := f.Total()
			if got := tc.get(&after) - tc.get(&before); got != 1 {
				t.Errorf("counted %d times, want 1", got)
			}
		})
	}
	if total := f.Total(); total.HTTP2 != total.Requests {
		t.Errorf("%d of %d requests over HTTP/2, want all", total.HTTP2, total.Requests)
	}
}

func TestBehaviours(t *testing.T) {
	host := func(name string, b Behaviour) Host { return Host{Name: name + ".fedi.test", Class: name, Behaviour: b} }
	f := start(
		t,
		host("gone", Behaviour{Status: 410}), host("old", Behaviour{HTTP1Only: true}),
		host("moved", Behaviour{Status: 302, Location: "https://elsewhere.test/inbox"}),
		host("huge", Behaviour{ResponseBytes: 3 << 20}),
		host("limiting", Behaviour{PerSecond: 1, RetryAfter: 90 * time.Second}),
		host("modern", Behaviour{WantRFC9421: true}),
		host("flaky", Behaviour{FailShare: 0.5}),
		host("slow", Behaviour{LatencyMin: 60 * time.Millisecond, LatencyMax: 90 * time.Millisecond}),
	)
	c := client(t, f)
	inbox := func(name string) string { return f.InboxURL(name + ".fedi.test") }

	if r := deliver(t, c, cavageRequest(t, inbox("gone"), []byte("a"))); r.status != 410 {
		t.Errorf("gone answers %d", r.status)
	}
	if r := deliver(t, c, cavageRequest(t, inbox("old"), []byte("a"))); r.proto != 1 || r.status != 202 {
		t.Errorf("old answers %d over HTTP/%d", r.status, r.proto)
	}
	if r := deliver(t, c, cavageRequest(t, inbox("moved"), []byte("a"))); r.status != 302 || r.header.Get("Location") == "" {
		t.Errorf("moved answers %d to %q", r.status, r.header.Get("Location"))
	}
	if r := deliver(t, c, cavageRequest(t, inbox("huge"), []byte("a"))); r.bytes != 3<<20 {
		t.Errorf("huge answers %d bytes", r.bytes)
	}
	deliver(t, c, cavageRequest(t, inbox("limiting"), []byte("a")))
	if r := deliver(t, c, cavageRequest(t, inbox("limiting"), []byte("b"))); r.status != 429 || r.header.Get("Retry-After") != "90" {
		t.Errorf("limiting answers %d, Retry-After %q", r.status, r.header.Get("Retry-After"))
	}
	if r := deliver(t, c, cavageRequest(t, inbox("modern"), []byte("a"))); r.status != 401 {
		t.Errorf("modern answers the first knock %d", r.status)
	}
	if r := deliver(t, c, rfc9421Request(t, inbox("modern"), []byte("a"))); r.status != 202 {
		t.Errorf("modern answers the second knock %d", r.status)
	}
	var failed int
	for i := range 40 {
		if r := deliver(t, c, cavageRequest(t, inbox("flaky"), []byte{byte(i)})); r.status == 503 {
			failed++
		}
	}
	if failed < 8 || failed > 32 {
		t.Errorf("flaky failed %d of 40", failed)
	}
	started := time.Now()
	deliver(t, c, cavageRequest(t, inbox("slow"), []byte("a")))
	if took := time.Since(started); took < 60*time.Millisecond {
		t.Errorf("slow answered in %v", took)
	}
	if total := f.Total(); total.BadSignatures+total.BadDigests+total.Unsigned != 0 || total.SecondKnocks != 1 {
		t.Errorf("total = %+v", total)
	}
}

func TestHostsThatCannotBeReached(t *testing.T) {
	t.Parallel()
	host := func(name string, b Behaviour) Host { return Host{Name: name + ".fedi.test", Class: name, Behaviour: b} }
	f := start(
		t,
		host("refusing", Behaviour{Connecting: ConnectRefuse}), host("silent", Behaviour{Connecting: ConnectSilent}),
		host("dark", Behaviour{Connecting: ConnectBlackhole}), host("nameless", Behaviour{Naming: NameMissing}),
		host("servfail", Behaviour{Naming: NameServfail}), host("mute", Behaviour{Naming: NameTimeout}),
		host("expired", Behaviour{Certificate: CertificateExpired}), host("impostor", Behaviour{Certificate: CertificateWrongName}),
		host("hanging", Behaviour{Hang: true}),
	)
	c := client(t, f)
	timeout := func(err error) bool {
		n, ok := errors.AsType[net.Error](err)

		return ok && n.Timeout()
	}
	dnsError := func(is func(*net.DNSError) bool) func(error) bool {
		return func(err error) bool {
			d, ok := errors.AsType[*net.DNSError](err)

			return ok && is(d)
		}
	}
	cases := map[string]func(error) bool{
		"refusing": func(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) },
		"silent":   timeout, "dark": timeout, "hanging": timeout, "mute": timeout,
		"nameless": dnsError(func(d *net.DNSError) bool { return d.IsNotFound }),
		"servfail": dnsError(func(d *net.DNSError) bool { return !d.IsNotFound && d.IsTemporary }),
		"expired": func(err error) bool {
			e, ok := errors.AsType[x509.CertificateInvalidError](err)

			return ok && e.Reason == x509.Expired
		},
		"impostor": func(err error) bool { _, ok := errors.AsType[x509.HostnameError](err); return ok },
	}
	for name, right := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			response, err := c.Do(cavageRequest(t, f.InboxURL(name+".fedi.test"), []byte("a")))
			if err == nil {
				_ = response.Body.Close()
			}
			if !right(err) {
				t.Errorf("error = %v", err)
			}
		})
	}
}

func TestLedger(t *testing.T) {
	f := start(t, Host{Name: "a.fedi.test", Class: "quick"}, Host{Name: "b.fedi.test", Class: "quick", Behaviour: Behaviour{Status: 403}})
	c := client(t, f)
	body := []byte(`{"id":"https://local.test/1"}`)
	for range 2 {
		deliver(t, c, cavageRequest(t, f.InboxURL("a.fedi.test"), body))
	}
	deliver(t, c, cavageRequest(t, f.InboxURL("b.fedi.test"), body))
	got, ok := f.Lookup(DeliveryKey("A.fedi.test:443", "/inbox", body))
	if !ok || got.Accepted != 2 || got.Attempts != 2 || got.FirstStatus != 202 || time.Since(got.FirstAnswer) > time.Minute {
		t.Errorf("Lookup = %+v, %v", got, ok)
	}
	if got, ok := f.Lookup(DeliveryKey("b.fedi.test", "/inbox", body)); !ok || got.Accepted != 0 || got.LastStatus != 403 {
		t.Errorf("Lookup = %+v, %v", got, ok)
	}
	if _, ok := f.Lookup(DeliveryKey("b.fedi.test", "/other", body)); ok {
		t.Error("a delivery that never was is known")
	}
	if counts := f.ClassCounts()["quick"]; counts.Duplicates != 1 || counts.Accepted != 2 || counts.Rejected != 1 || counts.Latencies.Count() != 3 {
		t.Errorf("counts = %+v", counts)
	}
}

func TestLedgerIsBounded(t *testing.T) {
	l := newLedger(100, time.Now())
	for i := range 10_000 {
		l.record(Key(mix(uint64(i))), 202, time.Now())
	}
	var kept int
	for i := range l.shards {
		kept += len(l.shards[i].entries)
	}
	if kept > 100+ledgerShards || l.missed.Load() != uint64(10_000-kept) {
		t.Errorf("kept %d, missed %d", kept, l.missed.Load())
	}
}

func TestHistogram(t *testing.T) {
	var h histogram
	for i := 1; i <= 1000; i++ {
		h.record(time.Duration(i) * time.Millisecond)
	}
	h.record(time.Hour)
	l := h.snapshot()
	for q, want := range map[float64]time.Duration{0.5: 500 * time.Millisecond, 0.99: 990 * time.Millisecond} {
		if got := l.Quantile(q); float64(got) < 0.93*float64(want) || float64(got) > 1.07*float64(want) {
			t.Errorf("Quantile(%v) = %v, want about %v", q, got, want)
		}
	}
}

func TestConfigNamesEveryProblem(t *testing.T) {
	_, err := Start(t.Context(), Config{Hosts: []Host{
		{Name: "example.com"},
		{Name: "x.test"},
		{Name: "x.test"},
		{Name: "y.test", Behaviour: Behaviour{LatencyMin: time.Hour, FailShare: 2, Status: 99, Naming: "odd"}},
	}})
	if !errors.Is(err, ErrConfig) {
		t.Fatalf("error = %v", err)
	}
	for _, part := range []string{"no keys", "no certificate authority", "under .test", "twice", "latency", "fail share", "status 99", `naming "odd"`} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error does not say %q: %v", part, err)
		}
	}
}

func TestManyAtOnce(t *testing.T) {
	f := start(t, Host{Name: "a.fedi.test", Class: "quick", Behaviour: Behaviour{LatencyMin: 500 * time.Millisecond, LatencyMax: 500 * time.Millisecond}})
	c := client(t, f)
	var wg sync.WaitGroup
	for i := range 20 {
		r := cavageRequest(t, f.InboxURL("a.fedi.test"), []byte{byte(i)})
		wg.Go(func() {
			response, err := c.Do(r)
			if err != nil {
				t.Error(err)

				return
			}
			_ = response.Body.Close()
		})
	}
	wg.Wait()
	if total := f.Total(); total.Accepted != 20 || total.PeakInFlight < 10 {
		t.Errorf("accepted %d, peak %d", total.Accepted, total.PeakInFlight)
	}
}
