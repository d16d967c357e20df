package activitypub

import "time"

// Retries of the two workers (sidekiq_options retry in app/workers/activitypub/delivery_worker.rb and low_priority_delivery_worker.rb).
const (
	maxRetries    = 16
	maxRetriesLow = 8
)

// MaxRetries is how often a delivery is retried: 16, or 8 for LowPriorityDeliveryWorker.
func MaxRetries(low bool) int {
	if low {
		return maxRetriesLow
	}
	return maxRetries
}

// RetryDelay is the worker's own part of the wait before the next attempt: c⁴ + 15 s and a random part below 0.5·c⁴ s, in whole
// seconds; Sidekiq's jitter comes on top and is the caller's. count is the retry_count of the failed attempt, from 0; random gives
// numbers in [0, 1), like rand.Float64.
func RetryDelay(count int, random func() float64) time.Duration {
	count = min(max(count, 0), 1000)
	c4 := count * count * count * count
	// Ruby's rand takes the whole part of a float as its limit; below 1 it gives a fraction, which the final truncation drops.
	return time.Duration(c4+15+int(random()*float64(c4/2))) * time.Second
}

// Horizon is how long after its first failure or deferral a delivery is given up: the mean total time of Mastodon's own schedule,
// 62.2 h, or 1.7 h for LowPriorityDeliveryWorker. Deferrals spend none of the retries, so without it a delivery to a dead
// host could wait for ever.
func Horizon(low bool) time.Duration {
	total := time.Duration(0)
	for c := range MaxRetries(low) {
		c4 := c * c * c * c
		// 15 + c⁴ + mean of rand(0.5·c⁴) + mean of Sidekiq 8's rand(10·(c+1)).
		total += time.Duration(15+c4+5*(c+1))*time.Second + time.Duration(c4)*time.Second/4
	}
	return total
}
