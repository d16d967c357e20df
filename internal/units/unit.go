package units

import (
	"fmt"
	"strconv"
	"strings"
)

// Kind is what a unit runs.
type Kind string

// The kinds of process that a Mastodon server has.
const (
	KindWeb       Kind = "web" // Puma
	KindStreaming Kind = "streaming"
	KindSidekiq   Kind = "sidekiq"
)

// Start tells whether a unit is started at boot.
type Start string

// What can be known of it from directories.
const (
	StartEnabled  Start = "enabled"  // some *.wants or *.requires names it, or a unit that is started does
	StartDisabled Start = "disabled" // such directories are there, and none names it
	StartMasked   Start = "masked"   // it cannot be started
	StartUnknown  Start = "unknown"  // the directories hold unit files alone
)

// Setting is a value with its place. The zero Setting is a value that nobody set.
type Setting struct {
	Value string
	File  string // "" when it was not set
	Line  int    // from 1
}

// IsSet tells whether somebody set it.
func (s Setting) IsSet() bool { return s.File != "" }

// Where is "file:line".
func (s Setting) Where() string {
	if !s.IsSet() {
		return ""
	}
	return s.File + ":" + strconv.Itoa(s.Line)
}

// Number is the value as a whole number, not negative; false when it is none.
func (s Setting) Number() (int, bool) {
	n, err := strconv.Atoi(strings.TrimSpace(s.Value))
	return n, err == nil && n >= 0 && n <= maxNumber
}

// maxNumber bounds thread counts and pools; PostgreSQL itself ends at 262,143 connections.
const maxNumber = 1 << 18

// Format keeps values, which may be passwords, out of messages.
func (s Setting) Format(f fmt.State, _ rune) { _, _ = fmt.Fprint(f, "setting at "+s.Where()) }

// Queue is one -q of Sidekiq.
type Queue struct {
	Name   string
	Weight int // 0 when none was given
	Where  string
}

// Unit is one process of a Mastodon server: a service, or one instance of a template.
type Unit struct {
	Name     string // e.g. "mastodon-streaming@4000.service"
	Kind     Kind
	File     string   // the unit file
	DropIns  []string // in the order in which they count
	Start    Start
	Running  bool     // systemd runs it now; false, too, when nobody looked
	Command  []string // the program and its arguments, variables put in; nil when the command is not understood
	Exec     Setting  // its ExecStart, as written
	WorkDir  string
	Instance string // of a template

	Concurrency Setting // Sidekiq -c
	Queues      []Queue // Sidekiq -q; none means those of its configuration file
	ConfigFile  Setting // Sidekiq and Puma -C
	Workers     Setting // Puma -w
	Threads     Setting // Puma -t: the upper bound

	env map[string]Setting
}

// Lookup returns a variable of the unit's own environment: Environment=, EnvironmentFile= and what is set in front of the command.
// What Mastodon's .env.production adds is not part of it; a variable that is set here counts before that file.
func (u *Unit) Lookup(name string) (Setting, bool) {
	v, ok := u.env[name]
	return v, ok
}
