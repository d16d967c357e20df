package receiver

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// verify checks a draft-cavage signature and the digest, as a receiving server does.
func verify(r *http.Request, body []byte, keys map[string]*rsa.PublicKey) error {
	sum := sha256.Sum256(body)
	if got := r.Header.Get("Digest"); got != "SHA-256="+base64.StdEncoding.EncodeToString(sum[:]) {
		return errors.New("digest differs")
	}
	fields := map[string]string{}
	for part := range strings.SplitSeq(r.Header.Get("Signature"), ",") {
		name, value, _ := strings.Cut(part, "=")
		fields[name] = strings.Trim(value, `"`)
	}
	key := keys[fields["keyId"]]
	if key == nil {
		return fmt.Errorf("unknown key %q", fields["keyId"])
	}
	signature, err := base64.StdEncoding.DecodeString(fields["signature"])
	if err != nil {
		return fmt.Errorf("read signature: %w", err)
	}
	var lines []string
	covered := map[string]bool{}
	for name := range strings.FieldsSeq(fields["headers"]) {
		value := r.Header.Get(name)
		switch name {
		case "(request-target)":
			value = strings.ToLower(r.Method) + " " + r.URL.RequestURI()
		case "host":
			value = r.Host
		}
		covered[name] = true
		lines = append(lines, name+": "+value)
	}
	for _, name := range []string{"(request-target)", "host", "date", "digest"} {
		if !covered[name] {
			return fmt.Errorf("%s is not signed", name)
		}
	}
	text := sha256.Sum256([]byte(strings.Join(lines, "\n")))
	if err := rsa.VerifyPKCS1v15(key, crypto.SHA256, text[:], signature); err != nil {
		return fmt.Errorf("verify signature: %w", err)
	}
	return nil
}
