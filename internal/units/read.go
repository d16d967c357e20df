package units

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/queueville/queueville/internal/mastodonenv"
)

// Options say where to look.
type Options struct {
	// Dirs hold unit files, those that count first in front: /etc/systemd/system before /usr/lib/systemd/system.
	Dirs []string
	// Root stands before the paths of environment files: "" is this machine's own root.
	Root string
	// Elsewhere: the units are another machine's and Root is not a copy of it, so files that they name are not here; each is a Problem.
	Elsewhere bool
	// Mastodon is the directory that Mastodon runs in. Services of any name count that run in it, or in one where a service runs whose
	// name begins with "mastodon"; others may be of another Rails application.
	Mastodon string
	// Running is systemd's /run/systemd/units, which names what runs; "" to not look.
	Running string
}

// Bounds of what is read.
const (
	maxEntries = 5000 // of one directory
	maxUnits   = 500
)

// Read finds every process of Mastodon in the directories, in the order of their names. A directory that is not there is a Problem of
// severity error; what is wrong in files that have nothing to do with Mastodon is passed over.
func Read(opts Options) ([]Unit, []mastodonenv.Problem) {
	r := &reader{
		opts: opts, files: map[string]string{}, dropIns: map[string]map[string]string{},
		wanted: map[string]bool{}, named: map[string]string{}, running: map[string]bool{},
	}
	for _, dir := range opts.Dirs {
		r.scan(dir)
	}
	r.scanRunning()
	units := r.units()
	return units, r.problems
}

// reader collects what the directories hold.
type reader struct {
	opts     Options
	files    map[string]string            // unit name → file that counts
	dropIns  map[string]map[string]string // "x.service.d" → file name → path that counts
	wanted   map[string]bool              // named by a *.wants or *.requires directory
	named    map[string]string            // instance → unit whose Wants= names it
	running  map[string]bool
	anyWants bool
	problems []mastodonenv.Problem
}

func (r *reader) problem(severity mastodonenv.Severity, file, hint, format string, args ...any) {
	if len(r.problems) < maxProblems {
		r.problems = append(r.problems, mastodonenv.Problem{Severity: severity, File: file, What: fmt.Sprintf(format, args...), Hint: hint})
	}
}

// scan takes the names in one directory; nothing is opened yet.
func (r *reader) scan(dir string) {
	entries, err := readDir(dir)
	if err != nil {
		r.problem(mastodonenv.SeverityError, dir, "give a directory with unit files, for example /etc/systemd/system", "cannot be read: %s", cause(err))
		return
	}
	for _, e := range entries {
		name, path := e.Name(), filepath.Join(dir, e.Name())
		switch {
		case strings.HasSuffix(name, ".wants"), strings.HasSuffix(name, ".requires"), strings.HasSuffix(name, ".upholds"):
			names, _ := readDir(path)
			for _, n := range names {
				r.wanted[n.Name()] = true
				r.anyWants = true
			}
		case strings.HasSuffix(name, ".service.d"):
			confs, _ := readDir(path)
			for _, c := range confs {
				if strings.HasSuffix(c.Name(), ".conf") {
					if r.dropIns[name] == nil {
						r.dropIns[name] = map[string]string{}
					}
					if _, have := r.dropIns[name][c.Name()]; !have {
						r.dropIns[name][c.Name()] = filepath.Join(path, c.Name())
					}
				}
			}
		case strings.HasSuffix(name, ".service"), strings.HasSuffix(name, ".target"):
			if _, have := r.files[name]; !have {
				r.files[name] = path
			}
		}
	}
}

// scanRunning: for every unit that runs there is a link "invocation:<name>".
func (r *reader) scanRunning() {
	if r.opts.Running == "" {
		return
	}
	entries, _ := readDir(r.opts.Running) // no systemd, nothing known
	for _, e := range entries {
		if name, ok := strings.CutPrefix(e.Name(), "invocation:"); ok {
			r.running[name] = true
		}
	}
}

// readDir lists a directory in order, up to a bound.
func readDir(dir string) (entries []fs.DirEntry, err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	entries, err = f.ReadDir(maxEntries)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return cmp.Compare(a.Name(), b.Name()) })
	return entries, err
}

// readFile reads one byte more than is allowed, so that the parsers can tell. A device or pipe would hold us up.
func readFile(path string) (text []byte, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("is not a regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return io.ReadAll(io.LimitReader(f, maxFileBytes+1))
}

// cause is an error's text without the path, which the Problem names.
func cause(err error) string {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err.Error()
	}
	return err.Error()
}

// units reads what could be Mastodon's.
func (r *reader) units() []Unit {
	names := r.candidates()
	all := make([]*loaded, 0, len(names))
	dirs := map[string]bool{}
	if r.opts.Mastodon != "" {
		dirs[filepath.Clean(r.opts.Mastodon)] = true
	}
	for _, name := range names {
		l := r.load(name)
		if l == nil {
			continue
		}
		if ours(name) && l.last("WorkingDirectory").Value != "" {
			dirs[filepath.Clean(l.last("WorkingDirectory").Value)] = true
		}
		all = append(all, l)
	}
	var out []Unit
	for _, l := range all {
		u, problems, ok := l.unit()
		if !ok || !ours(l.name) && !dirs[filepath.Clean(u.WorkDir)] {
			continue
		}
		u.Start, u.Running = r.start(l), r.running[l.name]
		r.problems = append(r.problems, problems...)
		out = append(out, u)
	}
	r.withoutInstance(all, dirs)
	if len(r.problems) > maxProblems {
		r.problems = r.problems[:maxProblems]
	}
	return out
}

func ours(name string) bool { return strings.HasPrefix(name, "mastodon") }

// candidates are the names of all services and known instances of templates, in order, Mastodon's first so that the bound cuts others.
func (r *reader) candidates() []string {
	names := map[string]bool{}
	for name := range r.files {
		if strings.HasSuffix(name, ".service") {
			names[name] = true
		}
		if ours(name) {
			r.readWants(name)
		}
	}
	add := func(name string) {
		if base, instance := nameParts(name); instance != "" && strings.HasSuffix(name, ".service") && r.files[base+".service"] != "" {
			names[name] = true
		}
	}
	for name := range r.wanted {
		add(name)
	}
	for name := range r.running {
		add(name)
	}
	for name := range r.named {
		add(name)
	}
	for dir := range r.dropIns {
		add(strings.TrimSuffix(dir, ".d"))
	}
	list := slices.Collect(maps.Keys(names))
	slices.SortFunc(list, func(a, b string) int {
		if ours(a) != ours(b) {
			if ours(a) {
				return -1
			}
			return 1
		}
		return cmp.Compare(a, b)
	})
	if len(list) > maxUnits {
		r.problem(mastodonenv.SeverityWarning, strings.Join(r.opts.Dirs, ", "), "give a directory with Mastodon's units alone", "only the first %d units are read", maxUnits)
		list = list[:maxUnits]
	}
	return list
}

// readWants notes the instances that one of Mastodon's own units pulls in, as mastodon-streaming.service does with its template's.
func (r *reader) readWants(name string) {
	text, err := readFile(r.files[name])
	if err != nil {
		return // said when the unit itself is read
	}
	options, _ := Parse(r.files[name], text)
	for _, o := range options {
		if o.Section == "Unit" && slices.Contains([]string{"Wants", "Requires", "BindsTo", "Upholds"}, o.Name) {
			for w := range strings.FieldsSeq(o.Value) {
				r.named[specifiers(w, name)] = name
			}
		}
	}
}

// start tells whether the unit is started at boot.
func (r *reader) start(l *loaded) Start {
	wanter := r.named[l.name]
	switch {
	case l.masked:
		return StartMasked
	case r.wanted[l.name], wanter != "" && r.wanted[wanter]:
		return StartEnabled
	case !r.anyWants:
		return StartUnknown
	}
	return StartDisabled
}

// withoutInstance reports templates of which no instance is known.
func (r *reader) withoutInstance(all []*loaded, dirs map[string]bool) {
	known := map[string]bool{}
	for _, l := range all {
		base, _ := nameParts(l.name)
		known[base] = true
	}
	templates := slices.Collect(maps.Keys(r.files))
	slices.Sort(templates)
	for _, name := range templates {
		base := strings.TrimSuffix(name, ".service")
		if !strings.HasSuffix(base, "@") || known[base] {
			continue
		}
		l := r.loadAs(name, base+"INSTANCE.service")
		if l == nil {
			continue
		}
		if u, _, ok := l.unit(); ok && (ours(name) || dirs[filepath.Clean(u.WorkDir)]) {
			r.problem(mastodonenv.SeverityWarning, r.files[name], "if it is started by hand, say so (queueville budget --also)", "no instance of this template is known")
		}
	}
}
