package fediverse

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-fed/httpsig"
	"github.com/yaronf/httpsign"
)

// Scheme is how a request was signed.
type Scheme byte

// The schemes of signatures.
const (
	Unsigned Scheme = iota
	Cavage          // draft-cavage-http-signatures-12, as Mastodon sends it
	RFC9421         // HTTP Message Signatures, Mastodon's second knock
)

// Reasons for refusing a request. A digest that is wrong and a signature that is wrong are counted apart: the first means that
// bytes were changed or read too early, the second that the wrong key or the wrong string was signed.
var (
	errUnsigned     = errors.New("no signature")
	errBadSignature = errors.New("bad signature")
	errBadDigest    = errors.New("bad digest")
)

// coveredCavage is what a signature has to cover to mean anything: Mastodon refuses a POST without digest, and a signature
// that leaves out the target could be sent to another inbox.
var coveredCavage = []string{httpsig.RequestTarget, "host", "date", "digest"}

// coveredRFC9421 is the same for RFC 9421.
var coveredRFC9421 = httpsign.Headers("@method", "@target-uri", "content-digest")

// verifier checks requests. Safe for concurrent use.
type verifier struct {
	keys Keys
	skew time.Duration
	port string // of the fediverse: Host comes without it, RFC 9421's @target-uri with it
}

// verify checks digest and signature of a request whose body has been read. The scheme is given even with an error.
func (v *verifier) verify(r *http.Request, body []byte, now time.Time) (Scheme, error) {
	switch {
	case r.Header.Get("Signature-Input") != "":
		return RFC9421, v.rfc9421(r, body)
	case r.Header.Get("Signature") != "":
		return Cavage, v.cavage(r, body, now)
	default:
		return Unsigned, errUnsigned
	}
}

// cavage checks a draft-cavage signature with go-fed/httpsig, and the Digest header.
func (v *verifier) cavage(r *http.Request, body []byte, now time.Time) error {
	if err := checkDigest(r.Header.Values("Digest"), body); err != nil {
		return err
	}
	date, err := http.ParseTime(r.Header.Get("Date"))
	if err != nil {
		return fmt.Errorf("%w: date: %w", errBadSignature, err)
	}
	if off := now.Sub(date).Abs(); off > v.skew {
		return fmt.Errorf("%w: date is %v off", errBadSignature, off)
	}
	covered := cavageParameter(r.Header.Get("Signature"), "headers")
	for _, name := range coveredCavage {
		if !slices.Contains(strings.Fields(covered), name) {
			return fmt.Errorf("%w: %s not covered", errBadSignature, name)
		}
	}
	checker, err := httpsig.NewVerifier(r)
	if err != nil {
		return fmt.Errorf("%w: %w", errBadSignature, err)
	}
	key, ok := v.keys.PublicKey(checker.KeyId())
	if !ok {
		return fmt.Errorf("%w: unknown key %q", errBadSignature, checker.KeyId())
	}
	if err := checker.Verify(key, httpsig.RSA_SHA256); err != nil {
		return fmt.Errorf("%w: %w", errBadSignature, err)
	}

	return nil
}

// rfc9421 checks an HTTP Message Signature and Content-Digest with yaronf/httpsign.
func (v *verifier) rfc9421(r *http.Request, body []byte) error {
	reader := io.NopCloser(bytes.NewReader(body))
	if err := httpsign.ValidateContentDigestHeader(r.Header.Values("Content-Digest"), &reader, []string{httpsign.DigestSha256}); err != nil {
		return fmt.Errorf("%w: %w", errBadDigest, err)
	}
	names, err := httpsign.RequestSignatureNames(r, false)
	if err != nil || len(names) != 1 {
		return fmt.Errorf("%w: %d signatures, want 1: %w", errBadSignature, len(names), errors.Join(err))
	}
	details, err := httpsign.RequestDetails(names[0], r)
	if err != nil {
		return fmt.Errorf("%w: %w", errBadSignature, err)
	}
	key, ok := v.keys.PublicKey(details.KeyID)
	if !ok {
		return fmt.Errorf("%w: unknown key %q", errBadSignature, details.KeyID)
	}
	policy := httpsign.NewVerifyConfig().SetNotOlderThan(v.skew).SetNotNewerThan(v.skew)
	checker, err := httpsign.NewRSAVerifier(*key, policy, coveredRFC9421)
	if err != nil {
		return fmt.Errorf("%w: %w", errBadSignature, err)
	}
	// Mastodon names no port in Host, and signs the URL it posts to, with its port: try what the client most likely meant first.
	var failures []error
	for _, authority := range v.authorities(r.Host) {
		attempt := r.Clone(r.Context())
		attempt.URL = &url.URL{Scheme: "https", Host: authority, Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery}
		err := httpsign.VerifyRequest(names[0], *checker, attempt)
		if err == nil {
			return nil
		}
		failures = append(failures, err)
	}

	return fmt.Errorf("%w: %w", errBadSignature, errors.Join(failures...))
}

// authorities returns host with this fediverse's port and as it was given.
func (v *verifier) authorities(host string) []string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return []string{host}
	}

	return []string{net.JoinHostPort(host, v.port), host}
}

// checkDigest compares the one Digest header with the body.
func checkDigest(values []string, body []byte) error {
	if len(values) != 1 {
		return fmt.Errorf("%w: %d Digest headers, want 1", errBadDigest, len(values))
	}
	algorithm, encoded, _ := strings.Cut(values[0], "=")
	if !strings.EqualFold(algorithm, "SHA-256") {
		return fmt.Errorf("%w: algorithm %q", errBadDigest, algorithm)
	}
	got, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return fmt.Errorf("%w: %w", errBadDigest, err)
	}
	want := sha256.Sum256(body)
	if subtle.ConstantTimeCompare(got, want[:]) != 1 {
		return fmt.Errorf("%w: of %s bytes", errBadDigest, strconv.Itoa(len(body)))
	}

	return nil
}

// cavageParameter reads one quoted parameter of a cavage Signature header; "" when absent.
func cavageParameter(header, name string) string {
	for part := range strings.SplitSeq(header, ",") {
		key, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		if ok && key == name {
			return strings.Trim(value, `"`)
		}
	}

	return ""
}
