package mastodonenv

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

const (
	versionPath     = "lib/mastodon/version.rb"
	maxVersionBytes = 64 << 10
)

// Version is Mastodon's version. The zero value is an unknown one.
type Version struct {
	Major, Minor, Patch int
	Prerelease          string // "alpha.1", "rc1" …; "" for a release
}

// String is e.g. "4.4.0-rc1"; "" when unknown.
func (v Version) String() string {
	if !v.Known() {
		return ""
	}
	s := fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch)
	if v.Prerelease != "" {
		s += "-" + v.Prerelease
	}
	return s
}

// Known tells whether the version is known.
func (v Version) Known() bool { return v.Major > 0 }

// AtLeast compares with a release line, e.g. AtLeast(4, 4). A pre-release belongs to its line. False when unknown.
func (v Version) AtLeast(major, minor int) bool {
	return v.Known() && (v.Major > major || v.Major == major && v.Minor >= minor)
}

var (
	// numberPattern finds "def minor", its body on the next line or behind a "=", and "MINOR = 4".
	numberPattern     = regexp.MustCompile(`(?mi)^\s*(?:def\s+(?:self\.)?)?(major|minor|patch)\b\s*(?:\(\s*\))?\s*=?\s*(?:return\s+)?(\d{1,4})\b`)
	prereleasePattern = regexp.MustCompile(`(?mi)^\s*(?:def\s+(?:self\.)?)?(?:default_)?prerelease\b\s*(?:\(\s*\))?\s*=?\s*['"]([0-9A-Za-z.+-]{1,40})['"]`)
)

// DetectVersion reads the version from the source in Mastodon's directory. A directory without that file, or with one that says it
// otherwise, gives the zero Version and no error.
func DetectVersion(dir string) (Version, error) {
	path := filepath.Join(dir, filepath.FromSlash(versionPath))
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Version{}, nil
	}
	if err != nil {
		return Version{}, fmt.Errorf("detect version: %w", err)
	}
	if info.Size() > maxVersionBytes {
		return Version{}, fmt.Errorf("detect version: %s has more than %d bytes", versionPath, maxVersionBytes)
	}
	text, err := readFile(path)
	if err != nil {
		return Version{}, fmt.Errorf("detect version: %w", err)
	}
	return parseVersion(string(text)), nil
}

func parseVersion(source string) Version {
	numbers := map[string]int{}
	for _, m := range numberPattern.FindAllStringSubmatch(source, -1) {
		name := strings.ToLower(m[1])
		if _, ok := numbers[name]; ok {
			continue
		}
		if n, err := strconv.Atoi(m[2]); err == nil {
			numbers[name] = n
		}
	}
	if len(numbers) < 3 {
		return Version{}
	}
	v := Version{Major: numbers["major"], Minor: numbers["minor"], Patch: numbers["patch"]}
	if m := prereleasePattern.FindStringSubmatch(source); m != nil {
		v.Prerelease = m[1]
	}
	return v
}
