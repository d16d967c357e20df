package activitypub

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
)

// Signer prepares private keys for signing.
type Signer interface {
	// NewKey returns key ready to sign with. The key must have been validated.
	NewKey(key *rsa.PrivateKey) (SigningKey, error)
}

// SigningKey signs with one RSA private key. It may be used by several goroutines at once.
type SigningKey interface {
	// SignSHA256 returns the RSASSA-PKCS1-v1_5 signature over a SHA-256 digest.
	SignSHA256(digest [32]byte) ([]byte, error)
}

// NewSigner returns the fastest signer that this binary and this machine have, and its name for people: OpenSSL's
// libcrypto 3 when the binary was built with cgo and the library can be loaded at run time, else Go's own crypto/rsa.
func NewSigner() (Signer, string) {
	if s, name, err := newOpenSSLSigner(); err == nil {
		return s, name
	} else {
		return GoSigner{}, "crypto/rsa (" + err.Error() + ")"
	}
}

// GoSigner signs with crypto/rsa.
type GoSigner struct{}

// NewKey implements Signer.
func (GoSigner) NewKey(key *rsa.PrivateKey) (SigningKey, error) { return goKey{key}, nil }

type goKey struct{ key *rsa.PrivateKey }

func (k goKey) SignSHA256(digest [32]byte) ([]byte, error) {
	return rsa.SignPKCS1v15(nil, k.key, crypto.SHA256, digest[:])
}

// checkSigningKey proves that a foreign implementation signs with the key it was given: a wrong signature would be answered 401
// by every host, and be taken for the hosts' fault.
func checkSigningKey(k SigningKey, public *rsa.PublicKey) error {
	var digest [32]byte
	if _, err := rand.Read(digest[:]); err != nil {
		return fmt.Errorf("draw a test digest: %w", err)
	}
	signature, err := k.SignSHA256(digest)
	if err != nil {
		return fmt.Errorf("sign a test digest: %w", err)
	}
	if err := rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], signature); err != nil {
		return fmt.Errorf("verify a test signature: %w", err)
	}
	return nil
}
