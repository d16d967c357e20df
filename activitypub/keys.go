package activitypub

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

const (
	keyLifetime = time.Minute
	// missingLifetime is how long "no such account" is believed.
	missingLifetime = 5 * time.Second
	// staleRetry is how long an old key is used between two looks while Postgres is away.
	staleRetry = 5 * time.Second
	// freshEnough is the youngest a key may be to be read again because of a 401; hosts that always answer 401 must not drive our Postgres.
	freshEnough = time.Second
	keyDeadline = 10 * time.Second
	maxKeys     = 4096
	// instanceActor is the id of the account that acts for the server itself.
	instanceActor = -99
)

// errNoAccount says that there is no such account; ActiveRecord::RecordNotFound.
var errNoAccount = errors.New("no such account")

// databaseError says that Postgres did not answer as it should: it is us, not the host.
type databaseError struct{ err error }

func (e *databaseError) Error() string { return e.err.Error() }
func (e *databaseError) Unwrap() error { return e.err }

// account is a local account as far as deliveries need it. It is not changed once made.
type account struct {
	id       int64
	username string
	actorURI string
	// gone: suspended or deleted for good, with no deletion request that could still be withdrawn. It signs all the same.
	gone   bool
	keyID  string
	key    SigningKey // nil when keyErr says why not
	keyErr error
	stored [32]byte // SHA-256 of the key as stored, to see a change and to parse only then
}

// keyStore reads accounts with their signing keys and keeps them for a minute.
type keyStore struct {
	db      DB
	signer  Signer
	decrypt *decrypter
	web     string // https://<WEB_DOMAIN>
	schema  schemaCache

	mu      sync.Mutex
	entries map[int64]*keyEntry
}

// keyEntry is guarded by keyStore.mu.
type keyEntry struct {
	acct    *account
	missing bool
	expires time.Time
	loaded  time.Time
	used    time.Time
	loading *keyLoad // non-nil while someone reads it
}

// keyLoad is one reading that others may wait for. acct and err are set before done is closed.
type keyLoad struct {
	done chan struct{}
	acct *account
	err  error
}

// get returns the account, from memory when it was read in the last minute. Errors are errNoAccount or *databaseError, or the context's.
func (s *keyStore) get(ctx context.Context, id int64) (*account, error) {
	return s.load(ctx, id, func(e *keyEntry, now time.Time) bool { return now.Before(e.expires) })
}

// reread returns the account as it is in Postgres now, at most a second old.
func (s *keyStore) reread(ctx context.Context, id int64) (*account, error) {
	return s.load(ctx, id, func(e *keyEntry, now time.Time) bool { return now.Sub(e.loaded) < freshEnough })
}

func (s *keyStore) load(ctx context.Context, id int64, fresh func(*keyEntry, time.Time) bool) (*account, error) {
	now := time.Now()
	s.mu.Lock()
	e, ok := s.entries[id]
	if !ok {
		e = &keyEntry{}
		s.makeRoom()
		s.entries[id] = e
	}
	e.used = now
	if (e.acct != nil || e.missing) && fresh(e, now) {
		defer s.mu.Unlock()
		if e.missing {
			return nil, errNoAccount
		}
		return e.acct, nil
	}
	if load := e.loading; load != nil {
		s.mu.Unlock()
		select {
		case <-load.done:
			return load.acct, load.err
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	load := &keyLoad{done: make(chan struct{})}
	e.loading = load
	old := e.acct
	s.mu.Unlock()

	// Others wait for this reading, so it does not end with the one delivery that started it.
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), keyDeadline)
	defer cancel()
	acct, err := s.read(limited, id, old)
	s.finish(e, load, acct, err)
	return load.acct, load.err
}

// finish files what a reading brought.
func (s *keyStore) finish(e *keyEntry, load *keyLoad, acct *account, err error) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	e.loading = nil
	switch {
	case err == nil:
		e.acct, e.missing, e.expires, e.loaded = acct, false, now.Add(keyLifetime), now
	case errors.Is(err, errNoAccount):
		e.acct, e.missing, e.expires, e.loaded = nil, true, now.Add(missingLifetime), now
	case e.acct != nil && postgresAway(err):
		e.expires, e.loaded = now.Add(staleRetry), now
		acct, err = e.acct, nil
	}
	load.acct, load.err = acct, err
	close(load.done)
}

// postgresAway says whether the error is that nobody answers, rather than an answer we do not like (SQLSTATE class 42).
func postgresAway(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return !ok || len(pg.Code) != 5 || pg.Code[:2] != "42"
}

// makeRoom keeps the store bounded: it drops the oldest of a handful of entries, which is near enough to the oldest of all.
func (s *keyStore) makeRoom() {
	if len(s.entries) < maxKeys {
		return
	}
	var oldest int64
	var found *keyEntry
	seen := 0
	for id, e := range s.entries {
		if e.loading != nil {
			continue
		}
		if found == nil || e.used.Before(found.used) {
			oldest, found = id, e
		}
		if seen++; seen == 16 {
			break
		}
	}
	if found != nil {
		delete(s.entries, oldest)
	}
}

// sweep drops keys that were not used since they expired.
func (s *keyStore) sweep(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, e := range s.entries {
		if e.loading == nil && now.After(e.expires) && now.Sub(e.used) > 10*time.Minute {
			delete(s.entries, id)
		}
	}
}

// read reads an account from Postgres. When the schema changed under us it looks at the schema anew and tries once more.
func (s *keyStore) read(ctx context.Context, id int64, old *account) (*account, error) {
	acct, err := s.readWith(ctx, id, old)
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && (pg.Code == "42703" || pg.Code == "42P01") {
		s.schema.forget()
		acct, err = s.readWith(ctx, id, old)
	}
	if err != nil && !errors.Is(err, errNoAccount) {
		err = &databaseError{fmt.Errorf("read account: %w", err)}
	}
	return acct, err
}

func (s *keyStore) readWith(ctx context.Context, id int64, old *account) (*account, error) {
	schema, err := s.schema.get(ctx, s.db)
	if err != nil {
		return nil, err
	}
	var username string
	var scheme *int32
	var gone bool
	var plain, encrypted, fragment *string
	err = queryOne(ctx, s.db, []any{&username, &scheme, &gone, &plain, &encrypted, &fragment}, schema.accountSQL(), id)
	if errors.Is(err, errNoRow) {
		return nil, errNoAccount
	}
	if err != nil {
		return nil, err
	}
	a := &account{id: id, username: username, gone: gone, actorURI: actorURI(s.web, id, username, scheme)}
	a.keyID = a.actorURI + "#main-key"
	switch {
	case encrypted != nil && *encrypted != "":
		if fragment != nil && *fragment != "" {
			a.keyID = a.actorURI + *fragment
		}
		s.attach(a, old, *encrypted, s.decrypt.decrypt)
	case plain != nil && *plain != "":
		s.attach(a, old, *plain, func(pem string) ([]byte, error) { return []byte(pem), nil })
	default:
		a.keyErr = errors.New("account has no private key")
	}
	return a, nil
}

// attach prepares the account's key, or takes over the prepared one when the stored text is the same as before.
func (s *keyStore) attach(a, old *account, stored string, open func(string) ([]byte, error)) {
	a.stored = sha256.Sum256([]byte(stored))
	if !validKeyID(a.keyID) {
		a.keyErr = errors.New("account has a key id that cannot stand in a header")
		return
	}
	if old != nil && old.key != nil && old.stored == a.stored {
		a.key = old.key
		return
	}
	pem, err := open(stored)
	if err != nil {
		a.keyErr = err
		return
	}
	a.key, a.keyErr = prepareKey(s.signer, pem)
}

// prepareKey parses a PEM and gives the key to the signer; if that cannot use it, Go signs.
func prepareKey(signer Signer, pem []byte) (SigningKey, error) {
	private, err := parsePrivateKey(pem)
	if err != nil {
		return nil, err
	}
	key, err := signer.NewKey(private)
	if err != nil {
		return GoSigner{}.NewKey(private)
	}
	return key, nil
}

// actorURI makes the URI of a local account: scheme 0 or unknown by username, 1 by id (since Mastodon 4.5).
func actorURI(web string, id int64, username string, scheme *int32) string {
	switch {
	case id == instanceActor:
		return web + "/actor"
	case scheme != nil && *scheme == 1:
		return web + "/ap/users/" + strconv.FormatInt(id, 10)
	default:
		return web + "/users/" + username
	}
}
