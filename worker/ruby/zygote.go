package ruby

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

type zygoteState uint8

const (
	zygoteBooting zygoteState = iota
	zygoteReady
	zygoteEnded
)

// zygote is the preloaded parent. Guarded by Supervisor.mu.
type zygote struct {
	token  string
	pid    int
	state  zygoteState
	boot   time.Time
	conn   net.Conn
	out    *output
	killed bool
}

// startZygote: mu is held.
func (s *Supervisor) startZygote(now time.Time) {
	z := &zygote{token: newToken(), boot: now}
	z.out = &output{log: s.cfg.Log, pid: func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return z.pid
	}}
	s.zygote = z
	env := map[string]string{}
	s.seats.parent = s.sit(z.token, now)
	s.seats.parent.env(env)
	cmd := s.command("zygote", z.token, env)
	s.wg.Go(func() {
		started := func(pid int) {
			s.mu.Lock()
			z.pid = pid
			s.mu.Unlock()
		}
		status, err := run(cmd, z.out, started)
		s.zygoteEnded(z, status, err)
	})
}

func (s *Supervisor) zygoteEnded(z *zygote, status exit, err error) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	was := z.state
	z.state = zygoteEnded
	if s.zygote == z {
		s.zygote = nil
		s.unseatParent()
	}
	if z.conn != nil {
		_ = z.conn.Close()
	}
	// Children that live go on; how they end can no longer be known.
	for _, p := range s.procs {
		if p.parent == z && p.pid > 1 {
			p.startTick = startTick(p.pid)
		}
	}
	switch {
	case s.state != runs || s.quiet:
	case was == zygoteBooting && status.known && status.code == unable:
		s.boots.noPreload = true
		s.cfg.Log.Warn("this sidekiq cannot be preloaded: processes are started one by one, and share no memory")
	case was == zygoteBooting:
		s.bootFailed("the preloaded parent", status, err, z.out, true, now)
	default:
		s.cfg.Log.Warn("the preloaded parent of the ruby processes ended; another is started when it is needed", slog.Int("pid", z.pid), slog.String("status", status.String()))
	}
	s.nudge()
}

// fork asks the zygote for a child, and tells whether that was possible. mu is held.
func (s *Supervisor) fork(p *process) bool {
	z := s.zygote
	order, err := json.Marshal(forkOrder{Token: p.token, Env: s.envOf(p), Queues: s.queuesOf(p.cron), Cron: p.cron})
	if err != nil {
		return false // strings
	}
	_ = z.conn.SetWriteDeadline(time.Now().Add(time.Second))
	if _, err := z.conn.Write(appendFrame(nil, 'F', string(order))); err != nil {
		_ = z.conn.Close() // it ends with that
		return false
	}
	p.parent = z
	s.procs = append(s.procs, p)
	s.tokens[p.token] = p
	return true
}

// serveZygote reads what the preloaded parent says.
func (s *Supervisor) serveZygote(conn net.Conn, r io.Reader, buf []byte, h hello) {
	s.mu.Lock()
	z := s.zygote
	known := z != nil && z.token == h.Token && z.conn == nil
	if known {
		z.conn = conn
	}
	s.mu.Unlock()
	if !known {
		return
	}
	for {
		kind, body, grown, err := readFrame(r, buf, maxSmallFrame)
		if buf = grown; err != nil {
			if !isEnd(err) {
				s.cfg.Log.Warn("bad frame from ruby", slog.Int("pid", z.pid), slog.Any("err", err))
			}
			return
		}
		if kind == 'P' {
			s.preloaded(z)
			continue
		}
		var report forkReport
		if err := json.Unmarshal(body, &report); err != nil {
			s.cfg.Log.Warn("bad frame from ruby", slog.Int("pid", z.pid), slog.Any("err", err))
			return
		}
		s.forkReported(z, kind, &report)
	}
}

func (s *Supervisor) preloaded(z *zygote) {
	s.mu.Lock()
	if z.state == zygoteBooting {
		z.state = zygoteReady
		s.unseatParent()
		s.cfg.Log.Info("ruby application preloaded", slog.Int("pid", z.pid), slog.Float64("boot_s", time.Since(z.boot).Seconds()))
	}
	s.mu.Unlock()
	s.nudge()
}

func (s *Supervisor) forkReported(z *zygote, kind byte, report *forkReport) {
	s.mu.Lock()
	var p *process
	switch kind {
	case 'F', 'N':
		p = s.tokens[report.Token]
	case 'X':
		for _, q := range s.procs {
			if q.parent == z && q.pid == report.PID {
				p = q
			}
		}
	}
	if p == nil || p.parent != z {
		s.mu.Unlock()
		return
	}
	if kind == 'F' {
		if p.pid == 0 {
			p.pid = report.PID
		}
		if p.state == leaving {
			p.kill()
		}
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	if kind == 'N' {
		s.processEnded(p, exit{}, errors.New("fork: "+firstRunes(report.Error, 200)))
		return
	}
	s.processEnded(p, exit{known: true, code: report.Exit, signal: syscall.Signal(report.Signal)}, nil)
}

// startTick is when a process was started, as the kernel counts; "" if it is gone or only waits to be reaped. With the process id it names a
// process for good.
func startTick(pid int) string {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	text := string(b)
	// "pid (comm) state …"; comm can hold anything.
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	const tick = 19 // field 22, counted from the state
	if len(fields) <= tick || fields[0] == "Z" || fields[0] == "X" {
		return ""
	}
	return fields[tick]
}
