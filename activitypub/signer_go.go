//go:build !cgo || noopenssl || !linux

package activitypub

import "errors"

func newOpenSSLSigner() (Signer, string, error) {
	return nil, "", errors.New("built without cgo")
}
