package activitypub

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-fed/httpsig"
)

// TestSigners: OpenSSL's signature is Go's, bit for bit, and verifies.
func TestSigners(t *testing.T) {
	fast, name := NewSigner()
	t.Logf("signer: %s", name)
	for _, private := range testKeys() {
		a, err := fast.NewKey(private)
		must(t, err)
		b, err := GoSigner{}.NewKey(private)
		must(t, err)
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				digest := sha256.Sum256([]byte{byte(i)})
				one, err1 := a.SignSHA256(digest)
				two, err2 := b.SignSHA256(digest)
				if err1 != nil || err2 != nil || string(one) != string(two) {
					t.Errorf("signatures differ: %v, %v", err1, err2)
				}
				if err := rsa.VerifyPKCS1v15(&private.PublicKey, crypto.SHA256, digest[:], one); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	private := testKeys()[0]
	a, err := fast.NewKey(private)
	must(t, err)
	if err := checkSigningKey(a, &testKeys()[1].PublicKey); err == nil {
		t.Error("a key that signs as another one passed the check")
	}
}

func TestParseRelease(t *testing.T) {
	for version, want := range map[string]release{"4.7.0": {4, 7}, "v4.3.12": {4, 3}, "4.8.0-alpha.1+glitch": {4, 8}, "4.5-rc1": {4, 5}, "5": {}, "": {}, "x.y": {}} {
		got, err := parseRelease(version)
		if got != want || (err != nil) != (want == release{}) {
			t.Errorf("parseRelease(%q) = %v, %v, want %v", version, got, err, want)
		}
	}
}

// FuzzSignatureHeader: whatever stands in a URL, the headers are well-formed and an independent verifier accepts them.
func FuzzSignatureHeader(f *testing.F) {
	f.Add("https://a.test/inbox?x=y", "body", "sync")
	f.Add("https://a.test/%0d%0aX:y?\"", "", "")
	key, err := GoSigner{}.NewKey(testKeys()[0])
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, url, body, sync string) {
		to, err := parseTarget(url)
		if err != nil {
			return
		}
		if strings.ContainsFunc(sync, func(r rune) bool { return r < ' ' || r > '~' }) {
			return // made by us, never from outside
		}
		sync = strings.TrimSpace(sync)
		d := &Deliverer{release: release{4, 7}, userAgent: []string{"x"}}
		x := &exchange{d: d, body: newJobBody(body, ""), digest: bodyDigest(body), inbox: to, sync: sync, acct: &account{key: key, keyID: "https://local.test/actor#main-key"}}
		for _, form := range []form{formCavage, formRFC9421} {
			header, err := x.header(http.MethodPost, to, form, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			for name, values := range header {
				for _, v := range values {
					if strings.ContainsAny(v, "\r\n\x00") {
						t.Fatalf("%s: %q", name, v)
					}
				}
			}
			if form == formRFC9421 || to.url.Path != to.url.EscapedPath() {
				continue // the verifier signs decoded paths, other than everybody else
			}
			req := httptest.NewRequest(http.MethodPost, to.url.String(), strings.NewReader(body))
			req.Header = header
			req.Header.Set("Host", to.hostHeader())
			v, err := httpsig.NewVerifier(req)
			if err != nil {
				t.Fatal(err)
			}
			if err := v.Verify(&testKeys()[0].PublicKey, httpsig.RSA_SHA256); err != nil {
				t.Fatalf("%s: %v", to.url, err)
			}
		}
	})
}

func BenchmarkSign(b *testing.B) {
	fast, name := NewSigner()
	for label, signer := range map[string]Signer{"openssl": fast, "go": GoSigner{}} {
		if _, plain := signer.(GoSigner); plain && label == "openssl" {
			b.Logf("no OpenSSL: %s", name)
			continue
		}
		b.Run("signer="+label, func(b *testing.B) {
			key, err := signer.NewKey(testKeys()[0])
			must(b, err)
			digest := sha256.Sum256([]byte("text"))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := key.SignSHA256(digest); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
