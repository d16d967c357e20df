package activitypub

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
	"unsafe"
)

// Delivery is one call of the worker: the arguments of a job, read.
type Delivery struct {
	// Body is what is POSTed, byte for byte as the job carries it (after undoing the JSON escapes of the payload).
	Body string
	// Args may hold the raw JSON text that Body was read from: then Body need not stay in memory while an answer is awaited.
	Args string
	// AccountID is the local account that signs.
	AccountID int64
	// InboxURL is where the body goes, as the job carries it; it is normalised on use.
	InboxURL string
	// Options are the job's fourth argument.
	Options DeliveryOptions
	// Low marks ActivityPub::LowPriorityDeliveryWorker; it changes nothing about the request.
	Low bool
}

// DeliveryOptions is the fourth argument of a delivery job; absent and {} mean the zero value.
type DeliveryOptions struct {
	// SynchronizeFollowers adds the Collection-Synchronization header.
	SynchronizeFollowers bool
	// BypassAvailability delivers even to a host listed in unavailable_domains (outgoing follows).
	BypassAvailability bool
	// SignWith is a key to use instead of the account's stored one (key rotation); nil for the stored one.
	SignWith *SigningKeySpec
}

// SigningKeySpec is the option sign_with: a PEM string in jobs of Mastodon up to 4.6, an object after that.
type SigningKeySpec struct {
	// PrivateKey is the PEM of an RSA key (PKCS#1 or PKCS#8). It is secret.
	PrivateKey string
	// URI is the key id when LocalFragment is empty; empty means the account's main key.
	URI string
	// LocalFragment is appended to the actor's URI to make the key id, e.g. "#main-key".
	LocalFragment string
}

// ArgumentError says that a job's arguments cannot be those of a delivery. Running the job in Ruby would raise too,
// so such a job fails and is retried; the caller takes the error class for the retry entry from Class.
type ArgumentError struct {
	// Class is the Ruby class name that the original raises, e.g. "ArgumentError" or "TypeError".
	Class string
	// Message says what is wrong, without any argument's value.
	Message string
}

func (e *ArgumentError) Error() string { return e.Message }

func argumentErrorf(class, format string, args ...any) *ArgumentError {
	return &ArgumentError{Class: class, Message: fmt.Sprintf(format, args...)}
}

// ParseArgs reads the raw JSON text of a job's args: [body, account id, inbox URL] and optionally an object of options.
// Every error is an *ArgumentError. The body keeps bytes that are not UTF-8; a \u escape of half a surrogate
// pair, which Ruby never writes, becomes U+FFFD. The cost is one pass over the text and one copy of the body.
func ParseArgs(args string) (Delivery, error) {
	body, id, inbox, options, ok := splitArgs(args)
	if !ok {
		return parseArgsSlowly(args)
	}
	accountID, err := strconv.ParseInt(id, 10, 64)
	if err != nil {
		return parseArgsSlowly(args)
	}
	d := Delivery{Body: body, AccountID: accountID, InboxURL: inbox}
	if options != "" && options != "{}" {
		if d.Options, err = parseOptions([]byte(options)); err != nil {
			return parseArgsSlowly(args) // there may be more behind the object
		}
	}
	return d, nil
}

// splitArgs reads ["body",1,"inbox"] or ["body",1,"inbox",{…}] as Ruby's JSON.generate writes it, in one pass: ok is false for
// anything else, also for valid JSON written another way.
func splitArgs(args string) (body, id, inbox, options string, ok bool) {
	if len(args) < 2 || args[0] != '[' || args[len(args)-1] != ']' {
		return "", "", "", "", false
	}
	rest := args[1 : len(args)-1]
	if body, rest, ok = cutString(rest); !ok {
		return "", "", "", "", false
	}
	if rest, ok = strings.CutPrefix(rest, ","); !ok {
		return "", "", "", "", false
	}
	if id, rest, ok = strings.Cut(rest, ","); !ok {
		return "", "", "", "", false
	}
	if inbox, rest, ok = cutString(rest); !ok {
		return "", "", "", "", false
	}
	if rest == "" {
		return body, id, inbox, "", true
	}
	if len(rest) < 3 || rest[0] != ',' || rest[1] != '{' {
		return "", "", "", "", false
	}
	return body, id, inbox, rest[1:], true
}

func backslashesBefore(s string, i int) int {
	n := 0
	for i-n > 0 && s[i-n-1] == '\\' {
		n++
	}
	return n
}

// cutString takes a JSON string off the front of s and undoes its escapes. The value shares memory with s when there are none.
func cutString(s string) (value, rest string, ok bool) {
	if s == "" || s[0] != '"' {
		return "", "", false
	}
	s = s[1:]
	i := plainPrefix(s)
	if i == len(s) {
		return "", "", false
	}
	if s[i] == '"' {
		return s[:i], s[i+1:], true
	}
	// A body is JSON in JSON, with an escape every few bytes, so it is copied byte by byte. No escape grows when undone.
	out := make([]byte, len(s))
	n := copy(out, s[:i])
	for i < len(s) {
		c := s[i]
		switch {
		case c == '"':
			// out is not touched again, so the string may keep its memory instead of a second copy of the body.
			return unsafe.String(unsafe.SliceData(out), n), s[i+1:], true
		case c != '\\':
			out[n] = c
			n++
			i++
		case i+1 < len(s) && simpleEscapes[s[i+1]] != 0:
			out[n] = simpleEscapes[s[i+1]]
			n++
			i += 2
		default:
			r, size := unicodeEscape(s[i:])
			if size == 0 {
				return "", "", false
			}
			n += len(utf8.AppendRune(out[:n], r)) - n
			i += size
		}
	}
	return "", "", false
}

// plainPrefix is the length of what comes before the first quote or backslash.
func plainPrefix(s string) int {
	for i := range len(s) {
		if c := s[i]; c == '"' || c == '\\' {
			return i
		}
	}
	return len(s)
}

// simpleEscapes maps the letter of a two-byte escape to what it means; 0 for none.
var simpleEscapes = [256]byte{'"': '"', '\\': '\\', '/': '/', 'n': '\n', 't': '\t', 'r': '\r', 'b': '\b', 'f': '\f'}

// unicodeEscape reads the \u escape at the front of s, a surrogate pair as one; size is 0 for a bad one.
func unicodeEscape(s string) (r rune, size int) {
	r, ok := hex4(s)
	if !ok {
		return 0, 0
	}
	if !utf16.IsSurrogate(r) {
		return r, 6
	}
	low, ok := hex4(s[6:])
	if pair := utf16.DecodeRune(r, low); ok && pair != utf8.RuneError {
		return pair, 12
	}
	return utf8.RuneError, 6
}

// hex4 reads the escape \uXXXX at the front of s.
func hex4(s string) (rune, bool) {
	if len(s) < 6 || s[0] != '\\' || s[1] != 'u' {
		return 0, false
	}
	var r rune
	for i := 2; i < 6; i++ {
		c := s[i]
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// parseArgsSlowly reads args in any JSON spelling and finds the Ruby error for what is not a delivery's.
func parseArgsSlowly(args string) (Delivery, error) {
	var values []json.RawMessage
	if err := json.Unmarshal([]byte(args), &values); err != nil {
		if _, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return Delivery{}, argumentErrorf("ArgumentError", "args is not an array")
		}
		return Delivery{}, argumentErrorf("JSON::ParserError", "args is not JSON")
	}
	if len(values) < 3 || len(values) > 4 {
		return Delivery{}, argumentErrorf("ArgumentError", "wrong number of arguments (given %d, expected 3..4)", len(values))
	}
	var d Delivery
	var ok bool
	// Ruby looks at the inbox first (is its host available?), then finds the account, then sends the body.
	if d.InboxURL, ok = rawString(values[2]); !ok {
		return Delivery{}, argumentErrorf("TypeError", "inbox_url is not a string")
	}
	var err error
	if d.AccountID, err = parseAccountID(values[1]); err != nil {
		return Delivery{}, err
	}
	if d.Body, ok = rawString(values[0]); !ok {
		return Delivery{}, argumentErrorf("TypeError", "json is not a string")
	}
	if len(values) == 4 {
		if d.Options, err = parseOptions(values[3]); err != nil {
			return Delivery{}, err
		}
	}
	return d, nil
}

func rawString(raw json.RawMessage) (string, bool) {
	value, rest, ok := cutString(string(raw))
	return value, ok && rest == ""
}

// parseAccountID reads an id the way ActiveRecord's find casts it: an integer, a whole float, or a string that starts with digits.
func parseAccountID(raw json.RawMessage) (int64, error) {
	notFound := argumentErrorf("ActiveRecord::RecordNotFound", "source_account_id is no account id")
	if s, ok := rawString(raw); ok {
		digits := s
		if i := strings.IndexFunc(s, func(r rune) bool { return r != '-' && (r < '0' || r > '9') }); i >= 0 {
			digits = s[:i]
		}
		if id, err := strconv.ParseInt(digits, 10, 64); err == nil {
			return id, nil
		}
		return 0, notFound
	}
	if id, err := strconv.ParseInt(string(raw), 10, 64); err == nil {
		return id, nil
	}
	if f, err := strconv.ParseFloat(string(raw), 64); err == nil && f > -1<<53 && f < 1<<53 {
		return int64(f), nil
	}
	return 0, notFound
}

func parseOptions(raw json.RawMessage) (DeliveryOptions, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil || fields == nil {
		return DeliveryOptions{}, argumentErrorf("NoMethodError", "options is not an object")
	}
	o := DeliveryOptions{
		SynchronizeFollowers: truthy(fields["synchronize_followers"]),
		BypassAvailability:   truthy(fields["bypass_availability"]),
	}
	if key, ok := fields["sign_with"]; ok && truthy(key) {
		spec, err := parseSignWith(key)
		if err != nil {
			return DeliveryOptions{}, err
		}
		o.SignWith = spec
	}
	return o, nil
}

func parseSignWith(raw json.RawMessage) (*SigningKeySpec, error) {
	if pem, ok := rawString(raw); ok {
		return &SigningKeySpec{PrivateKey: pem}, nil
	}
	var object struct {
		PrivateKey    string  `json:"private_key"`
		URI           *string `json:"uri"`
		LocalFragment *string `json:"local_fragment"`
	}
	if err := json.Unmarshal(raw, &object); err != nil {
		return nil, argumentErrorf("TypeError", "sign_with is neither a PEM nor a key object")
	}
	spec := &SigningKeySpec{PrivateKey: object.PrivateKey}
	if object.URI != nil {
		spec.URI = *object.URI
	}
	if object.LocalFragment != nil {
		spec.LocalFragment = *object.LocalFragment
	}
	return spec, nil
}

// truthy is Ruby's: everything but null, false and absent.
func truthy(raw json.RawMessage) bool {
	s := string(raw)
	return s != "" && s != "null" && s != "false"
}
