package run

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// cpuOf is the time that all threads of a process have spent on a processor. It reads the process's CPU clock (clock_getcpuclockid(3)), which counts
// nanoseconds; /proc/<pid>/stat counts in ticks of 10 ms.
func cpuOf(pid int) (time.Duration, error) {
	const schedClock = 2
	var ts unix.Timespec
	clock := int32(^pid<<3 | schedClock) //nolint:gosec // pids fit into 22 bits
	if err := unix.ClockGettime(clock, &ts); err != nil {
		return 0, fmt.Errorf("read the CPU clock of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}
