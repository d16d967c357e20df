package activitypub

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

// schemaLifetime is how long a look at the schema is believed. Migrations run beside us; 4.7's moves keys from one table to another.
const schemaLifetime = time.Minute

// schema is what this Mastodon's tables have, found by looking: versions lie (backports, half-run migrations).
type schema struct {
	idScheme         bool // accounts.id_scheme, 4.5+
	privateKey       bool // accounts.private_key
	requestDeletion  bool // accounts.requested_deletion_at, 4.7+
	keypairs         bool // keypairs with local_fragment, 4.7+: local keys are there
	deletionRequests bool // account_deletion_requests
}

// accountSQL reads one account with its best key: the lowest usable RSA key pair, else the account's own column. The columns:
// username, id_scheme, gone for good, private key, encrypted private key, local fragment.
func (s schema) accountSQL() string {
	column := func(present bool, name, absent string) string {
		if present {
			return name
		}
		return absent
	}
	gone := "a.suspended_at IS NOT NULL"
	if s.requestDeletion {
		gone = "(" + gone + " OR a.requested_deletion_at IS NOT NULL)"
	}
	if s.deletionRequests {
		gone += " AND NOT EXISTS (SELECT 1 FROM account_deletion_requests r WHERE r.account_id = a.id)"
	}
	var b strings.Builder
	b.WriteString("SELECT a.username, " + column(s.idScheme, "a.id_scheme", "NULL::integer") + ", " + gone +
		", " + column(s.privateKey, "a.private_key", "NULL::text") + ", " + column(s.keypairs, "k.private_key, k.local_fragment", "NULL::text, NULL::text") +
		" FROM accounts a")
	if s.keypairs {
		b.WriteString(` LEFT JOIN LATERAL (SELECT p.private_key, p.local_fragment FROM keypairs p
			WHERE p.account_id = a.id AND p.type = 0 AND NOT p.revoked AND p.private_key IS NOT NULL
			AND (p.expires_at IS NULL OR p.expires_at > timezone('utc', now())) ORDER BY p.id LIMIT 1) k ON true`)
	}
	b.WriteString(" WHERE a.id = $1")
	return b.String()
}

// schemaCache remembers the last look.
type schemaCache struct {
	mu     sync.Mutex
	last   schema
	looked time.Time
}

func (c *schemaCache) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.looked = time.Time{}
}

func (c *schemaCache) get(ctx context.Context, db DB) (schema, error) {
	c.mu.Lock()
	last, looked := c.last, c.looked
	c.mu.Unlock()
	if !looked.IsZero() && time.Since(looked) < schemaLifetime {
		return last, nil
	}
	s, err := readSchema(ctx, db)
	if err != nil {
		return schema{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last, c.looked = s, time.Now()
	return s, nil
}

func readSchema(ctx context.Context, db DB) (schema, error) {
	rows, err := db.Query(ctx, `SELECT table_name::text || '.' || column_name::text FROM information_schema.columns
		WHERE table_schema = ANY(current_schemas(false)) AND table_name IN ('accounts', 'keypairs', 'account_deletion_requests')`)
	if err != nil {
		return schema{}, fmt.Errorf("look at the schema: %w", err)
	}
	defer rows.Close()
	var s schema
	accounts := false
	for rows.Next() {
		var column string
		if err := rows.Scan(&column); err != nil {
			return schema{}, fmt.Errorf("look at the schema: %w", err)
		}
		switch column {
		case "accounts.id":
			accounts = true
		case "accounts.id_scheme":
			s.idScheme = true
		case "accounts.private_key":
			s.privateKey = true
		case "accounts.requested_deletion_at":
			s.requestDeletion = true
		case "keypairs.local_fragment":
			s.keypairs = true
		case "account_deletion_requests.account_id":
			s.deletionRequests = true
		}
	}
	if err := rows.Err(); err != nil {
		return schema{}, fmt.Errorf("look at the schema: %w", err)
	}
	if !accounts {
		return schema{}, errors.New("look at the schema: there is no table accounts")
	}
	return s, nil
}

// errNoRow says that a query for one row found none.
var errNoRow = errors.New("no row")

// queryOne reads the only row of a query.
func queryOne(ctx context.Context, db DB, into []any, sql string, args ...any) error {
	rows, err := db.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	if !rows.Next() {
		if err := rows.Err(); err != nil {
			return err
		}
		return errNoRow
	}
	if err := rows.Scan(into...); err != nil {
		return err
	}
	rows.Close()
	return rows.Err()
}
