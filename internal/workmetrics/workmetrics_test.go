package workmetrics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/queueville/queueville/activitypub"
	"github.com/queueville/queueville/internal/redistest"
	"github.com/queueville/queueville/queues"
	"github.com/queueville/queueville/worker"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := redistest.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "stop the shared redis-server:", err)
		code = 1
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, "goroutines left over:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// page starts a server and returns a function that gets a page of it.
func page(t *testing.T, m *Metrics, h *Health) func(path string) (int, string) {
	t.Helper()
	s, err := Listen(t.Context(), "127.0.0.1:0", false, m, h)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("Run = %v", err)
		}
	})
	return func(path string) (int, string) {
		t.Helper()
		resp, err := client.Get("http://" + s.Addr() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close() //nolint:errcheck // read to its end
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
}

// TestMastodonsNames: a dashboard made for Mastodon 4.4's exporter finds everything that it asks for.
func TestMastodonsNames(t *testing.T) {
	t.Parallel()
	c := redistest.Client(t)
	ctx := t.Context()
	c.SAdd(ctx, "queues", "push")
	c.LPush(ctx, "queue:push", fmt.Sprintf(`{"class":"C","args":[],"jid":"1","enqueued_at":%d.5}`, time.Now().Unix()-60))
	c.Set(ctx, "stat:processed", 77, 0)
	m := New(Config{
		Prefix: "mastodon_", Store: queues.NewStore(c, ""), Signer: "go", Version: "1", Stated: 25,
		Load: func() worker.Load { return worker.Load{InHand: 9, Waiting: 4, Running: 5, Concurrency: 512} },
	})
	const class = "ActivityPub::DeliveryWorker"
	end := func(r worker.Result, run time.Duration) {
		m.Ended(worker.End{Queue: "push", Class: class, JID: "1", Result: r, Run: run, Wait: time.Second})
	}
	end(worker.Acked, 20*time.Millisecond)
	end(worker.Acked, 20*time.Millisecond)
	end(worker.Retried, time.Second)
	end(worker.Dead, time.Second)
	end(worker.Discarded, time.Second)
	end(worker.Requeued, 0)
	m.Delivered(class, activitypub.Result{Outcome: activitypub.Failed, Kind: activitypub.Kind5xx, WireTime: time.Second, SignTime: time.Millisecond, SecondKnock: true})
	m.Fetched("shared", 3, time.Millisecond)
	m.LeaseLost("frozen")
	m.Adopted("h", 4)
	m.RedisError("fetch")

	status, body := page(t, m, NewHealth(time.Minute))("/metrics")
	if status != http.StatusOK {
		t.Fatalf("/metrics answers %d: %s", status, body)
	}
	labels := `{job_name="` + class + `",queue="push"}`
	for _, want := range []string{
		"mastodon_sidekiq_jobs_total" + labels + " 5", "mastodon_sidekiq_failed_jobs_total" + labels + " 3", "mastodon_sidekiq_dead_jobs_total" + labels + " 2",
		"mastodon_sidekiq_restarted_jobs_total" + labels + " 1", "mastodon_sidekiq_job_duration_seconds_count" + labels + " 5",
		`mastodon_sidekiq_job_duration_seconds{job_name="` + class + `",queue="push",quantile="0.99"}`,
		`mastodon_sidekiq_queue_backlog{queue="push"} 1`, `mastodon_sidekiq_queue_latency_seconds{queue="push"} `,
		"mastodon_sidekiq_stats_processed 77", "mastodon_sidekiq_stats_failed 0", "mastodon_sidekiq_stats_enqueued 1", "mastodon_sidekiq_stats_scheduled_size 0",
		"mastodon_sidekiq_stats_retry_size 0", "mastodon_sidekiq_stats_dead_size 0", "mastodon_sidekiq_stats_processes_size 0", "mastodon_sidekiq_stats_workers_size 0",
		"mastodon_sidekiq_process_busy 5", "mastodon_sidekiq_process_concurrency 25",
		`queueville_deliveries_total{class="` + class + `",kind="5xx",outcome="failed"} 1`, `queueville_jobs_fetched_total{kind="shared"} 3`,
		`queueville_lease_lost_total{reason="frozen"} 1`, "queueville_jobs_adopted_total 4", `queueville_redis_errors_total{during="fetch"} 1`,
		"queueville_second_knocks_total 1", "queueville_sign_seconds_count 1", `queueville_build_info{signer="go",version="1"} 1`, "queueville_redis_up 1",
		"queueville_in_hand 9", "queueville_waiting 4", "queueville_running 5", "queueville_concurrency_limit 512", "go_goroutines ", "process_resident_memory_bytes ",
	} {
		if !strings.Contains(body, "\n"+want) {
			t.Errorf("/metrics does not have %s", want)
		}
	}
}

// TestHostileNames: classes, queues and hosts that nobody configured cost a bounded number of series, and none can break the page.
func TestHostileNames(t *testing.T) {
	t.Parallel()
	c := redistest.Client(t)
	ctx := t.Context()
	for i := range 500 {
		name := fmt.Sprintf("q%d\xff\n\"\\", i)
		c.SAdd(ctx, "queues", name)
	}
	c.SAdd(ctx, "queues", "same\xfe", "same\xfd", strings.Repeat("long", 10_000), "busiest")
	c.LPush(ctx, "queue:busiest", "{}", "{}")
	m := New(Config{Prefix: "ruby_", Store: queues.NewStore(c, "")})
	for i := range 5000 {
		bad := fmt.Sprintf("C%d\xff{}\n", i)
		for _, end := range []worker.End{
			{Queue: "push", Class: bad, Result: worker.Acked, Run: 1},
			{Queue: "push", Class: bad, Result: worker.Forwarded, Label: "foreign class"},
			{Queue: "push", Class: bad, Result: worker.Requeued, Label: "foreign class", Wait: -1},
			{Queue: bad, Class: "C", Result: worker.Retried, Run: 1, Wait: 1},
		} {
			m.Ended(end)
		}
		m.Delivered(bad, activitypub.Result{Outcome: activitypub.Delivered})
	}
	status, body := page(t, m, NewHealth(time.Minute))("/metrics")
	if status != http.StatusOK {
		t.Fatalf("/metrics answers %d: %.2000s", status, body)
	}
	if n := strings.Count(body, "\n"); n > 6000 {
		t.Errorf("%d lines", n)
	}
	if !strings.Contains(body, `ruby_sidekiq_queue_backlog{queue="busiest"} 2`) {
		t.Error("the longest queue is not among those shown")
	}
	if n := strings.Count(body, "\nruby_sidekiq_queue_backlog{"); n != maxQueues {
		t.Errorf("%d queues shown, want %d", n, maxQueues)
	}
	if !strings.Contains(body, `job_name="other"`) {
		t.Error("what is beyond the bound is not counted as other")
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	c := redistest.Client(t)
	h := NewHealth(200 * time.Millisecond)
	get := page(t, New(Config{Store: queues.NewStore(c, "")}), h)
	for _, path := range []string{"/healthz", "/readyz"} {
		if status, body := get(path); status != http.StatusServiceUnavailable || strings.TrimSpace(body) == "" {
			t.Errorf("%s before the start: %d %q", path, status, body)
		}
	}
	h.Beat()
	h.SetReady(true)
	for _, path := range []string{"/healthz", "/readyz"} {
		if status, _ := get(path); status != http.StatusOK {
			t.Errorf("%s at work: %d", path, status)
		}
	}
	time.Sleep(250 * time.Millisecond)
	if status, _ := get("/healthz"); status != http.StatusServiceUnavailable {
		t.Errorf("/healthz without heartbeats: %d", status)
	}
	if status, _ := get("/anything"); status != http.StatusNotFound {
		t.Errorf("/anything: %d", status)
	}
}

// TestScrapeWithoutRedis: the page is there, and says so.
func TestScrapeWithoutRedis(t *testing.T) {
	t.Parallel()
	c := redistest.NewClient("127.0.0.1:1", 0)
	defer c.Close() //nolint:errcheck // nothing is open
	status, body := page(t, New(Config{Prefix: "ruby_", Store: queues.NewStore(c, "")}), NewHealth(time.Minute))("/metrics")
	if status != http.StatusOK || !strings.Contains(body, "\nqueueville_redis_up 0") || strings.Contains(body, "sidekiq_stats_processed") {
		t.Errorf("/metrics answers %d", status)
	}
}

func TestListenRefusesTheWorld(t *testing.T) {
	t.Parallel()
	c := redistest.NewClient("127.0.0.1:1", 0)
	defer c.Close() //nolint:errcheck // nothing is open
	m := New(Config{Store: queues.NewStore(c, "")})
	for addr, ok := range map[string]bool{
		"127.0.0.1:0": true, "localhost:0": true, "127.3.2.1:0": true, "[::1]:0": true,
		"0.0.0.0:0": false, ":0": false, "[::]:0": false, "192.0.2.1:0": false, "example.org:0": false, "127.0.0.1": false, "": false,
	} {
		s, err := Listen(t.Context(), addr, false, m, NewHealth(time.Minute))
		if s != nil {
			_ = s.listener.Close()
		}
		if (err == nil) != ok && addr != "[::1]:0" { // some machines have no IPv6
			t.Errorf("Listen(%q) = %v", addr, err)
		}
	}
	s, err := Listen(t.Context(), "0.0.0.0:0", true, m, NewHealth(time.Minute))
	if err != nil {
		t.Fatalf("Listen, public: %v", err)
	}
	_ = s.listener.Close()
}
