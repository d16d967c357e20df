package governor

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// nicePasses bounds how often the threads are gone through: one that is started meanwhile has what the one that started it had.
const nicePasses = 10

// BeNice makes all threads of this process, and so what it starts from now on, give way to the host's other processes by that niceness (1 to
// 19, setpriority(2)): the kernel hands a processor over within milliseconds, while a limit takes effect only when a job has ended. What is as
// nice already stays so, and nothing becomes less nice again.
//
// A kernel that groups processes by login session (sched_autogroup, as on Debian and Ubuntu) counts niceness only within a session; the session as a
// whole becomes as nice too, if it is this process's own, as that of a systemd unit is. Somebody's terminal is left alone.
func BeNice(nice int) error {
	if err := niceThreads(nice); err != nil {
		return err
	}
	if session, err := unix.Getsid(0); err == nil && session == os.Getpid() {
		_ = os.WriteFile("/proc/self/autogroup", []byte(strconv.Itoa(nice)), 0o644) // a kernel without such groups has no such file
	}
	return nil
}

func niceThreads(nice int) error {
	for range nicePasses {
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return fmt.Errorf("list threads: %w", err)
		}
		changed := false
		for _, task := range tasks {
			id, err := strconv.Atoi(task.Name())
			if err != nil {
				continue
			}
			// The system call answers 20 less the niceness, so that no answer is negative.
			answer, err := syscall.Getpriority(syscall.PRIO_PROCESS, id)
			if errors.Is(err, syscall.ESRCH) || err == nil && 20-answer >= nice {
				continue
			}
			if err == nil {
				err = syscall.Setpriority(syscall.PRIO_PROCESS, id, nice)
			}
			if err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("make a thread nice: %w", err)
			}
			changed = true
		}
		if !changed {
			return nil
		}
	}
	return nil
}
