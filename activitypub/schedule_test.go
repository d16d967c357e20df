package activitypub

import (
	"math/rand/v2"
	"testing"
	"time"
)

// TestRetryDelay: c⁴ + 15 + rand(0.5·c⁴), in whole seconds (spec 3.5).
func TestRetryDelay(t *testing.T) {
	for c := range 16 {
		c4 := time.Duration(c*c*c*c) * time.Second
		low := RetryDelay(c, func() float64 { return 0 })
		high := RetryDelay(c, func() float64 { return 0.999999999 })
		if low != c4+15*time.Second {
			t.Errorf("RetryDelay(%d) is at least %v, want %v", c, low, c4+15*time.Second)
		}
		if limit := c4 + c4/2 + 15*time.Second; c > 1 && high >= limit || high < low {
			t.Errorf("RetryDelay(%d) is at most %v, want below %v", c, high, limit)
		}
		if low%time.Second != 0 || high%time.Second != 0 {
			t.Errorf("RetryDelay(%d) has fractions of seconds", c)
		}
	}
	if got := RetryDelay(-1, rand.Float64); got != 15*time.Second {
		t.Errorf("RetryDelay(-1) = %v", got)
	}
}

func TestHorizon(t *testing.T) {
	if got := Horizon(false); got < 50*time.Hour || got > 75*time.Hour {
		t.Errorf("Horizon(false) = %v, want within Mastodon's 50 to 75 h", got)
	}
	if got := Horizon(true); got < 78*time.Minute || got > 126*time.Minute {
		t.Errorf("Horizon(true) = %v, want within Mastodon's 1.3 to 2.1 h", got)
	}
	if MaxRetries(false) != 16 || MaxRetries(true) != 8 {
		t.Error("MaxRetries is not Mastodon's")
	}
}
