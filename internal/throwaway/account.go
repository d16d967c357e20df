package throwaway

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// account returns the user a server runs as that refuses to run as root: postgres or nobody when we are root, else nil (as we are).
func account() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			continue
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			continue
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, fmt.Errorf("choose an account: we are root, the server must not be, and there is neither postgres nor nobody")
}

// privateDir makes a directory that cred owns and nobody else can read. It is never below a test's directory, which only we can enter.
func privateDir(base, pattern string, cred *syscall.Credential) (string, error) {
	dir, err := os.MkdirTemp(base, pattern)
	if err != nil {
		return "", fmt.Errorf("make data directory: %w", err)
	}
	if cred == nil {
		return dir, nil
	}
	if err := os.Chown(dir, int(cred.Uid), int(cred.Gid)); err != nil {
		return "", fmt.Errorf("make data directory: %w", err)
	}
	return dir, nil
}
