package throwaway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// PgBouncerConfig describes a PgBouncer in transaction mode in front of a Postgres server.
type PgBouncerConfig struct {
	Dir      string // where its directory is made; "" is os.TempDir()
	Upstream *PostgresServer
	PoolSize int      // connections to the server per database; 0 is 5
	Lines    []string // more lines of the section [pgbouncer]
}

// PgBouncerServer is a running PgBouncer. Its methods are safe for concurrent use.
type PgBouncerServer struct {
	*server
	upstream *PostgresServer
	port     int
}

// PgBouncer starts one in transaction mode and waits until it takes connections. ErrMissing when there is none on this machine.
// Prepared statements are not tracked, as in every version before 1.21 and by default in 1.21–1.23.
func PgBouncer(ctx context.Context, cfg PgBouncerConfig) (*PgBouncerServer, error) {
	if cfg.Upstream == nil {
		return nil, errors.New("start pgbouncer: no upstream server")
	}
	bin, err := find("pgbouncer", "pgbouncer")
	if err != nil {
		return nil, err
	}
	cred, err := account() // it refuses to run as root as well
	if err != nil {
		return nil, err
	}
	dir, err := privateDir(cfg.Dir, "queueville-pgbouncer-", cred)
	if err != nil {
		return nil, err
	}
	b := &PgBouncerServer{upstream: cfg.Upstream}
	b.server = &server{name: "pgbouncer", bin: bin, dir: dir, cred: cred, stopSignal: syscall.SIGTERM, ready: b.checkReady}
	b.newPort = func(ctx context.Context) error {
		port, err := FreePort(ctx)
		b.port = port
		return err
	}
	b.args = func() ([]string, error) { return b.configure(cfg) }
	if err := b.launch(ctx); err != nil {
		return nil, err
	}
	return b, nil
}

// configure writes the configuration and returns the arguments.
func (b *PgBouncerServer) configure(cfg PgBouncerConfig) ([]string, error) {
	ini := filepath.Join(b.dir, "pgbouncer.ini")
	users := filepath.Join(b.dir, "users.txt")
	poolSize := cfg.PoolSize
	if poolSize == 0 {
		poolSize = 5
	}
	lines := []string{
		"[databases]", "* = host=127.0.0.1 port=" + strconv.Itoa(cfg.Upstream.port),
		"[pgbouncer]", "listen_addr = 127.0.0.1", "listen_port = " + strconv.Itoa(b.port), "unix_socket_dir =",
		"auth_type = scram-sha-256", "auth_file = " + users, "pool_mode = transaction",
		"default_pool_size = " + strconv.Itoa(poolSize), "max_client_conn = 500", "ignore_startup_parameters = extra_float_digits",
		"pidfile = " + b.pidPath(), "server_login_retry = 1",
	}
	lines = append(lines, cfg.Lines...)
	files := map[string]string{
		ini:   strings.Join(lines, "\n") + "\n",
		users: fmt.Sprintf("%q %q\n", cfg.Upstream.User(), cfg.Upstream.Password()),
	}
	for path, text := range files {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return nil, fmt.Errorf("configure pgbouncer: %w", err)
		}
		if b.cred != nil {
			if err := os.Chown(path, int(b.cred.Uid), int(b.cred.Gid)); err != nil {
				return nil, fmt.Errorf("configure pgbouncer: %w", err)
			}
		}
	}
	return []string{ini}, nil
}

func (b *PgBouncerServer) pidPath() string { return filepath.Join(b.dir, "pgbouncer.pid") }

// checkReady: PgBouncer listens before it writes its pid file, and the file is ours alone.
func (b *PgBouncerServer) checkReady(ctx context.Context) error {
	text, err := os.ReadFile(b.pidPath())
	if err != nil {
		return fmt.Errorf("read pgbouncer.pid: %w", err)
	}
	if strings.TrimSpace(string(text)) != strconv.Itoa(b.pid) {
		return errors.New("pgbouncer.pid names another process")
	}
	d := net.Dialer{Timeout: time.Second}
	conn, err := d.DialContext(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(b.port)))
	if err != nil {
		return fmt.Errorf("connect to pgbouncer: %w", err)
	}
	return conn.Close()
}

// Port is the TCP port on 127.0.0.1.
func (b *PgBouncerServer) Port() int { return b.port }

// DSN is the URL of the database postgres through the bouncer.
func (b *PgBouncerServer) DSN() string { return b.DatabaseDSN("postgres") }

// DatabaseDSN is the URL of a database through the bouncer.
func (b *PgBouncerServer) DatabaseDSN(database string) string {
	return postgresURL(b.upstream.password, b.port, database)
}
