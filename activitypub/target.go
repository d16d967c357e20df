package activitypub

import (
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/net/idna"
)

// HostError says that an inbox URL names no host that could be delivered to. Ruby raises for it, so such a job fails
// and is retried.
type HostError struct {
	// Class is the Ruby class name that the original raises.
	Class string
	// Message says what is wrong with the URL, without quoting it.
	Message string
}

func (e *HostError) Error() string { return e.Message }

const (
	classInvalidURI = "Addressable::URI::InvalidURIError"
	classScheme     = "HTTP::Request::UnsupportedSchemeError"
)

// maxURLBytes bounds what is parsed at all; the inboxes column has no limit, web servers end at 8 kB.
const maxURLBytes = 16 << 10

// target is an inbox URL, normalised.
type target struct {
	url  *url.URL // scheme, host[:port], path and query; nothing else
	host string   // lower case, punycode, no port, no brackets: what the failure tracker and the Host header use
	dest string   // host[:port], the port only when it is not the scheme's: the key of Hosts
}

// origin is what Ruby's connection pool and redirects compare: scheme, host and port.
func (t *target) origin() string { return t.url.Scheme + "://" + t.url.Host }

// hostHeader is the host without the port, which Mastodon leaves out even when it is not the default one.
func (t *target) hostHeader() string {
	if strings.IndexByte(t.host, ':') >= 0 {
		return "[" + t.host + "]"
	}
	return t.host
}

// parseTarget normalises an inbox URL as Addressable does, as far as it shows in a request: scheme and host in lower case,
// punycode, the scheme's own port dropped, dot segments removed, what is illegal in a path or query percent-encoded, "+" and ","
// kept, no fragment. Errors are *HostError.
func parseTarget(raw string) (*target, error) {
	if len(raw) > maxURLBytes {
		return nil, &HostError{Class: classInvalidURI, Message: "inbox URL is longer than 16 KiB"}
	}
	u, err := url.Parse(strings.TrimSpace(raw))
	if err != nil {
		// The error quotes the URL, which belongs in no log.
		return nil, &HostError{Class: classInvalidURI, Message: "inbox URL cannot be parsed"}
	}
	return newTarget(u)
}

func newTarget(u *url.URL) (*target, error) {
	scheme := strings.ToLower(u.Scheme)
	if scheme != "https" && scheme != "http" {
		return nil, &HostError{Class: classScheme, Message: "inbox URL is neither https nor http"}
	}
	host, err := normalHost(u.Hostname())
	if err != nil {
		return nil, err
	}
	port, err := normalPort(scheme, u.Port())
	if err != nil {
		return nil, err
	}
	t := &target{host: host, dest: host}
	if strings.IndexByte(host, ':') >= 0 {
		t.dest = "[" + host + "]"
	}
	if port != "" {
		t.dest = net.JoinHostPort(host, port)
	}
	t.url = &url.URL{Scheme: scheme, Host: t.dest, Path: u.Path, RawPath: u.RawPath, RawQuery: escapeQuery(u.RawQuery), ForceQuery: u.ForceQuery}
	if strings.Contains(u.Path, "/.") {
		t.url = (&url.URL{}).ResolveReference(t.url)
	}
	if t.url.Path == "" {
		t.url.Path = "/"
	}
	return t, nil
}

// hostProfile maps as browsers do (UTS 46, not transitional); underscores pass because hosts with them exist.
var hostProfile = idna.New(idna.MapForLookup(), idna.Transitional(false), idna.StrictDomainName(false))

func normalHost(host string) (string, error) {
	if host == "" {
		return "", &HostError{Class: classInvalidURI, Message: "inbox URL has no host"}
	}
	if strings.IndexByte(host, ':') >= 0 {
		addr, err := netip.ParseAddr(host)
		if err != nil || addr.Zone() != "" {
			return "", &HostError{Class: classInvalidURI, Message: "inbox URL has a bad IPv6 address"}
		}
		return addr.String(), nil
	}
	if !plainHost(host) {
		ascii, err := hostProfile.ToASCII(strings.TrimSpace(host))
		if err != nil {
			return "", &HostError{Class: classInvalidURI, Message: "inbox URL has a host that is no domain name"}
		}
		host = strings.ToLower(ascii)
	}
	host = strings.TrimSuffix(host, ".")
	if !plainHost(host) || len(host) > 253 {
		return "", &HostError{Class: classInvalidURI, Message: "inbox URL has a host that is no domain name"}
	}
	return host, nil
}

// plainHost says whether host is in normal form already: lower-case ASCII letters, digits, '-', '_' and single inner dots.
func plainHost(host string) bool {
	if host == "" || host[0] == '.' || host[len(host)-1] == '.' {
		return false
	}
	for i := range len(host) {
		c := host[i]
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
		case c == '.' && host[i-1] != '.':
		default:
			return false
		}
	}
	// A name that carries punycode is checked by idna, so that one spelling of a host has one state.
	return !strings.Contains(host, "xn--") || validPunycode(host)
}

func validPunycode(host string) bool {
	ascii, err := hostProfile.ToASCII(host)
	return err == nil && ascii == host
}

func normalPort(scheme, port string) (string, error) {
	if port == "" || scheme == "https" && port == "443" || scheme == "http" && port == "80" {
		return "", nil
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return "", &HostError{Class: classInvalidURI, Message: "inbox URL has a bad port"}
	}
	return normalPortNumber(scheme, n), nil
}

func normalPortNumber(scheme string, n uint64) string {
	if scheme == "https" && n == 443 || scheme == "http" && n == 80 {
		return ""
	}
	return strconv.FormatUint(n, 10)
}

// escapeQuery percent-encodes what may not stand in a query and leaves all else, "+" and "," too, as it is.
func escapeQuery(q string) string {
	const hexDigits = "0123456789ABCDEF"
	illegal := func(c byte) bool {
		return c <= ' ' || c >= 0x7f || strings.IndexByte("\"<>\\^`{|}", c) >= 0
	}
	clean := true
	for i := range len(q) {
		if illegal(q[i]) {
			clean = false
			break
		}
	}
	if clean {
		return q
	}
	out := make([]byte, 0, len(q)+16)
	for i := range len(q) {
		if c := q[i]; illegal(c) {
			out = append(out, '%', hexDigits[c>>4], hexDigits[c&15])
		} else {
			out = append(out, c)
		}
	}
	return string(out)
}

// Destination finds the host[:port] that a job's raw args deliver to, normalised like Hosts' keys, without reading the body:
// it looks from the end, where the inbox stands. It is for placing jobs, so it does not check the arguments; a wrong
// destination for wrong arguments is harmless, ParseArgs refuses them. The error is an *ArgumentError or a *HostError.
func Destination(args string) (string, error) {
	if raw, ok := inboxFromEnd(args); ok {
		if dest, ok := plainDestination(raw); ok {
			return dest, nil
		}
	}
	inbox, err := inboxOf(args)
	if err != nil {
		return "", err
	}
	t, err := parseTarget(inbox)
	if err != nil {
		return "", err
	}
	return t.dest, nil
}

// inboxOf reads the inbox the long way: any JSON spelling, any escapes.
func inboxOf(args string) (string, error) {
	if _, _, inbox, _, ok := splitArgs(args); ok {
		return inbox, nil
	}
	d, err := parseArgsSlowly(args)
	return d.InboxURL, err
}

// inboxFromEnd finds the raw inbox string in ["…",1,"inbox"] or ["…",1,"inbox",{…}] by going backwards. Outside of strings every quote
// begins or ends one, and inside a quote has an odd number of backslashes before it, so JSON can be read in this direction.
func inboxFromEnd(args string) (string, bool) {
	end := len(args) - 1
	if end < 0 || args[end] != ']' {
		return "", false
	}
	rest := args[:end]
	if strings.HasSuffix(rest, "}") {
		open := objectStart(rest)
		if open < 1 || rest[open-1] != ',' {
			return "", false
		}
		rest = rest[:open-1]
	}
	if !strings.HasSuffix(rest, `"`) {
		return "", false
	}
	open := quoteBefore(rest, len(rest)-1)
	if open < 1 || rest[open-1] != ',' {
		return "", false
	}
	return rest[open+1 : len(rest)-1], true
}

// objectStart returns where the object that ends s begins, or -1.
func objectStart(s string) int {
	depth := 0
	for i := len(s) - 1; i >= 0; i-- {
		switch s[i] {
		case '}', ']':
			depth++
		case '{', '[':
			depth--
			if depth == 0 {
				return i
			}
		case '"':
			if i = quoteBefore(s, i); i < 0 {
				return -1
			}
		}
	}
	return -1
}

// quoteBefore returns where the string begins whose closing quote is at s[end], or -1.
func quoteBefore(s string, end int) int {
	for i := end; i > 0; {
		if i = strings.LastIndexByte(s[:i], '"'); i < 0 {
			return -1
		}
		if backslashesBefore(s, i)%2 == 0 {
			return i
		}
	}
	return -1
}

// plainDestination takes host[:port] out of a URL in normal form; ok is false when it needs the full treatment.
func plainDestination(raw string) (string, bool) {
	rest, https := strings.CutPrefix(raw, "https://")
	if !https {
		var http bool
		if rest, http = strings.CutPrefix(raw, "http://"); !http {
			return "", false
		}
	}
	end := len(rest)
	colon := -1
	for i := range len(rest) {
		switch c := rest[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '.', c == '_':
			continue
		case c == ':' && colon < 0:
			colon = i
			continue
		case c == '/', c == '?', c == '#':
			end = i
		default:
			return "", false
		}
		break
	}
	host, port := rest[:end], ""
	if colon >= 0 && colon < end {
		host, port = rest[:colon], rest[colon+1:end]
	}
	if !plainHost(host) || len(host) > 253 || len(raw) > maxURLBytes || strings.Contains(host, "xn--") {
		return "", false
	}
	switch {
	case port == "":
		return host, true
	case len(port) > 5 || port[0] == '0' || strings.Trim(port, "0123456789") != "":
		return "", false
	case https && port == "443", !https && port == "80":
		return host, true
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", false
	}
	return rest[:end], true
}
