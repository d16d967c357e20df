//go:build !linux

package run

import (
	"errors"
	"time"
)

// cpuOf is not known here: the report's processor figures stay 0.
func cpuOf(int) (time.Duration, error) { return 0, errors.ErrUnsupported }
