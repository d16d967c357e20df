package throwaway

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
)

// Replicated are the settings of a server that others can follow, and of those that follow it.
func Replicated() map[string]string {
	return map[string]string{"wal_level": "replica", "max_wal_senders": "4", "wal_keep_size": "64MB", "hot_standby": "on"}
}

// beside finds a program that was installed with the server, where the server is or where a link leads to it.
func beside(server, program string) (string, error) {
	target, err := filepath.EvalSymlinks(server)
	if err != nil {
		target = server
	}
	for _, name := range []string{server, target} {
		path := filepath.Join(filepath.Dir(name), program)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", &MissingError{Binary: program, Package: "postgresql"}
}

// PostgresReplica starts a read replica of a server that has the settings of Replicated, by pg_basebackup, and waits until it can be asked. It
// follows by streaming, asynchronously, and has the primary's databases, user and password. cfg is as for the primary.
func PostgresReplica(ctx context.Context, primary *PostgresServer, cfg PostgresConfig) (*PostgresServer, error) {
	backup, err := beside(primary.bin, "pg_basebackup")
	if err != nil {
		return nil, err
	}
	settings := Replicated()
	maps.Copy(settings, cfg.Settings)
	cfg.Settings = settings
	return launchPostgres(ctx, primary.bin, cfg, func(data string, cred *syscall.Credential) (string, error) {
		cmd := exec.CommandContext(ctx, backup, "--pgdata="+data, "--host=127.0.0.1", "--port="+strconv.Itoa(primary.Port()), //nolint:gosec // our own directory
			"--username="+primary.User(), "--no-password", "--checkpoint=fast", "--no-sync", "--wal-method=stream", "--write-recovery-conf")
		cmd.Dir = filepath.Dir(data)
		cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC", "PGPASSWORD="+primary.Password(), "PGSSLMODE=disable")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("copy the primary: %w\n%s", err, bytes.TrimSpace(out))
		}
		return primary.Password(), nil
	})
}
