package activitypub

import (
	"fmt"
	"time"
)

// Outcome is what becomes of a delivery job.
type Outcome uint8

const (
	// Delivered means: the inbox answered 2xx. The job is done.
	Delivered Outcome = iota + 1
	// Unsalvageable means: 501 or a 4xx that trying again will not change. The job is done, without an error.
	Unsalvageable
	// Unavailable means: the host is listed in unavailable_domains. The job is done; nothing was sent.
	Unavailable
	// HostRefused means: the host may not be connected to (private address, hidden service). The job is done; Ruby swallows the error.
	HostRefused
	// Failed means: an error that Ruby would raise. The job is retried by Mastodon's schedule.
	Failed
	// Deferred means: it is us, not the host: our network, our Postgres, or our stopping. The job runs again later; no retry is spent.
	Deferred
)

// String returns the outcome's name in lower case, as metrics label it.
func (o Outcome) String() string {
	switch o {
	case Delivered:
		return "delivered"
	case Unsalvageable:
		return "unsalvageable"
	case Unavailable:
		return "unavailable"
	case HostRefused:
		return "host_refused"
	case Failed:
		return "failed"
	case Deferred:
		return "deferred"
	default:
		return fmt.Sprintf("outcome(%d)", uint8(o))
	}
}

// FailureKind says in what way a host or we failed. The zero value means that nothing failed.
type FailureKind uint8

const (
	// KindNone is no failure.
	KindNone FailureKind = iota
	// KindDNS means: the name did not resolve.
	KindDNS
	// KindRefused means: no address took the connection, and said so at once.
	KindRefused
	// KindTimeout means: connecting, TLS or the answer took too long.
	KindTimeout
	// KindTLS means: the handshake or the certificate failed.
	KindTLS
	// KindNetwork means: the connection broke.
	KindNetwork
	// KindClock means: the answer was 401 and its Date differs from our clock by more than ten minutes.
	KindClock
	// Kind4xx means: the host answered 4xx other than 408 and 429, or refused a redirect; it is alive.
	Kind4xx
	// Kind429 means: the host wants fewer requests.
	Kind429
	// Kind5xx means: the host answered 5xx, 408 or something that is no answer.
	Kind5xx
	// KindPrivate means: every address of the host is private, or it is a hidden service.
	KindPrivate
	// KindLocal means: our own fault: key, account, Postgres, shutdown.
	KindLocal
)

// String returns the kind's name in lower case, as metrics label it.
func (k FailureKind) String() string {
	switch k {
	case KindNone:
		return "none"
	case KindDNS:
		return "dns"
	case KindRefused:
		return "refused"
	case KindTimeout:
		return "timeout"
	case KindTLS:
		return "tls"
	case KindNetwork:
		return "network"
	case KindClock:
		return "clock"
	case Kind4xx:
		return "4xx"
	case Kind429:
		return "429"
	case Kind5xx:
		return "5xx"
	case KindPrivate:
		return "private"
	case KindLocal:
		return "local"
	default:
		return fmt.Sprintf("kind(%d)", uint8(k))
	}
}

// suspectsUs says whether many hosts failing in this way at once are more likely our fault than theirs.
func (k FailureKind) suspectsUs() bool {
	switch k {
	case KindDNS, KindRefused, KindTimeout, KindTLS, KindNetwork, KindClock:
		return true
	default:
		return false
	}
}

// Result is how a delivery ended.
type Result struct {
	// Outcome says what becomes of the job.
	Outcome Outcome
	// Err is why it is not Delivered; nil for Delivered and Unavailable. It carries no secret and no body.
	Err error
	// ErrorClass is the Ruby class name for the retry entry's error_class; empty when the job is done without an error.
	ErrorClass string
	// Status is the last HTTP status, 0 when there was no answer.
	Status int
	// RetryAfter is what a 429 or 503 asked for, at most an hour; 0 for nothing.
	RetryAfter time.Duration
	// Host is the inbox's normalised host without port; empty when the URL names none.
	Host string
	// SignTime and WireTime are how long the signatures and the exchanges took, connecting included.
	SignTime, WireTime time.Duration
	// Kind says in what way it failed.
	Kind FailureKind
	// SecondKnock is true when the request was sent again with the other signature form.
	SecondKnock bool
}
