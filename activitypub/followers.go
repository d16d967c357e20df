package activitypub

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"time"
)

const (
	// digestLifetime is how long the digests of an account are kept: one post goes to all its followers' servers within seconds.
	digestLifetime  = 5 * time.Second
	digestDeadline  = 10 * time.Second
	maxDigestOwners = 32
	maxPrefixes     = 50_000
)

// followerDigests makes the Collection-Synchronization header (FEP-8fcf). A private post goes to every server with a follower, each
// with its own digest over its own followers; one pass over the followers makes them all.
type followerDigests struct {
	db DB

	mu     sync.Mutex
	owners map[int64]*digestLoad
}

// digestLoad is one pass. What it found is set before done is closed.
type digestLoad struct {
	done     chan struct{}
	byPrefix map[string][32]byte // https://authority → XOR of the SHA-256 of the followers' URIs
	err      error
	made     time.Time
}

// header returns the header's value for one inbox.
func (f *followerDigests) header(ctx context.Context, web string, a *account, inbox string) (string, error) {
	digest := ""
	if prefix := uriPrefix(inbox); prefix != "" {
		byPrefix, err := f.get(ctx, a.id)
		if err != nil {
			return "", err
		}
		sum := byPrefix[prefix] // no follower there: 32 zero bytes
		digest = hex.EncodeToString(sum[:])
	}
	return `collectionId="` + a.actorURI + `/followers", digest="` + digest + `", url="` + web + "/users/" + a.username + `/followers_synchronization"`, nil
}

// uriPrefix is scheme://authority, or empty, by the regular expression ^https?://[^/]+.
func uriPrefix(uri string) string {
	for _, scheme := range []string{"https://", "http://"} {
		rest, ok := strings.CutPrefix(uri, scheme)
		if !ok {
			continue
		}
		authority, _, _ := strings.Cut(rest, "/")
		if authority == "" {
			return ""
		}
		return uri[:len(scheme)+len(authority)]
	}
	return ""
}

func (f *followerDigests) get(ctx context.Context, owner int64) (map[string][32]byte, error) {
	f.mu.Lock()
	load, ok := f.owners[owner]
	if ok && !load.expired(time.Now()) {
		f.mu.Unlock()
		select {
		case <-load.done:
			return load.byPrefix, load.err
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	load = &digestLoad{done: make(chan struct{})}
	f.makeRoom()
	f.owners[owner] = load
	f.mu.Unlock()

	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), digestDeadline)
	defer cancel()
	load.byPrefix, load.err = f.read(limited, owner)
	load.made = time.Now()
	close(load.done)
	return load.byPrefix, load.err
}

// expired says whether the load is over and too old, or failed.
func (l *digestLoad) expired(now time.Time) bool {
	select {
	case <-l.done:
		return l.err != nil || now.Sub(l.made) > digestLifetime
	default:
		return false
	}
}

// makeRoom drops what is over and old, and anything when there is still no room; f.mu is held.
func (f *followerDigests) makeRoom() {
	now := time.Now()
	for owner, load := range f.owners {
		if load.expired(now) || len(f.owners) >= maxDigestOwners {
			delete(f.owners, owner)
		}
	}
}

func (f *followerDigests) sweep() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.makeRoom()
}

func (f *followerDigests) read(ctx context.Context, owner int64) (map[string][32]byte, error) {
	rows, err := f.db.Query(ctx, `SELECT a.uri FROM follows f JOIN accounts a ON a.id = f.account_id
		WHERE f.target_account_id = $1 AND a.uri LIKE 'http%'`, owner)
	if err != nil {
		return nil, &databaseError{fmt.Errorf("read followers: %w", err)}
	}
	defer rows.Close()
	byPrefix := make(map[string][32]byte)
	for rows.Next() {
		var uri string
		if err := rows.Scan(&uri); err != nil {
			return nil, &databaseError{fmt.Errorf("read followers: %w", err)}
		}
		prefix := uriPrefix(uri)
		sum, known := byPrefix[prefix]
		if prefix == "" || !known && len(byPrefix) >= maxPrefixes {
			continue
		}
		for i, b := range sha256.Sum256([]byte(uri)) {
			sum[i] ^= b
		}
		byPrefix[prefix] = sum
	}
	if err := rows.Err(); err != nil {
		return nil, &databaseError{fmt.Errorf("read followers: %w", err)}
	}
	return byPrefix, nil
}
