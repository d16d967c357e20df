package measure

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// Machine is where figures were taken. An empty version means that the program is not there.
type Machine struct {
	CPU      string `json:"cpu"`
	CPUs     int    `json:"cpus"`
	IFMA     bool   `json:"avx512_ifma"` // OpenSSL signs 2.4 times as fast with it
	Kernel   string `json:"kernel"`
	Go       string `json:"go"`
	Redis    string `json:"redis"`
	Ruby     string `json:"ruby"`
	Sidekiq  string `json:"sidekiq"`
	OpenSSL  string `json:"openssl"`
	Postgres string `json:"postgres"`
	Taken    string `json:"taken"` // UTC
}

// ReadMachine asks the machine.
func ReadMachine(ctx context.Context) Machine {
	m := Machine{CPUs: runtime.NumCPU(), Go: runtime.Version(), Taken: time.Now().UTC().Format(time.RFC3339)}
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		lines := bufio.NewScanner(bytes.NewReader(info))
		for lines.Scan() {
			name, value, _ := strings.Cut(lines.Text(), ":")
			switch strings.TrimSpace(name) {
			case "model name":
				m.CPU = strings.TrimSpace(value)
			case "flags":
				m.IFMA = strings.Contains(value+" ", " avx512ifma ")
			}
		}
	}
	if text, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(text))
	}
	m.Redis = version(ctx, "redis-server", "--version")
	m.Ruby = version(ctx, "ruby", "--version")
	m.Sidekiq = version(ctx, "ruby", "-e", `require "sidekiq/version"; print Sidekiq::VERSION`)
	m.OpenSSL = version(ctx, "openssl", "version")
	m.Postgres = version(ctx, "psql", "--version")
	return m
}

// version is the first line that a program says of itself, at most 100 bytes of it.
func version(ctx context.Context, name string, args ...string) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).Output() //nolint:gosec // fixed commands
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line[:min(len(line), 100)]
}

// Busy is the share of all processors that is in use, over the given time, from 0 to 1. Taken before a suite starts it tells whether the
// machine has other things to do, which spoils figures; -1 where /proc does not say.
func Busy(ctx context.Context, length time.Duration) float64 {
	idle, total := processorTicks()
	select {
	case <-ctx.Done():
	case <-time.After(length):
	}
	idleNow, totalNow := processorTicks()
	if totalNow <= total {
		return -1
	}
	return 1 - float64(idleNow-idle)/float64(totalNow-total)
}

// processorTicks reads the first line of /proc/stat: user nice system idle iowait irq softirq steal …
func processorTicks() (idle, total int64) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0
	}
	line, _, _ := strings.Cut(string(text), "\n")
	for i, field := range strings.Fields(line)[1:] {
		n, _ := strconv.ParseInt(field, 10, 64)
		if i < 8 { // guest time, behind, is in user time already
			total += n
		}
		if i == 3 || i == 4 {
			idle += n
		}
	}
	return idle, total
}
