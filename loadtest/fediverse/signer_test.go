package fediverse

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"
)

const testKeyID = "https://local.test/users/alice#main-key"

// testKey is made once: RSA keys take their time.
var testKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}

	return key
})

// testAuthority is a certificate authority for one test.
type testAuthority struct {
	key  *ecdsa.PrivateKey
	root *x509.Certificate
}

func newTestAuthority(tb testing.TB) *testAuthority {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test root"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-365 * 24 * time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}

	return &testAuthority{key: key, root: root}
}

func (a *testAuthority) Leaf(name string, notBefore, notAfter time.Time) (tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: []string{name}, NotBefore: notBefore, NotAfter: notAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.root, a.key.Public(), a.key)

	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: a.key}, err
}

func (a *testAuthority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.root)

	return pool
}

// start starts a fediverse of the given hosts that trusts testKey.
func start(tb testing.TB, hosts ...Host) *Fediverse {
	tb.Helper()
	f, err := Start(tb.Context(), Config{
		Hosts: hosts, Seed: 7, Keys: KeyMap{testKeyID: &testKey().PublicKey}, Authority: newTestAuthority(tb),
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := f.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
	})

	return f
}

// client returns a client that knows the fediverse's names and certificates.
func client(tb testing.TB, f *Fediverse) *http.Client {
	tb.Helper()
	dialer := &net.Dialer{Resolver: f.Resolver(), Timeout: 700 * time.Millisecond}
	transport := &http.Transport{
		DialContext: dialer.DialContext, TLSClientConfig: &tls.Config{RootCAs: f.RootCAs()}, ForceAttemptHTTP2: true,
		TLSHandshakeTimeout: 700 * time.Millisecond, ResponseHeaderTimeout: 700 * time.Millisecond,
	}
	tb.Cleanup(transport.CloseIdleConnections)

	return &http.Client{
		Transport: transport, Timeout: 2 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// cavageRequest is a delivery signed as Mastodon does, with nothing but the standard library.
func cavageRequest(tb testing.TB, inbox string, body []byte) *http.Request {
	tb.Helper()
	r, err := http.NewRequestWithContext(tb.Context(), http.MethodPost, inbox, bytes.NewReader(body))
	if err != nil {
		tb.Fatal(err)
	}
	u, err := url.Parse(inbox)
	if err != nil {
		tb.Fatal(err)
	}
	r.Host = u.Hostname() // Mastodon sends no port
	sum := sha256.Sum256(body)
	date := time.Now().UTC().Format(http.TimeFormat)
	digest := "SHA-256=" + base64.StdEncoding.EncodeToString(sum[:])
	text := fmt.Sprintf("host: %s\ndate: %s\ncontent-type: application/activity+json\ndigest: %s\n(request-target): post %s",
		r.Host, date, digest, u.RequestURI())
	r.Header.Set("Date", date)
	r.Header.Set("Digest", digest)
	r.Header.Set("Content-Type", "application/activity+json")
	r.Header.Set("Signature", fmt.Sprintf(`keyId="%s",algorithm="rsa-sha256",headers="host date content-type digest (request-target)",signature="%s"`,
		testKeyID, sign(tb, text)))

	return r
}

// rfc9421Request is a second knock as Mastodon makes it.
func rfc9421Request(tb testing.TB, inbox string, body []byte) *http.Request {
	tb.Helper()
	r, err := http.NewRequestWithContext(tb.Context(), http.MethodPost, inbox, bytes.NewReader(body))
	if err != nil {
		tb.Fatal(err)
	}
	sum := sha256.Sum256(body)
	r.Host = r.URL.Hostname()
	digest := "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"
	params := fmt.Sprintf(`("@method" "@target-uri" "content-digest");created=%d;keyid="%s"`, time.Now().Unix(), testKeyID)
	text := fmt.Sprintf("\"@method\": POST\n\"@target-uri\": %s\n\"content-digest\": %s\n\"@signature-params\": %s", inbox, digest, params)
	r.Header.Set("Content-Digest", digest)
	r.Header.Set("Signature-Input", "sig1="+params)
	r.Header.Set("Signature", "sig1=:"+sign(tb, text)+":")

	return r
}

func sign(tb testing.TB, text string) string {
	tb.Helper()
	sum := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(rand.Reader, testKey(), crypto.SHA256, sum[:])
	if err != nil {
		tb.Fatal(err)
	}

	return base64.StdEncoding.EncodeToString(signature)
}
