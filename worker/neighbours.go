package worker

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/queueville/queueville/queues"
)

// ThisProcess describes the calling process to those who may have to adopt its jobs. Where /proc does not say, the fields stay empty,
// and others wait for the lease to end.
func ThisProcess(identity, hostname string) queues.Holder {
	pid := os.Getpid()
	start, _ := startTick(pid)
	return queues.Holder{
		Identity: identity, Hostname: hostname, PID: pid,
		BootID: bootID(), PIDNS: pidNamespace(), StartTick: start, StartedAt: seconds(time.Now()),
	}
}

// gone is true when other certainly does not run any more: same boot, same process numbers as self, and no such process,
// or another one under its number.
func gone(self, other queues.Holder) bool {
	if self.BootID == "" || self.BootID != other.BootID || self.PIDNS == "" || self.PIDNS != other.PIDNS || other.PID <= 0 || other.StartTick == 0 {
		return false
	}
	tick, err := startTick(other.PID)
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	return err == nil && tick != other.StartTick
}

// startTick is when a process started, in clock ticks since the boot: field 22 of /proc/PID/stat. The second field, the command in
// parentheses, can hold anything, so counting begins after the last closing one. A process that has ended but was not yet waited for
// counts as gone.
func startTick(pid int) (uint64, error) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	command := bytes.LastIndexByte(stat, ')')
	fields := strings.Fields(string(stat[command+1:]))
	if command < 0 || len(fields) < 20 {
		return 0, errors.New("unreadable /proc stat")
	}
	if fields[0] == "Z" || fields[0] == "X" {
		return 0, fs.ErrNotExist
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func pidNamespace() string {
	link, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return ""
	}
	return link
}
