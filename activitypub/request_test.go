package activitypub

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestHeaders: the request of each release (spec 3.6).
func TestHeaders(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ order, agent string }{
		"4.3.0": {"(request-target) host date digest content-type", "Mastodon/4.3.0 (http.rb/5.2.0; +https://local.test/)"},
		"4.5.0": {"host date digest content-type (request-target)", "Mastodon/4.5.0 (http.rb/5.3.1; +https://local.test/)"},
		"4.6.0": {"host date digest content-type (request-target)", "Mastodon/4.6.0 (http.rb/5.3.1; +https://local.test/)"},
		"4.7.0": {"host date content-type digest (request-target)", "Mastodon/4.7.0 (http.rb/5.3.1; +https://local.test/)"},
	}
	for version, tt := range tests {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			b := setup(t, version)
			for _, h2 := range []bool{false, true} {
				r := b.receiverOn(fmt.Sprintf("h2-%v.test", h2), h2, nil)
				job := b.job(r.inbox() + "?a=b+c,d")
				job.Body = "{\"a\":\"é\xff\"}\n"
				if got := b.deliver(job); got.Outcome != Delivered {
					t.Fatalf("Deliver = %+v", got)
				}
				req := r.requests()[0]
				sum := sha256.Sum256([]byte(job.Body))
				digest := base64.StdEncoding.EncodeToString(sum[:])
				if req.signed != nil {
					t.Errorf("signature: %v", req.signed)
				}
				if req.body != job.Body {
					t.Errorf("body = %q, want %q byte for byte", req.body, job.Body)
				}
				if req.method != "POST" || req.uri != "/inbox?a=b+c,d" || req.host != r.name {
					t.Errorf("%s %s to host %q, want POST, no port in the host", req.method, req.uri, req.host)
				}
				wantProto := map[bool]string{false: "HTTP/1.1", true: "HTTP/2.0"}[h2]
				if req.proto != wantProto {
					t.Errorf("protocol = %s, want %s", req.proto, wantProto)
				}
				want := map[string]string{
					"User-Agent": tt.agent, "Accept-Encoding": "gzip", "Content-Type": "application/activity+json",
					"Digest": "SHA-256=" + digest, "Content-Length": fmt.Sprint(len(job.Body)), "Content-Digest": "", "Content-Encoding": "",
					"Accept": "", "Cookie": "", "X-Idempotency-Key": "", "Collection-Synchronization": "",
				}
				if !h2 {
					want["Connection"] = "Keep-Alive"
				}
				for name, value := range want {
					if got := req.header.Get(name); got != value {
						t.Errorf("%s: %q, want %q", name, got, value)
					}
				}
				if at, err := http.ParseTime(req.header.Get("Date")); err != nil || time.Since(at).Abs() > 5*time.Second || !strings.HasSuffix(req.header.Get("Date"), "GMT") {
					t.Errorf("Date: %q", req.header.Get("Date"))
				}
				signature := req.header.Get("Signature")
				prefix := `keyId="` + b.data.Accounts[0].KeyID + `",algorithm="rsa-sha256",headers="` + tt.order + `",signature="`
				if !strings.HasPrefix(signature, prefix) || !strings.HasSuffix(signature, `"`) {
					t.Errorf("Signature: %s, want it to begin with %s", signature, prefix)
				}
			}
		})
	}
}

// TestOldRequestTarget: 4.2 and older left the query out of (request-target).
func TestOldRequestTarget(t *testing.T) {
	m := &message{method: "POST", requestTarget: "/inbox?a=b", host: "a.test", date: "now", digest: "d", contentType: contentType}
	for version, want := range map[string]string{"4.2.0": "(request-target): post /inbox\n", "4.3.0": "(request-target): post /inbox?a=b\n"} {
		rel, err := parseRelease(version)
		must(t, err)
		var text recordingKey
		if _, err := cavage(rel, &text, "k", m); err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256([]byte(want + "host: a.test\ndate: now\ndigest: SHA-256=d\ncontent-type: application/activity+json"))
		if text.digest != sum {
			t.Errorf("%s: the signed text is another one", version)
		}
	}
}

// recordingKey notes what it is asked to sign.
type recordingKey struct{ digest [32]byte }

func (k *recordingKey) SignSHA256(digest [32]byte) ([]byte, error) {
	k.digest = digest
	return []byte("signature"), nil
}

// TestKnocks: the RFC 9421 second knock and what is learnt from it.
func TestKnocks(t *testing.T) {
	for _, refusal := range []int{400, 401} {
		t.Run(fmt.Sprint(refusal), func(t *testing.T) {
			b := setup(t, "4.7.0")
			wants9421 := true
			r := b.receiver("a.test", func(_ int, got received, w http.ResponseWriter) {
				if got.rfc9421 != wants9421 {
					w.WriteHeader(refusal)
					return
				}
				w.WriteHeader(http.StatusAccepted)
			})
			steps := []struct {
				what   string
				wants  bool
				second bool
				sent   string
			}{
				{"the first is refused, the second learns", true, true, "cavage rfc9421"},
				{"the next first knock is the right one", true, false, "rfc9421"},
				{"refused with it, it tries the other and forgets", false, true, "rfc9421 cavage"},
				{"and starts as always", false, false, "cavage"},
			}
			for _, step := range steps {
				before := len(r.requests())
				r.mu.Lock()
				wants9421 = step.wants
				r.mu.Unlock()
				got := b.deliver(b.job(r.inbox() + "?x=1"))
				if got.Outcome != Delivered || got.SecondKnock != step.second {
					t.Fatalf("%s: %+v", step.what, got)
				}
				var sent []string
				for _, req := range r.requests()[before:] {
					if req.signed != nil {
						t.Errorf("%s: signature: %v", step.what, req.signed)
					}
					if req.rfc9421 {
						sent = append(sent, "rfc9421")
						checkRFC9421(t, b, req)
					} else {
						sent = append(sent, "cavage")
					}
				}
				if got := strings.Join(sent, " "); got != step.sent {
					t.Errorf("%s: sent %s, want %s", step.what, got, step.sent)
				}
			}
			conns := map[string]bool{}
			for _, req := range r.requests() {
				conns[req.conn] = true
			}
			if len(conns) != 1 {
				t.Errorf("%d connections, want the second knock on the same one", len(conns))
			}
		})
	}
	t.Run("before 4.7 there is no second knock", func(t *testing.T) {
		b := setup(t, "4.6.0")
		r := b.receiver("a.test", status(400))
		if got := b.deliver(b.job(r.inbox())); got.SecondKnock || len(r.requests()) != 1 {
			t.Errorf("%d knocks, %+v", len(r.requests()), got)
		}
	})
	t.Run("other refusals get no second knock", func(t *testing.T) {
		b := setup(t, "4.7.0")
		r := b.receiver("a.test", status(403))
		if got := b.deliver(b.job(r.inbox())); got.SecondKnock || len(r.requests()) != 1 {
			t.Errorf("%d knocks, %+v", len(r.requests()), got)
		}
	})
	t.Run("the second answer decides, and one that is no 2xx teaches nothing", func(t *testing.T) {
		b := setup(t, "4.7.0")
		r := b.receiver("a.test", func(n int, _ received, w http.ResponseWriter) { w.WriteHeader(401 + 99*(n%2)) })
		if got := b.deliver(b.job(r.inbox())); got.Outcome != Failed || got.Status != 500 {
			t.Errorf("Deliver = %+v", got)
		}
		if b.knocks.wantsRFC9421(r.dest(), time.Now()) {
			t.Error("a failure taught something")
		}
	})
	t.Run("a day is the longest", func(t *testing.T) {
		k := &knocks{until: map[string]time.Time{}}
		now := time.Now()
		k.learn("a", now)
		if !k.wantsRFC9421("a", now.Add(24*time.Hour-1)) || k.wantsRFC9421("a", now.Add(24*time.Hour)) {
			t.Error("what was learnt is not kept for exactly a day")
		}
		k.sweep(now.Add(25 * time.Hour))
		for i := range 2 * maxKnocks {
			k.learn(fmt.Sprint(i), now)
		}
		if len(k.until) != maxKnocks {
			t.Errorf("%d hosts remembered", len(k.until))
		}
	})
}

func checkRFC9421(t *testing.T, b *bundle, req received) {
	t.Helper()
	input := req.header.Get("Signature-Input")
	want := `sig1=("@method" "@target-uri" "content-digest");created=`
	if !strings.HasPrefix(input, want) || !strings.HasSuffix(input, `;keyid="`+b.data.Accounts[0].KeyID+`"`) || strings.Contains(input, "alg") {
		t.Errorf("Signature-Input: %s", input)
	}
	if req.header.Get("Digest") != "" || !strings.HasPrefix(req.header.Get("Content-Digest"), "sha-256=:") {
		t.Errorf("digests: %v", req.header)
	}
}

// TestRedirects: spec 3.6.
func TestRedirects(t *testing.T) {
	b := setup(t, "4.7.0")
	for _, code := range []int{300, 301, 302} {
		r := b.receiver(fmt.Sprintf("r%d.test", code), func(n int, _ received, w http.ResponseWriter) {
			w.Header().Set("Location", "/other")
			w.WriteHeader(code)
		})
		got := b.deliver(b.job(r.inbox()))
		if got.Outcome != Failed || got.ErrorClass != "HTTP::StateError" || len(r.requests()) != 1 {
			t.Errorf("%d: %+v after %d requests, want a failure after one", code, got, len(r.requests()))
		}
	}
	for code, method := range map[int]string{303: "GET", 307: "POST", 308: "POST"} {
		r := b.receiver(fmt.Sprintf("r%d.test", code), func(n int, _ received, w http.ResponseWriter) {
			if n == 0 {
				w.Header().Set("Location", "/other?x=y")
				w.WriteHeader(code)
				return
			}
			w.WriteHeader(http.StatusOK)
		})
		got := b.deliver(b.job(r.inbox()))
		reqs := r.requests()
		if got.Outcome != Delivered || len(reqs) != 2 {
			t.Fatalf("%d: %+v after %d requests", code, got, len(reqs))
		}
		if reqs[1].method != method || reqs[1].uri != "/other?x=y" || reqs[1].signed != nil {
			t.Errorf("%d: %s %s, signature %v, want a signed %s", code, reqs[1].method, reqs[1].uri, reqs[1].signed, method)
		}
		if posted := reqs[1].body != ""; posted != (method == "POST") {
			t.Errorf("%d: body = %q", code, reqs[1].body)
		}
	}
	other := b.receiver("elsewhere.test", nil)
	r := b.receiver("away.test", func(_ int, _ received, w http.ResponseWriter) {
		w.Header().Set("Location", other.inbox())
		w.WriteHeader(http.StatusTemporaryRedirect)
	})
	if got := b.deliver(b.job(r.inbox())); got.Outcome != Failed || got.ErrorClass != "HTTP::StateError" || len(other.requests()) != 0 {
		t.Errorf("to another origin: %+v", got)
	}
	r = b.receiver("loop.test", func(n int, _ received, w http.ResponseWriter) {
		w.Header().Set("Location", fmt.Sprintf("/%d", n))
		w.WriteHeader(http.StatusPermanentRedirect)
	})
	if got := b.deliver(b.job(r.inbox())); got.Outcome != Failed || got.ErrorClass != "HTTP::Redirector::TooManyRedirectsError" || len(r.requests()) != 1+maxHops {
		t.Errorf("round in circles: %+v after %d requests", got, len(r.requests()))
	}
	r = b.receiver("bad.test", func(_ int, _ received, w http.ResponseWriter) {
		w.Header().Set("Location", "gopher://elsewhere.test/")
		w.WriteHeader(http.StatusTemporaryRedirect)
	})
	if got := b.deliver(b.job(r.inbox())); got.Outcome != Failed || got.ErrorClass != "HTTP::StateError" {
		t.Errorf("to nonsense: %+v", got)
	}
}

// TestRetryAfter: bounded, for 429 and 503, and it holds the host.
func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "0": 0, "30": 30 * time.Second, "3600": time.Hour, "99999": time.Hour, "99999999999999999999": 0, "-5": 0, "soon": 0, "1.5": 0,
		now.Add(90 * time.Second).Format(http.TimeFormat): 90 * time.Second,
		now.Add(-time.Hour).Format(http.TimeFormat):       0,
		now.Add(48 * time.Hour).Format(http.TimeFormat):   time.Hour,
	} {
		if got := parseRetryAfter(value, now); got != want {
			t.Errorf("parseRetryAfter(%q) = %v, want %v", value, got, want)
		}
	}
	b := setup(t, "4.7.0")
	for code, want := range map[int]time.Duration{429: 90 * time.Second, 503: 90 * time.Second, 500: 0} {
		r := b.receiver(fmt.Sprintf("r%d.test", code), func(_ int, _ received, w http.ResponseWriter) {
			w.Header().Set("Retry-After", "90")
			w.WriteHeader(code)
		})
		if got := b.deliver(b.job(r.inbox())); got.RetryAfter != want {
			t.Errorf("%d: RetryAfter = %v, want %v", code, got.RetryAfter, want)
		}
		adm := b.Hosts().Acquire(r.dest(), time.Now())
		if held := adm.Verdict == Held && adm.Reason == "retry-after"; held != (want > 0) {
			t.Errorf("%d: Acquire = %+v", code, adm)
		}
	}
}

// TestAnswerSize: at most 1 MiB of an answer is read, and the connection is only kept when all of it was.
func TestAnswerSize(t *testing.T) {
	b := setup(t, "4.7.0")
	var big atomic.Bool
	r := b.receiverOn("a.test", false, func(_ int, _ received, w http.ResponseWriter) {
		size := 64 << 10
		if big.Load() {
			size = 64 << 20
		}
		_, _ = io.CopyN(w, zeros{}, int64(size))
	})
	for range 3 {
		if got := b.deliver(b.job(r.inbox())); got.Outcome != Delivered {
			t.Fatalf("Deliver = %+v", got)
		}
	}
	big.Store(true)
	begun := time.Now()
	if got := b.deliver(b.job(r.inbox())); got.Outcome != Delivered || time.Since(begun) > 5*time.Second {
		t.Errorf("a huge answer = %+v after %v", got, time.Since(begun))
	}
	big.Store(false)
	if got := b.deliver(b.job(r.inbox())); got.Outcome != Delivered {
		t.Fatalf("Deliver = %+v", got)
	}
	reqs := r.requests()
	if reqs[0].conn != reqs[3].conn || reqs[3].conn == reqs[4].conn {
		t.Error("connections are kept or dropped at the wrong moment")
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestDeadConnection: a kept connection that turns out to be dead costs no failure: the POST is sent again on a fresh one.
func TestDeadConnection(t *testing.T) {
	b := setup(t, "4.7.0")
	r := b.receiverOn("a.test", false, func(n int, _ received, w http.ResponseWriter) {
		if n == 1 {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_ = conn.Close() // the second request on the kept connection gets no answer
			}
			return
		}
		w.WriteHeader(http.StatusAccepted)
	})
	for range 2 {
		if got := b.deliver(b.job(r.inbox())); got.Outcome != Delivered {
			t.Fatalf("Deliver = %+v", got)
		}
	}
	if n := len(r.requests()); n != 3 {
		t.Errorf("%d requests, want 3", n)
	}
}

// TestTimeouts: each step has its own limit.
func TestTimeouts(t *testing.T) {
	b := setup(t, "4.7.0", func(c *Config) {
		c.ConnectTimeout, c.TLSTimeout, c.HeaderTimeout, c.DNSTimeout = 300*time.Millisecond, 300*time.Millisecond, 300*time.Millisecond, 300*time.Millisecond
		c.ResponseTimeout = 600 * time.Millisecond
	})
	ok := b.receiver("ok.test", nil)
	release := make(chan struct{})
	slow := b.receiverOn("slow.test", false, func(int, received, http.ResponseWriter) { <-release })
	drip := b.receiverOn("drip.test", false, func(_ int, _ received, w http.ResponseWriter) {
		for range 200 {
			_, _ = w.Write([]byte("x"))
			_ = http.NewResponseController(w).Flush()
			select {
			case <-release:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	defer close(release)
	silent, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0") // accepts by the kernel's backlog, and says nothing
	must(t, err)
	defer func() { _ = silent.Close() }()
	b.names.set("mute.test", "127.0.0.1")
	_, port, _ := net.SplitHostPort(silent.Addr().String())
	for name, url := range map[string]string{"no TLS": "https://mute.test:" + port + "/", "no answer": slow.inbox(), "an endless answer": drip.inbox()} {
		t.Run(name, func(t *testing.T) {
			done := make(chan struct{})
			go func() { // something must succeed, or the failure is suspected to be ours
				defer close(done)
				time.Sleep(1200 * time.Millisecond)
				b.deliver(b.job(ok.inbox()))
			}()
			begun := time.Now()
			got := b.deliver(b.job(url))
			if got.Outcome != Failed || got.Kind != KindTimeout || got.ErrorClass != "HTTP::TimeoutError" {
				t.Errorf("Deliver = %+v, want a time-out", got)
			}
			if got.WireTime > 3*time.Second || time.Since(begun) > 5*time.Second {
				t.Errorf("it took %v", got.WireTime)
			}
			<-done
		})
	}
}

// TestTLS: certificates are verified, sessions resumed.
func TestTLS(t *testing.T) {
	t.Parallel()
	b := setup(t, "4.7.0")
	r := b.receiver("right.test", nil)
	b.names.set("wrong.test", "127.0.0.1")
	b.deliver(b.job(r.inbox()))
	var reqs []received
	for range 50 { // the connection becomes idle a moment after the answer
		b.direct.CloseIdleConnections()
		b.deliver(b.job(r.inbox()))
		if reqs = r.requests(); reqs[len(reqs)-1].conn != reqs[0].conn {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if last := reqs[len(reqs)-1]; reqs[0].resumed || !last.resumed {
		t.Errorf("sessions resumed = %v, then %v after %d requests, want only on the second connection", reqs[0].resumed, last.resumed, len(reqs))
	}
	got := b.deliver(b.job("https://wrong.test:" + r.port() + "/inbox"))
	if got.Outcome != Failed || got.Kind != KindTLS || got.ErrorClass != "OpenSSL::SSL::SSLError" {
		t.Errorf("a certificate for another name = %+v", got)
	}
	plain := (&http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: time.Second})
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	done := make(chan struct{})
	go func() { defer close(done); _ = plain.Serve(listener) }()
	defer func() { _ = plain.Close(); <-done }()
	b.names.set("plain.test", "127.0.0.1")
	b.deliver(b.job(r.inbox()))
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	if got := b.deliver(b.job("https://plain.test:" + port + "/inbox")); got.Kind != KindTLS {
		t.Errorf("no TLS at all = %+v", got)
	}
	if got := b.deliver(b.job("http://plain.test:" + port + "/inbox")); got.Outcome != Unsalvageable || got.Status != 404 {
		t.Errorf("plain http = %+v", got)
	}
}
