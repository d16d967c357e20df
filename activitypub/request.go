package activitypub

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
	"unsafe"
)

const (
	contentType = "application/activity+json"
	maxHops     = 3
)

// form is which kind of signature a request carries.
type form uint8

const (
	formCavage form = iota
	formRFC9421
)

func (f form) other() form { return formCavage + formRFC9421 - f }

// redirectError is a redirect that may not be followed for a POST. The class is Ruby's.
type redirectError struct {
	class, message string
	status         int
}

func (e *redirectError) Error() string { return e.message }

// signingError is a key that would not sign: our fault.
type signingError struct{ err error }

func (e *signingError) Error() string { return "sign: " + e.err.Error() }
func (e *signingError) Unwrap() error { return e.err }

// reply is what is kept of an answer.
type reply struct {
	status     int
	retryAfter string
	date       string
}

// exchange is one delivery under way: a body for an inbox, with what it needs to be signed. It is used by one goroutine.
type exchange struct {
	d        *Deliverer
	body     *jobBody
	digest   string // base64 SHA-256 of body
	inbox    *target
	acct     *account
	sync     string // Collection-Synchronization, or empty
	given    bool   // acct signs with a key that the job brought
	signTime time.Duration
	wireTime time.Duration
}

func bodyDigest(body string) string {
	// The bytes are only read, so the body need not be copied to be hashed.
	sum := sha256.Sum256(unsafe.Slice(unsafe.StringData(body), len(body)))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// send makes one signed request and follows what redirects may be followed, signing each anew.
func (x *exchange) send(ctx context.Context, f form) (reply, error) {
	to, method := x.inbox, http.MethodPost
	for hops := 0; ; hops++ {
		header, err := x.header(method, to, f, time.Now())
		if err != nil {
			return reply{}, err
		}
		begun := time.Now()
		r, location, err := x.roundTrip(ctx, method, to, header)
		x.wireTime += time.Since(begun)
		if err != nil || location == "" && r.status != http.StatusMultipleChoices {
			return r, err
		}
		if to, method, err = x.redirect(to, method, r.status, location); err != nil {
			return r, err
		}
		if hops+1 > maxHops {
			return r, &redirectError{"HTTP::Redirector::TooManyRedirectsError", "too many redirects", r.status}
		}
	}
}

// redirect says where to go on, or why not: a POST is only repeated for 307 and 308, and nothing leaves the inbox's origin.
func (x *exchange) redirect(from *target, method string, status int, location string) (*target, string, error) {
	switch status {
	case http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	case http.StatusSeeOther:
		method = http.MethodGet
	default:
		if method == http.MethodPost {
			return nil, "", &redirectError{"HTTP::StateError", fmt.Sprintf("POST was answered with a redirect, code %d", status), status}
		}
	}
	u, err := from.url.Parse(location)
	if err != nil {
		return nil, "", &redirectError{"HTTP::StateError", "redirect to something that is no URL", status}
	}
	to, err := newTarget(u)
	if err != nil {
		return nil, "", &redirectError{"HTTP::StateError", "redirect to something that is no inbox", status}
	}
	if to.origin() != x.inbox.origin() {
		return nil, "", &redirectError{"HTTP::StateError", "redirect to another origin", status}
	}
	return to, method, nil
}

// header makes the head of a request, signed.
func (x *exchange) header(method string, to *target, f form, now time.Time) (http.Header, error) {
	m := message{
		method: method, uri: to.url.String(), requestTarget: to.url.RequestURI(), host: to.hostHeader(),
		date: now.UTC().Format(http.TimeFormat), collectionSync: x.sync,
	}
	if method == http.MethodPost {
		m.digest, m.contentType = x.digest, contentType
	}
	begun := time.Now()
	defer func() { x.signTime += time.Since(begun) }()

	// One array holds all values; each header takes a one-element slice of it.
	values := make([]string, 0, 8)
	one := func(v string) []string {
		values = append(values, v)
		return values[len(values)-1 : len(values) : len(values)]
	}
	h := make(http.Header, 12)
	h["User-Agent"] = x.d.userAgent
	h["Connection"] = headerKeepAlive
	h["Accept-Encoding"] = headerGzip
	// An empty list makes the transport repeat a POST on a fresh connection when a kept one turns out to be dead, as Ruby's
	// does; the header itself is not sent.
	h["X-Idempotency-Key"] = headerNone
	h["Date"] = one(m.date)
	if m.contentType != "" {
		h["Content-Type"] = headerContentType
	}
	if x.sync != "" {
		h["Collection-Synchronization"] = one(x.sync)
	}
	if f == formRFC9421 {
		if m.digest != "" {
			h["Content-Digest"] = one("sha-256=:" + m.digest + ":")
		}
		input, signature, err := rfc9421(x.acct.key, x.acct.keyID, &m, now)
		if err != nil {
			return nil, &signingError{err}
		}
		h["Signature-Input"], h["Signature"] = one(input), one(signature)
		return h, nil
	}
	if m.digest != "" {
		h["Digest"] = one("SHA-256=" + m.digest)
	}
	signature, err := cavage(x.d.release, x.acct.key, x.acct.keyID, &m)
	if err != nil {
		return nil, &signingError{err}
	}
	h["Signature"] = one(signature)
	return h, nil
}

// Header values that never change; the transport does not write to them.
var (
	headerKeepAlive   = []string{"Keep-Alive"}
	headerGzip        = []string{"gzip"}
	headerContentType = []string{contentType}
	headerNone        = []string{}
)

// roundTrip sends one request and reads the answer to its end. location is set when the answer is a redirect.
func (x *exchange) roundTrip(ctx context.Context, method string, to *target, header http.Header) (r reply, location string, err error) {
	req := (&http.Request{
		Method: method, URL: to.url, Host: to.hostHeader(), Header: header,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}).WithContext(ctx)
	if method == http.MethodPost && x.body.size > 0 {
		req.ContentLength = int64(x.body.size)
		req.GetBody = func() (io.ReadCloser, error) { return x.body.reader(), nil }
		req.Body = x.body.reader()
	}
	res, err := x.d.transport(to.host).RoundTrip(req)
	if err != nil {
		return reply{}, "", err
	}
	defer func() { _ = res.Body.Close() }()
	r = reply{status: res.StatusCode, retryAfter: res.Header.Get("Retry-After"), date: res.Header.Get("Date")}
	if err := discard(res); err != nil {
		return r, "", err
	}
	switch res.StatusCode {
	case http.StatusMultipleChoices, http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
		http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		location = res.Header.Get("Location")
	}
	return r, location, nil
}

var discardBuffers = sync.Pool{New: func() any { return new([4096]byte) }}

// discard reads an answer's body, at most 1 MiB of it: only a connection read to the end can be used again.
func discard(res *http.Response) error {
	if res.ContentLength == 0 || res.Body == http.NoBody {
		return nil
	}
	buffer := discardBuffers.Get().(*[4096]byte)
	defer discardBuffers.Put(buffer)
	for total := 0; total < maxResponseBytes; {
		n, err := res.Body.Read(buffer[:])
		total += n
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the answer: %w", err)
		}
	}
	return nil
}
