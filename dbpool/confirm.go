package dbpool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/redis/go-redis/v9"
)

const (
	journalLength = 1000             // about
	confirmIdle   = 15 * time.Second // a confirmation's session that is idle for so long is ended by the server
)

// confirm asks PostgreSQL once a second, more often when a process has just ended, while the ledger has given the confirmation to this process
// and there is something to confirm.
func (m *Manager) confirm(ctx context.Context) {
	tick := time.NewTicker(hurryEvery)
	defer tick.Stop()
	var looked time.Time
	var c confirmation
	defer func() { c.close() }()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		g := m.gate
		g.mu.Lock()
		t, r, mine := g.confirm, m.reply, g.confirm != nil && g.h.confirms && !m.dropping
		mine = mine && r != nil && !m.witness.early(time.Since(started), r)
		g.mu.Unlock()
		if !mine || c.term != t {
			c.close()
			c = confirmation{term: t}
		}
		if !mine || time.Since(looked) < lookEvery && !hurry(r) {
			continue
		}
		looked = time.Now()
		err := m.round(ctx, &c, r)
		if err == nil && needed(r) {
			continue
		}
		c.close()
		g.mu.Lock()
		m.dropping = true
		if err != nil {
			m.noConfirm = time.Now().Add(lookBackOff) // another host may reach it
		}
		g.mu.Unlock()
		if err != nil {
			m.failed(ctx, "postgres", err)
		}
	}
}

// confirmation is the connections of a confirmation, one per server.
type confirmation struct {
	term  *term
	conns []*pgx.Conn
}

func (c *confirmation) close() {
	for _, pc := range c.conns {
		closeConn(pc)
	}
	c.conns = nil
}

// round looks once.
func (m *Manager) round(ctx context.Context, c *confirmation, r *Reply) error {
	ctx, cancel := context.WithTimeout(ctx, closeWait)
	defer cancel()
	if m.cfg.Pooled {
		m.gate.mu.Lock()
		list := m.witness.blind(time.Since(started), r, true)
		m.gate.mu.Unlock()
		_, err := m.ledger.judge(ctx, r.Generation, list)
		return err
	}
	if err := m.connect(ctx, c); err != nil {
		return err
	}
	asked := time.Since(started)
	visible := map[string]backends{}
	for _, pc := range c.conns {
		if err := m.see(ctx, pc, visible); err != nil {
			return err
		}
	}
	m.gate.mu.Lock()
	if m.reply == nil || m.reply.Generation != r.Generation {
		m.gate.mu.Unlock()
		return nil
	}
	list, end := m.witness.look(asked, r, visible)
	list = append(list, m.witness.blind(asked, r, false)...)
	m.gate.mu.Unlock()
	if _, err := m.ledger.judge(ctx, r.Generation, list); err != nil {
		return err
	}
	for _, epoch := range end {
		if err := m.terminate(ctx, c, visible[epoch].host, epoch); err != nil {
			return err
		}
	}
	return nil
}

// connect opens what is missing of the confirmation's connections.
func (m *Manager) connect(ctx context.Context, c *confirmation) error {
	for _, dsn := range m.servers[len(c.conns):] {
		cc, err := pgx.ParseConfig(dsn)
		if err != nil {
			return ErrConfig
		}
		d := &dialer{gate: m.gate, term: c.term}
		cc.DialFunc = d.dial
		cc.ConnectTimeout = callTimeout
		cc.DefaultQueryExecMode = pgx.QueryExecModeExec
		cc.RuntimeParams["application_name"] = leaseName(m.ledger.cluster, m.gate.h.host, c.term.epoch, "confirm", false)
		// The server ends this session should we freeze, from its first moment on.
		cc.RuntimeParams["idle_session_timeout"] = strconv.FormatInt(confirmIdle.Milliseconds(), 10)
		pc, err := pgx.ConnectConfig(ctx, cc)
		if pe, ok := errors.AsType[*pgconn.PgError](err); ok && pe.Code == "42704" { // PostgreSQL < 14 does not know it
			delete(cc.RuntimeParams, "idle_session_timeout")
			d = &dialer{gate: m.gate, term: c.term}
			cc.DialFunc = d.dial
			pc, err = m.connectAgain(ctx, cc)
		}
		if err != nil {
			return fmt.Errorf("connect to confirm connections: %w", err)
		}
		c.conns = append(c.conns, pc)
		if err := admit(pc); err != nil {
			return err
		}
		if err := m.learn(ctx, pc); err != nil {
			return err
		}
	}
	return nil
}

// connectAgain waits for the first try's socket to be closed.
func (m *Manager) connectAgain(ctx context.Context, cc *pgx.ConnConfig) (*pgx.Conn, error) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		pc, err := pgx.ConnectConfig(ctx, cc)
		if !errors.Is(err, errLeaseOver) {
			return pc, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-tick.C:
		}
	}
}

// learn asks how long a log-in may take, and how old the server is.
func (m *Manager) learn(ctx context.Context, pc *pgx.Conn) error {
	var login, version int
	err := pc.QueryRow(ctx, `SELECT setting::int, current_setting('server_version_num')::int FROM pg_settings WHERE name = 'authentication_timeout'`).Scan(&login, &version)
	if err != nil {
		return fmt.Errorf("ask for authentication_timeout: %w", err)
	}
	m.gate.mu.Lock()
	m.witness.login, m.witness.bounded, m.learnt = time.Duration(login)*time.Second, version >= 140000, true
	m.gate.mu.Unlock()
	return nil
}

// see adds the cluster's backends. Every user may see the application_name of its own sessions. A cluster is on one database: another one of
// the server can be a copy of it, with workers of the same name.
func (m *Manager) see(ctx context.Context, pc *pgx.Conn, visible map[string]backends) error {
	rows, err := pc.Query(ctx, `SELECT application_name FROM pg_stat_activity
		WHERE left(application_name, length($1)) = $1 AND datname = current_database() LIMIT 100000`, clusterPrefix(m.ledger.cluster))
	if err != nil {
		return fmt.Errorf("ask for connections: %w", err)
	}
	var name string
	_, err = pgx.ForEachRow(rows, []any{&name}, func() error {
		if host, epoch, _, ok := parseName(m.ledger.cluster, name); ok {
			b := visible[epoch]
			visible[epoch] = backends{host: host, count: b.count + 1}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("ask for connections: %w", err)
	}
	return nil
}

// terminate ends the connections of an ended epoch: of those alone whose name says our cluster, that host and that epoch.
func (m *Manager) terminate(ctx context.Context, c *confirmation, host, epoch string) error {
	name := clusterPrefix(m.ledger.cluster) + host + "/" + epoch + "/"
	for _, pc := range c.conns {
		// In the list of columns, not in WHERE: conditions are evaluated in the planner's order, and this must only see what the others let by.
		rows, err := pc.Query(ctx, `SELECT pid, application_name, pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE left(application_name, length($1)) = $1 AND datname = current_database() AND pid <> pg_backend_pid()`, name)
		if err != nil {
			return fmt.Errorf("end connections of an ended lease: %w", err)
		}
		var pid int
		var full string
		var list []Ended
		var done bool
		_, err = pgx.ForEachRow(rows, []any{&pid, &full, &done}, func() error {
			_, _, role, ok := parseName(m.ledger.cluster, full)
			if !ok || !done {
				return nil // it had ended by itself
			}
			list = append(list, Ended{Host: host, Epoch: epoch, Role: role, PID: pid, By: m.gate.h.host})
			return nil
		})
		for _, e := range list {
			m.journal(ctx, e)
		}
		if err != nil {
			return fmt.Errorf("end connections of an ended lease: %w", err)
		}
	}
	return nil
}

// journal tells everybody who may want to know.
func (m *Manager) journal(ctx context.Context, e Ended) {
	m.cfg.Observer.BackendEnded(e)
	m.log.WarnContext(ctx, "ended a database connection of an ended lease", slog.String("host", e.Host), slog.String("epoch", e.Epoch),
		slog.String("role", e.Role), slog.Int("pid", e.PID))
	err := m.cfg.Redis.XAdd(ctx, &redis.XAddArgs{
		Stream: m.ledger.journal, MaxLen: journalLength, Approx: true,
		Values: []string{"host", e.Host, "epoch", e.Epoch, "role", e.Role, "pid", strconv.Itoa(e.PID), "by", e.By},
	}).Err()
	if err != nil {
		m.failed(ctx, "redis", err)
	}
}

// Journal reads the last connections that were ended, newest first, at most n.
func (l *Ledger) Journal(ctx context.Context, n int) ([]Ended, error) {
	list, err := l.client.XRevRangeN(ctx, l.journal, "+", "-", int64(n)).Result()
	if err != nil {
		return nil, fmt.Errorf("read the journal of ended connections: %w", err)
	}
	ended := make([]Ended, 0, len(list))
	for _, x := range list {
		text := func(name string) string { s, _ := x.Values[name].(string); return s }
		ended = append(ended, Ended{Host: text("host"), Epoch: text("epoch"), Role: text("role"), PID: integer(text("pid")), By: text("by")})
	}
	return ended, nil
}
