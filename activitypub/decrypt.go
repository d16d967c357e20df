package activitypub

import (
	"bytes"
	"compress/zlib"
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"sync"
)

const (
	// maxEncryptedBytes bounds the text of an encrypted column; an RSA-4096 PEM makes about 6 kB.
	maxEncryptedBytes = 64 << 10
	// maxPlainBytes bounds what a compressed column may unfold to.
	maxPlainBytes = 64 << 10
	// keyIterations is ActiveSupport::KeyGenerator's count.
	keyIterations = 1 << 16
)

var (
	// errEncryptionKeys says that a key is encrypted and the configuration has no encryption keys.
	errEncryptionKeys = errors.New("private key is encrypted and ACTIVE_RECORD_ENCRYPTION_PRIMARY_KEY or _KEY_DERIVATION_SALT is not set")
	// errDecrypt says that an encrypted column is not readable with the configured keys.
	errDecrypt = errors.New("private key cannot be decrypted")
)

// decrypter reads Active Record Encryption's columns (rails activerecord/lib/active_record/encryption): AES-256-GCM under a key
// derived from the environment. The derivation costs tens of milliseconds, so it is done once, when first needed.
type decrypter struct {
	byDigest [2]func() (cipher.AEAD, error) // SHA-256, then SHA-1 as Rails before 7.1 derived
}

func newDecrypter(primaryKey, salt string) *decrypter {
	if primaryKey == "" || salt == "" {
		return nil
	}
	aead := func(key []byte, err error) (cipher.AEAD, error) {
		if err != nil {
			return nil, fmt.Errorf("derive encryption key: %w", err)
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, fmt.Errorf("derive encryption key: %w", err)
		}
		return cipher.NewGCM(block)
	}
	return &decrypter{byDigest: [2]func() (cipher.AEAD, error){
		sync.OnceValues(func() (cipher.AEAD, error) {
			return aead(pbkdf2.Key(sha256.New, primaryKey, []byte(salt), keyIterations, 32))
		}),
		sync.OnceValues(func() (cipher.AEAD, error) {
			return aead(pbkdf2.Key(sha1.New, primaryKey, []byte(salt), keyIterations, 32))
		}),
	}}
}

// encryptedColumn is the JSON that Active Record Encryption stores.
type encryptedColumn struct {
	Payload []byte `json:"p"`
	Headers struct {
		IV         []byte `json:"iv"`
		Tag        []byte `json:"at"`
		Compressed bool   `json:"c"`
	} `json:"h"`
}

// decrypt returns the plaintext of an encrypted column. A nil decrypter has no keys.
func (d *decrypter) decrypt(column string) ([]byte, error) {
	if d == nil {
		return nil, errEncryptionKeys
	}
	if len(column) > maxEncryptedBytes {
		return nil, fmt.Errorf("%w: longer than %d bytes", errDecrypt, maxEncryptedBytes)
	}
	var c encryptedColumn
	if err := json.Unmarshal([]byte(column), &c); err != nil {
		return nil, fmt.Errorf("%w: not the JSON of an encrypted column", errDecrypt)
	}
	if len(c.Headers.IV) != 12 || len(c.Headers.Tag) != 16 {
		return nil, fmt.Errorf("%w: bad iv or tag", errDecrypt)
	}
	sealed := append(bytes.Clone(c.Payload), c.Headers.Tag...)
	for _, derive := range d.byDigest {
		aead, err := derive()
		if err != nil {
			return nil, err
		}
		plain, err := aead.Open(nil, c.Headers.IV, sealed, nil)
		if err != nil {
			continue
		}
		if !c.Headers.Compressed {
			return plain, nil
		}
		return inflate(plain)
	}
	return nil, fmt.Errorf("%w: wrong encryption keys or damaged data", errDecrypt)
}

func inflate(deflated []byte) ([]byte, error) {
	z, err := zlib.NewReader(bytes.NewReader(deflated))
	if err != nil {
		return nil, fmt.Errorf("%w: inflate: %w", errDecrypt, err)
	}
	plain, err := io.ReadAll(io.LimitReader(z, maxPlainBytes+1))
	if err != nil {
		return nil, fmt.Errorf("%w: inflate: %w", errDecrypt, err)
	}
	if len(plain) > maxPlainBytes {
		return nil, fmt.Errorf("%w: unfolds to more than %d bytes", errDecrypt, maxPlainBytes)
	}
	return plain, nil
}

// errKeyFormat says that a text is no RSA private key. It quotes nothing of it.
var errKeyFormat = errors.New("not the PEM of an RSA private key")

// parsePrivateKey reads the PEM of an RSA private key, PKCS#1 or PKCS#8, and validates it.
func parsePrivateKey(text []byte) (*rsa.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errKeyFormat
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return checkedKey(key)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errKeyFormat
	}
	key, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		return nil, errKeyFormat
	}
	return checkedKey(key)
}

func checkedKey(key *rsa.PrivateKey) (*rsa.PrivateKey, error) {
	if bits := key.N.BitLen(); bits < 1024 || bits > 8192 {
		return nil, fmt.Errorf("%w: %d bits", errKeyFormat, bits)
	}
	return key, nil
}
