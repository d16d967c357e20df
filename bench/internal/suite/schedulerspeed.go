package suite

import (
	"fmt"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// yardstick measures how fast the machine is just now, by the processor time that making the jobs takes: the same work for each, whatever runs them.
// A virtual machine is faster or slower by a fifth from one minute to the next though none of its time is stolen, for caches and memory are shared
// with other machines. What a signature takes does not show that, for it needs no memory; what making jobs takes does for the most part.
type yardstick struct {
	mu sync.Mutex
	n  int
	s  float64 // processor seconds
}

// time makes n jobs, and counts what that takes.
func (y *yardstick) time(n int, each func(i int)) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	began, err := threadCPU()
	if err != nil {
		return err
	}
	for i := range n {
		each(i)
	}
	ended, err := threadCPU()
	if err != nil {
		return err
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	y.n, y.s = y.n+n, y.s+ended-began
	return nil
}

// read is how many jobs have been made, and what that took in all, in processor seconds.
func (y *yardstick) read() (n int, s float64) {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.n, y.s
}

// threadCPU is the processor time of the calling thread, in seconds.
func threadCPU() (float64, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		return 0, fmt.Errorf("read the thread's clock: %w", err)
	}
	return float64(t.Nano()) / 1e9, nil
}
