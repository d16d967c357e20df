package fediverse

import (
	"sync/atomic"
)

// Counts is what a host, or all hosts of a class, received.
type Counts struct {
	Requests      uint64 // reached the handler
	Accepted      uint64 // answered 2xx, second and later copies included
	Duplicates    uint64 // answered 2xx for the second or later time
	Rejected      uint64 // answered 4xx on purpose, 401 for the wrong scheme and 429 left out
	Limited       uint64 // answered 429
	Failed        uint64 // answered 5xx
	Redirected    uint64 // answered 3xx
	Abandoned     uint64 // the client left, or was cut off, before the answer
	SecondKnocks  uint64 // answered 401 because the scheme was cavage; the signature was right
	Cavage        uint64 // verified cavage signatures
	RFC9421       uint64 // verified RFC 9421 signatures
	Unsigned      uint64 // no signature at all: answered 401
	BadSignatures uint64 // wrong, incomplete or outdated signature: answered 401
	BadDigests    uint64 // digest absent or wrong: answered 401
	BodyBytes     uint64 // received
	Connections   uint64 // accepted
	HTTP2         uint64 // requests over HTTP/2
	PeakInFlight  int64  // most requests at once; of a class: of its busiest host
	Latencies     Latencies
}

// Add sums other into c; peaks are not summed, for they did not happen at one time.
func (c *Counts) Add(other *Counts) {
	c.Requests += other.Requests
	c.Accepted += other.Accepted
	c.Duplicates += other.Duplicates
	c.Rejected += other.Rejected
	c.Limited += other.Limited
	c.Failed += other.Failed
	c.Redirected += other.Redirected
	c.Abandoned += other.Abandoned
	c.SecondKnocks += other.SecondKnocks
	c.Cavage += other.Cavage
	c.RFC9421 += other.RFC9421
	c.Unsigned += other.Unsigned
	c.BadSignatures += other.BadSignatures
	c.BadDigests += other.BadDigests
	c.BodyBytes += other.BodyBytes
	c.Connections += other.Connections
	c.HTTP2 += other.HTTP2
	c.PeakInFlight = max(c.PeakInFlight, other.PeakInFlight)
	c.Latencies.Add(&other.Latencies)
}

// HostCounts is the Counts of one host.
type HostCounts struct {
	Name  string
	Class string
	Counts
}

// counters is the live form of Counts.
type counters struct {
	requests, accepted, duplicates, rejected, limited, failed, redirected, abandoned atomic.Uint64
	knocks, cavage, rfc9421, unsigned, badSignatures, badDigests                     atomic.Uint64
	bodyBytes, connections, http2                                                    atomic.Uint64
	inFlight, peak                                                                   atomic.Int64
	latency                                                                          histogram
}

// enter counts a request in.
func (c *counters) enter() {
	c.requests.Add(1)
	now := c.inFlight.Add(1)
	for {
		peak := c.peak.Load()
		if now <= peak || c.peak.CompareAndSwap(peak, now) {
			return
		}
	}
}

// answered counts one answer by its status; 401 and 429 are counted where they are decided.
func (c *counters) answered(status int) {
	switch status / 100 {
	case 2:
		c.accepted.Add(1)
	case 3:
		c.redirected.Add(1)
	case 5:
		c.failed.Add(1)
	default:
		c.rejected.Add(1)
	}
}

// snapshot copies c. Counts of one moment may be off by the requests of that moment.
func (c *counters) snapshot() Counts {
	return Counts{
		Requests: c.requests.Load(), Accepted: c.accepted.Load(), Duplicates: c.duplicates.Load(),
		Rejected: c.rejected.Load(), Limited: c.limited.Load(), Failed: c.failed.Load(), Redirected: c.redirected.Load(),
		Abandoned: c.abandoned.Load(), SecondKnocks: c.knocks.Load(), Cavage: c.cavage.Load(), RFC9421: c.rfc9421.Load(),
		Unsigned: c.unsigned.Load(), BadSignatures: c.badSignatures.Load(), BadDigests: c.badDigests.Load(),
		BodyBytes: c.bodyBytes.Load(), Connections: c.connections.Load(), HTTP2: c.http2.Load(),
		PeakInFlight: c.peak.Load(), Latencies: c.latency.snapshot(),
	}
}
