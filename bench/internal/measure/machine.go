package measure

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"os/exec"
	"runtime"
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
