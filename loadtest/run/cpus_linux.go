package run

import (
	"fmt"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// confine keeps this process, and what it starts from now on, off the given processors, if there are others. restore undoes it.
func confine(off []int) (restore func(), err error) {
	var before unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return nil, fmt.Errorf("read which processors there are: %w", err)
	}
	after := before
	for _, cpu := range off {
		if !before.IsSet(cpu) {
			return nil, fmt.Errorf("processor %d is not there for this process", cpu)
		}
		after.Clear(cpu)
	}
	if after.Count() == 0 {
		return func() {}, nil
	}
	if err := affinity(&after); err != nil {
		return nil, err
	}
	return func() { _ = affinity(&before) }, nil // where it was allowed before it is now
}

// affinity sets on which processors all threads of this process run. Threads that start meanwhile inherit it from the one that starts them, so a
// second look finds those of the first round's.
func affinity(set *unix.CPUSet) error {
	var seen []int
	for range 3 {
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return fmt.Errorf("list our threads: %w", err)
		}
		for _, task := range tasks {
			tid, err := strconv.Atoi(task.Name())
			if err != nil || slices.Contains(seen, tid) {
				continue
			}
			if err := unix.SchedSetaffinity(tid, set); err != nil && err != unix.ESRCH {
				return fmt.Errorf("choose processors: %w", err)
			}
			seen = append(seen, tid)
		}
	}
	return nil
}
