package mastodondata

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// maxAccounts bounds local and remote accounts: above, ids of one millisecond would repeat.
	maxAccounts = 1 << 16
	defaultKeys = 4
	rsaBits     = 2048
)

// Config says what a server's database holds.
type Config struct {
	Line    Line    // release line
	Domain  string  // LOCAL_DOMAIN and WEB_DOMAIN, e.g. local.test
	Secrets Secrets // for the encrypted keys of 4.7

	// Accounts is the number of local accounts that can sign, 1 to 65,536. On 4.7 every second one has its key in keypairs, encrypted,
	// the others still in accounts.private_key, as between the migrations of an update; from 4.5 on every fourth has a numeric URI.
	Accounts int
	// Suspended of them, the last ones, are suspended: their Delete still has to leave.
	Suspended int
	// Keys are the RSA keys that accounts share; nil means that four are made, which takes about a second.
	Keys []*rsa.PrivateKey

	Remotes     []Remote // instances that know us
	Unavailable []string // domains in unavailable_domains
}

// Remote is an instance with accounts that follow local ones.
type Remote struct {
	Origin    string // scheme and authority, e.g. https://quick-017.fedi.test:38211; the prefix of its accounts' URIs
	Followers int    // accounts; each follows every local account whose number is at or above its own
}

// Account is a local account.
type Account struct {
	ID        int64
	Username  string
	URI       string // the actor's id
	Followers string // URI of its followers collection
	KeyID     string
	Key       *rsa.PrivateKey
	Encrypted bool // the key is in keypairs
	Suspended bool
}

// Data is what was written.
type Data struct {
	Line     Line
	Domain   string
	Accounts []Account
}

// PublicKeys returns the public keys by key id, for those who verify.
func (d *Data) PublicKeys() map[string]*rsa.PublicKey {
	keys := make(map[string]*rsa.PublicKey, len(d.Accounts))
	for i := range d.Accounts {
		keys[d.Accounts[i].KeyID] = &d.Accounts[i].Key.PublicKey
	}

	return keys
}

func (c *Config) validate() error {
	var problems []error
	if err := c.Line.check(); err != nil {
		problems = append(problems, err)
	}
	if c.Domain == "" {
		problems = append(problems, errors.New("no domain"))
	}
	var remote int
	for i := range c.Remotes {
		remote += max(c.Remotes[i].Followers, 0)
	}
	if c.Accounts < 1 || c.Accounts+remote > maxAccounts {
		problems = append(problems, fmt.Errorf("%d local and %d remote accounts, want at least 1 and at most %d", c.Accounts, remote, maxAccounts))
	}
	if c.Suspended < 0 || c.Suspended > c.Accounts {
		problems = append(problems, fmt.Errorf("%d suspended of %d accounts", c.Suspended, c.Accounts))
	}

	return errors.Join(problems...)
}

// Plan makes the accounts of a configuration in memory, so that they can be used (their keys given to receivers) while Write is
// still at work. The same configuration gives the same ids and names; keys differ unless they are given.
func Plan(cfg Config) (*Data, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("mastodon data: %w", err)
	}
	keys := cfg.Keys
	for len(keys) < defaultKeys && cfg.Keys == nil {
		key, err := rsa.GenerateKey(rand.Reader, rsaBits)
		if err != nil {
			return nil, fmt.Errorf("make RSA key: %w", err)
		}
		keys = append(keys, key)
	}
	data := &Data{Line: cfg.Line, Domain: cfg.Domain, Accounts: make([]Account, cfg.Accounts)}
	for i := range data.Accounts {
		account := Account{
			ID:        snowflake(accountEpoch, i),
			Username:  "author" + strconv.Itoa(i),
			Key:       keys[i%len(keys)],
			Encrypted: cfg.Line.hasKeypairs() && i%2 == 0,
			Suspended: i >= cfg.Accounts-cfg.Suspended,
		}
		account.URI = "https://" + cfg.Domain + "/users/" + account.Username
		if numericURI(cfg.Line, i) {
			account.URI = "https://" + cfg.Domain + "/ap/users/" + strconv.FormatInt(account.ID, 10)
		}
		account.Followers = account.URI + "/followers"
		account.KeyID = account.URI + fragment(&account, i)
		data.Accounts[i] = account
	}

	return data, nil
}

// accountEpoch dates the accounts and so their ids.
var accountEpoch = time.Date(2024, 4, 1, 12, 0, 0, 0, time.UTC)

// numericURI: accounts made since 4.5 have numeric URIs, older ones keep theirs.
func numericURI(line Line, i int) bool { return line.hasSchemes() && i%4 >= 2 }

// fragment of the key id: accounts made on 4.7 have one of their own, migrated and older ones #main-key.
func fragment(account *Account, i int) string {
	if account.Encrypted && i%8 == 4 {
		return fmt.Sprintf("#rsa-%016x", uint64(account.ID))
	}

	return "#main-key"
}

// Write creates the tables and fills them, in one transaction. The database must not have them.
func Write(ctx context.Context, conn *pgx.Conn, cfg Config, data *Data) error {
	seal, err := newEncryptor(cfg.Secrets)
	if err != nil {
		return err
	}
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, cfg.Line.schemaSQL()); err != nil {
			return fmt.Errorf("create tables: %w", err)
		}
		// A few older versions too: a reader has to take the newest.
		for _, version := range []string{"20160220174730", "20230907150100", cfg.Line.SchemaVersion()} {
			if _, err := tx.Exec(ctx, `INSERT INTO schema_migrations VALUES ($1)`, version); err != nil {
				return fmt.Errorf("fill schema_migrations: %w", err)
			}
		}
		if err := writeLocal(ctx, tx, data, seal); err != nil {
			return err
		}
		if err := writeRemote(ctx, tx, cfg, data); err != nil {
			return err
		}
		for _, domain := range cfg.Unavailable {
			if _, err := tx.Exec(ctx, `INSERT INTO unavailable_domains (domain, created_at, updated_at) VALUES ($1, now(), now())`, domain); err != nil {
				return fmt.Errorf("fill unavailable_domains: %w", err)
			}
		}

		return nil
	})
	if err != nil {
		return fmt.Errorf("write mastodon data: %w", err)
	}
	if _, err := conn.Exec(ctx, `ANALYZE`); err != nil {
		return fmt.Errorf("analyse mastodon data: %w", err)
	}

	return nil
}

// writeLocal writes accounts, users and keypairs.
func writeLocal(ctx context.Context, tx pgx.Tx, data *Data, seal *encryptor) error {
	columns := []string{"id", "username", "private_key", "public_key", "created_at", "updated_at", "suspended_at", "suspension_origin"}
	if data.Line.hasSchemes() {
		columns = append(columns, "id_scheme")
	}
	var accounts, users, keypairs [][]any
	for i := range data.Accounts {
		account := &data.Accounts[i]
		private, public, err := pemOf(account.Key, i)
		if err != nil {
			return err
		}
		var plain, suspendedAt, origin any
		publicColumn := public
		if account.Encrypted {
			sealed, err := seal.encrypt([]byte(private))
			if err != nil {
				return err
			}
			publicColumn = ""
			local := account.KeyID[strings.IndexByte(account.KeyID, '#'):]
			keypairs = append(keypairs, []any{account.ID, int32(0), public, sealed, local, accountEpoch, accountEpoch})
		} else {
			plain = private
		}
		if account.Suspended {
			suspendedAt, origin = time.Now().UTC(), int32(0)
		}
		row := []any{account.ID, account.Username, plain, publicColumn, accountEpoch, accountEpoch, suspendedAt, origin}
		if data.Line.hasSchemes() {
			scheme := int32(0)
			if numericURI(data.Line, i) {
				scheme = 1
			}
			row = append(row, scheme)
		}
		accounts = append(accounts, row)
		users = append(users, []any{account.ID, account.Username + "@" + data.Domain, accountEpoch, accountEpoch, accountEpoch})
	}
	if err := copyRows(ctx, tx, "accounts", columns, accounts); err != nil {
		return err
	}
	if err := copyRows(ctx, tx, "users", []string{"account_id", "email", "created_at", "updated_at", "confirmed_at"}, users); err != nil {
		return err
	}
	if len(keypairs) == 0 {
		return nil
	}

	return copyRows(ctx, tx, "keypairs",
		[]string{"account_id", "type", "public_key", "private_key", "local_fragment", "created_at", "updated_at"}, keypairs)
}

// writeRemote writes the remote accounts and their follows.
func writeRemote(ctx context.Context, tx pgx.Tx, cfg Config, data *Data) error {
	var accounts, follows [][]any
	sequence := len(data.Accounts)
	for i := range cfg.Remotes {
		remote := &cfg.Remotes[i]
		domain := strings.TrimPrefix(remote.Origin, "https://")
		for n := range remote.Followers {
			id := snowflake(accountEpoch, sequence)
			sequence++
			name := "follower" + strconv.Itoa(n)
			uri := remote.Origin + "/users/" + name
			accounts = append(accounts, []any{
				id, name, domain, uri, uri + "/inbox", remote.Origin + "/inbox", uri + "/followers", int32(1), accountEpoch, accountEpoch,
			})
			for target := n; target < len(data.Accounts); target++ {
				follows = append(follows, []any{
					id, data.Accounts[target].ID, fmt.Sprintf("%s#follows/%d", uri, target), accountEpoch, accountEpoch,
				})
			}
		}
	}
	err := copyRows(ctx, tx, "accounts", []string{
		"id", "username", "domain", "uri", "inbox_url", "shared_inbox_url", "followers_url", "protocol", "created_at", "updated_at",
	}, accounts)
	if err != nil {
		return err
	}

	return copyRows(ctx, tx, "follows", []string{"account_id", "target_account_id", "uri", "created_at", "updated_at"}, follows)
}

func copyRows(ctx context.Context, tx pgx.Tx, table string, columns []string, rows [][]any) error {
	if _, err := tx.CopyFrom(ctx, pgx.Identifier{table}, columns, pgx.CopyFromRows(rows)); err != nil {
		return fmt.Errorf("fill %s: %w", table, err)
	}

	return nil
}

// pemOf returns a key pair as Ruby's OpenSSL writes it: PKCS#1, and for every fifth account PKCS#8, which keys that came from elsewhere have.
func pemOf(key *rsa.PrivateKey, i int) (private, public string, err error) {
	block := &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}
	if i%5 == 4 {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return "", "", fmt.Errorf("encode private key: %w", err)
		}
		block = &pem.Block{Type: "PRIVATE KEY", Bytes: der}
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return "", "", fmt.Errorf("encode public key: %w", err)
	}

	return string(pem.EncodeToMemory(block)), string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), nil
}

// newJID draws a job id in Sidekiq's form from eight and four bytes.
func newJID(high uint64, low uint32) string {
	var raw [12]byte
	for i := range 8 {
		raw[i] = byte(high >> (8 * i))
	}
	for i := range 4 {
		raw[8+i] = byte(low >> (8 * i))
	}

	return hex.EncodeToString(raw[:])
}
