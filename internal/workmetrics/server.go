package workmetrics

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Health is what /healthz and /readyz answer from.
type Health struct {
	ready atomic.Bool
	beat  atomic.Int64 // Unix nanoseconds of the last successful heartbeat
	stale time.Duration
}

// NewHealth makes a health state in which a heartbeat older than stale counts as ill.
func NewHealth(stale time.Duration) *Health { return &Health{stale: stale} }

// SetReady says whether the worker is registered and fetching.
func (h *Health) SetReady(ready bool) { h.ready.Store(ready) }

// Beat notes a successful heartbeat.
func (h *Health) Beat() { h.beat.Store(time.Now().UnixNano()) }

// Healthy is true while heartbeats reach Redis.
func (h *Health) Healthy() bool {
	last := h.beat.Load()
	return last > 0 && time.Since(time.Unix(0, last)) < h.stale
}

// Server is the HTTP server of a worker.
type Server struct {
	listener net.Listener
	http     *http.Server
}

// Listen opens addr, which must be a loopback address unless public is true: the pages have no authentication.
func Listen(ctx context.Context, addr string, public bool, m *Metrics, h *Health) (*Server, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("metrics address %q: %w", addr, err)
	}
	ip := net.ParseIP(host)
	if !public && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("metrics address %q is not a loopback address and the page has no authentication; use 127.0.0.1 and a reverse proxy, or --metrics-public", addr)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, h.Healthy(), "no heartbeat reached Redis lately")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { answer(w, h.ready.Load(), "not fetching") })
	return &Server{listener: l, http: &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 15 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}}, nil
}

func answer(w http.ResponseWriter, ok bool, why string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if !ok {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = fmt.Fprintln(w, why)
		return
	}
	_, _ = fmt.Fprintln(w, "ok")
}

// Addr is where the server listens.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		closeCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = s.http.Shutdown(closeCtx)
	})
	defer stop()
	if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("metrics server: %w", err)
	}
	return nil
}
