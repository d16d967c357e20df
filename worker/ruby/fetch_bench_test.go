package ruby

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// benchTick is the unit of CPU times in /proc (USER_HZ, 100 on every Linux that Go runs on).
const benchTick = 10 * time.Millisecond

// BenchmarkRubyFetch runs empty jobs in one real Sidekiq process, fetched by Sidekiq itself with BRPOP and fed by us, and compares the CPU
// time per job: for ours that of this Go process is counted too. What Redis needs is on neither side.
//
//	go test -run '^$' -bench RubyFetch -benchtime 10000x ./worker/ruby
func BenchmarkRubyFetch(b *testing.B) {
	for _, threads := range []int{1, 5} {
		b.Run(fmt.Sprintf("threads=%d", threads), func(b *testing.B) {
			n := max(b.N, 2000)
			stock := stockCPU(b, threads, n)
			ours, worker := ourCPU(b, threads, n)
			each := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(n) }
			b.ReportMetric(each(stock), "stock-cpu-µs/job")
			b.ReportMetric(each(ours), "ruby-cpu-µs/job")
			b.ReportMetric(each(worker), "go-cpu-µs/job")
			b.ReportMetric(each(ours+worker-stock), "overhead-µs/job")
			b.ReportMetric(float64(ours+worker)/float64(stock), "ratio")
		})
	}
}

func stockCPU(b *testing.B, threads, n int) time.Duration {
	b.Helper()
	r := newRig(b, func(c *Config) { c.Threads = threads })
	url := ""
	for _, e := range r.s.cfg.Command.Env {
		if v, ok := strings.CutPrefix(e, "REDIS_URL="); ok {
			url = v
		}
	}
	words := strings.Fields(os.Getenv("SIDEKIQ"))
	if len(words) == 0 {
		words = []string{"sidekiq"}
	}
	words = append(words, "-r", r.s.cfg.Command.Require, "-q", "bench", "-c", strconv.Itoa(threads))
	cmd := exec.CommandContext(context.WithoutCancel(b.Context()), words[0], words[1:]...)
	cmd.Env = append(os.Environ(), "REDIS_URL="+url)
	if err := cmd.Start(); err != nil {
		missing(b, fmt.Sprintf("start sidekiq: %v (apt-get install ruby-sidekiq, or set SIDEKIQ)", err))
	}
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	}()
	r.await("stock sidekiq", func() bool { n, _ := r.redis.SCard(b.Context(), "processes").Result(); return n == 2 })
	run := func(n int) {
		pushBench(b, r.redis, n)
		r.await("an empty queue", func() bool { n, err := r.redis.LLen(b.Context(), "queue:bench").Result(); return err == nil && n == 0 })
		still(b, cmd.Process.Pid)
	}
	run(500)
	before := cpuOf(b, cmd.Process.Pid)
	run(n)
	return cpuOf(b, cmd.Process.Pid) - before
}

func pushBench(b *testing.B, client *redis.Client, n int) {
	b.Helper()
	pipe := client.Pipeline()
	for i := range n {
		pipe.LPush(b.Context(), "queue:bench", job("Bare", fmt.Sprintf("%024x", i), `[1,"two",{"three":4}]`).Payload)
	}
	if _, err := pipe.Exec(b.Context()); err != nil {
		b.Fatal(err)
	}
}

func ourCPU(b *testing.B, threads, n int) (ruby, worker time.Duration) {
	b.Helper()
	done := make(chan struct{}, 1)
	left := 0
	grown := make(chan struct{}, 1)
	var r *rig
	r = newRig(b, func(c *Config) {
		c.Threads = threads
		c.RoomGrew = func() {
			select {
			case grown <- struct{}{}:
			default:
			}
		}
		c.Done = func(Job, Result) {
			r.mu.Lock()
			if left--; left == 0 {
				done <- struct{}{}
			}
			r.mu.Unlock()
		}
	})
	r.ready(1)
	run := func(n int) {
		jobs := make([]Job, n)
		for i := range jobs {
			jobs[i] = job("Bare", fmt.Sprintf("%024x", i), `[1,"two",{"three":4}]`)
		}
		r.mu.Lock()
		left = n
		r.mu.Unlock()
		for len(jobs) > 0 {
			if room := min(r.s.Room([]string{"default"})[0], len(jobs)); room > 0 {
				r.s.Submit(jobs[:room])
				jobs = jobs[room:]
			} else {
				<-grown
			}
		}
		<-done
	}
	run(500)
	pid := r.s.Processes()[0].PID
	still(b, pid)
	before, self := cpuOf(b, pid), cpuOf(b, os.Getpid())
	run(n)
	worker = cpuOf(b, os.Getpid()) - self
	still(b, pid)
	return cpuOf(b, pid) - before, worker
}

// still waits until a process does nothing.
func still(b *testing.B, pid int) {
	b.Helper()
	for last := time.Duration(-1); ; time.Sleep(300 * time.Millisecond) {
		now := cpuOf(b, pid)
		if now-last <= benchTick && last >= 0 {
			return
		}
		last = now
	}
}

func cpuOf(b *testing.B, pid int) time.Duration {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * benchTick
}
