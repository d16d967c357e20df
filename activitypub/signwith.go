package activitypub

import (
	"crypto/sha256"
	"errors"
	"sync"
	"time"
)

const maxGivenKeys = 64

// givenKeys prepares the keys that jobs bring along (sign_with). A rotation sends the same key to every host, so the last few are kept
// for a minute.
type givenKeys struct {
	signer Signer

	mu   sync.Mutex
	keys map[[32]byte]givenKey
}

type givenKey struct {
	key     SigningKey
	expires time.Time
}

// with returns a copy of a that signs with the key of spec.
func (g *givenKeys) with(a *account, spec *SigningKeySpec, now time.Time) (*account, error) {
	given := *a
	switch {
	case spec.LocalFragment != "":
		given.keyID = a.actorURI + spec.LocalFragment
	case spec.URI != "":
		given.keyID = spec.URI
	default:
		given.keyID = a.actorURI + "#main-key"
	}
	if !validKeyID(given.keyID) {
		return nil, errors.New("sign_with has a key id that cannot stand in a header")
	}
	key, err := g.prepare(spec.PrivateKey, now)
	if err != nil {
		return nil, err
	}
	given.key, given.keyErr = key, nil
	return &given, nil
}

func (g *givenKeys) prepare(pem string, now time.Time) (SigningKey, error) {
	sum := sha256.Sum256([]byte(pem))
	g.mu.Lock()
	known, ok := g.keys[sum]
	g.mu.Unlock()
	if ok && now.Before(known.expires) {
		return known.key, nil
	}
	key, err := prepareKey(g.signer, []byte(pem))
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for old, k := range g.keys {
		if now.After(k.expires) || len(g.keys) >= maxGivenKeys {
			delete(g.keys, old)
		}
	}
	g.keys[sum] = givenKey{key, now.Add(keyLifetime)}
	return key, nil
}
