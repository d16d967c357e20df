package dbpool

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
)

// A process is named "<boot and pid namespace>:<pid>:<start>[:<kin>]", so that a neighbour can see that it is gone, and with a Kin that its
// children are, too; "-" where /proc does not say.

var machine = sync.OnceValue(func() string {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	ns, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return ""
	}
	sum := sha256.Sum256([]byte(strings.TrimSpace(string(boot)) + " " + ns))
	return hex.EncodeToString(sum[:6])
})

// processName names this process. kin may be nil.
func processName(kin *Kin) string {
	pid := os.Getpid()
	start, err := startTick(pid)
	if err != nil || machine() == "" {
		return "-"
	}
	name := machine() + ":" + strconv.Itoa(pid) + ":" + strconv.FormatUint(start, 10)
	if kin != nil {
		name += ":" + kin.name
	}
	return name
}

// processGone is true when the process certainly does not run any more: same machine and process numbers as ours, and no such
// process, or another one under its number. Its sockets are closed then, and it cannot open any.
func processGone(name string) bool {
	at, rest, _ := strings.Cut(name, ":")
	pid, rest, _ := strings.Cut(rest, ":")
	start, _, _ := strings.Cut(rest, ":")
	if at == "" || at != machine() {
		return false
	}
	n, err := strconv.Atoi(pid)
	want, err2 := strconv.ParseUint(start, 10, 64)
	if err != nil || err2 != nil || n <= 0 {
		return false
	}
	tick, err := startTick(n)
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	return err == nil && tick != want
}

// startTick is when a process started, in clock ticks since the boot: field 22 of /proc/PID/stat. The second field, the command in
// parentheses, can hold anything, so counting begins after the last closing one. One that has ended but was not waited for is gone.
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

// goneNeighbours are leases of processes that have ended without giving them back.
func goneNeighbours(leases []Lease, self string) []Judgement {
	var list []Judgement
	for i := range leases {
		l := &leases[i]
		switch {
		case l.proc == self:
		case l.Reserved > 0 && kinGone(l.proc):
			list = append(list, Judgement{What: JudgeOver, Epoch: l.Epoch})
		case !l.Gone && processGone(l.proc):
			list = append(list, Judgement{What: JudgeGone, Epoch: l.Epoch})
		}
	}
	return list
}
