package units

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/queueville/queueville/internal/mastodonenv"
)

// What is read at most. Real unit files have less than two kilobytes.
const (
	maxFileBytes = 256 << 10
	maxProblems  = 200
)

// Option is one assignment of a unit file.
type Option struct {
	Section string // e.g. "Service"
	Name    string // e.g. "ExecStart"
	Value   string // lines that were continued are joined by a space each; "" resets a list
	File    string
	Line    int // where it begins, from 1
}

// Parse reads the text of a unit file or drop-in as systemd does: a backslash at the end of a line joins it with the next one, also
// over comments between them; lines that make no sense are passed over. They and a file that is no text are Problems, none of which
// quotes a value.
func Parse(file string, text []byte) ([]Option, []mastodonenv.Problem) {
	p := &parser{file: file}
	switch {
	case len(text) > maxFileBytes:
		p.problem(mastodonenv.SeverityError, 0, "", "give unit files, not something else", "the file is larger than %d bytes", maxFileBytes)
		return nil, p.problems
	case bytes.IndexByte(text, 0) >= 0:
		p.problem(mastodonenv.SeverityError, 1+bytes.Count(text[:bytes.IndexByte(text, 0)], []byte("\n")), "", "remove it", "the file holds a NUL byte")
		return nil, p.problems
	}
	body := strings.ToValidUTF8(string(bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))), "\ufffd")
	line, begin, joined := 0, 0, ""
	for raw := range strings.Lines(body) {
		line++
		raw = strings.TrimRight(raw, "\r\n")
		trimmed := strings.TrimLeft(raw, blanks)
		if trimmed != "" && (trimmed[0] == '#' || trimmed[0] == ';') {
			continue // also in the middle of a continued line
		}
		if joined == "" {
			begin, raw = line, trimmed
		}
		if continues(raw) {
			joined += raw[:len(raw)-1] + " "
			continue
		}
		p.statement(begin, strings.Trim(joined+raw, blanks))
		joined = ""
	}
	p.statement(begin, strings.Trim(joined, blanks))
	return p.options, p.problems
}

const blanks = " \t\f\v\r"

// continues tells whether the line ends with a backslash that no other one escapes.
func continues(line string) bool {
	return (len(line)-len(strings.TrimRight(line, `\`)))%2 == 1
}

type parser struct {
	file     string
	section  string
	options  []Option
	problems []mastodonenv.Problem
}

// statement reads one line, joined and trimmed.
func (p *parser) statement(line int, s string) {
	switch {
	case s == "":
		return
	case s[0] == '[':
		if len(s) < 3 || s[len(s)-1] != ']' {
			p.problem(mastodonenv.SeverityError, line, "", "write [Service] alone on its line", "this section header is not closed; systemd refuses the file")
			p.section = ""
			return
		}
		p.section = s[1 : len(s)-1]
		return
	}
	name, value, found := strings.Cut(s, "=")
	switch {
	case !found:
		p.problem(mastodonenv.SeverityWarning, line, "", "write Name=value, or # before a comment", "this line is no assignment, and systemd passes it over")
	case p.section == "":
		p.problem(mastodonenv.SeverityWarning, line, "", "put it under [Service] or another section", "this assignment is in no section, and systemd passes it over")
	case strings.Trim(name, blanks) == "":
		p.problem(mastodonenv.SeverityWarning, line, "", "write Name=value", "this assignment has no name, and systemd passes it over")
	default:
		p.options = append(p.options, Option{p.section, strings.Trim(name, blanks), strings.Trim(value, blanks), p.file, line})
	}
}

func (p *parser) problem(severity mastodonenv.Severity, line int, name, hint, format string, args ...any) {
	if len(p.problems) < maxProblems {
		p.problems = append(p.problems, mastodonenv.Problem{
			Severity: severity, File: p.file, Line: line, Name: name, What: fmt.Sprintf(format, args...), Hint: hint,
		})
	}
}
