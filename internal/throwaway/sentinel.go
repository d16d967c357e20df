package throwaway

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// SentinelConfig describes a Sentinel that watches one master.
type SentinelConfig struct {
	Dir            string   // where the data directory is made; "" is os.TempDir()
	Name           string   // the master's name; "" is "mymaster"
	Master         string   // host:port of the master
	MasterPassword string   // "" is none
	Quorum         int      // Sentinels that must agree; 0 is 1
	Password       string   // the Sentinel's own requirepass; "" is none
	Lines          []string // more lines of sentinel.conf
}

// Sentinel starts redis-server as a Sentinel. It takes a master that does not answer for one second as down.
func Sentinel(ctx context.Context, cfg SentinelConfig) (*RedisServer, error) {
	host, port, ok := strings.Cut(cfg.Master, ":")
	if !ok {
		return nil, fmt.Errorf("start sentinel: master %q is not host:port", cfg.Master)
	}
	name := cfg.Name
	if name == "" {
		name = "mymaster"
	}
	s, err := newRedis(cfg.Dir, cfg.Password)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(s.dir, "sentinel.conf")
	s.args = func() ([]string, error) {
		// Sentinel rewrites its file: after the first start it is Sentinel's.
		if _, err := os.Stat(path); err == nil {
			return []string{path, "--sentinel", "--port", strconv.Itoa(s.port)}, nil
		}
		lines := []string{
			"bind 127.0.0.1", "dir " + s.dir, "port " + strconv.Itoa(s.port),
			fmt.Sprintf("sentinel monitor %s %s %s %d", name, host, port, max(cfg.Quorum, 1)),
			"sentinel down-after-milliseconds " + name + " 1000",
			"sentinel failover-timeout " + name + " 3000",
		}
		if cfg.MasterPassword != "" {
			lines = append(lines, "sentinel auth-pass "+name+" "+cfg.MasterPassword)
		}
		if cfg.Password != "" {
			lines = append(lines, "requirepass "+cfg.Password)
		}
		lines = append(lines, cfg.Lines...)
		if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
			return nil, fmt.Errorf("write sentinel.conf: %w", err)
		}
		return []string{path, "--sentinel"}, nil
	}
	if err := s.launch(ctx); err != nil {
		return nil, err
	}
	return s, nil
}
