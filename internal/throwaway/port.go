package throwaway

import (
	"context"
	"fmt"
	"net"
)

// FreePort asks the kernel for a TCP port on 127.0.0.1 that nobody listens on at this moment. Somebody else can take it before its
// user does, so whoever starts a server on it tries again with another.
func FreePort(ctx context.Context) (int, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("look for a free port: %w", err)
	}
	defer l.Close() //nolint:errcheck // nothing was written, the port is free either way
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return 0, fmt.Errorf("look for a free port: %v is not a TCP address", l.Addr())
	}
	return addr.Port, nil
}
