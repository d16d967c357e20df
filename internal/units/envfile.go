package units

import (
	"bytes"
	"strings"

	"github.com/queueville/queueville/internal/mastodonenv"
)

// ParseEnvironmentFile reads a file that EnvironmentFile= names, by systemd's rules, which are not dotenv's: no substitution, no
// "export", comments only on lines of their own, and quotes at the value's ends are taken off. Lines that make no sense are Problems.
func ParseEnvironmentFile(file string, text []byte) (map[string]Setting, []mastodonenv.Problem) {
	p := &parser{file: file}
	values := map[string]Setting{}
	if len(text) > maxFileBytes || bytes.IndexByte(text, 0) >= 0 {
		p.problem(mastodonenv.SeverityError, 0, "", "give an environment file", "the file is larger than %d bytes, or no text", maxFileBytes)
		return values, p.problems
	}
	body := strings.ReplaceAll(strings.ToValidUTF8(string(text), "\ufffd"), "\r\n", "\n")
	for line := 1; body != ""; {
		raw, rest, _ := strings.Cut(body, "\n")
		trimmed := strings.Trim(raw, blanks)
		if trimmed == "" || trimmed[0] == '#' || trimmed[0] == ';' {
			body, line = rest, line+1
			continue
		}
		name, _, ok := assignment(trimmed)
		if !ok {
			hint := "write NAME=value, or # before a comment"
			if strings.HasPrefix(trimmed, "export ") {
				hint = "leave export away: systemd does not know it"
			}
			p.problem(mastodonenv.SeverityWarning, line, "", hint, "this line is no assignment, and systemd passes it over")
			body, line = rest, line+1
			continue
		}
		value, size := fileValue(body[strings.IndexByte(body, '=')+1:])
		consumed := strings.IndexByte(body, '=') + 1 + size
		values[name] = Setting{Value: value, File: file, Line: line}
		line += strings.Count(body[:consumed], "\n")
		body = body[consumed:]
	}
	return values, p.problems
}

// fileValue reads the value that s begins with, up to and with the end of its line, and returns how many bytes that was.
func fileValue(s string) (value string, size int) {
	var b strings.Builder
	kept := 0 // bytes of b that are not white space at the end of an unquoted value
	quote := byte(0)
	i := len(s) - len(strings.TrimLeft(s, " \t"))
	for ; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '\n' && quote == 0:
			return b.String()[:kept], i + 1
		case c == '\\' && quote != '\'' && i+1 < len(s):
			i++
			if s[i] == '\n' { // a line goes on
				continue
			}
			if quote == '"' && strings.IndexByte("\"\\`$", s[i]) < 0 {
				b.WriteByte('\\')
			}
			b.WriteByte(s[i])
			kept = b.Len()
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
			kept = b.Len()
		default:
			b.WriteByte(c)
			if quote != 0 || strings.IndexByte(blanks, c) < 0 {
				kept = b.Len()
			}
		}
	}
	return b.String()[:kept], i
}
