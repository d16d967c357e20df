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
	d := Delivery{AccountID: accountID}
	if d.Body, ok = unescape(body); !ok {
		return Delivery{}, argumentErrorf("JSON::ParserError", "args: bad escape in the body")
	}
	if d.InboxURL, ok = unescape(inbox); !ok {
		return Delivery{}, argumentErrorf("JSON::ParserError", "args: bad escape in the inbox URL")
	}
	if options != "" && options != "{}" {
		if d.Options, err = parseOptions([]byte(options)); err != nil {
			return Delivery{}, err
		}
	}
	return d, nil
}

// splitArgs cuts ["body",1,"inbox"] or ["body",1,"inbox",{…}] as Ruby's JSON.generate writes it, without looking into the
// strings: ok is false for anything else, also for valid JSON written another way.
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

// cutString takes a JSON string off the front of s and returns what is between its quotes, still escaped.
func cutString(s string) (raw, rest string, ok bool) {
	if s == "" || s[0] != '"' {
		return "", "", false
	}
	for i := 1; i < len(s); {
		n := strings.IndexByte(s[i:], '"')
		if n < 0 {
			return "", "", false
		}
		i += n
		if backslashesBefore(s, i)%2 == 0 {
			return s[1:i], s[i+1:], true
		}
		i++
	}
	return "", "", false
}

func backslashesBefore(s string, i int) int {
	n := 0
	for i-n > 0 && s[i-n-1] == '\\' {
		n++
	}
	return n
}

// unescape undoes the escapes of a JSON string. It shares memory with raw when there are none.
func unescape(raw string) (string, bool) {
	next := strings.IndexByte(raw, '\\')
	if next < 0 {
		return raw, true
	}
	out := make([]byte, 0, len(raw))
	for {
		out = append(out, raw[:next]...)
		raw = raw[next:]
		if len(raw) < 2 {
			return "", false
		}
		switch c := raw[1]; c {
		case '"', '\\', '/':
			out, raw = append(out, c), raw[2:]
		case 'n':
			out, raw = append(out, '\n'), raw[2:]
		case 't':
			out, raw = append(out, '\t'), raw[2:]
		case 'r':
			out, raw = append(out, '\r'), raw[2:]
		case 'b':
			out, raw = append(out, '\b'), raw[2:]
		case 'f':
			out, raw = append(out, '\f'), raw[2:]
		case 'u':
			r, ok := hex4(raw)
			if !ok {
				return "", false
			}
			raw = raw[6:]
			if utf16.IsSurrogate(r) {
				low, ok := hex4(raw)
				if pair := utf16.DecodeRune(r, low); ok && pair != utf8.RuneError {
					r, raw = pair, raw[6:]
				} else {
					r = utf8.RuneError
				}
			}
			out = utf8.AppendRune(out, r)
		default:
			return "", false
		}
		if next = strings.IndexByte(raw, '\\'); next < 0 {
			out = append(out, raw...)
			// out is not touched again, so the string may keep its memory instead of a second copy of the body.
			return unsafe.String(unsafe.SliceData(out), len(out)), true
		}
	}
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
	inner, rest, ok := cutString(string(raw))
	if !ok || rest != "" {
		return "", false
	}
	return unescape(inner)
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
