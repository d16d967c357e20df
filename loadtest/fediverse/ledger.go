package fediverse

import (
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"
)

// A Key names one delivery: an activity's bytes and the inbox they are for.
type Key uint64

// DeliveryKey returns the key of a body for an inbox: of host (its port and case do not matter), path and bytes. Different deliveries of
// one run get the same key with a chance of n²/2^65: for a million, 3 in 100 million.
func DeliveryKey(host, path string, body []byte) Key {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	var digest xxhash.Digest
	digest.Reset()
	_, _ = digest.WriteString(strings.ToLower(host)) // xxhash never fails
	_, _ = digest.WriteString("\n")
	_, _ = digest.WriteString(path)
	_, _ = digest.WriteString("\n")
	_, _ = digest.Write(body)

	return Key(digest.Sum64())
}

// Delivery is what the receivers know of one delivery whose signature was right.
type Delivery struct {
	FirstAnswer time.Time // when the first attempt was answered
	FirstStatus int       // with what
	LastStatus  int       // what the latest attempt was answered
	Attempts    int       // verified attempts, second knocks included
	Accepted    int       // attempts answered 2xx; above 1 are duplicates
}

const ledgerShards = 32

// ledger remembers deliveries by key, bounded. Safe for concurrent use.
type ledger struct {
	start  time.Time
	shards [ledgerShards]ledgerShard
	missed atomic.Uint64 // attempts that were not remembered: the ledger was full
}

type ledgerShard struct {
	mu      sync.Mutex
	max     int
	entries map[Key]ledgerEntry
}

// ledgerEntry is a Delivery in 16 bytes.
type ledgerEntry struct {
	firstMs  uint32 // since ledger.start
	first    uint16
	last     uint16
	attempts uint16
	accepted uint16
}

func newLedger(maxEntries int, start time.Time) *ledger {
	l := &ledger{start: start}
	for i := range l.shards {
		l.shards[i].max = maxEntries/ledgerShards + 1
		l.shards[i].entries = make(map[Key]ledgerEntry)
	}

	return l
}

// shard picks by the high bits; maps use the low ones.
func (l *ledger) shard(key Key) *ledgerShard { return &l.shards[key>>59] }

// attempts returns how often key has been attempted: it makes a retry's luck differ from the first try's.
func (l *ledger) attempts(key Key) int {
	shard := l.shard(key)
	shard.mu.Lock()
	defer shard.mu.Unlock()

	return int(shard.entries[key].attempts)
}

// record notes an answer, and says whether it was accepted before.
func (l *ledger) record(key Key, status int, now time.Time) (duplicate bool) {
	shard := l.shard(key)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	entry, known := shard.entries[key]
	if !known {
		if len(shard.entries) >= shard.max {
			l.missed.Add(1)

			return false
		}
		entry.firstMs = uint32(max(now.Sub(l.start).Milliseconds(), 0)) // wraps after 49 days: no run lasts as long
		entry.first = uint16(status)
	}
	entry.last = uint16(status)
	entry.attempts = saturatingIncrement(entry.attempts)
	if status/100 == 2 {
		duplicate = entry.accepted > 0
		entry.accepted = saturatingIncrement(entry.accepted)
	}
	shard.entries[key] = entry

	return duplicate
}

// lookup returns what is known of key.
func (l *ledger) lookup(key Key) (Delivery, bool) {
	shard := l.shard(key)
	shard.mu.Lock()
	entry, known := shard.entries[key]
	shard.mu.Unlock()
	if !known {
		return Delivery{}, false
	}

	return Delivery{
		FirstAnswer: l.start.Add(time.Duration(entry.firstMs) * time.Millisecond),
		FirstStatus: int(entry.first),
		LastStatus:  int(entry.last),
		Attempts:    int(entry.attempts),
		Accepted:    int(entry.accepted),
	}, true
}

func saturatingIncrement(n uint16) uint16 {
	if n == 1<<16-1 {
		return n
	}

	return n + 1
}
