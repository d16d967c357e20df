package mastodondata

import (
	"bytes"
	"compress/zlib"
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
)

// Parameters of Active Record Encryption as Mastodon configures it (spec 3.10; activerecord/lib/active_record/encryption).
const (
	kdfIterations = 1 << 16
	keyBytes      = 32
	tagBytes      = 16
	compressAbove = 140 // bytes of plaintext
)

// Secrets are the ACTIVE_RECORD_ENCRYPTION_* values of one server.
type Secrets struct {
	PrimaryKey        string // ACTIVE_RECORD_ENCRYPTION_PRIMARY_KEY
	DeterministicKey  string // ACTIVE_RECORD_ENCRYPTION_DETERMINISTIC_KEY
	KeyDerivationSalt string // ACTIVE_RECORD_ENCRYPTION_KEY_DERIVATION_SALT
}

// NewSecrets draws secrets as long as those that `rails db:encryption:init` prints.
func NewSecrets() Secrets {
	draw := func() string {
		var raw [16]byte
		_, _ = rand.Read(raw[:]) // never fails

		return hex.EncodeToString(raw[:])
	}

	return Secrets{PrimaryKey: draw(), DeterministicKey: draw(), KeyDerivationSalt: draw()}
}

// encryptor encrypts with the key derived from one server's secrets, which takes 20 ms to derive.
type encryptor struct{ aead cipher.AEAD }

func newEncryptor(secrets Secrets) (*encryptor, error) {
	key, err := pbkdf2.Key(sha256.New, secrets.PrimaryKey, []byte(secrets.KeyDerivationSalt), kdfIterations, keyBytes)
	if err != nil {
		return nil, fmt.Errorf("derive encryption key: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("derive encryption key: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("derive encryption key: %w", err)
	}

	return &encryptor{aead: aead}, nil
}

// sealed is the JSON of an encrypted attribute.
type sealed struct {
	Payload string        `json:"p"`
	Headers sealedHeaders `json:"h"`
}

type sealedHeaders struct {
	IV         string `json:"iv"`
	Tag        string `json:"at"`
	Compressed bool   `json:"c,omitempty"`
}

// encrypt returns the text that the column holds.
func (e *encryptor) encrypt(plain []byte) (string, error) {
	var message sealed
	if len(plain) > compressAbove {
		var deflated bytes.Buffer
		w := zlib.NewWriter(&deflated)
		if _, err := w.Write(plain); err != nil {
			return "", fmt.Errorf("compress private key: %w", err)
		}
		if err := w.Close(); err != nil {
			return "", fmt.Errorf("compress private key: %w", err)
		}
		plain, message.Headers.Compressed = deflated.Bytes(), true
	}
	iv := make([]byte, e.aead.NonceSize())
	_, _ = rand.Read(iv) // never fails
	out := e.aead.Seal(nil, iv, plain, nil)
	text, tag := out[:len(out)-tagBytes], out[len(out)-tagBytes:]
	message.Payload = base64.StdEncoding.EncodeToString(text)
	message.Headers.IV = base64.StdEncoding.EncodeToString(iv)
	message.Headers.Tag = base64.StdEncoding.EncodeToString(tag)
	encoded, err := json.Marshal(message)
	if err != nil {
		return "", fmt.Errorf("encode private key: %w", err)
	}

	return string(encoded), nil
}
