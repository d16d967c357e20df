package sink

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/queueville/queueville/loadtest/fediverse"
	"github.com/queueville/queueville/loadtest/mastodondata"
)

// maxAccounts bounds how many local accounts are read: enough to spread a load over.
const maxAccounts = 10_000

// localAccounts are those that can sign, with their public keys. The columns that a release line does not have are read by way of JSON.
const localAccounts = `
SELECT a.id, a.username, COALESCE(to_jsonb(a)->>'id_scheme', '0'), a.public_key, ''
FROM accounts a
WHERE a.domain IS NULL AND a.suspended_at IS NULL AND a.public_key <> ''
ORDER BY a.id LIMIT $1`

// localKeypairs are the same of Mastodon 4.7 and later.
const localKeypairs = `
SELECT a.id, a.username, COALESCE(to_jsonb(a)->>'id_scheme', '0'), k.public_key, COALESCE(to_jsonb(k)->>'local_fragment', '')
FROM keypairs k JOIN accounts a ON a.id = k.account_id
WHERE a.domain IS NULL AND a.suspended_at IS NULL AND k.private_key IS NOT NULL
ORDER BY a.id LIMIT $1`

// Accounts reads the local accounts that can sign, and by which keys receivers verify what they sign. webDomain is the host of the server's
// URLs. An error when there are none: nothing could be sent.
func Accounts(ctx context.Context, db *pgx.Conn, webDomain string) (*mastodondata.Data, fediverse.KeyMap, error) {
	data, keys := &mastodondata.Data{Line: mastodondata.Line45, Domain: webDomain}, fediverse.KeyMap{}
	queries := []string{localAccounts}
	var pairs bool
	if err := db.QueryRow(ctx, "SELECT to_regclass('keypairs') IS NOT NULL").Scan(&pairs); err != nil {
		return nil, nil, fmt.Errorf("read local accounts: %w", err)
	}
	if pairs {
		queries = append(queries, localKeypairs)
	}
	for _, query := range queries {
		rows, err := db.Query(ctx, query, maxAccounts)
		if err != nil {
			return nil, nil, fmt.Errorf("read local accounts: %w", err)
		}
		var id int64
		var username, scheme, text, fragment string
		_, err = pgx.ForEachRow(rows, []any{&id, &username, &scheme, &text, &fragment}, func() error {
			key, err := publicKey(text)
			if err != nil {
				return nil //nolint:nilerr // an account whose key cannot be read signs nothing that could be verified
			}
			uri := "https://" + webDomain + "/users/" + username
			if scheme == "1" {
				uri = "https://" + webDomain + "/ap/users/" + strconv.FormatInt(id, 10)
			}
			if fragment == "" {
				fragment = "#main-key"
			}
			data.Accounts = append(data.Accounts, mastodondata.Account{ID: id, Username: username, URI: uri, Followers: uri + "/followers", KeyID: uri + fragment})
			keys[uri+fragment] = key
			return nil
		})
		if err != nil {
			return nil, nil, fmt.Errorf("read local accounts: %w", err)
		}
	}
	if len(data.Accounts) == 0 {
		return nil, nil, errors.New("the database has no local account that could sign anything")
	}
	return data, keys, nil
}

var errNoKey = errors.New("no RSA public key")

func publicKey(text string) (*rsa.PublicKey, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errNoKey
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoKey, err)
	}
	key, ok := parsed.(*rsa.PublicKey)
	if !ok {
		return nil, errNoKey
	}
	return key, nil
}
