package throwaway

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// ErrMissing says that a server's binary is not on this machine. The error is a *MissingError, which says how to get it.
var ErrMissing = errors.New("binary not found")

// MissingError says which binary is missing and what installs it.
type MissingError struct {
	Binary  string // e.g. "redis-server"
	Package string // Debian's package, e.g. "redis-server"
}

func (e *MissingError) Error() string { return e.Binary + ": binary not found" }

// Unwrap makes errors.Is(err, ErrMissing) true.
func (e *MissingError) Unwrap() error { return ErrMissing }

// Hint is the command that installs what is missing.
func (e *MissingError) Hint() string {
	return "apt-get install -y --no-install-recommends " + e.Package
}

// find looks for a binary in PATH, then in dirs. Debian keeps servers in /usr/sbin, which is not in a user's PATH.
func find(binary, pkg string, dirs ...string) (string, error) {
	if path, err := exec.LookPath(binary); err == nil {
		return filepath.Abs(path)
	}
	for _, dir := range append(dirs, "/usr/sbin", "/usr/local/sbin", "/usr/local/bin") {
		path := filepath.Join(dir, binary)
		if info, err := os.Stat(path); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", &MissingError{Binary: binary, Package: pkg}
}

// postgresDirs lists the directories of Debian's and of the PGDG's packages, newest version first.
func postgresDirs() []string {
	dirs, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil {
		return nil // the pattern is constant
	}
	version := func(dir string) float64 {
		v, err := strconv.ParseFloat(filepath.Base(filepath.Dir(dir)), 64)
		if err != nil {
			return 0
		}
		return v
	}
	slices.SortFunc(dirs, func(a, b string) int {
		if c := version(b) - version(a); c != 0 {
			return int(max(min(c*10, 1), -1))
		}
		return strings.Compare(a, b)
	})
	return dirs
}
