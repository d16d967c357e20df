package receiver

import (
	"context"
	"sync"
	"time"
)

// waveTimeout ends a wave that does not fill: at the end of a run there are not enough requests left.
const waveTimeout = 5 * time.Second

// wave holds requests until enough of them are in flight at once, so that "1,000 in flight" is a fact on machines that cannot sign 5,000 a second.
type wave struct {
	mu   sync.Mutex
	n    int
	full chan struct{}
}

// join waits for a wave of size requests.
func (w *wave) join(ctx context.Context, size int) {
	w.mu.Lock()
	if w.full == nil {
		w.full = make(chan struct{})
	}
	full := w.full
	w.n++
	if w.n >= size {
		close(full)
		w.n, w.full = 0, nil
	}
	w.mu.Unlock()
	timer := time.NewTimer(waveTimeout)
	defer timer.Stop()
	select {
	case <-full:
		return
	case <-timer.C:
	case <-ctx.Done():
	}
	w.mu.Lock()
	if w.full == full { // this request waits no more
		w.n--
	}
	w.mu.Unlock()
}
