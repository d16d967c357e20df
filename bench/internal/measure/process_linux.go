package measure

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// CPU is the time that all threads of a process have spent on a processor, in user and system mode, ended threads included. It reads
// the process's CPU clock (clock_getcpuclockid(3)), which counts nanoseconds; /proc/<pid>/stat counts in ticks of 10 ms.
func CPU(pid int) (time.Duration, error) {
	const schedClock = 2
	var ts unix.Timespec
	clock := int32(^pid<<3 | schedClock) //nolint:gosec // pids fit into 22 bits
	if err := unix.ClockGettime(clock, &ts); err != nil {
		return 0, fmt.Errorf("read the CPU clock of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// Memory is a process's resident memory in bytes.
type Memory struct {
	Resident int64 // now
	Peak     int64 // since the process started, or since ResetPeak
}

// ReadMemory reads a process's resident memory.
func ReadMemory(pid int) (Memory, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return Memory{}, fmt.Errorf("read the memory of process %d: %w", pid, err)
	}
	var m Memory
	lines := bufio.NewScanner(bytes.NewReader(status))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ":")
		kb, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(value, "kB")), 10, 64)
		switch name {
		case "VmRSS":
			m.Resident = kb << 10
		case "VmHWM":
			m.Peak = kb << 10
		}
	}
	return m, nil
}
