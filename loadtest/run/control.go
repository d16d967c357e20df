package run

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// control is the socket that job processes talk to the conductor on. Its goroutines end with close.
type control struct {
	listener net.Listener
	conduct  *conductor
	wg       sync.WaitGroup
	mu       sync.Mutex
	conns    map[net.Conn]struct{} // nil when closed
}

const (
	maxLine        = 1024
	controlTimeout = 30 * time.Second // for one answer
	maxControls    = 4096             // connections
)

// listen opens the socket at path.
func listen(ctx context.Context, path string, c *conductor) (*control, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("open the control socket: %w", err)
	}
	s := &control{listener: l, conduct: c, conns: map[net.Conn]struct{}{}}
	s.wg.Go(s.accept)
	return s, nil
}

func (s *control) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.conns == nil || len(s.conns) >= maxControls {
			s.mu.Unlock()
			_ = conn.Close()
			continue
		}
		s.conns[conn] = struct{}{}
		s.mu.Unlock()
		s.wg.Go(func() {
			_ = s.serve(conn) // a process that speaks nonsense, or has gone, is not heard any more
			s.mu.Lock()
			delete(s.conns, conn)
			s.mu.Unlock()
			_ = conn.Close()
		})
	}
}

// serve answers line by line.
func (s *control) serve(conn net.Conn) error {
	lines := bufio.NewScanner(conn)
	lines.Buffer(make([]byte, 0, maxLine), maxLine)
	for lines.Scan() {
		answer, more, err := s.conduct.line(lines.Text())
		if err != nil {
			return err
		}
		if answer == "" {
			continue
		}
		if err := conn.SetWriteDeadline(time.Now().Add(controlTimeout)); err != nil {
			return err
		}
		buffers := net.Buffers{[]byte(answer + "\n"), more}
		if _, err := buffers.WriteTo(conn); err != nil {
			return err
		}
	}
	return lines.Err()
}

// close ends all connections and waits for the goroutines.
func (s *control) close() error {
	err := s.listener.Close()
	s.mu.Lock()
	for conn := range s.conns {
		_ = conn.Close()
	}
	s.conns = nil
	s.mu.Unlock()
	s.wg.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
