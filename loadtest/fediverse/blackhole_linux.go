package fediverse

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// blackhole is a socket that listens and whose queue of connections nobody accepted is full: the kernel drops every further SYN,
// so that connecting times out like to a host that is switched off. Binding an unused address would get a reset instead.
type blackhole struct{ fds []int }

// openBlackhole listens at address and fills the queue.
func openBlackhole(address netip.AddrPort) (*blackhole, error) {
	hole := &blackhole{}
	fd, err := hole.socket()
	if err != nil {
		return nil, err
	}
	target := &unix.SockaddrInet4{Port: int(address.Port()), Addr: address.Addr().As4()}
	if err := unix.Bind(fd, target); err != nil {
		return nil, errors.Join(fmt.Errorf("bind %s: %w", address, err), hole.close())
	}
	if err := unix.Listen(fd, 0); err != nil {
		return nil, errors.Join(fmt.Errorf("listen at %s: %w", address, err), hole.close())
	}
	// A backlog of 0 holds one connection. The second of ours stays in SYN-SENT, and shows that the queue is full.
	for range 2 {
		client, err := hole.socket()
		if err != nil {
			return nil, errors.Join(err, hole.close())
		}
		if err := unix.Connect(client, target); err != nil && !errors.Is(err, unix.EINPROGRESS) {
			return nil, errors.Join(fmt.Errorf("fill the queue of %s: %w", address, err), hole.close())
		}
	}

	return hole, nil
}

// socket opens a non-blocking TCP socket that close will close.
func (b *blackhole) socket() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open socket: %w", err)
	}
	b.fds = append(b.fds, fd)

	return fd, nil
}

func (b *blackhole) close() error {
	var problems []error
	for _, fd := range b.fds {
		problems = append(problems, unix.Close(fd))
	}
	b.fds = nil

	return errors.Join(problems...)
}
