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
	"hash"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/queueville/queueville/internal/pgtest"
	"github.com/queueville/queueville/loadtest/mastodondata"
)

// TestKeyChoice: every account of every line signs with the right key id (spec 3.9): by schema, half-way through 4.7's migration too.
func TestKeyChoice(t *testing.T) {
	t.Parallel()
	for version := range lineOf {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			b := setup(t, version)
			r := b.receiver("a.test", nil)
			encrypted := 0
			for i, acct := range b.data.Accounts {
				job := b.job(r.inbox())
				job.AccountID = acct.ID
				if got := b.deliver(job); got.Outcome != Delivered {
					t.Fatalf("account %d: %+v", i, got)
				}
				req := r.requests()[i]
				if req.signed != nil || !strings.HasPrefix(req.header.Get("Signature"), `keyId="`+acct.KeyID+`",`) {
					t.Errorf("account %d: %s: %v, want key id %s", i, req.header.Get("Signature")[:60], req.signed, acct.KeyID)
				}
				if acct.Encrypted {
					encrypted++
				}
			}
			if (encrypted > 0) != (version == "4.7.0") {
				t.Errorf("%d encrypted keys in %s", encrypted, version)
			}
		})
	}
}

func TestActorURI(t *testing.T) {
	zero, one := int32(0), int32(1)
	tests := map[string]struct {
		id     int64
		scheme *int32
		want   string
	}{
		"by username":            {7, &zero, "https://w.test/users/alice"},
		"by id":                  {7, &one, "https://w.test/ap/users/7"},
		"unknown":                {7, nil, "https://w.test/users/alice"},
		"the instance, by name":  {-99, &zero, "https://w.test/actor"},
		"the instance, by id":    {-99, &one, "https://w.test/actor"},
		"the instance, unstated": {-99, nil, "https://w.test/actor"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := actorURI("https://w.test", tt.id, "alice", tt.scheme); got != tt.want {
				t.Errorf("actorURI = %s, want %s", got, tt.want)
			}
		})
	}
}

// TestKeypairSelection: usable rows only, lowest id first, else the old column.
func TestKeypairSelection(t *testing.T) {
	t.Parallel()
	b := setup(t, "4.7.0")
	var acct mastodondata.Account
	for _, a := range b.data.Accounts {
		if a.Encrypted {
			acct = a
		}
	}
	var sealed string
	must(t, b.pool.QueryRow(t.Context(), `SELECT private_key FROM keypairs WHERE account_id = $1`, acct.ID).Scan(&sealed))
	add := func(fragment, kind, revoked, expires string) {
		b.exec(`INSERT INTO keypairs (account_id, uri, type, public_key, private_key, revoked, expires_at, local_fragment, created_at, updated_at)
			VALUES ($1, $2::text, `+kind+`, '', $3, `+revoked+`, `+expires+`, $2::text, now(), now())`, acct.ID, fragment, sealed)
	}
	b.exec(`DELETE FROM keypairs WHERE account_id = $1`, acct.ID)
	add("#revoked", "0", "true", "NULL")
	add("#ed25519", "1", "false", "NULL")
	add("#expired", "0", "false", "timezone('utc', now()) - interval '1 second'")
	add("#later", "0", "false", "timezone('utc', now()) + interval '1 hour'")
	add("#second", "0", "false", "NULL")
	got, err := b.keys.get(t.Context(), acct.ID)
	must(t, err)
	if want := acct.URI + "#later"; got.keyID != want || got.key == nil {
		t.Errorf("key id = %s (%v), want %s", got.keyID, got.keyErr, want)
	}
	b.exec(`DELETE FROM keypairs WHERE account_id = $1`, acct.ID)
	again, err := b.keys.get(t.Context(), acct.ID)
	must(t, err)
	if again != got {
		t.Error("the key was read again within a minute")
	}
	time.Sleep(1100 * time.Millisecond)
	if again, err = b.keys.reread(t.Context(), acct.ID); err != nil || again.keyErr == nil {
		t.Errorf("an account without a key = %+v, %v", again, err)
	}
	r := b.receiver("a.test", nil)
	job := b.job(r.inbox())
	job.AccountID = acct.ID
	if got := b.deliver(job); got.Outcome != Failed || got.Kind != KindLocal || b.Stats().TrackerPending != 0 {
		t.Errorf("Deliver without a key = %+v", got)
	}
	b.exec(`UPDATE accounts SET private_key = $2 WHERE id = $1`, acct.ID, pemOf(testKeys()[0]))
	time.Sleep(1100 * time.Millisecond)
	if again, err = b.keys.reread(t.Context(), acct.ID); err != nil || again.keyID != acct.URI+"#main-key" || again.key == nil {
		t.Errorf("with the key in accounts = %+v, %v", again, err)
	}
}

func pemOf(key *rsa.PrivateKey) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
}

// TestRotation: a 401 makes the key be read again at once, and the request be sent with the new one.
func TestRotation(t *testing.T) {
	t.Parallel()
	b := setup(t, "4.7.0")
	acct := b.data.Accounts[0]
	r := b.receiver("a.test", nil)
	if got := b.deliver(b.job(r.inbox())); got.Outcome != Delivered {
		t.Fatal(got)
	}
	fresh := testKeys()[1]
	if fresh.Equal(acct.Key) {
		fresh = testKeys()[0]
	}
	b.exec(`DELETE FROM keypairs WHERE account_id = $1`, acct.ID)
	b.exec(`UPDATE accounts SET private_key = $2 WHERE id = $1`, acct.ID, pemOf(fresh))
	b.public[acct.URI+"#main-key"] = &fresh.PublicKey
	r.answer = func(_ int, got received, w http.ResponseWriter) {
		if got.signed != nil {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.WriteHeader(http.StatusAccepted)
	}
	time.Sleep(1100 * time.Millisecond)
	before := len(r.requests())
	if got := b.deliver(b.job(r.inbox())); got.Outcome != Delivered || got.SecondKnock {
		t.Errorf("Deliver after a rotation = %+v", got)
	}
	if n := len(r.requests()) - before; n != 2 {
		t.Errorf("%d requests, want the refused one and one with the new key", n)
	}
}

// TestPostgresAway: keys in memory go on signing, others make deliveries wait; nothing is held against hosts.
func TestPostgresAway(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	b := setup(t, "4.7.0")
	pool, err := pgxpool.New(t.Context(), server.DSN())
	must(t, err)
	defer pool.Close()
	r := b.receiver("a.test", nil)
	if got := b.deliver(b.job(r.inbox())); got.Outcome != Delivered {
		t.Fatal(got)
	}
	must(t, server.Stop())
	b.keys.db, b.unavailable.db, b.tracker.db = pool, pool, pool
	b.keys.mu.Lock()
	for _, e := range b.keys.entries {
		e.expires = time.Now().Add(-time.Second)
	}
	b.keys.mu.Unlock()
	if got := b.deliver(b.job(r.inbox())); got.Outcome != Delivered {
		t.Errorf("with an old key in memory: %+v", got)
	}
	job := b.job(r.inbox())
	job.AccountID = b.data.Accounts[1].ID
	if got := b.deliver(job); got.Outcome != Deferred || got.Kind != KindLocal {
		t.Errorf("with a key that is not in memory: %+v", got)
	}
	if err := b.Flush(t.Context()); err == nil {
		t.Error("Flush said nothing")
	}
	if s := b.Stats(); s.TrackerPending != 1 || s.TrackerFailures != 1 {
		t.Errorf("the success waits for Postgres: %+v", s)
	}
	b.tracker.db = b.pool
	if err := b.Flush(t.Context()); err != nil || b.Stats().TrackerPending != 0 {
		t.Errorf("Flush with Postgres back: %v", err)
	}
}

func TestKeyStoreBounds(t *testing.T) {
	s := &keyStore{entries: map[int64]*keyEntry{}}
	for i := range int64(3 * maxKeys) {
		s.makeRoom()
		s.entries[i] = &keyEntry{used: time.Unix(i, 0)}
	}
	if len(s.entries) > maxKeys {
		t.Errorf("%d keys", len(s.entries))
	}
	s.sweep(time.Now())
	if len(s.entries) != 0 {
		t.Errorf("%d keys after they all went unused", len(s.entries))
	}
}

// seal encrypts as Active Record Encryption does.
func seal(tb testing.TB, newHash func() hash.Hash, primary, salt string, plain []byte, compress bool) string {
	tb.Helper()
	if compress {
		var z bytes.Buffer
		w := zlib.NewWriter(&z)
		_, err := w.Write(plain)
		must(tb, err)
		must(tb, w.Close())
		plain = z.Bytes()
	}
	key, err := pbkdf2.Key(newHash, primary, []byte(salt), 65536, 32)
	must(tb, err)
	block, err := aes.NewCipher(key)
	must(tb, err)
	aead, err := cipher.NewGCM(block)
	must(tb, err)
	iv := []byte("123456789012")
	sealed := aead.Seal(nil, iv, plain, nil)
	headers := map[string]any{"iv": iv, "at": sealed[len(sealed)-16:]}
	if compress {
		headers["c"] = true
	}
	text, err := json.Marshal(map[string]any{"p": sealed[:len(sealed)-16], "h": headers})
	must(tb, err)
	return string(text)
}

func TestDecrypt(t *testing.T) {
	d := newDecrypter("primary", "salt")
	long := []byte(strings.Repeat("long ", 100))
	tests := map[string]struct {
		column string
		want   string
		err    error
	}{
		"compressed":         {seal(t, sha256.New, "primary", "salt", long, true), string(long), nil},
		"not compressed":     {seal(t, sha256.New, "primary", "salt", []byte("short"), false), "short", nil},
		"derived with SHA-1": {seal(t, sha1.New, "primary", "salt", long, true), string(long), nil},
		"with another key":   {seal(t, sha256.New, "other", "salt", long, true), "", errDecrypt},
		"with another salt":  {seal(t, sha256.New, "primary", "other", long, true), "", errDecrypt},
		"a bomb":             {seal(t, sha256.New, "primary", "salt", make([]byte, 10<<20), true), "", errDecrypt},
		"no zlib":            {strings.Replace(seal(t, sha256.New, "primary", "salt", long, false), `"h":{`, `"h":{"c":true,`, 1), "", errDecrypt},
		"not JSON":           {"-----BEGIN RSA PRIVATE KEY-----", "", errDecrypt},
		"empty":              {"", "", errDecrypt},
		"without a tag":      {`{"p":"","h":{"iv":"MTIzNDU2Nzg5MDEy"}}`, "", errDecrypt},
		"far too long":       {strings.Repeat(" ", maxEncryptedBytes+1), "", errDecrypt},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := d.decrypt(tt.column)
			if !errors.Is(err, tt.err) || string(got) != tt.want {
				t.Errorf("decrypt = %d bytes, %v, want %d, %v", len(got), err, len(tt.want), tt.err)
			}
		})
	}
	if _, err := newDecrypter("", "").decrypt("{}"); !errors.Is(err, errEncryptionKeys) {
		t.Errorf("without keys: %v", err)
	}
}

func TestParsePrivateKey(t *testing.T) {
	key := testKeys()[0]
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	for name, text := range map[string]string{
		"PKCS#1": pemOf(key),
		"PKCS#8": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})),
	} {
		if got, err := parsePrivateKey([]byte(text)); err != nil || !got.Equal(key) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, text := range map[string]string{"nothing": "", "no PEM": "x", "no key": "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n"} {
		if _, err := parsePrivateKey([]byte(text)); !errors.Is(err, errKeyFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzDecryptKey(f *testing.F) {
	d := newDecrypter("primary", "salt")
	f.Add(seal(f, sha256.New, "primary", "salt", []byte("short"), false))
	f.Add(seal(f, sha1.New, "primary", "salt", []byte(strings.Repeat("long ", 100)), true))
	f.Add(`{"p":"AA==","h":{"iv":"MTIzNDU2Nzg5MDEy","at":"AAAAAAAAAAAAAAAAAAAAAA==","c":true}}`)
	f.Fuzz(func(t *testing.T, column string) {
		plain, err := d.decrypt(column)
		if err != nil && !errors.Is(err, errDecrypt) {
			t.Fatalf("decrypt(%q) = %v", column, err)
		}
		if len(plain) > maxPlainBytes {
			t.Fatalf("decrypt unfolded to %d bytes", len(plain))
		}
		if _, err := parsePrivateKey(plain); err != nil && !errors.Is(err, errKeyFormat) {
			t.Fatalf("parsePrivateKey = %v", err)
		}
	})
}
