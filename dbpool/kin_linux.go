package dbpool

import (
	"fmt"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// network is this process's network namespace, in which names are looked up; "" where /proc does not say.
var network = sync.OnceValue(func() string {
	link, err := os.Readlink("/proc/self/ns/net") // "net:[4026531840]"
	if err != nil {
		return ""
	}
	return strings.Trim(strings.TrimPrefix(link, "net:"), "[]")
})

// holdName has the kernel keep a name; an error when somebody has it.
func holdName(name string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("hold a name: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: "@queueville/" + name}); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("hold a name: %w", err)
	}
	return os.NewFile(uintptr(fd), "kin"), nil
}
