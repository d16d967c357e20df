package sink

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// ErrRealWorld says that a database knows servers outside of .test: it is no staging server's, or one that would send to real people.
var ErrRealWorld = errors.New("the database knows servers of the real world")

// remote are the places in which Mastodon knows other servers: a table, and what gives a domain or a URL of each row.
var remote = []struct{ table, domain, where string }{
	{"accounts", "domain", "domain IS NOT NULL"},
	{"instances", "domain", "domain IS NOT NULL"},
	{"relays", "substring(inbox_url from '^[a-z]+://([^/]+)')", "inbox_url <> ''"},
}

const maxNamed = 3

// OnlyTest is nil when every server that a Mastodon's database knows is under .test, which nobody can reach by mistake (RFC 6761). Else the error
// wraps ErrRealWorld and names some.
func OnlyTest(ctx context.Context, db *pgx.Conn) error {
	var found []string
	for _, r := range remote {
		var there bool
		if err := db.QueryRow(ctx, "SELECT to_regclass($1) IS NOT NULL", r.table).Scan(&there); err != nil {
			return fmt.Errorf("look for the table %s: %w", r.table, err)
		}
		if !there {
			if r.table == "accounts" {
				return errors.New("this is no Mastodon's database: it has no accounts")
			}
			continue
		}
		// The names come from the list above, nothing of them is anybody's input.
		query := fmt.Sprintf(`SELECT DISTINCT %[1]s FROM %[2]s WHERE %[3]s AND lower(%[1]s) !~ '(^|\.)test(:[0-9]+)?$' LIMIT %[4]d`, r.domain, r.table, r.where, maxNamed) //nolint:gosec // see above
		rows, err := db.Query(ctx, query)
		if err != nil {
			return fmt.Errorf("look for other servers in %s: %w", r.table, err)
		}
		names, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return fmt.Errorf("look for other servers in %s: %w", r.table, err)
		}
		found = append(found, names...)
	}
	if len(found) > 0 {
		return fmt.Errorf("%w, such as %s", ErrRealWorld, strings.Join(found[:min(maxNamed, len(found))], ", "))
	}
	return nil
}
