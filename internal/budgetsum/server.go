package budgetsum

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// ErrAddress says that a database's address cannot be understood. The address is not part of it, because it holds the password.
var ErrAddress = errors.New("the database's address is not valid")

// Server is what one PostgreSQL server allows and what is open on it.
type Server struct {
	Address           string    `json:"address"` // host:port/database, for people
	Version           string    `json:"version,omitempty"`
	Role              string    `json:"role,omitempty"`     // Mastodon's
	Database          string    `json:"database,omitempty"` // Mastodon's
	MaxConnections    int       `json:"max_connections"`
	SuperuserReserved int       `json:"superuser_reserved_connections"`
	Reserved          int       `json:"reserved_connections,omitempty"`      // PostgreSQL 16 and later
	RoleLimit         int       `json:"role_connection_limit,omitempty"`     // 0 for none
	DatabaseLimit     int       `json:"database_connection_limit,omitempty"` // 0 for none
	Sessions          []Session `json:"sessions,omitempty"`                  // what is open now, but for the question's own connection
	Behind            bool      `json:"through_a_proxy,omitempty"`           // the server sees another port than we connected from
}

// Session counts connections that look alike.
type Session struct {
	Application string `json:"application,omitempty"` // as the client calls itself
	Role        string `json:"role,omitempty"`
	Database    string `json:"database,omitempty"`
	Client      string `json:"client,omitempty"` // address; "" for a local socket or when it may not be seen
	Count       int    `json:"connections"`
}

// maxSessions bounds how many kinds of connection are told apart.
const maxSessions = 1000

// Available is how many connections everybody but superusers and the roles with reserved ones can have open together.
func (s *Server) Available() int {
	return max(0, s.MaxConnections-s.SuperuserReserved-s.Reserved)
}

// connectTimeout bounds one connection, also where the context would leave more.
const connectTimeout = 5 * time.Second

// connect opens one connection whose errors never hold the password. ctx bounds it.
func connect(ctx context.Context, dsn, database, application string) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, ErrAddress // pgx' error quotes the address
	}
	if database != "" {
		cfg.Database = database
	}
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec // nothing is kept on a server connection, which may be PgBouncer's
	cfg.StatementCacheCapacity, cfg.DescriptionCacheCapacity = 0, 0
	cfg.RuntimeParams["application_name"] = application
	cfg.ConnectTimeout = connectTimeout
	return pgx.ConnectConfig(ctx, cfg)
}

// MeasureServer asks a server for its limits and its sessions. role is Mastodon's, "" when the question is asked as it. backends are the
// process ids of sessions to leave out, PgBouncer's. Without the role pg_monitor the addresses of other roles' clients are not seen, but
// they are counted. ctx needs a deadline.
func MeasureServer(ctx context.Context, dsn, role string, backends []int) (*Server, error) {
	conn, err := connect(ctx, dsn, "", ownName)
	if err != nil {
		return nil, err
	}
	defer closeSoon(ctx, conn)
	s := &Server{}
	var inetPort *int
	err = conn.QueryRow(ctx, `SELECT current_setting('server_version'), coalesce(nullif($1, ''), current_user), current_database(),
		current_setting('max_connections')::int, current_setting('superuser_reserved_connections')::int,
		coalesce(current_setting('reserved_connections', true)::int, 0),
		coalesce((SELECT rolconnlimit FROM pg_roles WHERE rolname = coalesce(nullif($1, ''), current_user) AND NOT rolsuper), -1),
		(SELECT datconnlimit FROM pg_database WHERE datname = current_database()),
		inet_client_port()`, role).Scan(&s.Version, &s.Role, &s.Database, &s.MaxConnections, &s.SuperuserReserved, &s.Reserved, &s.RoleLimit, &s.DatabaseLimit, &inetPort)
	if err != nil {
		return nil, fmt.Errorf("ask PostgreSQL for its limits: %w", err)
	}
	s.RoleLimit, s.DatabaseLimit = max(0, s.RoleLimit), max(0, s.DatabaseLimit)
	s.Version, _, _ = strings.Cut(s.Version, " ")
	s.Behind = behindProxy(conn, inetPort)
	// backend_type is hidden from roles without pg_monitor, but what has no database and role is no client.
	rows, err := conn.Query(ctx, `SELECT coalesce(application_name, ''), coalesce(usename::text, ''), coalesce(datname::text, ''), coalesce(host(client_addr), ''), count(*)::int
		FROM pg_stat_activity
		WHERE pid <> pg_backend_pid() AND pid <> ALL (coalesce($1::int[], '{}'))
		AND (backend_type = 'client backend' OR backend_type IS NULL AND datid IS NOT NULL AND usesysid IS NOT NULL)
		GROUP BY 1, 2, 3, 4 ORDER BY 5 DESC, 1, 2, 3, 4 LIMIT $2`, backends, maxSessions)
	if err != nil {
		return nil, fmt.Errorf("read pg_stat_activity: %w", err)
	}
	if s.Sessions, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Session]); err != nil {
		return nil, fmt.Errorf("read pg_stat_activity: %w", err)
	}
	return s, nil
}

// behindProxy tells whether the server sees another client port than ours: PgBouncer, or a translated address.
func behindProxy(conn *pgx.Conn, port *int) bool {
	if port == nil {
		return false
	}
	local := conn.PgConn().Conn().LocalAddr().String()
	return !strings.HasSuffix(local, fmt.Sprintf(":%d", *port))
}

// closeSoon says good-bye, also when ctx has ended.
func closeSoon(ctx context.Context, conn *pgx.Conn) {
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = conn.Close(closing)
}
