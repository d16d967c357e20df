package units

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/queueville/queueville/internal/mastodonenv"
)

// loaded is a unit with its drop-ins, not yet understood.
type loaded struct {
	name     string
	file     string
	dropIns  []string
	options  []Option // of all files, in the order in which they count
	masked   bool
	env      map[string]Setting
	problems []mastodonenv.Problem
}

// load reads a unit and its drop-ins; nil for a bare template and for what cannot be read and is not named like Mastodon's.
func (r *reader) load(name string) *loaded {
	file := name
	base, instance := nameParts(name)
	if r.files[name] == "" {
		file = base + ".service"
	} else if instance == "" && strings.HasSuffix(base, "@") {
		return nil
	}
	return r.loadAs(file, name)
}

// loadAs reads a unit file for the unit of that name, which differs for instances of templates.
func (r *reader) loadAs(file, name string) *loaded {
	l := &loaded{name: name, file: r.files[file]}
	if isMasked(l.file) {
		l.masked = true
		return l
	}
	if !r.read(l, l.file) {
		return nil
	}
	for _, path := range r.dropInsOf(name) {
		if !isMasked(path) && r.read(l, path) {
			l.dropIns = append(l.dropIns, path)
		}
	}
	r.environment(l)
	return l
}

// isMasked: a link to /dev/null, or an empty file in its place.
func isMasked(path string) bool {
	if target, err := os.Readlink(path); err == nil && target == os.DevNull {
		return true
	}
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Size() == 0
}

func (r *reader) read(l *loaded, path string) bool {
	text, err := readFile(path)
	if err != nil {
		if ours(l.name) {
			r.problem(mastodonenv.SeverityError, path, "read it as root, or copy it to where you can", "cannot be read: %s", cause(err))
		}
		return false
	}
	options, problems := Parse(path, text)
	l.options = append(l.options, options...)
	l.problems = append(l.problems, problems...)
	return true
}

// dropInsOf lists the drop-ins of a unit in the order in which they count: those of all its directories sorted by file name, and of
// equal names the most specific one only (systemd.unit(5)).
func (r *reader) dropInsOf(name string) []string {
	base, instance := nameParts(name)
	dirs := []string{"service.d"}
	stem := strings.TrimSuffix(base, "@")
	for i := range len(stem) {
		if stem[i] == '-' {
			dirs = append(dirs, stem[:i+1]+".service.d")
		}
	}
	if instance != "" {
		dirs = append(dirs, base+".service.d")
	}
	dirs = append(dirs, name+".d")
	byName := map[string]string{}
	for _, d := range dirs {
		maps.Copy(byName, r.dropIns[d])
	}
	paths := make([]string, 0, len(byName))
	for _, n := range slices.Sorted(maps.Keys(byName)) {
		paths = append(paths, byName[n])
	}
	return paths
}

// last is the value of a [Service] option that counts: the last one.
func (l *loaded) last(name string) Setting {
	var s Setting
	for _, o := range l.options {
		if o.Section == "Service" && o.Name == name {
			s = Setting{specifiers(o.Value, l.name), o.File, o.Line}
		}
	}
	return s
}

// list is a [Service] option that can be given many times; an empty value drops what came before.
func (l *loaded) list(name string) []Setting {
	var out []Setting
	for _, o := range l.options {
		if o.Section != "Service" || o.Name != name {
			continue
		}
		if o.Value == "" {
			out = nil
			continue
		}
		out = append(out, Setting{o.Value, o.File, o.Line})
	}
	return out
}

// environment puts the unit's variables together: Environment= in order, then the files, which count before it (systemd.exec(5)).
func (r *reader) environment(l *loaded) {
	l.env = map[string]Setting{}
	for _, s := range l.list("Environment") {
		words, ok := splitWords(s.Value)
		if !ok {
			l.warn(s, "Environment", "close it", "a quote is not closed")
		}
		for _, w := range words {
			name, value, ok := assignment(w)
			if !ok {
				l.warn(s, "Environment", "write NAME=value, and quotes around all of it if there is a space in it", "a word is no assignment, and systemd passes it over")
				continue
			}
			l.env[name] = Setting{specifiers(value, l.name), s.File, s.Line}
		}
	}
	for _, s := range l.list("EnvironmentFile") {
		r.environmentFile(l, s)
	}
	for _, s := range l.list("UnsetEnvironment") {
		words, _ := splitWords(s.Value)
		for _, w := range words {
			delete(l.env, w)
		}
	}
}

func (r *reader) environmentFile(l *loaded, s Setting) {
	pattern, optional := strings.CutPrefix(specifiers(s.Value, l.name), "-")
	if r.opts.Elsewhere {
		l.warn(s, "EnvironmentFile", "copy the host's /etc as well and give DIR/etc/systemd/system", "the file is on that host and is not read here: what it sets is not known")
		return
	}
	if !filepath.IsAbs(pattern) {
		l.warn(s, "EnvironmentFile", "write an absolute path", "the path is not absolute, and systemd passes it over")
		return
	}
	paths := []string{filepath.Join(r.opts.Root, pattern)}
	if strings.ContainsAny(pattern, "*?[") {
		paths, _ = filepath.Glob(paths[0]) // sorted
		paths = paths[:min(len(paths), maxUnits)]
	}
	for _, path := range paths {
		text, err := readFile(path)
		if err != nil {
			if !optional || !errors.Is(err, fs.ErrNotExist) {
				l.warn(s, "EnvironmentFile", "what it sets is not known; run this as a user who can read it", "%s cannot be read: %s", path, cause(err))
			}
			continue
		}
		values, problems := ParseEnvironmentFile(path, text)
		maps.Copy(l.env, values)
		l.problems = append(l.problems, problems...)
	}
}

func (l *loaded) warn(at Setting, name, hint, format string, args ...any) {
	p := parser{file: at.File}
	p.problem(mastodonenv.SeverityWarning, at.Line, name, hint, format, args...)
	if len(l.problems) < maxProblems {
		l.problems = append(l.problems, p.problems...)
	}
}
