package budgetsum

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/queueville/queueville/internal/mastodonenv"
	"github.com/queueville/queueville/internal/units"
)

// What Mastodon takes where nothing is set (config/database.yml, config/puma.rb, config/sidekiq.yml, streaming/database.js).
const (
	defaultThreads   = 5  // MAX_THREADS
	defaultWorkers   = 2  // WEB_CONCURRENCY
	defaultSidekiq   = 5  // SIDEKIQ_CONCURRENCY
	defaultStreaming = 10 // DB_POOL of streaming
)

// Settings are what all processes of a Mastodon server find in their environment unless their unit says otherwise.
type Settings struct {
	values  map[string]units.Setting
	Version mastodonenv.Version
}

const maxEnvBytes = 1 << 20

// LoadSettings reads Mastodon's environment file, path being the file or Mastodon's directory. The environment of this command is not
// that of Mastodon's processes, so environ (as of os.Environ) only counts where there is no file, as in a container. What is wrong with
// the file is mastodonenv.Load's to say.
func LoadSettings(path string, environ []string) *Settings {
	s := &Settings{values: map[string]units.Setting{}}
	dir := filepath.Dir(path)
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		dir, path = path, filepath.Join(path, ".env.production")
	}
	outer := map[string]string{}
	for _, pair := range environ {
		if name, value, ok := strings.Cut(pair, "="); ok {
			outer[name] = value
		}
	}
	text, err := readRegular(path)
	if path == "" || err != nil {
		for _, name := range []string{"DB_POOL", "MAX_THREADS", "WEB_CONCURRENCY", "SIDEKIQ_CONCURRENCY", "STREAMING_CLUSTER_NUM"} {
			if v := outer[name]; v != "" {
				s.values[name] = units.Setting{Value: v, File: "process environment"}
			}
		}
		return s
	}
	s.Version, _ = mastodonenv.DetectVersion(dir)
	values, lines, _ := mastodonenv.Parse(path, text, func(name string) (string, bool) { v, ok := outer[name]; return v, ok })
	for name, v := range values {
		s.values[name] = units.Setting{Value: v, File: path, Line: lines[name]}
	}
	return s
}

func readRegular(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, maxEnvBytes+1))
}

// number is a setting that was understood, with what to call its place.
type number struct {
	n     int
	name  string
	at    units.Setting
	isSet bool
}

// String is "DB_POOL (mastodon-sidekiq.service:9)".
func (v number) String() string { return v.name + " (" + v.where() + ")" }

func (v number) where() string {
	if !v.isSet {
		return "default"
	}
	return shortPlace(v.at)
}

// shortPlace names a file so that it is known without its directory: "web.service:3", "web.service.d/a.conf:3", ".env.production:7".
func shortPlace(s units.Setting) string {
	name := filepath.Base(s.File)
	if dir := filepath.Base(filepath.Dir(s.File)); strings.HasSuffix(dir, ".d") {
		name = dir + "/" + name
	}
	if s.Line == 0 {
		return name
	}
	return name + ":" + strconv.Itoa(s.Line)
}

// lookup is where a process finds a variable: first in its unit (nil for none), then in the file.
func (s *Settings) lookup(u *units.Unit, name string) (units.Setting, bool) {
	if u != nil {
		if v, ok := u.Lookup(name); ok && v.Value != "" {
			return v, true
		}
	}
	v, ok := s.values[name]
	return v, ok && v.Value != ""
}

// number reads a variable; fallback when it is not set or no number, which is a Problem.
func (s *Settings) number(u *units.Unit, name string, fallback int, problems *[]mastodonenv.Problem) number {
	v, ok := s.lookup(u, name)
	if !ok {
		return number{n: fallback, name: name}
	}
	n, ok := v.Number()
	if !ok || n > maxEach {
		*problems = append(*problems, warning(v, name, "write a whole number", "is not a number; %d is counted", fallback))
		return number{n: fallback, name: name}
	}
	return number{n, name, v, true}
}

func warning(at units.Setting, name, hint, format string, args ...any) mastodonenv.Problem {
	return mastodonenv.Problem{Severity: mastodonenv.SeverityWarning, File: at.File, Line: at.Line, Name: name, What: fmt.Sprintf(format, args...), Hint: hint}
}
