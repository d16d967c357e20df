package throwaway

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// RedisConfig describes a redis-server. The zero value is good: nothing persisted, no password, 16 databases.
type RedisConfig struct {
	Dir      string   // where the data directory is made; "" is os.TempDir()
	Password string   // requirepass; "" is none
	Args     []string // more command-line options, e.g. "--appendonly", "yes"; the last of an option wins
}

// RedisServer is a running redis-server, or a Sentinel. Its methods are safe for concurrent use.
type RedisServer struct {
	*server
	password string
	port     int
}

// Redis starts a redis-server and waits until it answers. ErrMissing when there is none on this machine.
func Redis(ctx context.Context, cfg RedisConfig) (*RedisServer, error) {
	r, err := newRedis(cfg.Dir, cfg.Password)
	if err != nil {
		return nil, err
	}
	r.args = func() ([]string, error) {
		args := []string{
			"--bind", "127.0.0.1", "--port", strconv.Itoa(r.port), "--dir", r.dir, "--daemonize", "no",
			"--save", "", "--appendonly", "no", "--appendfsync", "no",
		}
		if cfg.Password != "" {
			args = append(args, "--requirepass", cfg.Password)
		}
		return append(args, cfg.Args...), nil
	}
	if err := r.launch(ctx); err != nil {
		return nil, err
	}
	return r, nil
}

func newRedis(base, password string) (*RedisServer, error) {
	bin, err := find("redis-server", "redis-server")
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(base, "queueville-redis-")
	if err != nil {
		return nil, fmt.Errorf("make redis directory: %w", err)
	}
	r := &RedisServer{password: password}
	r.server = &server{name: "redis-server", bin: bin, dir: dir, stopSignal: syscall.SIGTERM, ready: r.ping}
	r.newPort = func(ctx context.Context) error {
		port, err := FreePort(ctx)
		r.port = port
		return err
	}
	return r, nil
}

// ping succeeds when the server answers and is ours: another one may have got the port first. Three commands on a bare connection,
// because a client with a pool logs every refused connection, and there are always some before the server is up.
func (r *RedisServer) ping(ctx context.Context) error {
	d := net.Dialer{Timeout: time.Second}
	conn, err := d.DialContext(ctx, "tcp4", r.Addr())
	if err != nil {
		return fmt.Errorf("connect to redis-server: %w", err)
	}
	defer conn.Close() //nolint:errcheck // what matters has been read
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return fmt.Errorf("connect to redis-server: %w", err)
	}
	commands := "PING\r\nINFO server\r\n"
	if r.password != "" {
		commands = fmt.Sprintf("*2\r\n$4\r\nAUTH\r\n$%d\r\n%s\r\n", len(r.password), r.password) + commands
	}
	if _, err := io.WriteString(conn, commands); err != nil {
		return fmt.Errorf("ask redis-server: %w", err)
	}
	lines := bufio.NewScanner(conn) // of at most 64 kB each, which the deadline bounds in number
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, "-") { // LOADING, NOAUTH …
			return fmt.Errorf("ask redis-server: it says %q", line)
		}
		if pid, ok := strings.CutPrefix(line, "process_id:"); ok {
			if pid != strconv.Itoa(r.pid) {
				return fmt.Errorf("ask redis-server: another one is on port %d", r.port)
			}
			return nil
		}
	}
	return fmt.Errorf("ask redis-server: %w", cmp.Or(lines.Err(), io.ErrUnexpectedEOF))
}

// Addr is host:port.
func (r *RedisServer) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(r.port)) }

// Port is the TCP port on 127.0.0.1.
func (r *RedisServer) Port() int { return r.port }

// URL is redis://[:password@]127.0.0.1:port/0.
func (r *RedisServer) URL() string {
	u := url.URL{Scheme: "redis", Host: r.Addr(), Path: "/0"}
	if r.password != "" {
		u.User = url.UserPassword("", r.password)
	}
	return u.String()
}
