package activitypub

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"time"
)

// Ruby class names for retry entries.
const (
	classUnexpected   = "Mastodon::UnexpectedResponseError"
	classHost         = "Mastodon::HostValidationError"
	classPrivate      = "Mastodon::PrivateNetworkAddressError"
	classNotFound     = "ActiveRecord::RecordNotFound"
	classConnection   = "HTTP::ConnectionError"
	classTimeout      = "HTTP::TimeoutError"
	classTLS          = "OpenSSL::SSL::SSLError"
	classKey          = "OpenSSL::PKey::RSAError"
	classDecryption   = "ActiveRecord::Encryption::Errors::Decryption"
	classDatabase     = "ActiveRecord::ConnectionNotEstablished"
	classShuttingDown = "Sidekiq::Shutdown"
)

// classifyNetwork says what kind of failure an error of the transport is, and what Ruby calls it.
func classifyNetwork(err error) (FailureKind, string) {
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return KindDNS, classConnection
	}
	if isTimeout(err) {
		return KindTimeout, classTimeout
	}
	if isTLS(err) {
		return KindTLS, classTLS
	}
	for _, refused := range []error{syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EADDRNOTAVAIL, syscall.EACCES, syscall.EPERM} {
		if errors.Is(err, refused) {
			return KindRefused, classConnection
		}
	}
	return KindNetwork, classConnection
}

func isTimeout(err error) bool {
	if errors.Is(err, errExchangeTime) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, syscall.ETIMEDOUT) {
		return true
	}
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}

func isTLS(err error) bool {
	if _, ok := errors.AsType[*tlsError](err); ok {
		return true
	}
	// Through a proxy the transport makes the handshake, and its errors come bare.
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return true
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return true
	}
	op, ok := errors.AsType[*net.OpError](err)
	return ok && (op.Op == "remote error" || op.Op == "local error") || errors.Is(err, http.ErrSchemeMismatch)
}

// salvageable says whether an answer that is no success makes Ruby try again.
func salvageable(status int) bool {
	switch status {
	case http.StatusNotImplemented:
		return false
	case http.StatusUnauthorized, http.StatusRequestTimeout, http.StatusTooManyRequests:
		return true
	default:
		return status < 400 || status >= 500
	}
}

// classifyStatus says what kind of failure a status is.
func classifyStatus(status int) FailureKind {
	switch {
	case status >= 200 && status < 300:
		return KindNone
	case status == http.StatusTooManyRequests:
		return Kind429
	case status == http.StatusRequestTimeout:
		return Kind5xx
	case status >= 400 && status < 500, status == http.StatusNotImplemented:
		return Kind4xx
	case status >= 300 && status < 400:
		return Kind4xx
	default:
		return Kind5xx
	}
}

// clockSkew is how far a host's Date may be from ours before a 401 is taken as a matter of clocks.
const clockSkew = 10 * time.Minute

func clocksDiffer(date string, now time.Time) bool {
	theirs, err := http.ParseTime(date)
	return err == nil && theirs.Sub(now).Abs() > clockSkew
}

// parseRetryAfter reads a Retry-After header, seconds or an HTTP date, as a wait from now: 0 for none or past, at most an hour.
func parseRetryAfter(value string, now time.Time) time.Duration {
	if value == "" {
		return 0
	}
	if seconds, err := strconv.ParseUint(value, 10, 32); err == nil {
		return min(time.Duration(seconds)*time.Second, maxHold)
	}
	if at, err := http.ParseTime(value); err == nil {
		return min(max(at.Sub(now), 0), maxHold)
	}
	return 0
}
