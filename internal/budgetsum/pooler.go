package budgetsum

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// ErrNoPooler says that the address leads to PostgreSQL itself.
var ErrNoPooler = errors.New("no PgBouncer")

// ErrPoolerSilent says that it is PgBouncer's, and that Mastodon's role may not ask it.
var ErrPoolerSilent = errors.New("PgBouncer does not answer this role")

// Pooler is what PgBouncer says of itself.
type Pooler struct {
	Version    string    `json:"version"`
	Mode       string    `json:"pool_mode"`       // of Mastodon's database
	MaxClients int       `json:"max_client_conn"` // of all databases together
	PoolSize   int       `json:"default_pool_size"`
	Reserve    int       `json:"reserve_pool_size"`
	Pools      []Pool    `json:"pools"`
	Clients    []Session `json:"clients"`  // open now
	Backends   []int     `json:"backends"` // process ids of its server connections
}

// Pool is the server connections of one database and role.
type Pool struct {
	Database string `json:"database"`
	Role     string `json:"role"`
	Waiting  int    `json:"clients_waiting"`
	Open     int    `json:"server_connections"`
	Size     int    `json:"pool_size"` // with its reserve
	// Limit is max_db_connections, for all roles of the database together; 0 for none.
	Limit int `json:"max_db_connections,omitempty"`
}

// ServersAtMost is how many connections PgBouncer opens to PostgreSQL at most for the pools there are.
func (p *Pooler) ServersAtMost() int {
	total, perDatabase, limits := 0, map[string]int{}, map[string]int{}
	for _, pool := range p.Pools {
		perDatabase[pool.Database] += pool.Size
		limits[pool.Database] = pool.Limit
	}
	for database, n := range perDatabase {
		if limit := limits[database]; limit > 0 {
			n = min(n, limit)
		}
		total += n
	}
	return total
}

// ServersOpen is how many of them are open now.
func (p *Pooler) ServersOpen() int {
	n := 0
	for _, pool := range p.Pools {
		n += pool.Open
	}
	return n
}

// consoleName is PgBouncer's database about itself. PostgreSQL has none of that name unless somebody makes one.
const consoleName = "pgbouncer"

// ReadPooler asks the PgBouncer at dsn about itself: ErrNoPooler when PostgreSQL itself answers, ErrPoolerSilent when PgBouncer does not
// let Mastodon's role ask (it is neither in admin_users nor in stats_users). database and role are Mastodon's. ctx needs a deadline.
func ReadPooler(ctx context.Context, dsn, database, role string) (*Pooler, error) {
	conn, err := connect(ctx, dsn, consoleName, ownName)
	if err != nil {
		return nil, poolerError(err)
	}
	defer closeSoon(ctx, conn)
	if conn.PgConn().ParameterStatus("server_version") == "" {
		return nil, ErrPoolerSilent
	}
	version, err := show(ctx, conn, "VERSION")
	if err != nil || len(version) == 0 {
		return nil, poolerError(err)
	}
	p := &Pooler{Version: strings.TrimPrefix(firstOf(version[0], "version"), "PgBouncer ")}
	if err := p.readConfig(ctx, conn); err != nil {
		return nil, poolerError(err)
	}
	for _, read := range []func(context.Context, *pgx.Conn, string) error{p.readPools, p.readClients, p.readBackends} {
		if err := read(ctx, conn, database); err != nil {
			return nil, poolerError(err)
		}
	}
	if !slices.ContainsFunc(p.Pools, func(pool Pool) bool { return pool.Database == database && pool.Role == role }) {
		p.Pools = append(p.Pools, Pool{Database: database, Role: role, Size: p.PoolSize + p.Reserve}) // not used yet, but it will be
	}
	return p, nil
}

// poolerError tells PostgreSQL's answers to a question for the console from PgBouncer's.
func poolerError(err error) error {
	if err == nil {
		return ErrPoolerSilent
	}
	pe, ok := errors.AsType[*pgconn.PgError](err)
	switch {
	case !ok:
		return err
	case pe.Code == "3D000", pe.Code == "28000", pe.Code == "42704", pe.Code == "42601":
		// No such database; pg_hba.conf does not let us there; there is one, and it knows no SHOW VERSION.
		return fmt.Errorf("%w: %w", ErrNoPooler, err)
	case strings.HasPrefix(pe.Code, "08"): // PgBouncer's mark on whatever it says itself
		return fmt.Errorf("%w: %s", ErrPoolerSilent, pe.Message)
	}
	return err
}

// row is one row of a SHOW by column. Which columns there are differs between versions.
type row map[string]string

func (r row) number(column string) int {
	n, err := strconv.Atoi(r[column])
	if err != nil || n < 0 || n > maxEach*maxProcesses {
		return 0
	}
	return n
}

func firstOf(r row, preferred string) string {
	if v := r[preferred]; v != "" {
		return v
	}
	for _, v := range r {
		return v
	}
	return ""
}

// show runs one SHOW, as the simple query that the console understands.
func show(ctx context.Context, conn *pgx.Conn, what string) ([]row, error) {
	results, err := conn.PgConn().Exec(ctx, "SHOW "+what).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("show %s: %w", strings.ToLower(what), err)
	}
	var out []row
	for _, r := range results {
		for _, values := range r.Rows {
			m := row{}
			for i, v := range values {
				m[r.FieldDescriptions[i].Name] = string(v)
			}
			out = append(out, m)
		}
	}
	return out, nil
}

func (p *Pooler) readConfig(ctx context.Context, conn *pgx.Conn) error {
	rows, err := show(ctx, conn, "CONFIG")
	if err != nil {
		return err
	}
	for _, r := range rows {
		switch r["key"] {
		case "max_client_conn":
			p.MaxClients = r.number("value")
		case "default_pool_size":
			p.PoolSize = r.number("value")
		case "reserve_pool_size":
			p.Reserve = r.number("value")
		case "pool_mode":
			p.Mode = r["value"]
		}
	}
	return nil
}

func (p *Pooler) readPools(ctx context.Context, conn *pgx.Conn, database string) error {
	databases, err := show(ctx, conn, "DATABASES")
	if err != nil {
		return err
	}
	size, limit := map[string]int{}, map[string]int{}
	for _, r := range databases {
		size[r["name"]] = r.number("pool_size") + max(r.number("reserve_pool"), r.number("reserve_pool_size"))
		limit[r["name"]] = r.number("max_connections")
		if r["name"] == database && r["pool_mode"] != "" {
			p.Mode = r["pool_mode"]
		}
	}
	pools, err := show(ctx, conn, "POOLS")
	if err != nil {
		return err
	}
	for _, r := range pools {
		name := r["database"]
		if name == consoleName {
			continue
		}
		if _, ok := size[name]; !ok {
			size[name] = p.PoolSize + p.Reserve
		}
		pool := Pool{Database: name, Role: r["user"], Waiting: r.number("cl_waiting"), Size: size[name], Limit: limit[name]}
		for _, column := range []string{"sv_active", "sv_active_cancel", "sv_being_canceled", "sv_idle", "sv_used", "sv_tested", "sv_login"} {
			pool.Open += r.number(column)
		}
		p.Pools = append(p.Pools, pool)
	}
	slices.SortFunc(p.Pools, func(a, b Pool) int {
		return cmp.Or(cmp.Compare(a.Database, b.Database), cmp.Compare(a.Role, b.Role))
	})
	return nil
}

// readClients counts the clients, but for those of the console, of which we are one.
func (p *Pooler) readClients(ctx context.Context, conn *pgx.Conn, _ string) error {
	rows, err := show(ctx, conn, "CLIENTS")
	if err != nil {
		return err
	}
	counts := map[Session]int{}
	for _, r := range rows {
		if r["database"] == consoleName {
			continue
		}
		s := Session{Application: r["application_name"], Role: r["user"], Database: r["database"], Client: r["addr"]}
		if s.Client == "unix" {
			s.Client = ""
		}
		counts[s]++
	}
	for s, n := range counts {
		s.Count = n
		p.Clients = append(p.Clients, s)
	}
	sortSessions(p.Clients)
	p.Clients = p.Clients[:min(len(p.Clients), maxSessions)]
	return nil
}

func (p *Pooler) readBackends(ctx context.Context, conn *pgx.Conn, _ string) error {
	rows, err := show(ctx, conn, "SERVERS")
	if err != nil {
		return err
	}
	for _, r := range rows {
		if pid := r.number("remote_pid"); pid > 0 {
			p.Backends = append(p.Backends, pid)
		}
	}
	return nil
}

// sortSessions: the most connections first.
func sortSessions(list []Session) {
	slices.SortFunc(list, func(a, b Session) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Application, b.Application), cmp.Compare(a.Role, b.Role),
			cmp.Compare(a.Database, b.Database), cmp.Compare(a.Client, b.Client))
	})
}
