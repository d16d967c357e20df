// Package web stands for what else runs on a host and comes first: a server whose requests take processor time, those who visit it at a rate
// that does not depend on its answers, and something that burns a processor. Each is to be a process of its own.
package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// burnCPU keeps this thread's processor busy for that long, counted as its own CPU time, or until the context ends.
func burnCPU(ctx context.Context, d time.Duration) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	end := threadCPU() + d
	for x := uint32(1); threadCPU() < end && ctx.Err() == nil; {
		for range 2000 {
			x = x*1664525 + 1013904223
		}
	}
}

func threadCPU() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts) != nil {
		return 1 << 62 // nothing would ever end
	}
	return time.Duration(ts.Nano())
}

// Serve answers every request after that much processor time, until ctx ends. It prints its URL as one line.
func Serve(ctx context.Context, cpu time.Duration, out io.Writer) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("start the web server: %w", err)
	}
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		burnCPU(r.Context(), cpu)
		_, _ = io.WriteString(w, "a page\n")
	})}
	if _, err := fmt.Fprintf(out, "http://%s/\n", l.Addr()); err != nil {
		return errors.Join(err, l.Close())
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(l) })
	<-ctx.Done()
	err = s.Close()
	wg.Wait()
	return err
}

// Burn takes one processor away for that long.
func Burn(ctx context.Context, length time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	burnCPU(ctx, length) // with less than a whole processor the clock ends it
}

// Visit is one request: when it was meant to begin, and how long it took from then, in seconds.
type Visit struct {
	At   float64 `json:"at"` // since the first
	Took float64 `json:"took"`
}

const (
	visitors     = 500 // requests under way at most; more are not begun, and count as if they took as long as is waited at most
	visitTimeout = 10 * time.Second
	mostVisits   = 100_000
)

// Open visits a URL at random moments, on average rate times a second, whether answers come or not, and prints all Visits as one line of
// JSON. The same seed gives the same moments.
func Open(ctx context.Context, url string, rate float64, length time.Duration, seed uint64, out io.Writer) error {
	rng := rand.New(rand.NewPCG(seed, 7)) //nolint:gosec // moments, no secrets
	client := &http.Client{Timeout: visitTimeout, Transport: &http.Transport{MaxIdleConnsPerHost: visitors}}
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, length+visitTimeout+time.Second)
	defer cancel()
	var (
		mu   sync.Mutex
		list []Visit
		wg   sync.WaitGroup
	)
	room := make(chan struct{}, visitors)
	start := time.Now()
	n := 0
	for at := 0.0; n < mostVisits; n++ {
		if at += rng.ExpFloat64() / rate; at >= length.Seconds() {
			break
		}
		due := start.Add(time.Duration(at * float64(time.Second)))
		select {
		case <-ctx.Done():
		case <-time.After(time.Until(due)):
		}
		if ctx.Err() != nil {
			break
		}
		select {
		case room <- struct{}{}:
		default:
			mu.Lock()
			list = append(list, Visit{at, visitTimeout.Seconds()})
			mu.Unlock()
			continue
		}
		wg.Go(func() {
			defer func() { <-room }()
			took := visitTimeout
			if get(ctx, client, url) == nil {
				took = time.Since(due)
			}
			mu.Lock()
			list = append(list, Visit{at, took.Seconds()})
			mu.Unlock()
		})
	}
	wg.Wait()
	if err := json.NewEncoder(out).Encode(list); err != nil {
		return fmt.Errorf("print visits: %w", err)
	}
	return nil
}

func get(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, res.Body)
	return errors.Join(err, res.Body.Close())
}
