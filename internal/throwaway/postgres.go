package throwaway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// PostgresConfig describes a PostgreSQL server. The zero value is good.
type PostgresConfig struct {
	Dir            string            // where the data directory is made; "" is os.TempDir(). The server's account must be able to enter it
	MaxConnections int               // 0 is 100
	Settings       map[string]string // more of postgresql.conf, e.g. "log_statement": "all"
}

// PostgresServer is a running PostgreSQL. It gives durability up for speed: a crash of the machine may lose everything, a kill of the
// server does not. Its methods are safe for concurrent use.
type PostgresServer struct {
	*server
	password string
	port     int
}

// Postgres starts a PostgreSQL server of its own and waits until it takes connections; ErrMissing when there is none on this machine.
// PostgreSQL refuses to run as root: then it runs as the user postgres or nobody.
func Postgres(ctx context.Context, cfg PostgresConfig) (*PostgresServer, error) {
	bin, err := find("postgres", "postgresql", postgresDirs()...)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(bin), "initdb")); err != nil {
		return nil, &MissingError{Binary: "initdb", Package: "postgresql"}
	}
	return launchPostgres(ctx, bin, cfg, func(data string, cred *syscall.Credential) (string, error) {
		return makeCluster(ctx, filepath.Dir(bin), data, cred)
	})
}

// launchPostgres starts a server on the data directory that fill makes, which returns the superuser's password.
func launchPostgres(ctx context.Context, bin string, cfg PostgresConfig, fill func(data string, cred *syscall.Credential) (string, error)) (*PostgresServer, error) {
	cred, err := account()
	if err != nil {
		return nil, err
	}
	dir, err := privateDir(cfg.Dir, "queueville-postgres-", cred)
	if err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "data")
	password, err := fill(data, cred)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	p := &PostgresServer{password: password}
	p.server = &server{
		// Fast shutdown ends the clients' sessions; the smart one (TERM) would wait for them.
		name: "postgres", bin: bin, dir: dir, cred: cred, stopSignal: syscall.SIGINT, ready: p.checkReady,
	}
	p.newPort = func(ctx context.Context) error {
		port, err := FreePort(ctx)
		p.port = port
		return err
	}
	p.args = func() ([]string, error) { return p.arguments(data, cfg), nil }
	if err := p.launch(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *PostgresServer) arguments(data string, cfg PostgresConfig) []string {
	maxConnections := cfg.MaxConnections
	if maxConnections == 0 {
		maxConnections = 100
	}
	args := []string{"-D", data, "-p", strconv.Itoa(p.port)}
	for _, setting := range []string{
		"listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=" + strconv.Itoa(maxConnections),
		"fsync=off", "synchronous_commit=off", "full_page_writes=off", "autovacuum=off", "shared_buffers=32MB", "max_wal_size=64MB",
		"wal_level=minimal", "max_wal_senders=0", "jit=off", "dynamic_shared_memory_type=mmap", "logging_collector=off",
		"log_timezone=UTC", "timezone=UTC", "ssl=off",
	} {
		args = append(args, "-c", setting)
	}
	for name, value := range cfg.Settings {
		args = append(args, "-c", name+"="+value)
	}
	return args
}

// checkReady reads the server's own file rather than connect: the file cannot be another server's.
// Its lines are: pid, data directory, start time, port, socket directory, address, shared memory, status.
func (p *PostgresServer) checkReady(context.Context) error {
	b, err := os.ReadFile(filepath.Join(p.dir, "data", "postmaster.pid"))
	if err != nil {
		return fmt.Errorf("read postmaster.pid: %w", err)
	}
	lines := strings.Split(string(b), "\n")
	if len(lines) < 8 || lines[0] != strconv.Itoa(p.pid) || strings.TrimSpace(lines[7]) != "ready" {
		return errors.New("postmaster.pid does not say ready")
	}
	return nil
}

// Port is the TCP port on 127.0.0.1.
func (p *PostgresServer) Port() int { return p.port }

// User is the superuser's name.
func (p *PostgresServer) User() string { return "postgres" }

// Password is the superuser's password.
func (p *PostgresServer) Password() string { return p.password }

// DSN is the URL of the database postgres, as its superuser.
func (p *PostgresServer) DSN() string { return p.DatabaseDSN("postgres") }

// DatabaseDSN is the URL of a database, as the superuser.
func (p *PostgresServer) DatabaseDSN(database string) string {
	return postgresURL(p.password, p.port, database)
}

func postgresURL(password string, port int, database string) string {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword("postgres", password),
		Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), Path: "/" + database, RawQuery: "sslmode=disable",
	}
	return u.String()
}
