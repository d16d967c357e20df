package mastodonenv

import (
	"errors"
	"fmt"
	"strings"
)

// Severity tells whether a Problem keeps Queueville from starting.
type Severity string

// The severities.
const (
	SeverityError   Severity = "error"   // cannot run like this
	SeverityWarning Severity = "warning" // can, but it is probably not what was meant
)

// Problem is one thing wrong with the configuration. None of its fields holds a secret.
type Problem struct {
	Severity Severity `json:"severity"`
	File     string   `json:"file,omitempty"` // "" when the variable comes from the process environment or is absent
	Line     int      `json:"line,omitempty"` // from 1; 0 with no file, or for the file as a whole
	Name     string   `json:"name,omitempty"` // the variable, if it is about one
	What     string   `json:"what"`           // what is wrong
	Hint     string   `json:"hint,omitempty"` // what to do

	// Unreachable: a server did not answer; what is written may well be right.
	Unreachable bool `json:"unreachable,omitempty"`
}

// String is one line: "file:line: NAME: what; hint".
func (p Problem) String() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File)
		if p.Line > 0 {
			fmt.Fprintf(&b, ":%d", p.Line)
		}
		b.WriteString(": ")
	}
	if p.Name != "" {
		b.WriteString(p.Name + ": ")
	}
	b.WriteString(p.What)
	if p.Hint != "" {
		b.WriteString("; " + p.Hint)
	}
	return b.String()
}

// Errors joins the problems of severity error; nil if there are none.
func Errors(problems []Problem) error {
	var errs []error
	for _, p := range problems {
		if p.Severity == SeverityError {
			errs = append(errs, errors.New(p.String()))
		}
	}
	return errors.Join(errs...)
}
