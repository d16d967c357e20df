package fediverse

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"
)

// receive handles one request of any host.
func (f *Fediverse) receive(w http.ResponseWriter, r *http.Request) {
	in, _ := r.Context().Value(instanceKey{}).(*instance)
	if in == nil {
		http.Error(w, "no such host", http.StatusMisdirectedRequest)

		return
	}
	if !f.begin() {
		return
	}
	defer f.wg.Done()
	started := time.Now()
	in.counters.enter()
	defer func() {
		in.counters.inFlight.Add(-1)
		in.counters.latency.record(time.Since(started))
	}()
	if r.ProtoMajor == 2 {
		in.counters.http2.Add(1)
	}
	if r.Method != http.MethodPost {
		in.counters.rejected.Add(1)
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "deliveries only", http.StatusMethodNotAllowed)

		return
	}
	body, err := readBody(r, f.cfg.MaxBodyBytes)
	if err != nil {
		in.counters.abandoned.Add(1)

		return
	}
	in.counters.bodyBytes.Add(uint64(len(body)))
	if int64(len(body)) > f.cfg.MaxBodyBytes {
		in.counters.rejected.Add(1)
		http.Error(w, "activity too large", http.StatusRequestEntityTooLarge)

		return
	}
	if !f.trusts(in, r, body, started) {
		http.Error(w, "signature or digest not accepted", http.StatusUnauthorized)

		return
	}
	key := DeliveryKey(in.Name, r.URL.Path, body)
	if f.cfg.Live != nil {
		f.answerLive(in, w, r, key)

		return
	}
	f.answer(in, w, r, key)
}

// begin joins the goroutines that Close waits for; false when Close has been called.
func (f *Fediverse) begin() bool {
	f.gate.RLock()
	defer f.gate.RUnlock()
	if f.stopped {
		return false
	}
	f.wg.Add(1)

	return true
}

// readBody reads at most one byte more than limit.
func readBody(r *http.Request, limit int64) ([]byte, error) {
	if n := r.ContentLength; n >= 0 && n <= limit {
		body := make([]byte, n)
		_, err := io.ReadFull(r.Body, body)

		return body, err
	}

	return io.ReadAll(io.LimitReader(r.Body, limit+1))
}

// trusts verifies a request and counts the verdict.
func (f *Fediverse) trusts(in *instance, r *http.Request, body []byte, now time.Time) bool {
	scheme, err := f.verify.verify(r, body, now)
	switch {
	case err == nil && scheme == Cavage && in.WantRFC9421:
		in.counters.knocks.Add(1)

		return false
	case err == nil && scheme == Cavage:
		in.counters.cavage.Add(1)
	case err == nil:
		in.counters.rfc9421.Add(1)
	case errors.Is(err, errUnsigned):
		in.counters.unsigned.Add(1)
	case errors.Is(err, errBadDigest):
		in.counters.badDigests.Add(1)
	default:
		in.counters.badSignatures.Add(1)
	}
	if err != nil {
		f.cfg.Log.DebugContext(r.Context(), "request refused", slog.String("host", in.Name), slog.Any("err", err))
	}

	return err == nil
}

// answer does what the host's behaviour says with a request that can be trusted.
func (f *Fediverse) answer(in *instance, w http.ResponseWriter, r *http.Request, key Key) {
	// The draw depends on the seed, the host, the delivery and the number of the attempt: the order of arrival does not matter.
	draw := mix(in.hash ^ uint64(key) ^ mix(uint64(f.ledger.attempts(key))+1))
	if in.Hang {
		f.wait(r.Context(), maxLatency)
		in.counters.abandoned.Add(1)

		return
	}
	status := max(in.Status, 0)
	switch {
	case in.PerSecond > 0 && !in.limiter.take(time.Now()):
		status = http.StatusTooManyRequests
	case share(draw) < in.FailShare:
		status = in.FailStatus
		if status == 0 {
			status = http.StatusServiceUnavailable
		}
	case status == 0:
		status = http.StatusAccepted
	}
	if status != http.StatusTooManyRequests {
		latency := in.LatencyMin + time.Duration(share(mix(draw))*float64(in.LatencyMax-in.LatencyMin))
		if !f.wait(r.Context(), latency) {
			in.counters.abandoned.Add(1)

			return
		}
	}
	f.finish(in, w, status, key)
}

// finish records the answer and sends it. It is recorded first: once the client has seen it, it must be in the books.
func (f *Fediverse) finish(in *instance, w http.ResponseWriter, status int, key Key) {
	if status == http.StatusTooManyRequests {
		in.counters.limited.Add(1)
	} else {
		in.counters.answered(status)
	}
	if f.ledger.record(key, status, time.Now()) {
		in.counters.duplicates.Add(1)
	}
	header := w.Header()
	if (status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable) && in.RetryAfter > 0 {
		header.Set("Retry-After", strconv.Itoa(int(math.Ceil(in.RetryAfter.Seconds()))))
	}
	if status/100 == 3 && in.Location != "" {
		header.Set("Location", in.Location)
	}
	if in.ResponseBytes > 0 {
		header.Set("Content-Type", "text/plain")
		header.Set("Content-Length", strconv.FormatInt(in.ResponseBytes, 10))
	}
	w.WriteHeader(status)
	if in.ResponseBytes > 0 {
		_, _ = io.CopyN(w, filler{}, in.ResponseBytes) // a client that has had enough is right to leave
	}
}

// wait sleeps for d, and says whether it did: false when the client left or the fediverse is closing.
func (f *Fediverse) wait(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	case <-f.stop:
		return false
	}
}

// filler reads as endless dots.
type filler struct{}

func (filler) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '.'
	}

	return len(p), nil
}

// limiter is a token bucket that holds what one second refills.
type limiter struct {
	perSecond float64

	mu     sync.Mutex
	tokens float64
	last   time.Time
}

// take uses up a token, if there is one.
func (l *limiter) take(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	burst := max(l.perSecond, 1)
	if l.last.IsZero() {
		l.tokens = burst
	} else {
		l.tokens = min(burst, l.tokens+now.Sub(l.last).Seconds()*l.perSecond)
	}
	l.last = now
	if l.tokens < 1 {
		return false
	}
	l.tokens--

	return true
}

// mix is the finaliser of SplitMix64: neighbouring inputs give unrelated outputs.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb

	return x ^ (x >> 31)
}

// share maps x to 0 ≤ share < 1.
func share(x uint64) float64 { return float64(x>>11) / (1 << 53) }

// hashName seeds a host's draws.
func hashName(seed uint64, name string) uint64 { return mix(seed) ^ xxhash.Sum64String(name) }
