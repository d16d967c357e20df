// Package priority lets this process, and the children that it starts from then on, yield the processors to others.
package priority

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Lowest is the greatest nice value.
const Lowest = 19

// rounds of threads are looked through at most: each may find some that were started meanwhile by threads that had not been changed yet.
const rounds = 5

// Lower raises the nice value of every thread of this process to nice (1 to 19), which children inherit. A thread that is nicer already stays so.
//
// The kernel divides processors among login sessions first if it groups processes by them (sched_autogroup), as it does on Debian and Ubuntu: nice
// values then count only within one. So the value is set for the session's group too, if the session is this process's own, as that of a systemd unit
// is; another's terminal is left alone. Where systemd divides processors among units (CPUWeight), a unit's nice value does not matter to the others.
func Lower(nice int) error {
	if nice < 1 || nice > Lowest {
		return fmt.Errorf("nice %d: 1 to %d", nice, Lowest)
	}
	done := map[int]bool{}
	for range rounds {
		tids, err := threads()
		if err != nil {
			return fmt.Errorf("list threads: %w", err)
		}
		fresh := 0
		for _, tid := range tids {
			if done[tid] {
				continue
			}
			done[tid] = true
			fresh++
			// The system call returns 20 − nice.
			if now, err := unix.Getpriority(unix.PRIO_PROCESS, tid); err == nil && 20-now >= nice {
				continue
			}
			if err := unix.Setpriority(unix.PRIO_PROCESS, tid, nice); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("set nice value %d: %w", nice, err)
			}
		}
		if fresh == 0 {
			break
		}
	}
	if sid, err := unix.Getsid(0); err == nil && sid == os.Getpid() {
		_ = os.WriteFile("/proc/self/autogroup", []byte(strconv.Itoa(nice)), 0o644) // a kernel without such groups has no such file
	}
	return nil
}

// threads are those of this process.
func threads() ([]int, error) {
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return nil, err
	}
	var list []int
	for _, e := range entries {
		if tid, err := strconv.Atoi(e.Name()); err == nil {
			list = append(list, tid)
		}
	}
	return list, nil
}
