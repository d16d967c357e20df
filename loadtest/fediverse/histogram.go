package fediverse

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// A histogram counts durations in buckets of eight to the octave of microseconds: at most 12.5 % wide, from 1 µs to beyond two
// minutes, in under 1 kB. HdrHistogram would be exact where nobody looks, and 20 kB a host.
type histogram struct {
	buckets [histogramBuckets]atomic.Uint32
}

const (
	histogramSub     = 8
	histogramOctaves = 28 // 2^27 µs is 134 s
	histogramBuckets = histogramSub * histogramOctaves
)

// record counts one duration.
func (h *histogram) record(d time.Duration) {
	h.buckets[bucketOf(d)].Add(1)
}

// bucketOf returns the index of the bucket that d falls in.
func bucketOf(d time.Duration) int {
	us := uint64(max(d.Microseconds(), 1))
	octave := bits.Len64(us) - 1
	var sub uint64
	if octave >= 3 {
		sub = (us >> (octave - 3)) & (histogramSub - 1)
	} else {
		sub = (us << (3 - octave)) & (histogramSub - 1)
	}

	return min(octave*histogramSub+int(sub), histogramBuckets-1)
}

// valueOf returns the middle of a bucket.
func valueOf(bucket int) time.Duration {
	octave, sub := bucket/histogramSub, bucket%histogramSub
	us := float64(uint64(1)<<octave) * (1 + (float64(sub)+0.5)/histogramSub)

	return time.Duration(us * float64(time.Microsecond))
}

// Latencies is a copy of a histogram of request times, to be merged and asked for quantiles. Values are within 6.25 %.
type Latencies struct {
	buckets [histogramBuckets]uint32
	count   uint64
}

// snapshot copies h.
func (h *histogram) snapshot() Latencies {
	var l Latencies
	for i := range h.buckets {
		l.buckets[i] = h.buckets[i].Load()
		l.count += uint64(l.buckets[i])
	}

	return l
}

// Add merges other into l.
func (l *Latencies) Add(other *Latencies) {
	for i, n := range other.buckets {
		l.buckets[i] += n
	}
	l.count += other.count
}

// Count returns how many durations were recorded.
func (l *Latencies) Count() uint64 { return l.count }

// Quantile returns the duration that a share q (0 to 1) of the recorded ones do not exceed; 0 when nothing was recorded.
func (l *Latencies) Quantile(q float64) time.Duration {
	if l.count == 0 {
		return 0
	}
	rank := uint64(q*float64(l.count-1)) + 1
	var seen uint64
	for i, n := range l.buckets {
		if seen += uint64(n); seen >= rank {
			return valueOf(i)
		}
	}

	return valueOf(histogramBuckets - 1)
}
