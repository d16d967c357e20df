package queues

import (
	"math"
	"math/bits"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxDepth is Ruby's max_nesting: the payload is level 1, args level 2.
const maxDepth = 100

// scanner walks JSON text without decoding it and refuses what Ruby's JSON.parse (json 2.6.1, 2.7.2) refuses. It is
// stricter in two things that nobody writes: comments, and a high surrogate without an escape behind it, which Ruby takes
// or refuses by what follows. Like Ruby it takes an escape of any printable character ("\q"), raw invalid UTF-8 in
// strings, any pair of \u escapes that starts with a high surrogate, and a low surrogate alone.
type scanner struct {
	s string
	// high collects the bytes of all strings, so that the UTF-8 check is done only where there is something to check.
	high uint64
	// lossy is set by what Ruby reads but cannot write again: infinite numbers and half surrogate pairs.
	lossy bool
	err   string // the first error

	// The walk over top-level members.
	at      int
	closing int // index of the closing brace when it has been reached, else -1
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

func load64(s string, i int) uint64 {
	b := s[i : i+8]
	return uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 | uint64(b[3])<<24 |
		uint64(b[4])<<32 | uint64(b[5])<<40 | uint64(b[6])<<48 | uint64(b[7])<<56
}

func (p *scanner) fail(reason string) int {
	if p.err == "" {
		p.err = reason
	}
	return -1
}

// space skips white space.
func (p *scanner) space(i int) int {
	for i < len(p.s) {
		switch p.s[i] {
		case ' ', '\t', '\n', '\r':
			i++
		default:
			return i
		}
	}
	return i
}

// bytesBelow sets bit 7 of each byte of w that is below n (n ≤ 0x80); bytesEqual of each that is c. Both are exact.
func bytesBelow(w uint64, n uint64) uint64 { return ^(w&^highs + (0x80-n)*ones | w) & highs }
func bytesEqual(w uint64, c uint64) uint64 { return bytesBelow(w^c*ones, 1) }

// mask makes one bit of each byte's bit 7, the first byte lowest.
func mask(hits uint64) uint64 { return hits >> 7 * 0x0102040810204080 >> 56 }

// escapes tells, by the backslashes among eight bytes (bits 0 to 7) and whether the byte before them was a backslash that
// escapes (bit 8), which bytes are escaped (bits 0 to 7), and whether the last one is a backslash that escapes (bit 8).
var escapes = func() (table [512]uint16) {
	for in := range table {
		pending := in>>8 == 1
		for bit := range 8 {
			slash := in>>bit&1 == 1
			if pending {
				table[in] |= 1 << bit
			}
			pending = slash && !pending
		}
		if pending {
			table[in] |= 1 << 8
		}
	}
	return table
}()

// string takes the index after the opening quote and returns the index after the closing one, and whether there was a
// backslash in between; -1 on error. Payloads are mostly one long string with an escape every few bytes, at which a
// search for the next one stumbles: so it takes eight bytes at a time and no branch but for the end and what is rare.
func (p *scanner) string(i int) (end int, escaped bool) {
	s := p.s
	high, seen, pending := p.high, uint64(0), uint64(0)
	for i+8 <= len(s) {
		w := load64(s, i)
		high |= w // what follows the string is looked at too; it only decides whether UTF-8 is checked
		state := uint64(escapes[mask(bytesEqual(w, '\\'))|pending])
		seen |= state
		stop := mask(bytesEqual(w, '"')) &^ state
		bad := mask(bytesBelow(w, 0x20)) | mask(bytesEqual(w, 'u'))&state
		if stop|bad == 0 {
			pending = state & (1 << 8)
			i += 8
			continue
		}
		n := bits.TrailingZeros64(stop | bad)
		if stop>>n&1 == 1 {
			p.high = high
			return i + n + 1, seen != 0
		}
		if s[i+n] != 'u' {
			return p.fail("control character in a string"), true
		}
		if i = p.escape(i + n - 1); i < 0 {
			return -1, true
		}
		pending = 0
	}
	if pending != 0 {
		i--
	}
	return p.stringTail(i, high, seen != 0)
}

// stringTail is string for the last bytes of the text.
func (p *scanner) stringTail(i int, high uint64, escaped bool) (int, bool) {
	s := p.s
	for i < len(s) {
		c := s[i]
		switch {
		case c == '"':
			p.high = high
			return i + 1, escaped
		case c == '\\':
			escaped = true
			if i+1 < len(s) && s[i+1] != 'u' && s[i+1] >= 0x20 {
				high |= uint64(s[i+1])
				i += 2
			} else if i = p.escape(i); i < 0 {
				return -1, escaped
			}
		case c < 0x20:
			return p.fail("control character in a string"), escaped
		default:
			high |= uint64(c)
			i++
		}
	}
	return p.fail("unterminated string"), escaped
}

// escape handles \u at index i (of the backslash) and everything that is no escape.
func (p *scanner) escape(i int) int {
	r := hex4(p.s, i+2)
	if i+1 >= len(p.s) || p.s[i+1] != 'u' || r < 0 {
		return p.fail("bad escape")
	}
	i += 6
	switch {
	case r >= 0xdc00 && r < 0xe000:
		p.lossy = true
	case r >= 0xd800 && r < 0xdc00:
		if i+1 >= len(p.s) || p.s[i] != '\\' || p.s[i+1] != 'u' {
			return p.fail("lone surrogate escape")
		}
		low := hex4(p.s, i+2)
		if low < 0 {
			return p.fail("bad escape")
		}
		if low < 0xdc00 || low >= 0xe000 {
			p.lossy = true
		}
		i += 6
	}
	return i
}

func hex4(s string, i int) int {
	if i+4 > len(s) {
		return -1
	}
	r := 0
	for _, c := range []byte(s[i : i+4]) {
		d := unhex(c)
		if d < 0 {
			return -1
		}
		r = r<<4 | d
	}
	return r
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// value takes the index of a value's first byte and returns the index after it, or -1. depth counts the containers
// that are open around it.
func (p *scanner) value(i, depth int) int {
	if i >= len(p.s) {
		return p.fail("unexpected end")
	}
	switch c := p.s[i]; c {
	case '"':
		end, _ := p.string(i + 1)
		return end
	case '{':
		return p.object(i+1, depth+1)
	case '[':
		return p.array(i+1, depth+1)
	case 't':
		return p.word(i, "true")
	case 'f':
		return p.word(i, "false")
	case 'n':
		return p.word(i, "null")
	default:
		if c == '-' || c >= '0' && c <= '9' {
			return p.number(i)
		}
	}
	return p.fail("unexpected character")
}

func (p *scanner) word(i int, w string) int {
	if !strings.HasPrefix(p.s[i:], w) {
		return p.fail("unexpected character")
	}
	return i + len(w)
}

func (p *scanner) number(i int) int {
	s, start := p.s, i
	if s[i] == '-' {
		i++
	}
	digits := i
	for i < len(s) && s[i] >= '0' && s[i] <= '9' {
		i++
	}
	whole := i - digits
	if whole == 0 || whole > 1 && s[digits] == '0' {
		return p.fail("bad number")
	}
	fraction, exponent := false, false
	if i < len(s) && s[i] == '.' {
		fraction = true
		from := i + 1
		for i = from; i < len(s) && s[i] >= '0' && s[i] <= '9'; i++ {
		}
		if i == from {
			return p.fail("bad number")
		}
	}
	if i < len(s) && (s[i] == 'e' || s[i] == 'E') {
		exponent = true
		i++
		if i < len(s) && (s[i] == '+' || s[i] == '-') {
			i++
		}
		from := i
		for ; i < len(s) && s[i] >= '0' && s[i] <= '9'; i++ {
		}
		if i == from {
			return p.fail("bad number")
		}
	}
	if exponent || fraction && whole > 308 {
		if f, err := strconv.ParseFloat(s[start:i], 64); err != nil && math.IsInf(f, 0) {
			p.lossy = true
		}
	}
	return i
}

func (p *scanner) array(i, depth int) int {
	if depth > maxDepth {
		return p.fail("nesting is too deep")
	}
	i = p.space(i)
	if i < len(p.s) && p.s[i] == ']' {
		return i + 1
	}
	for {
		if i = p.value(i, depth); i < 0 {
			return -1
		}
		i = p.space(i)
		if i >= len(p.s) {
			return p.fail("unexpected end")
		}
		switch p.s[i] {
		case ',':
			i = p.space(i + 1)
		case ']':
			return i + 1
		default:
			return p.fail("unexpected character")
		}
	}
}

func (p *scanner) object(i, depth int) int {
	if depth > maxDepth {
		return p.fail("nesting is too deep")
	}
	i = p.space(i)
	if i < len(p.s) && p.s[i] == '}' {
		return i + 1
	}
	for {
		_, _, _, at := p.key(i)
		if at < 0 {
			return -1
		}
		if i = p.value(at, depth); i < 0 {
			return -1
		}
		var more bool
		if i, more = p.next(i); !more {
			return i
		}
	}
}

// key takes the index of a member's first byte and returns the span of its name (without quotes), whether the name has
// escapes, and the index of its value; -1 on error.
func (p *scanner) key(i int) (from, to int, escaped bool, value int) {
	if i >= len(p.s) || p.s[i] != '"' {
		return 0, 0, false, p.fail("unexpected character")
	}
	from = i + 1
	i, escaped = p.string(from)
	if i < 0 {
		return 0, 0, false, -1
	}
	to = i - 1
	i = p.space(i)
	if i >= len(p.s) || p.s[i] != ':' {
		return 0, 0, false, p.fail("unexpected character")
	}
	return from, to, escaped, p.space(i + 1)
}

// next takes the index after a member's value. With another member to come it returns that one's index and true, else
// the index after the closing brace (-1 on error) and false.
func (p *scanner) next(i int) (int, bool) {
	i = p.space(i)
	if i < len(p.s) {
		switch p.s[i] {
		case ',':
			return p.space(i + 1), true
		case '}':
			return i + 1, false
		}
	}
	return p.fail("unexpected character"), false
}

// member is the place of one top-level member: s[start:] is the opening quote of its name, s[value:end] its value.
type member struct {
	start, from, to, value, end int
	escaped                     bool
}

func (m *member) name(s string) string {
	if m.escaped {
		return unescape(s[m.from:m.to])
	}
	return s[m.from:m.to]
}

// begin starts a walk over the top-level members: for p.begin(); p.member(&m); {…}, then reason.
func (p *scanner) begin() {
	p.closing = -1
	p.at = p.space(0)
	if p.at >= len(p.s) {
		p.fail("empty")
		return
	}
	if p.s[p.at] != '{' {
		if i := p.value(p.at, 0); i >= 0 && p.space(i) == len(p.s) {
			p.fail("not a JSON object")
		} else {
			p.fail("not JSON")
		}
		return
	}
	p.at = p.space(p.at + 1)
	if p.at < len(p.s) && p.s[p.at] == '}' {
		p.end(p.at)
	}
}

// end takes the index of the closing brace.
func (p *scanner) end(closing int) {
	p.closing = closing
	if p.space(closing+1) != len(p.s) {
		p.fail("something follows the object")
		return
	}
}

// member reads the next member, and reports false when there is none or after an error.
func (p *scanner) member(m *member) bool {
	if p.closing >= 0 || p.err != "" {
		return false
	}
	m.start = p.at
	m.from, m.to, m.escaped, m.value = p.key(p.at)
	if m.value < 0 {
		return false
	}
	if m.end = p.value(m.value, 1); m.end < 0 {
		return false
	}
	i, more := p.next(m.end)
	if i < 0 {
		return false
	}
	p.at = i
	if !more {
		p.end(i - 1)
	}
	return true
}

// malformed is the error of a walk that has ended, nil if the text is a JSON object.
func (p *scanner) malformed() error {
	if p.err == "" {
		return nil
	}
	return &MalformedJobError{Reason: p.err}
}

// unescape decodes the inside of a scanned JSON string.
func unescape(s string) string {
	i := strings.IndexByte(s, '\\')
	if i < 0 {
		return s
	}
	out := append(make([]byte, 0, len(s)), s[:i]...)
	for i < len(s) {
		c := s[i]
		if c != '\\' {
			out = append(out, c)
			i++
			continue
		}
		c = s[i+1]
		i += 2
		switch c {
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r := hex4(s, i)
			i += 4
			if r >= 0xd800 && r < 0xdc00 {
				// A high surrogate is always followed by another escape, or the scanner would have refused it.
				r = (r-0xd800)<<10 | (hex4(s, i+2)-0xdc00)&0x3ff | 0x10000
				i += 6
			}
			out = utf8.AppendRune(out, rune(r))
		default:
			out = append(out, c)
		}
	}
	return string(out)
}
