package units

import (
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/queueville/queueville/internal/mastodonenv"
)

// unit makes sense of what was loaded; ok is false when it is no process of the three kinds.
func (l *loaded) unit() (u Unit, problems []mastodonenv.Problem, ok bool) {
	_, instance := nameParts(l.name)
	u = Unit{
		Name: l.name, File: l.file, DropIns: l.dropIns, Instance: instance, env: l.env,
		WorkDir: strings.TrimPrefix(l.last("WorkingDirectory").Value, "-"),
	}
	if l.masked {
		u.Kind = kindOfName(l.name)
		return u, nil, u.Kind != ""
	}
	for _, exec := range l.list("ExecStart") {
		kind, before, args := l.program(exec)
		if kind == "" {
			continue
		}
		u.Kind, u.Exec, u.Command = kind, exec, args
		l.setInline(&u, before, exec)
		l.flags(&u)
		return u, l.problems, true
	}
	execs := l.list("ExecStart")
	if u.Kind = kindOfName(l.name); u.Kind == "" || len(execs) == 0 || l.last("Type").Value == "oneshot" {
		return u, nil, false // mastodon-streaming.service itself only holds its instances together
	}
	u.Exec = execs[len(execs)-1]
	l.warn(u.Exec, "ExecStart", "the numbers are taken from the variables alone; correct them with --also", "the command is not understood")
	return u, l.problems, true
}

// kindOfName goes by the names of Mastodon's own units.
func kindOfName(name string) Kind {
	for _, k := range []Kind{KindWeb, KindStreaming, KindSidekiq} {
		if strings.HasPrefix(name, "mastodon-"+string(k)) {
			return k
		}
	}
	return ""
}

// program finds Puma, streaming or Sidekiq in a command, behind whatever wraps it (bundle exec, env, nice, a shell with -c), and returns
// the words before it and its own ones.
func (l *loaded) program(exec Setting) (kind Kind, before, args []string) {
	words, _ := splitWords(specifiers(exec.Value, l.name))
	if len(words) == 0 {
		return "", nil, nil
	}
	first := strings.TrimLeft(words[0], "@-:+!|")
	prefix := words[0][:len(words[0])-len(first)]
	words[0] = first
	if strings.Contains(prefix, "@") && len(words) > 1 {
		words = slices.Delete(words, 1, 2) // the name that the program sees as its own
	}
	if !strings.Contains(prefix, ":") {
		words = substitute(words, func(name string) (Setting, bool) { s, ok := l.env[name]; return s, ok })
	}
	return findProgram(words, 0)
}

// findProgram looks through words; depth bounds shells in shells.
func findProgram(words []string, depth int) (kind Kind, before, args []string) {
	for i, w := range words {
		base := path.Base(w)
		rest := words[i+1:]
		switch {
		case w == ";":
			return findProgram(rest, depth)
		case isShell(base) && depth < 3:
			if script := shellScript(rest); script != "" {
				return findScript(script, words[:i], depth)
			}
		case base == "sidekiq":
			return KindSidekiq, words[:i], words[i:]
		case base == "puma" || base == "pumactl", base == "rails" && len(rest) > 0 && (rest[0] == "s" || rest[0] == "server"):
			return KindWeb, words[:i], words[i:]
		case base == "node" || base == "yarn" || base == "npm":
			if slices.ContainsFunc(rest, func(a string) bool { return !strings.HasPrefix(a, "-") && strings.Contains(a, "streaming") }) {
				return KindStreaming, words[:i], words[i:]
			}
		}
	}
	return "", nil, nil
}

func isShell(base string) bool { return slices.Contains([]string{"sh", "bash", "dash", "zsh"}, base) }

// shellScript is what a shell gets with -c, "" without.
func shellScript(args []string) string {
	for i, a := range args {
		if !strings.HasPrefix(a, "-") {
			return ""
		}
		if !strings.HasPrefix(a, "--") && strings.HasSuffix(a, "c") && i+1 < len(args) {
			return args[i+1]
		}
	}
	return ""
}

// findScript looks through the commands of a shell's script. Nothing in it is run or substituted.
func findScript(script string, before []string, depth int) (kind Kind, _, args []string) {
	script = strings.NewReplacer("&&", "\n", "||", "\n", ";", "\n", "|", "\n", "&", "\n").Replace(script)
	for line := range strings.SplitSeq(script, "\n") {
		words, _ := splitWords(line)
		if kind, inner, args := findProgram(words, depth+1); kind != "" {
			return kind, slices.Concat(before, inner), args
		}
	}
	return "", nil, nil
}

// setInline takes what stands before the program as NAME=value.
func (l *loaded) setInline(u *Unit, before []string, exec Setting) {
	env := maps.Clone(u.env)
	for _, w := range before {
		if name, value, ok := assignment(w); ok {
			env[name] = Setting{value, exec.File, exec.Line}
		}
	}
	u.env = env
}

// flagNames maps the short flags that matter to us to their long forms, by kind.
var flagNames = map[Kind]map[byte]string{
	KindSidekiq: {'c': "concurrency", 'q': "queue", 'C': "config", 'e': "environment", 'r': "require", 't': "timeout", 'g': "tag"},
	KindWeb: {
		'C': "config", 'w': "workers", 't': "threads", 'e': "environment", 'b': "bind", 'p': "port", 'S': "state", 'I': "include",
	},
}

// flags reads the program's own options: "-c 25", "-c25", "--concurrency 25", "--concurrency=25".
func (l *loaded) flags(u *Unit) {
	names := flagNames[u.Kind]
	for i := 1; i < len(u.Command); i++ {
		w := u.Command[i]
		var name, value string
		var given bool
		switch {
		case strings.HasPrefix(w, "--"):
			name, value, given = strings.Cut(w[2:], "=")
			if !known(names, name) {
				continue
			}
		case len(w) >= 2 && w[0] == '-' && names[w[1]] != "":
			name, value = names[w[1]], w[2:]
			given = value != ""
		default:
			continue
		}
		if !given && i+1 < len(u.Command) {
			i++
			value = u.Command[i]
		}
		l.flag(u, name, strings.TrimPrefix(value, "="))
	}
}

func known(names map[byte]string, long string) bool {
	for _, n := range names {
		if n == long {
			return true
		}
	}
	return false
}

func (l *loaded) flag(u *Unit, name, value string) {
	s := Setting{value, u.Exec.File, u.Exec.Line}
	number := func(target *Setting, flag, what string) {
		if _, ok := s.Number(); !ok {
			l.warn(u.Exec, flag, "write a whole number", "%s is not a number", what)
			return
		}
		*target = s
	}
	switch name {
	case "concurrency":
		number(&u.Concurrency, "-c", "the concurrency")
	case "workers":
		number(&u.Workers, "-w", "the number of workers")
	case "threads":
		low, high, ok := strings.Cut(value, ":")
		if !ok {
			high = low
		}
		s.Value = high
		number(&u.Threads, "-t", "the number of threads")
	case "config":
		u.ConfigFile = s
	case "queue":
		l.queue(u, value)
	}
}

// queuePattern is what Sidekiq's own interface allows in the name of a queue.
var queuePattern = regexp.MustCompile(`^[A-Za-z0-9_:.\-]{1,100}$`)

func (l *loaded) queue(u *Unit, value string) {
	name, weight, weighted := strings.Cut(value, ",")
	n, err := strconv.Atoi(weight)
	if !queuePattern.MatchString(name) || weighted && (err != nil || n < 1 || n > maxNumber) {
		l.warn(u.Exec, "-q", "write -q NAME or -q NAME,WEIGHT", "this is no queue")
		return
	}
	if len(u.Queues) < maxWords {
		u.Queues = append(u.Queues, Queue{Name: name, Weight: n, Where: u.Exec.Where()})
	}
}
