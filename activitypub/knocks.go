package activitypub

import (
	"sync"
	"time"
)

const (
	knockMemory = 24 * time.Hour
	maxKnocks   = 20_000
)

// knocks remembers which hosts wanted RFC 9421 signatures, so that they get the right one first. A host is forgotten after a day,
// or when it refuses what it was remembered for.
type knocks struct {
	mu    sync.Mutex
	until map[string]time.Time
}

func (k *knocks) wantsRFC9421(dest string, now time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	until, ok := k.until[dest]
	return ok && now.Before(until)
}

func (k *knocks) learn(dest string, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.until) >= maxKnocks {
		for host := range k.until { // any one will do: it costs that host one more knock
			delete(k.until, host)
			break
		}
	}
	k.until[dest] = now.Add(knockMemory)
}

func (k *knocks) forget(dest string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.until, dest)
}

func (k *knocks) sweep(now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for host, until := range k.until {
		if !now.Before(until) {
			delete(k.until, host)
		}
	}
}
