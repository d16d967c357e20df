package receiver

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Wait is one request to an inbox whose path says when its job was enqueued: /inbox/NANOSECONDS, of the Unix clock.
type Wait struct {
	Enqueued int64 `json:"enqueued"`
	Waited   int64 `json:"waited"` // nanoseconds until the request came
}

// mostWaits is how many are kept.
const mostWaits = 1 << 20

// waits keeps them.
type waits struct {
	mu   sync.Mutex
	list []Wait
}

// note takes a request to path in.
func (w *waits) note(path string, now time.Time) {
	text, _ := strings.CutPrefix(path, "/inbox/")
	enqueued, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.list) < mostWaits {
		w.list = append(w.list, Wait{enqueued, now.UnixNano() - enqueued})
	}
}

// serve writes all as a JSON array.
func (w *waits) serve(out http.ResponseWriter, _ *http.Request) {
	w.mu.Lock()
	list := w.list
	w.mu.Unlock()
	_ = json.NewEncoder(out).Encode(list)
}
