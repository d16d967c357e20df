package activitypub

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
	"time"
)

// release is the Mastodon version that requests are made to look like.
type release struct{ major, minor int }

// since4 says whether the release is 4.<minor> or later.
func (r release) since4(minor int) bool {
	return r.major > 4 || r.major == 4 && r.minor >= minor
}

// parseRelease reads "4.7.0", "v4.6.1", "4.8.0-alpha.1+glitch".
func parseRelease(version string) (release, error) {
	major, rest, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	minor, _, _ := strings.Cut(rest, ".")
	if i := strings.IndexFunc(minor, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
		minor = minor[:i]
	}
	a, errMajor := strconv.Atoi(major)
	b, errMinor := strconv.Atoi(minor)
	if errMajor != nil || errMinor != nil {
		return release{}, errors.New("version is not like 4.7.0")
	}
	return release{a, b}, nil
}

// httpRB is the http.rb version that this line of Mastodon names in its User-Agent.
func (r release) httpRB() string {
	switch {
	case r.since4(4):
		return "5.3.1"
	case r.since4(3):
		return "5.2.0"
	default:
		return "5.1.1"
	}
}

// message is what a signature covers.
type message struct {
	method         string // POST, or GET after a 303
	uri            string // the whole URL, RFC 9421's @target-uri
	requestTarget  string // path and query
	host           string // the Host header
	date           string // the Date header
	digest         string // base64 SHA-256 of the body; empty for GET
	contentType    string // empty for GET
	collectionSync string // Collection-Synchronization, or empty
}

// cavageHeaders is the order of the signed headers, which is each release's own. Verifiers do not care; we keep it so that
// a request cannot be told from Mastodon's.
func cavageHeaders(r release, m *message) []string {
	list := make([]string, 0, 6)
	add := func(name string, present bool) {
		if present {
			list = append(list, name)
		}
	}
	post := m.digest != ""
	if !r.since4(4) {
		add("(request-target)", true)
	}
	add("host", true)
	add("date", true)
	if !r.since4(7) {
		add("digest", post)
	}
	add("content-type", post)
	add("collection-synchronization", m.collectionSync != "")
	if r.since4(7) {
		add("digest", post)
	}
	if r.since4(4) {
		add("(request-target)", true)
	}
	return list
}

// cavage makes the Signature header of draft-cavage-http-signatures: RSASSA-PKCS1-v1_5 with SHA-256 over "name: value" lines.
func cavage(r release, key SigningKey, keyID string, m *message) (string, error) {
	names := cavageHeaders(r, m)
	text := make([]byte, 0, 768)
	for i, name := range names {
		if i > 0 {
			text = append(text, '\n')
		}
		text = append(append(text, name...), ": "...)
		switch name {
		case "(request-target)":
			path := m.requestTarget
			if !r.since4(3) {
				// Mastodon 4.2 and older left the query out.
				path, _, _ = strings.Cut(path, "?")
			}
			text = append(append(append(text, strings.ToLower(m.method)...), ' '), path...)
		case "host":
			text = append(text, m.host...)
		case "date":
			text = append(text, m.date...)
		case "digest":
			text = append(append(text, "SHA-256="...), m.digest...)
		case "content-type":
			text = append(text, m.contentType...)
		case "collection-synchronization":
			text = append(text, m.collectionSync...)
		}
	}
	signature, err := key.SignSHA256(sha256.Sum256(text))
	if err != nil {
		return "", err
	}
	out := make([]byte, 0, 640)
	out = append(append(append(out, `keyId="`...), keyID...), `",algorithm="rsa-sha256",headers="`...)
	for i, name := range names {
		if i > 0 {
			out = append(out, ' ')
		}
		out = append(out, name...)
	}
	out = append(out, `",signature="`...)
	out = base64.StdEncoding.AppendEncode(out, signature)
	return string(append(out, '"')), nil
}

// rfc9421 makes the Signature-Input and Signature headers of RFC 9421 with Mastodon's components and no alg parameter.
func rfc9421(key SigningKey, keyID string, m *message, now time.Time) (input, signature string, err error) {
	params := make([]byte, 0, 256)
	params = append(params, `("@method" "@target-uri"`...)
	if m.digest != "" {
		params = append(params, ` "content-digest"`...)
	}
	params = append(params, `);created=`...)
	params = strconv.AppendInt(params, now.Unix(), 10)
	params = append(append(append(params, `;keyid="`...), keyID...), '"')

	text := make([]byte, 0, 768)
	text = append(append(text, `"@method": `...), m.method...)
	text = append(append(text, "\n\"@target-uri\": "...), m.uri...)
	if m.digest != "" {
		text = append(append(append(text, "\n\"content-digest\": sha-256=:"...), m.digest...), ':')
	}
	text = append(append(text, "\n\"@signature-params\": "...), params...)
	raw, err := key.SignSHA256(sha256.Sum256(text))
	if err != nil {
		return "", "", err
	}
	out := append(make([]byte, 0, 400), "sig1=:"...)
	out = base64.StdEncoding.AppendEncode(out, raw)
	return "sig1=" + string(params), string(append(out, ':')), nil
}

// validKeyID says whether a key id can stand in a quoted header parameter.
func validKeyID(id string) bool {
	for i := range len(id) {
		if c := id[i]; c <= ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return false
		}
	}
	return id != "" && len(id) <= 2048
}
