package receiver

import (
	"bufio"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// start runs receivers in this process.
func start(t *testing.T, cfg Config) Ready {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	reader, writer := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- Run(ctx, cfg, writer) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	line, err := bufio.NewReader(reader).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var ready Ready
	if err := json.Unmarshal([]byte(line), &ready); err != nil {
		t.Fatal(err)
	}
	return ready
}

// post sends a signed activity; damage may change the request behind the signature's back.
func post(t *testing.T, inbox string, key *rsa.PrivateKey, damage func(*http.Request)) int {
	t.Helper()
	const body = `{"type":"Create"}`
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, inbox, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(body))
	req.Header.Set("Date", "Sat, 21 Nov 2026 10:00:00 GMT")
	req.Header.Set("Digest", "SHA-256="+base64.StdEncoding.EncodeToString(sum[:]))
	text := sha256.Sum256([]byte("host: " + req.Host + "\ndate: " + req.Header.Get("Date") + "\ndigest: " + req.Header.Get("Digest") + "\n(request-target): post /inbox"))
	signature, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, text[:])
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Signature", `keyId="k",algorithm="rsa-sha256",headers="host date digest (request-target)",signature="`+base64.StdEncoding.EncodeToString(signature)+`"`)
	damage(req)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	return res.StatusCode
}

// A benchmark whose receivers take anything would measure nothing.
func TestWrongSignaturesAreSeen(t *testing.T) {
	t.Parallel()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	public := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	ready := start(t, Config{Hosts: 2, Sample: 1, Keys: map[string]string{"k": public}})
	for name, tc := range map[string]struct {
		damage func(*http.Request)
		want   int
	}{
		"right":          {func(*http.Request) {}, http.StatusAccepted},
		"another date":   {func(r *http.Request) { r.Header.Set("Date", "Sat, 21 Nov 2026 10:00:01 GMT") }, http.StatusUnauthorized},
		"another digest": {func(r *http.Request) { r.Header.Set("Digest", "SHA-256=AAAA") }, http.StatusUnauthorized},
		"another path":   {func(r *http.Request) { r.URL.Path = "/other" }, http.StatusUnauthorized},
		"no signature":   {func(r *http.Request) { r.Header.Del("Signature") }, http.StatusUnauthorized},
		"too little signed": {func(r *http.Request) {
			r.Header.Set("Signature", strings.Replace(r.Header.Get("Signature"), " digest", "", 1))
		}, http.StatusUnauthorized},
	} {
		if got := post(t, ready.Inboxes[1], key, tc.damage); got != tc.want {
			t.Errorf("%s: status %d, want %d", name, got, tc.want)
		}
	}
	var counts Counts
	ask(t, ready.Control, &counts)
	if counts.Verified != 1 || counts.Bad != 5 || counts.Received != 1 {
		t.Errorf("counts = %+v, want 1 verified, 5 bad, 1 received", counts)
	}
}

// An inbox whose path says when its job was enqueued notes how long that is ago; others note nothing.
func TestWaits(t *testing.T) {
	ready := start(t, Config{Hosts: 1})
	enqueued := time.Now().Add(-2 * time.Second).UnixNano()
	for _, path := range []string{"", "/" + strconv.FormatInt(enqueued, 10), "/soon"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, ready.Inboxes[0]+path, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
	}
	var list []Wait
	ask(t, ready.Control+"/waits", &list)
	if len(list) != 1 || list[0].Enqueued != enqueued || list[0].Waited < int64(2*time.Second) || list[0].Waited > int64(time.Minute) {
		t.Errorf("waits: %+v", list)
	}
}

// ask reads what the receivers have counted.
func ask(t *testing.T, url string, into any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if err := json.NewDecoder(res.Body).Decode(into); err != nil {
		t.Fatal(err)
	}
}
