package mastodonenv

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Env is a set of variables with the place of each.
type Env struct {
	file    string
	values  map[string]string
	lines   map[string]int // only of those from the file
	version Version
}

// Load reads an environment file and puts environ (as of os.Environ) on top: as with dotenv, a variable that is set there, even to nothing,
// counts instead of the file's. path is the file, or Mastodon's directory, which has .env.production and tells the version; "" is no file.
// The Env is never nil. A file that is not there is an error unless environ names LOCAL_DOMAIN, as it does in a container.
func Load(path string, environ []string) (*Env, []Problem) {
	e := &Env{values: map[string]string{}, lines: map[string]int{}}
	outer := map[string]string{}
	for _, pair := range environ {
		if name, value, ok := strings.Cut(pair, "="); ok && name != "" {
			outer[name] = value
		}
	}
	var problems []Problem
	if path != "" {
		problems = e.loadFile(path, outer)
	}
	for name, value := range outer {
		e.values[name] = value
		delete(e.lines, name)
	}
	return e, problems
}

func (e *Env) loadFile(path string, outer map[string]string) []Problem {
	dir := filepath.Dir(path)
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		dir, path = path, filepath.Join(path, ".env.production")
	}
	e.file = path
	version, err := DetectVersion(dir)
	var problems []Problem
	if err != nil {
		problems = append(problems, Problem{
			Severity: SeverityWarning, File: filepath.Join(dir, versionPath),
			What: "Mastodon's version cannot be read: " + cause(err), Hint: "what differs between versions is then found by looking at the database",
		})
	}
	e.version = version
	text, err := readFile(path)
	if err != nil {
		severity, hint := SeverityError, "give Mastodon's directory or the file itself"
		if _, ok := outer["LOCAL_DOMAIN"]; ok && errors.Is(err, fs.ErrNotExist) {
			severity, hint = SeverityWarning, "only the process environment is used"
		}
		return append(problems, Problem{Severity: severity, File: path, What: "cannot be read: " + cause(err), Hint: hint})
	}
	var found []Problem
	e.values, e.lines, found = Parse(path, text, func(name string) (string, bool) { v, ok := outer[name]; return v, ok })
	problems = append(problems, found...)
	for _, name := range []string{".env.production.local", ".env.local"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			problems = append(problems, Problem{
				Severity: SeverityWarning, File: filepath.Join(dir, name), What: "Mastodon reads this file, Queueville does not",
				Hint: "move what it sets to .env.production",
			})
		}
	}
	return problems
}

// readFile reads one byte more than is allowed, so that Parse can tell.
func readFile(path string) (text []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	return io.ReadAll(io.LimitReader(f, maxFileBytes+1))
}

// cause is an error's text without the path, which the Problem names.
func cause(err error) string {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err.Error()
	}
	return err.Error()
}

// Lookup returns a variable's value.
func (e *Env) Lookup(name string) (string, bool) {
	v, ok := e.values[name]
	return v, ok
}

// Version is Mastodon's, read from its directory; zero when unknown.
func (e *Env) Version() Version { return e.version }

// problem makes a Problem about a variable, with its place.
func (e *Env) problem(severity Severity, name, hint, format string, args ...any) Problem {
	p := Problem{Severity: severity, Name: name, What: fmt.Sprintf(format, args...), Hint: hint}
	if line, ok := e.lines[name]; ok {
		p.File, p.Line = e.file, line
	}
	return p
}
