package workmetrics

import (
	"strings"
	"sync"
)

// Different label values at most. Each makes a few series that live as long as the process.
const (
	maxClasses = 100
	maxQueues  = 100
	labelBytes = 200
	otherLabel = "other" // what is beyond
)

// labels bounds how many different values a label takes: names come from payloads and from Redis, where anybody may have put them.
type labels struct {
	max  int
	mu   sync.Mutex
	seen map[string]string // as given → as shown
}

func newLabels(n int) *labels { return &labels{max: n, seen: map[string]string{}} }

// bound is what to show for s.
func (l *labels) bound(s string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	shown, ok := l.seen[s]
	switch {
	case ok:
		return shown
	case len(l.seen) == l.max:
		return otherLabel
	}
	shown = labelValue(s)
	l.seen[strings.Clone(s)] = shown
	return shown
}

// labelValue is s as Prometheus takes it: it refuses broken UTF-8.
func labelValue(s string) string {
	return strings.ToValidUTF8(s[:min(len(s), labelBytes)], "?")
}
