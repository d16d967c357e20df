package queues

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

func BenchmarkParseJob(b *testing.B) {
	for _, size := range []int{500, 2000, 4000} {
		payload := deliveryPayload("ActivityPub::DeliveryWorker", jid(1), size)
		b.Run("bytes="+strconv.Itoa(size), func(b *testing.B) {
			b.SetBytes(int64(len(payload)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ParseJob(payload); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkRetryEntry(b *testing.B) {
	job, err := ParseJob(deliveryPayload("ActivityPub::DeliveryWorker", jid(1), 2000))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := RetryEntry(job, "push", Failure{Class: "HTTPError", Message: "host7.example returned code 503"}, now, RetryOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}

// cpu is the CPU time of this process.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// scriptTime reads the microseconds that Redis has spent in EVALSHA so far.
func scriptTime(b *testing.B, c *redis.Client) (us float64) {
	b.Helper()
	var calls float64
	text, err := c.Info(b.Context(), "commandstats").Result()
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "cmdstat_evalsha:"); ok {
			if _, err := fmt.Sscanf(rest, "calls=%f,usec=%f,", &calls, &us); err != nil {
				b.Fatal(err)
			}
		}
	}
	return us
}

// BenchmarkFetchComplete is the hot path of owned queues: fetch a batch, parse it, ack it. One operation is one job.
func BenchmarkFetchComplete(b *testing.B) {
	for _, batch := range []int{1, 10, 100, 500} {
		b.Run("batch="+strconv.Itoa(batch), func(b *testing.B) {
			store, client := newStore(b)
			session := newSession(b, store, "h:1:a")
			payload := deliveryPayload("ActivityPub::DeliveryWorker", jid(1), 2000)
			const waiting = 20_000
			fill := make([]string, waiting)
			for i := range fill {
				fill[i] = payload
			}
			left := 0
			queues := []string{"push"}
			completions := make([]Completion, 0, batch)
			var worker time.Duration
			var redisUS float64
			us := scriptTime(b, client)
			began := cpu(b)
			b.ReportAllocs()
			b.ResetTimer()
			for done := 0; done < b.N; {
				if left < batch {
					b.StopTimer()
					worker += cpu(b) - began
					push(b, client, "queue:push", fill...)
					left += waiting
					began = cpu(b)
					b.StartTimer()
				}
				jobs, err := session.Fetch(b.Context(), queues, batch)
				if err != nil || len(jobs) != batch {
					b.Fatal(len(jobs), err)
				}
				completions = completions[:0]
				for _, j := range jobs {
					if _, err := ParseJob(j.Payload); err != nil {
						b.Fatal(err)
					}
					completions = append(completions, Completion{Ref: j.Ref, Op: OpAck})
				}
				if _, err := session.Complete(b.Context(), completions); err != nil {
					b.Fatal(err)
				}
				left -= batch
				done += batch
			}
			b.StopTimer()
			worker += cpu(b) - began
			us2 := scriptTime(b, client)
			redisUS = us2 - us
			b.ReportMetric(float64(worker.Microseconds())/float64(b.N), "worker-µs/job")
			b.ReportMetric(redisUS/float64(b.N), "redis-µs/job")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
		})
	}
}

// BenchmarkSharedLook measures the Redis time of one look over 200,000 waiting jobs of 2 kB.
func BenchmarkSharedLook(b *testing.B) {
	const waiting = 200_000
	for _, native := range []string{"0%", "1%", "90%"} {
		for _, order := range []string{"class-first", "args-first"} {
			b.Run("native="+native+"/order="+order, func(b *testing.B) {
				store, client := newStore(b)
				session := newSession(b, store, "h:1:a")
				payloads := make([]string, waiting)
				for i := range payloads {
					class := "ProcessingWorker"
					switch {
					case native == "1%" && i%100 == 50, native == "90%" && i%10 != 3:
						class = "ActivityPub::DeliveryWorker"
					}
					payloads[i] = deliveryPayload(class, jid(i), 2000)
					if order == "args-first" {
						payloads[i] = argsFirst(payloads[i])
					}
				}
				push(b, client, "queue:push", payloads...)
				look := Look{
					Queues: []string{"push"}, Classes: []string{"ActivityPub::DeliveryWorker", "ActivityPub::LowPriorityDeliveryWorker"},
					Max: 100, WindowJobs: WindowJobs, WindowBytes: WindowBytes, Share: 10_000,
				}
				if _, _, err := session.FetchShared(b.Context(), look); err != nil {
					b.Fatal(err)
				}
				var spent, slowest float64
				var taken, looked int
				b.ReportAllocs()
				b.ResetTimer()
				for b.Loop() {
					before := scriptTime(b, client)
					jobs, n, err := session.FetchShared(b.Context(), look)
					if err != nil {
						b.Fatal(err)
					}
					b.StopTimer()
					after := scriptTime(b, client)
					spent += after - before
					slowest = max(slowest, after-before)
					taken += len(jobs)
					looked += n
					// What was left of the window goes to the far end with what was taken, so that every look is a fresh one.
					left, err := client.RPopCount(b.Context(), "queue:push", max(1, n-len(jobs))).Result()
					if err != nil {
						b.Fatal(err)
					}
					push(b, client, "queue:push", append(left, payloadsOf(jobs)...)...)
					if _, err := session.Complete(b.Context(), acks(jobs)); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
				}
				b.ReportMetric(spent/float64(b.N), "redis-µs/look")
				b.ReportMetric(slowest, "redis-µs/slowest")
				b.ReportMetric(float64(taken)/float64(b.N), "taken/look")
				b.ReportMetric(float64(looked)/float64(b.N), "looked/look")
			})
		}
	}
}

// argsFirst moves the class behind the args, as perform_async of Sidekiq 7 has it.
func argsFirst(payload string) string {
	from := strings.Index(payload, `"class":`)
	to := strings.Index(payload, `"args":`)
	class := payload[from:to]
	payload = payload[:from] + payload[to:]
	at := strings.Index(payload, `"jid":`)
	return payload[:at] + class + payload[at:]
}
