//go:build cgo && !noopenssl && linux

package activitypub

import (
	"crypto"
	"crypto/rsa"
	"fmt"
	"runtime"

	"github.com/golang-fips/openssl/v2"
	"github.com/golang-fips/openssl/v2/bbig"
)

// libcrypto is the one ABI we know: every OpenSSL 3 has it. It is loaded with dlopen, so the binary runs without it.
const libcrypto = "libcrypto.so.3"

// openSSLSigner signs with libcrypto. A signature keeps an operating system thread busy for a quarter of a millisecond, so
// no more of them run at once than there are CPUs: otherwise the runtime would start a thread for each.
type openSSLSigner struct{ slots chan struct{} }

func newOpenSSLSigner() (Signer, string, error) {
	if err := openssl.Init(libcrypto); err != nil {
		return nil, "", fmt.Errorf("no OpenSSL: %w", err)
	}
	return &openSSLSigner{slots: make(chan struct{}, runtime.GOMAXPROCS(0))}, openssl.VersionText(), nil
}

// NewKey implements Signer.
func (s *openSSLSigner) NewKey(key *rsa.PrivateKey) (SigningKey, error) {
	if len(key.Primes) != 2 {
		return goKey{key}, nil
	}
	key.Precompute()
	private, err := openssl.NewPrivateKeyRSA(
		bbig.Enc(key.N), openssl.BigInt{uint(key.E)}, bbig.Enc(key.D),
		bbig.Enc(key.Primes[0]), bbig.Enc(key.Primes[1]),
		bbig.Enc(key.Precomputed.Dp), bbig.Enc(key.Precomputed.Dq), bbig.Enc(key.Precomputed.Qinv))
	if err != nil {
		return nil, fmt.Errorf("give key to OpenSSL: %w", err)
	}
	k := openSSLKey{private: private, slots: s.slots}
	if err := checkSigningKey(k, &key.PublicKey); err != nil {
		return nil, fmt.Errorf("OpenSSL: %w", err)
	}
	return k, nil
}

type openSSLKey struct {
	private *openssl.PrivateKeyRSA
	slots   chan struct{}
}

func (k openSSLKey) SignSHA256(digest [32]byte) ([]byte, error) {
	k.slots <- struct{}{}
	defer func() { <-k.slots }()
	return openssl.SignRSAPKCS1v15(k.private, crypto.SHA256, digest[:])
}
