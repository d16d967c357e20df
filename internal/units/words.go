package units

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// splitWords splits a value into words as systemd does for Environment= and ExecStart=: at white space, with '…' and "…" anywhere in a
// word, and C's escapes inside and outside of both. ok is false when a quote is not closed; the words before it are returned all the same.
func splitWords(s string) (words []string, ok bool) {
	var b strings.Builder
	inWord, quote := false, byte(0)
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == '\\' && i+1 < len(s):
			text, size := unescape(s[i:])
			b.WriteString(text)
			i, inWord = i+size, true
			continue
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			b.WriteByte(c)
		case c == '"' || c == '\'':
			quote, inWord = c, true
		case strings.IndexByte(" \t\n\r\f\v", c) >= 0:
			if inWord {
				words = append(words, b.String())
				b.Reset()
			}
			inWord = false
		default:
			inWord = true
			b.WriteByte(c)
		}
		i++
	}
	if inWord && quote == 0 {
		words = append(words, b.String())
	}
	return words, quote == 0
}

// escapes are those of one letter.
var escapes = map[byte]string{
	'a': "\a", 'b': "\b", 'f': "\f", 'n': "\n", 'r': "\r", 't': "\t", 'v': "\v", '\\': `\`, '"': `"`, '\'': "'", 's': " ",
}

// unescape reads the escape that s begins with and returns its text and size. What is no escape keeps its backslash.
func unescape(s string) (text string, size int) {
	if text, ok := escapes[s[1]]; ok {
		return text, 2
	}
	digits, base := 0, 16
	switch s[1] {
	case 'x':
		digits = 2
	case 'u':
		digits = 4
	case 'U':
		digits = 8
	case '0', '1', '2', '3':
		digits, base = 3, 8
	}
	from := 2
	if base == 8 {
		from = 1
	}
	if digits > 0 && len(s) >= from+digits {
		if n, err := strconv.ParseUint(s[from:from+digits], base, 32); err == nil && n > 0 && n <= utf8.MaxRune {
			if s[1] == 'u' || s[1] == 'U' {
				return string(rune(n)), from + digits
			}
			if n < utf8.RuneSelf { // bytes of something else are of no use here
				return string(byte(n)), from + digits
			}
		}
	}
	return s[:1], 1
}

// substitute replaces variables in the words of a command as systemd does: ${NAME} anywhere, and $NAME as a word of its own, which
// becomes as many words as it has. $$ is a dollar sign.
func substitute(words []string, lookup func(string) (Setting, bool)) []string {
	out := make([]string, 0, len(words))
	for _, w := range words {
		if name, ok := strings.CutPrefix(w, "$"); ok && isName(name) {
			if v, ok := lookup(name); ok {
				more, _ := splitWords(v.Value)
				out = append(out, more...)
			}
			continue
		}
		out = append(out, substituteBraces(w, lookup))
	}
	return out[:min(len(out), maxWords)]
}

// Bounds of a command after substitution, which could else be made to grow.
const (
	maxWords     = 500
	maxWordBytes = 16 << 10
)

func substituteBraces(w string, lookup func(string) (Setting, bool)) string {
	var b strings.Builder
	for b.Len() < maxWordBytes {
		before, after, found := strings.Cut(w, "$")
		b.WriteString(before)
		if !found {
			break
		}
		if rest, ok := strings.CutPrefix(after, "$"); ok {
			b.WriteByte('$')
			w = rest
			continue
		}
		name, rest, closed := strings.Cut(strings.TrimPrefix(after, "{"), "}")
		if !strings.HasPrefix(after, "{") || !closed || !isName(name) {
			b.WriteByte('$')
			w = after
			continue
		}
		v, _ := lookup(name)
		b.WriteString(v.Value)
		w = rest
	}
	return b.String()[:min(b.Len(), maxWordBytes)]
}

// isName tells whether s is the name of a variable.
func isName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c != '_' && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// assignment reads NAME=value.
func assignment(s string) (name, value string, ok bool) {
	name, value, ok = strings.Cut(s, "=")
	return name, value, ok && isName(name)
}

// specifiers replaces %i and its like. Those that depend on the machine or the manager stay as they are.
func specifiers(s, unit string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	base, instance := nameParts(unit)
	prefix := strings.TrimSuffix(base, "@")
	last := prefix[strings.LastIndexByte(prefix, '-')+1:]
	full := strings.TrimSuffix(unit, ".service")
	return strings.NewReplacer("%%", "%", "%i", instance, "%I", unescapeInstance(instance), "%p", prefix, "%P", prefix,
		"%j", last, "%n", unit, "%N", full).Replace(s)
}

// unescapeInstance undoes systemd-escape: a dash is a slash, \xNN a byte.
func unescapeInstance(s string) string {
	s = strings.ReplaceAll(s, "-", "/")
	var b strings.Builder
	for i := 0; i < len(s); {
		if s[i] == '\\' && i+1 < len(s) {
			text, size := unescape(s[i:])
			b.WriteString(text)
			i += size
			continue
		}
		b.WriteByte(s[i])
		i++
	}
	return b.String()
}

// nameParts splits "a@b.service" into "a@" and "b", "a.service" into "a" and "".
func nameParts(unit string) (base, instance string) {
	s := strings.TrimSuffix(unit, ".service")
	if i := strings.IndexByte(s, '@'); i >= 0 {
		return s[:i+1], s[i+1:]
	}
	return s, ""
}
