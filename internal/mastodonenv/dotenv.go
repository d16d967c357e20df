package mastodonenv

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxFileBytes bounds an environment file. Real ones have a few kilobytes.
const maxFileBytes = 1 << 20

// assignment is one variable of a file.
type assignment struct {
	name  string
	value string
	line  int // where it begins, from 1
}

// Parse reads an environment file as Ruby's dotenv 3 does, which is what Mastodon loads it with:
//
//   - NAME=value, NAME: value, both with "export" before it or not; spaces around the sign do not count;
//   - an unquoted value ends at the line's end or at a #, wherever that stands;
//   - '…' is literal; in "…" and in unquoted values a backslash takes the special meaning from what follows, and $NAME and
//     ${NAME} are replaced, by the process environment first and then by earlier lines. Quoted values can span lines;
//   - of a variable that is set twice the last one counts; NAME alone is set to nothing; lines that make no sense are passed over.
//
// Whatever is probably not meant is a Problem. Unlike dotenv, a name and its value stand on the same line, and no command is ever run:
// $(…) is an error. lookup is the process environment. It returns the values by name, the line
// of each, and the problems, none of which quotes a value.
func Parse(file string, text []byte, lookup func(string) (string, bool)) (values map[string]string, lines map[string]int, problems []Problem) {
	values, lines = map[string]string{}, map[string]int{}
	p := &parser{file: file, values: values, lookup: lookup}
	switch {
	case len(text) > maxFileBytes:
		p.errorf(0, "", "give the environment file, not something else", "the file is larger than %d bytes", maxFileBytes)
		return values, lines, p.problems
	case bytes.IndexByte(text, 0) >= 0:
		p.errorf(1+bytes.Count(text[:bytes.IndexByte(text, 0)], []byte("\n")), "", "remove it", "the file holds a NUL byte")
		return values, lines, p.problems
	}
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
	if !utf8.Valid(text) {
		p.errorf(1+bytes.Count(validPrefix(text), []byte("\n")), "", "save the file as UTF-8", "the file is not UTF-8")
		return values, lines, p.problems
	}
	p.rest = strings.ReplaceAll(strings.ReplaceAll(string(text), "\r\n", "\n"), "\r", "\n")
	p.line = 1
	for p.rest != "" {
		a, ok := p.next()
		if !ok {
			continue
		}
		if old, dup := values[a.name]; dup && old != a.value {
			p.warnf(a.line, a.name, "remove one of them", "set again, with another value than in line %d; the last one counts", lines[a.name])
		}
		values[a.name], lines[a.name] = a.value, a.line
	}
	return values, lines, p.problems
}

// parser goes through a file once. Every method consumes whole lines.
type parser struct {
	file     string
	rest     string
	line     int // number of the line that rest begins with
	values   map[string]string
	lookup   func(string) (string, bool)
	problems []Problem
}

// next consumes one line, or the lines of one quoted value, and returns the assignment in it.
func (p *parser) next() (assignment, bool) {
	at := p.line
	line, _, _ := strings.Cut(p.rest, "\n")
	trimmed := strings.TrimLeft(line, spaces)
	if trimmed == "" || trimmed[0] == '#' {
		p.consume(len(line))
		return assignment{}, false
	}
	d, ok := declare(line)
	if !ok {
		p.consume(len(line))
		p.warnf(at, "", "write NAME=value, or # before a comment", "this line is no assignment and is passed over")
		return assignment{}, false
	}
	raw, quote, end := p.cutValue(at, d.name, d.start, len(line))
	p.consume(end)
	if raw == "" && quote == 0 && (d.export || !d.equals) {
		return assignment{name: d.name, line: at}, p.empty(at, d)
	}
	return assignment{name: d.name, value: p.value(at, d.name, raw, quote), line: at}, true
}

// empty judges a name without a value and tells whether it is set to nothing. Behind export dotenv expects the variable to be set already;
// after a colon it would take the next line for the value.
func (p *parser) empty(at int, d declaration) bool {
	switch {
	case d.export:
		_, inFile := p.values[d.name]
		if _, outside := p.lookup(d.name); !inFile && !outside {
			p.errorf(at, d.name, "give it a value, or remove the line", "export of a variable that is not set; Mastodon refuses the file")
		}
		return false
	case d.colon:
		p.errorf(at, d.name, "write NAME=value", "no value after the colon")
	default:
		p.warnf(at, d.name, "write NAME=value, or # before a comment", "no value; it counts as set to nothing")
	}
	return true
}

// consume drops n bytes and what is left of the line they end in.
func (p *parser) consume(n int) {
	if i := strings.IndexByte(p.rest[n:], '\n'); i >= 0 {
		n += i + 1
	} else {
		n = len(p.rest)
	}
	p.line += strings.Count(p.rest[:n], "\n")
	p.rest = p.rest[n:]
}

// spaces are what Ruby's \s matches, but for the line feed.
const spaces = " \t\r\f\v"

// declaration is how an assignment begins.
type declaration struct {
	name                  string
	start                 int // where the value begins in the line
	export, equals, colon bool
}

// declare finds NAME and where its value begins: "  export NAME = value", "NAME: value", or NAME alone.
func declare(line string) (declaration, bool) {
	body := strings.TrimLeft(line, spaces)
	if after, found := strings.CutPrefix(body, "export"); found {
		if rest := strings.TrimLeft(after, spaces); rest != after {
			if d, ok := declareName(line, rest); ok {
				d.export = true
				return d, true
			}
		}
	}
	return declareName(line, body)
}

// declareName reads NAME and the sign behind it from body, the end of line.
func declareName(line, body string) (declaration, bool) {
	n := 0
	for n < len(body) && isNameByte(body[n]) {
		n++
	}
	d := declaration{name: body[:n], start: len(line) - len(body) + n}
	behind := body[n:]
	sep := strings.TrimLeft(behind, spaces)
	switch {
	case n == 0:
		return d, false
	case strings.HasPrefix(sep, "="):
		d.equals, d.start = true, len(line)-len(sep)+1
	case len(behind) == 1 && behind[0] == ':', len(behind) > 1 && behind[0] == ':' && strings.IndexByte(spaces, behind[1]) >= 0:
		d.colon = true
		d.start++
	case sep != "" && sep[0] != '#':
		return d, false
	}
	return d, true
}

func isNameByte(c byte) bool {
	return c == '_' || c == '.' || '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
}

// cutValue finds the value that begins at rest[start]: its text without quotes, the quote if there is one, and where it ends.
func (p *parser) cutValue(at int, name string, start, lineEnd int) (raw string, quote byte, end int) {
	begin := start + len(p.rest[start:lineEnd]) - len(strings.TrimLeft(p.rest[start:lineEnd], spaces))
	if begin < lineEnd && (p.rest[begin] == '"' || p.rest[begin] == '\'') {
		quote = p.rest[begin]
		if end := closingQuote(p.rest, begin); end > 0 {
			return p.rest[begin+1 : end], quote, end + 1
		}
		p.warnf(at, name, "close the quote, and put nothing but a comment behind it", "the quote is not closed, so it counts as part of the value")
	}
	raw, comment, cut := strings.Cut(p.rest[start:lineEnd], "#")
	if cut && raw != "" && !strings.HasSuffix(raw, " ") && !strings.HasSuffix(raw, "\t") && comment != "" && comment[0] != ' ' {
		p.warnf(at, name, "put the value into single quotes if the # belongs to it", "the value ends at the #")
	}
	raw = strings.Trim(raw, spaces)
	// What looks quoted after the comment is gone is unquoted, too: A='x # y'z
	if len(raw) >= 2 && (raw[0] == '"' || raw[0] == '\'') && raw[len(raw)-1] == raw[0] {
		return raw[1 : len(raw)-1], raw[0], lineEnd
	}
	return raw, 0, lineEnd
}

// closingQuote returns where the quote that opens at begin is closed: by the first one without a backslash before it, or else by the last
// one with a backslash, if nothing but a comment follows on its line. 0 when it is not closed.
func closingQuote(s string, begin int) int {
	quote, found := s[begin], 0
	for i := begin + 1; i < len(s); i++ {
		if s[i] != quote {
			continue
		}
		after, _, _ := strings.Cut(s[i+1:], "\n")
		if after = strings.TrimLeft(after, spaces); after == "" || after[0] == '#' {
			found = i
		}
		if s[i-1] != '\\' || i-1 == begin {
			break
		}
	}
	return found
}

// value applies escapes and substitutions.
func (p *parser) value(at int, name, raw string, quote byte) string {
	if quote == '\'' {
		return raw
	}
	if quote == '"' {
		raw = p.lineBreaks(raw)
	}
	return p.expand(at, name, unescape(raw))
}

// lineBreaks: dotenv 3 keeps \n and \r in double quotes as two characters; DOTENV_LINEBREAK_MODE=legacy makes line breaks of them.
func (p *parser) lineBreaks(s string) string {
	mode, ok := p.values["DOTENV_LINEBREAK_MODE"]
	if !ok {
		mode, _ = p.lookup("DOTENV_LINEBREAK_MODE")
	}
	if mode == "legacy" {
		return strings.ReplaceAll(strings.ReplaceAll(s, `\n`, "\n"), `\r`, "\r")
	}
	return strings.ReplaceAll(strings.ReplaceAll(s, `\n`, `\\n`), `\r`, `\\r`)
}

// unescape removes each backslash that is before anything but a dollar sign; that one is left for expand.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) && s[i+1] != '$' {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func (p *parser) errorf(line int, name, hint, format string, args ...any) {
	p.add(SeverityError, line, name, hint, fmt.Sprintf(format, args...))
}

func (p *parser) warnf(line int, name, hint, format string, args ...any) {
	p.add(SeverityWarning, line, name, hint, fmt.Sprintf(format, args...))
}

// maxProblems bounds what a hostile file can make us say.
const maxProblems = 200

func (p *parser) add(severity Severity, line int, name, hint, what string) {
	if len(p.problems) >= maxProblems && severity == SeverityWarning {
		return
	}
	if len(name) > 100 {
		name = name[:100] + "…"
	}
	p.problems = append(p.problems, Problem{Severity: severity, File: p.file, Line: line, Name: name, What: what, Hint: hint})
}

// validPrefix is the text up to the first byte that is not UTF-8.
func validPrefix(text []byte) []byte {
	n := 0
	for n < len(text) {
		r, size := utf8.DecodeRune(text[n:])
		if r == utf8.RuneError && size <= 1 {
			break
		}
		n += size
	}
	return text[:n]
}
