package mastodonenv

import "strings"

// maxValueBytes bounds a value after substitution: A=$B$B, C=$A$A … doubles with every line.
const maxValueBytes = 64 << 10

// expand replaces $NAME and ${NAME}; \$ is a dollar sign. As in dotenv the braces are each optional, and a $ before anything else stays.
func (p *parser) expand(at int, name, s string) string {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(s, "$")
		if b.Len()+len(before) > maxValueBytes {
			p.errorf(at, name, "shorten it", "the value is longer than %d bytes", maxValueBytes)
			return ""
		}
		if !found {
			b.WriteString(before)
			return b.String()
		}
		escaped := strings.HasSuffix(before, `\`)
		b.WriteString(strings.TrimSuffix(before, `\`))
		s = after
		if strings.HasPrefix(after, "(") {
			if !escaped {
				p.errorf(at, name, `write the value itself, or \$( for the characters`, "$(…) would run a command; Queueville does not")
			}
			b.WriteByte('$')
			continue
		}
		ref, size := reference(after)
		switch {
		case escaped, ref == "":
			b.WriteString("$" + after[:size])
		default:
			b.WriteString(p.resolve(at, name, ref))
		}
		s = after[size:]
	}
}

// reference reads "{NAME}" or "NAME" behind a dollar sign and returns the name and the size of all of it.
func reference(s string) (name string, size int) {
	if strings.HasPrefix(s, "{") {
		size = 1
	}
	start := size
	for size < len(s) && s[size] != '.' && isNameByte(s[size]) {
		size++
	}
	name = s[start:size]
	if strings.HasPrefix(s[size:], "}") {
		size++
	}
	return name, size
}

func (p *parser) resolve(at int, name, ref string) string {
	if v, ok := p.lookup(ref); ok {
		return v
	}
	v, ok := p.values[ref]
	if !ok {
		p.warnf(at, name, "put the value into single quotes if the dollar sign belongs to it",
			"a dollar sign names a variable that is not set, and is replaced by nothing")
	}
	return v
}
