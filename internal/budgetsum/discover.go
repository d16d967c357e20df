package budgetsum

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/queueville/queueville/internal/mastodonenv"
)

// Pooled tells whether Mastodon's database address leads to PgBouncer, or something like it, instead of PostgreSQL, as Collect finds it. It
// takes one connection, and a second one where the settings look like a pooler's and its console does not answer. The error is that of a
// server that cannot be reached. ctx needs a deadline.
func Pooled(ctx context.Context, cfg *mastodonenv.Config) (bool, error) {
	conn, err := connect(ctx, cfg.Postgres.DSN(), consoleName, ownName)
	if err == nil {
		closeSoon(ctx, conn)
		// PostgreSQL has a database of that name only if somebody has made one; PgBouncer says that its console is no server.
		return !isPostgres(conn.PgConn().ParameterStatus("server_version")), nil
	}
	if errors.Is(poolerError(err), ErrPoolerSilent) {
		return true, nil
	}
	if _, ok := errors.AsType[*pgconn.PgError](err); !ok {
		return false, oneLine(err)
	}
	if cfg.PreparedStatements && cfg.Postgres.Port != poolerPort {
		return false, nil
	}
	conn, err = connect(ctx, cfg.Postgres.DSN(), "", ownName)
	if err != nil {
		return false, oneLine(err)
	}
	defer closeSoon(ctx, conn)
	var port *int
	if err := conn.QueryRow(ctx, "SELECT inet_client_port()").Scan(&port); err != nil {
		return false, oneLine(err)
	}
	return behindProxy(conn, port), nil
}

// isPostgres tells PostgreSQL's version from that of PgBouncer's console, which ends with "/bouncer" or is missing.
func isPostgres(version string) bool { return version != "" && !strings.Contains(version, "bouncer") }

// Line is the main sum on one line, as it is stored with a budget that was found: "max_connections 300 − 3 superuser_reserved_connections − …".
func (s *Sum) Line() string {
	if len(s.Tables) == 0 {
		return ""
	}
	var b strings.Builder
	for _, r := range s.Tables[0].Rows {
		if r.CanHold == nil {
			continue
		}
		switch r.Kind {
		case RowLimit:
			fmt.Fprintf(&b, "%s %d", r.Label, *r.CanHold)
		case RowLess:
			fmt.Fprintf(&b, " − %d %s", *r.CanHold, r.Label)
		default:
		}
	}
	if s.Found != nil {
		fmt.Fprintf(&b, " = %d", *s.Found)
	}
	return b.String()
}
