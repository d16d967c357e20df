package queues

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// ErrNotPlain is a value that JSON or Ruby cannot hold (invalid UTF-8, NaN, infinity, a type that is no plain data, or
// more than 100 levels together with the payload).
var ErrNotPlain = errors.New("not plain JSON data")

// JSONString prints s as Ruby's JSON generator does: only quote, backslash and U+0000–U+001F are escaped. Invalid UTF-8
// becomes U+FFFD.
func JSONString(s string) string {
	return string(appendString(make([]byte, 0, len(s)+2), strings.ToValidUTF8(s, "\ufffd")))
}

// JSONInt prints n.
func JSONInt(n int64) string { return strconv.FormatInt(n, 10) }

// JSONFloatSeconds prints Unix seconds with a decimal point always and at most 7 decimals, as Ruby prints a Float of
// that size, so that every Sidekiq version reads it as seconds. NaN and infinity, which no clock gives, become 0.0.
func JSONFloatSeconds(seconds float64) string {
	if math.IsNaN(seconds) || math.IsInf(seconds, 0) {
		return "0.0"
	}
	b := strconv.AppendFloat(make([]byte, 0, 24), seconds, 'f', -1, 64)
	dot := bytes.IndexByte(b, '.')
	if dot < 0 {
		return string(append(b, ".0"...))
	}
	const decimals = 7
	if len(b)-dot-1 > decimals {
		b = strconv.AppendFloat(b[:0], seconds, 'f', decimals, 64)
		b = bytes.TrimRight(b, "0")
		if b[len(b)-1] == '.' {
			b = append(b, '0')
		}
	}
	return string(b)
}

const hexDigits = "0123456789abcdef"

func appendString(out []byte, s string) []byte {
	out = append(out, '"')
	from := 0
	for i := range len(s) {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' {
			continue
		}
		out = append(out, s[from:i]...)
		from = i + 1
		switch c {
		case '"', '\\':
			out = append(out, '\\', c)
		case '\b':
			out = append(out, `\b`...)
		case '\t':
			out = append(out, `\t`...)
		case '\n':
			out = append(out, `\n`...)
		case '\f':
			out = append(out, `\f`...)
		case '\r':
			out = append(out, `\r`...)
		default:
			out = append(out, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return append(append(out, s[from:]...), '"')
}

// Object is a JSON object with its keys in order, as Ruby's hashes have them. (Go maps are printed with sorted keys.)
type Object []Member

// Member is one key of an Object with a plain value.
type Member struct {
	Key   string
	Value any
}

// AppendJSON appends v as Ruby's JSON generator prints it. Plain values are nil, bool, string, every integer and float
// type, *big.Int, json.Number, Object, and slices, arrays and string-keyed maps of plain values; json.RawMessage is
// any JSON text, which is printed anew. depth is the number of containers around v (1 for the value of "args"). Anything
// else gives an error that wraps ErrNotPlain.
func AppendJSON(out []byte, v any, depth int) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return append(out, "null"...), nil
	case bool:
		return strconv.AppendBool(out, v), nil
	case string:
		if !utf8.ValidString(v) {
			return nil, fmt.Errorf("%w: invalid UTF-8", ErrNotPlain)
		}
		return appendString(out, v), nil
	case int:
		return strconv.AppendInt(out, int64(v), 10), nil
	case int64:
		return strconv.AppendInt(out, v, 10), nil
	case float64:
		return appendFloat(out, v)
	case json.Number:
		return appendCanonical(out, string(v), depth)
	case json.RawMessage:
		return appendCanonical(out, string(v), depth)
	case *big.Int:
		if v == nil {
			return append(out, "null"...), nil
		}
		return v.Append(out, 10), nil
	case Object:
		return appendObject(out, v, depth+1)
	}
	return appendReflected(out, reflect.ValueOf(v), depth)
}

func appendObject(out []byte, o Object, depth int) ([]byte, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("%w: nesting is too deep", ErrNotPlain)
	}
	out = append(out, '{')
	var err error
	for i, m := range o {
		if i > 0 {
			out = append(out, ',')
		}
		if !utf8.ValidString(m.Key) {
			return nil, fmt.Errorf("%w: invalid UTF-8", ErrNotPlain)
		}
		out = append(appendString(out, m.Key), ':')
		if out, err = AppendJSON(out, m.Value, depth); err != nil {
			return nil, err
		}
	}
	return append(out, '}'), nil
}

func appendReflected(out []byte, v reflect.Value, depth int) ([]byte, error) {
	switch v.Kind() {
	case reflect.Bool:
		return strconv.AppendBool(out, v.Bool()), nil
	case reflect.String:
		return AppendJSON(out, v.String(), depth)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return strconv.AppendInt(out, v.Int(), 10), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return strconv.AppendUint(out, v.Uint(), 10), nil
	case reflect.Float32:
		// The digits of the float32, not of the float64 it would become.
		f, _ := strconv.ParseFloat(strconv.FormatFloat(v.Float(), 'g', -1, 32), 64)
		return appendFloat(out, f)
	case reflect.Float64:
		return appendFloat(out, v.Float())
	case reflect.Slice, reflect.Array:
		return appendList(out, v, depth+1)
	case reflect.Map:
		if v.Type().Key().Kind() != reflect.String {
			return nil, fmt.Errorf("%w: map with keys of %s", ErrNotPlain, v.Type().Key())
		}
		o := make(Object, 0, v.Len())
		for it := v.MapRange(); it.Next(); {
			o = append(o, Member{Key: it.Key().String(), Value: it.Value().Interface()})
		}
		slices.SortFunc(o, func(a, b Member) int { return strings.Compare(a.Key, b.Key) })
		return appendObject(out, o, depth+1)
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return append(out, "null"...), nil
		}
		return AppendJSON(out, v.Elem().Interface(), depth)
	default:
		return nil, fmt.Errorf("%w: %s", ErrNotPlain, v.Type())
	}
}

func appendList(out []byte, v reflect.Value, depth int) ([]byte, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("%w: nesting is too deep", ErrNotPlain)
	}
	out = append(out, '[')
	var err error
	for i := range v.Len() {
		if i > 0 {
			out = append(out, ',')
		}
		if out, err = AppendJSON(out, v.Index(i).Interface(), depth); err != nil {
			return nil, err
		}
	}
	return append(out, ']'), nil
}

// appendFloat prints f as Ruby's Float#to_s does: always a point, exponent form below 10⁻⁴ and from 10¹⁵ on
// (from 10¹⁶ on for what has a fraction).
func appendFloat(out []byte, f float64) ([]byte, error) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return nil, fmt.Errorf("%w: %v", ErrNotPlain, f)
	}
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16 || a >= 1e15 && a == math.Trunc(a)) {
		from := len(out)
		out = strconv.AppendFloat(out, f, 'e', -1, 64)
		e := from + bytes.IndexByte(out[from:], 'e')
		if bytes.IndexByte(out[from:e], '.') < 0 {
			out = slices.Insert(out, e, '.', '0')
		}
		return out, nil
	}
	from := len(out)
	out = strconv.AppendFloat(out, f, 'f', -1, 64)
	if bytes.IndexByte(out[from:], '.') < 0 {
		out = append(out, ".0"...)
	}
	return out, nil
}

// appendCanonical prints JSON text anew: no white space, Ruby's escapes, Ruby's floats, integers digit for digit.
func appendCanonical(out []byte, raw string, depth int) ([]byte, error) {
	p := scanner{s: raw}
	begin := p.space(0)
	end := p.value(begin, depth)
	if end < 0 || p.space(end) != len(raw) {
		return nil, fmt.Errorf("%w: bad JSON text", ErrNotPlain)
	}
	if p.lossy || !utf8.ValidString(raw) {
		return nil, fmt.Errorf("%w: JSON text that Ruby cannot write", ErrNotPlain)
	}
	for i := begin; i < end; {
		switch c := raw[i]; {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			i++
		case c == '"':
			stop, escaped := p.string(i + 1)
			if escaped {
				out = appendString(out, unescape(raw[i+1:stop-1]))
			} else {
				out = append(out, raw[i:stop]...)
			}
			i = stop
		case c == '-' || c >= '0' && c <= '9':
			stop := p.number(i)
			n := raw[i:stop]
			i = stop
			switch {
			case n == "-0":
				out = append(out, '0')
			case isInteger(n):
				out = append(out, n...)
			default:
				f, err := strconv.ParseFloat(n, 64)
				if err != nil {
					return nil, fmt.Errorf("%w: number: %w", ErrNotPlain, err)
				}
				if out, err = appendFloat(out, f); err != nil {
					return nil, err
				}
			}
		default:
			out = append(out, c)
			i++
		}
	}
	return out, nil
}
