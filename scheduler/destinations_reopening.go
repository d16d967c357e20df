package scheduler

import (
	"time"

	"github.com/queueville/queueville/internal/comeback"
)

// Reopening damps how a destination is used again that was away. See comeback.Damper; activitypub.Host has one for each destination that has
// come back.
type Reopening = comeback.Damper

// RatePeak remembers the greatest rate of a destination in its last good minute. See comeback.Peak.
type RatePeak = comeback.Peak

// Reopen begins at the given time, with the rate that the destination took before it was away, in requests a second.
func Reopen(now time.Time, before float64) Reopening { return comeback.Reopen(now, before) }
