package ruby

import (
	"bufio"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

//go:embed *.rb
var rubyFiles embed.FS

const (
	helloTimeout = 10 * time.Second
	maxConns     = 20_000 // connections at once: far more than processes × threads
)

// open makes the private directory with the Ruby files and the socket.
func (s *Supervisor) open(ctx context.Context) (net.Listener, error) {
	dir, err := os.MkdirTemp(s.cfg.SocketDir, "qv-ruby-")
	if err != nil {
		return nil, fmt.Errorf("directory for the ruby socket: %w", err)
	}
	s.dir, s.socket = dir, filepath.Join(dir, "s")
	l, err := s.fill(ctx)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return l, nil
}

func (s *Supervisor) fill(ctx context.Context) (net.Listener, error) {
	names, err := fs.Glob(rubyFiles, "*.rb")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		text, err := rubyFiles.ReadFile(name)
		if err == nil {
			err = os.WriteFile(filepath.Join(s.dir, name), text, 0o600)
		}
		if err != nil {
			return nil, fmt.Errorf("ruby files: %w", err)
		}
	}
	l, err := new(net.ListenConfig).Listen(context.WithoutCancel(ctx), "unix", s.socket)
	if err != nil {
		return nil, fmt.Errorf("ruby socket: %w", err)
	}
	// The directory is ours alone already; the mode says it to those who look at the socket.
	if err := os.Chmod(s.socket, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("ruby socket: %w", err), l.Close())
	}
	return l, nil
}

func (s *Supervisor) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			s.cfg.Log.Warn("ruby socket", slog.Any("err", err))
			<-time.After(100 * time.Millisecond) // out of file descriptors, most likely
			continue
		}
		s.mu.Lock()
		full := len(s.conns) >= maxConns
		if !full {
			s.conns[conn] = struct{}{}
		}
		s.mu.Unlock()
		if full {
			_ = conn.Close()
			continue
		}
		s.wg.Go(func() {
			s.serve(conn)
			_ = conn.Close()
			s.mu.Lock()
			delete(s.conns, conn)
			s.mu.Unlock()
		})
	}
}

// serve reads one connection to its end. What is malformed ends the connection, and with it, if it was a thread's, what that
// thread has; it never ends the worker.
func (s *Supervisor) serve(conn net.Conn) {
	_ = conn.SetReadDeadline(time.Now().Add(helloTimeout))
	r := bufio.NewReaderSize(conn, 512)
	kind, body, buf, err := readFrame(r, nil, maxSmallFrame)
	var h hello
	if err == nil {
		h, err = parseHello(kind, body)
	}
	var pid int
	if err == nil {
		pid, err = peer(conn)
	}
	if err != nil {
		if !errors.Is(err, io.EOF) {
			s.cfg.Log.Warn("bad connection to the ruby socket", slog.Any("err", err))
		}
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	if h.Kind == "zygote" {
		s.serveZygote(conn, r, buf, h)
		return
	}
	s.mu.Lock()
	p := s.tokens[h.Token]
	if p != nil && p.pid == 0 {
		p.pid = pid
	}
	known := p != nil && p.pid == pid && p.state != ended
	s.mu.Unlock()
	if !known {
		return // one that has ended meanwhile, or nobody of ours
	}
	switch h.Kind {
	case "work":
		s.serveLine(conn, r, buf, p, h)
	case "control":
		s.serveControl(conn, r, buf, p, h)
	case "log":
		s.mu.Lock()
		p.log = conn
		s.mu.Unlock()
		p.out.read(r)
	}
}

// peer is the process id of who connected, as the kernel knows it; an error if it is another user.
func peer(conn net.Conn) (int, error) {
	unix, ok := conn.(*net.UnixConn)
	if !ok {
		return 0, errors.New("not a unix connection")
	}
	raw, err := unix.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *syscall.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err = errors.Join(err, credErr); err != nil {
		return 0, fmt.Errorf("who connected: %w", err)
	}
	if int(cred.Uid) != os.Geteuid() {
		return 0, fmt.Errorf("connection of user %d", cred.Uid)
	}
	return int(cred.Pid), nil
}

// serveLine reads what a thread says.
func (s *Supervisor) serveLine(conn net.Conn, r io.Reader, buf []byte, p *process, h hello) {
	l := &line{conn: conn, proc: p, number: h.Line, sched: openSchedule(p.pid, h.Thread)}
	defer l.sched.close()
	s.mu.Lock()
	if p.state == ended {
		s.mu.Unlock()
		return
	}
	p.lines[l] = struct{}{}
	s.mu.Unlock()
	err := s.readLine(r, buf, l)
	if err != nil && !isEnd(err) {
		s.cfg.Log.Warn("bad frame from ruby", slog.Int("pid", p.pid), slog.Any("err", err))
	}
	_ = conn.Close()
	s.lineEnded(l, time.Now())
}

func (s *Supervisor) readLine(r io.Reader, buf []byte, l *line) error {
	for {
		kind, body, grown, err := readFrame(r, buf, maxSmallFrame)
		if buf = grown; err != nil {
			return err
		}
		switch kind {
		case 'R':
			if l.isBusy(s) {
				return errFrame // it asks while it has a job
			}
			s.asked(l)
		case 'D', 'E':
			var d done
			if d, err = parseDone(body); err == nil {
				err = s.acknowledged(l, d, kind == 'E')
			}
		case 'B':
			var n uint64
			if n, err = parseNumber(body); err == nil {
				err = s.refused(l, n)
			}
		default:
			err = errFrame
		}
		if err != nil {
			return err
		}
	}
}

func (l *line) isBusy(s *Supervisor) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return l.job != nil || l.asked
}

// serveControl reads what a process's watcher says. Its end means that the process has ended, or soon will be made to.
func (s *Supervisor) serveControl(conn net.Conn, r io.Reader, buf []byte, p *process, h hello) {
	s.mu.Lock()
	p.control = conn
	s.mu.Unlock()
	s.cfg.Log.Debug("ruby process connected", slog.Int("pid", p.pid), slog.String("sidekiq", firstRunes(h.Sidekiq, 20)), slog.String("ruby", firstRunes(h.Ruby, 20)))
	for {
		kind, body, grown, err := readFrame(r, buf, maxControlFrame)
		if buf = grown; err != nil {
			if !isEnd(err) {
				s.cfg.Log.Warn("bad frame from ruby: the process is ended", slog.Int("pid", p.pid), slog.Any("err", err))
				s.mu.Lock()
				p.kill()
				s.mu.Unlock()
			}
			break
		}
		s.control(p, kind, body)
	}
	_ = conn.Close()
	s.mu.Lock()
	p.silentAt = time.Now()
	s.mu.Unlock()
	s.nudge()
}

func (s *Supervisor) control(p *process, kind byte, body []byte) {
	switch kind {
	case 'T':
		if len(body) >= 8 {
			n, _ := parseNumber(body[:8]) // of eight bytes
			s.traced(p, n, string(body[8:]))
		}
	case 'Q':
		s.wentQuiet(p)
	case 'K':
		var t tickReport
		if json.Unmarshal(body, &t) == nil {
			s.cfg.Log.Warn("cron tick was lost with the previous leader", slog.String("entry", firstRunes(t.Entry, 200)),
				slog.Time("due", time.UnixMilli(int64(t.Due*1000))), slog.Bool("made_up", t.MadeUp))
			s.cfg.Observer.TickLost(firstRunes(t.Entry, 200), t.MadeUp)
		}
	}
}

// wentQuiet: the process will run no more jobs, because we told it so or because somebody else did, on Sidekiq's page for example.
func (s *Supervisor) wentQuiet(p *process) {
	var e effects
	s.mu.Lock()
	if p.state == serving {
		s.cfg.Log.Info("ruby process was told to be quiet by somebody else: it is replaced", slog.Int("pid", p.pid))
		p.leave(EndingReplaced, time.Now())
	}
	p.isQuiet = true
	p.dismiss(&e)
	s.mu.Unlock()
	s.carryOut(&e)
	s.nudge()
}

func isEnd(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// firstRunes bounds text that others wrote, for the log.
func firstRunes(s string, n int) string {
	for i := range s {
		if n--; n < 0 {
			return s[:i]
		}
	}
	return s
}
