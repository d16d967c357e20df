package ruby

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Command is how a Ruby that has the application's gems is started. The words must start Ruby in the same process (exec), as bundle, env,
// chroot and rbenv's shims do: a wrapper that forks is not recognised.
type Command struct {
	Ruby        []string // words before the Ruby file and its arguments: {"/usr/bin/bundle", "exec", "ruby"}
	Dir         string   // working directory: the application's
	Env         []string // complete environment, KEY=value
	Require     string   // what Sidekiq's -r gets: the directory of a Rails application, or a Ruby file. Default "."
	ConfigFile  string   // Sidekiq's -C; "" leaves it to Sidekiq, which takes config/sidekiq.yml of a Rails application
	Environment string   // Sidekiq's -e; "" leaves it to RAILS_ENV
}

func (c *Command) check() []error {
	var problems []error
	if len(c.Ruby) == 0 || c.Ruby[0] == "" {
		problems = append(problems, errors.New("no command that starts Ruby"))
	}
	if c.Dir == "" {
		problems = append(problems, errors.New("no directory of the Ruby application"))
	}
	if c.Require == "" {
		c.Require = "."
	}
	return problems
}

// CommandError is one reason why a command cannot be made, with a hint for people.
type CommandError struct{ What, Hint string }

// Error is the problem in one line, without the hint.
func (p *CommandError) Error() string { return p.What }

// Files is what FindCommand looks at: os.Stat and os.UserHomeDir's answer, or a test's own.
type Files struct {
	Home string                                 // home directory of the user it will run as; "" if there is none
	Stat func(name string) (fs.FileInfo, error) // os.Stat
}

// HostFiles are those of this machine and user.
func HostFiles() Files {
	home, err := os.UserHomeDir()
	if err != nil {
		home = ""
	}
	return Files{Home: home, Stat: os.Stat}
}

// FindCommand makes the command for the Mastodon in dir the way its shipped units do: bundle from PATH or rbenv's shims in the user's home,
// RAILS_ENV=production unless env says otherwise, everything else of env (LD_PRELOAD for jemalloc, MALLOC_ARENA_MAX) kept. env is KEY=value, as
// of os.Environ. DB_POOL and RAILS_MAX_THREADS of env are dropped: they belonged to the units. Unless env tunes Ruby's collector itself
// (RUBY_GC_…), its heap grows in smaller steps. All problems come at once, each a *CommandError.
func FindCommand(dir string, env []string, files Files) (Command, error) {
	var problems []error
	problem := func(what, hint string) { problems = append(problems, &CommandError{What: what, Hint: hint}) }
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Command{}, &CommandError{What: err.Error(), Hint: "give the directory as an absolute path"}
	}
	exists := func(name string) bool {
		_, err := files.Stat(filepath.Join(dir, name))
		return err == nil
	}
	switch info, err := files.Stat(dir); {
	case err != nil:
		problem(fmt.Sprintf("%s: %v", dir, cause(err)), "give Mastodon's directory, usually /home/mastodon/live")
	case !info.IsDir():
		problem(dir+" is not a directory", "give Mastodon's directory, usually /home/mastodon/live")
	case !exists("config/application.rb") || !exists("config/environment.rb"):
		problem(dir+" has no Rails application in it", "give Mastodon's directory, usually /home/mastodon/live")
	case !exists("Gemfile"):
		problem(dir+" has no Gemfile", "is the installation complete?")
	}
	values := map[string]string{}
	kept := make([]string, 0, len(env)+3)
	tuned := false
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		values[name] = value
		tuned = tuned || strings.HasPrefix(name, "RUBY_GC_")
		switch name {
		case "PATH", "RAILS_ENV", "DB_POOL", "RAILS_MAX_THREADS":
		default:
			kept = append(kept, e)
		}
	}
	path := filepath.SplitList(values["PATH"])
	if files.Home != "" {
		if shims := filepath.Join(files.Home, ".rbenv", "shims"); !slices.Contains(path, shims) && isDir(files, shims) {
			path = append([]string{shims}, path...)
		}
	}
	bundle := find(files, path, "bundle")
	if bundle == "" {
		problem("there is no bundle in PATH or in ~/.rbenv/shims", "run it as Mastodon's user, or put the directory of its Ruby into PATH")
	}
	if preload := values["LD_PRELOAD"]; preload != "" {
		for _, lib := range strings.FieldsFunc(preload, func(r rune) bool { return r == ':' || r == ' ' }) {
			if _, err := files.Stat(lib); strings.HasPrefix(lib, "/") && err != nil {
				problem("LD_PRELOAD names "+lib+", which is not there", "install it (apt-get install libjemalloc2) or correct LD_PRELOAD")
			}
		}
	}
	rails := values["RAILS_ENV"]
	if rails == "" {
		rails = "production"
	}
	if err := errors.Join(problems...); err != nil {
		return Command{}, err
	}
	kept = append(kept, "PATH="+strings.Join(path, string(filepath.ListSeparator)), "RAILS_ENV="+rails)
	if !tuned {
		kept = append(kept, heapGrowth)
	}
	return Command{Ruby: []string{bundle, "exec", "ruby"}, Dir: dir, Env: kept, Require: dir}, nil
}

// heapGrowth bounds by how many objects Ruby's heap grows at a time. Of itself it grows by eight tenths of what was loaded, in every process,
// however little its jobs need; with the application in shared memory that would be most of what a process costs.
const heapGrowth = "RUBY_GC_HEAP_GROWTH_MAX_SLOTS=40000"

func cause(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}

func isDir(files Files, name string) bool {
	info, err := files.Stat(name)
	return err == nil && info.IsDir()
}

// find looks a program up, as the shell does.
func find(files Files, path []string, name string) string {
	for _, dir := range path {
		if !filepath.IsAbs(dir) {
			continue // what is in the current directory is not meant
		}
		file := filepath.Join(dir, name)
		if info, err := files.Stat(file); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0 {
			return file
		}
	}
	return ""
}
