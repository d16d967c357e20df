package fediverse

import (
	"bytes"
	"io"
	"net/http"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkReceive says what one delivery costs the machine besides the worker: a receiver's TLS, HTTP/2, digest and signature check,
// and the client's sending of a request that was signed beforehand.
func BenchmarkReceive(b *testing.B) {
	for _, scheme := range []string{"cavage", "rfc9421"} {
		b.Run("scheme="+scheme, func(b *testing.B) {
			f := start(b, Host{Name: "a.fedi.test", Class: "quick"})
			c := client(b, f)
			body := bytes.Repeat([]byte("x"), 2500)
			r := cavageRequest(b, f.InboxURL("a.fedi.test"), body)
			if scheme == "rfc9421" {
				r = rfc9421Request(b, f.InboxURL("a.fedi.test"), body)
			}
			cpu := processCPU(b)
			b.ReportAllocs()
			for b.Loop() {
				copied := r.Clone(b.Context())
				copied.Body = io.NopCloser(bytes.NewReader(body))
				response, err := c.Do(copied)
				if err != nil || response.StatusCode != http.StatusAccepted {
					b.Fatal(response, err)
				}
				_ = response.Body.Close()
			}
			b.ReportMetric(float64((processCPU(b)-cpu).Microseconds())/float64(b.N), "cpu-µs/op")
			runtime.KeepAlive(f)
		})
	}
}

// processCPU is the CPU time this process has used.
func processCPU(tb testing.TB) time.Duration {
	tb.Helper()
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		tb.Fatal(err)
	}

	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
