package dbpool

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Conn is a connection of a Pool; Release gives it back.
type Conn struct {
	*pgxpool.Conn
	pool *Pool
}

// Release gives the connection back to its pool; again, nothing happens. When the lease has become smaller it is closed.
func (c *Conn) Release() {
	p := c.pool
	if p == nil {
		return
	}
	c.pool = nil
	if p.gate == nil {
		c.Conn.Release()
		return
	}
	if p.gate.over.Load() {
		closeConn(c.Conn.Conn())
	}
	c.Conn.Release()
	p.gate.release(p.role)
}

// closeConn closes without waiting for the server. A variable, because its context is nobody's: Release has none.
var closeConn = func(c *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_ = c.Close(ctx)
}

// ErrNoLease says that the lease had no connection free in time: the server was not asked for anything.
var ErrNoLease = errors.New("wait for a database connection")

// Acquire waits for a connection: for one that the lease allows, then for one of the pool's. Release it soon. The error is ErrNoLease with
// ctx's, or about connecting; see Unavailable.
func (p *Pool) Acquire(ctx context.Context) (*Conn, error) {
	if p.gate == nil {
		c, err := p.pool.Acquire(ctx)
		if err != nil {
			return nil, err
		}
		return &Conn{Conn: c, pool: p}, nil
	}
	for {
		if err := p.gate.acquire(ctx, &waiter{role: p.role, n: 1}); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoLease, err)
		}
		c, err := p.pool.Acquire(ctx)
		if err == nil {
			return &Conn{Conn: c, pool: p}, nil
		}
		p.gate.release(p.role)
		switch {
		case !errors.Is(err, errNoRoom) && !errors.Is(err, errLeaseOver):
			return nil, err
		case ctx.Err() != nil:
			return nil, fmt.Errorf("%w: %w", ErrNoLease, err)
		}
	}
}

// AcquireFunc acquires, calls f and releases.
func (p *Pool) AcquireFunc(ctx context.Context, f func(*Conn) error) error {
	c, err := p.Acquire(ctx)
	if err != nil {
		return err
	}
	defer c.Release()
	return f(c)
}

// Exec is pgxpool's.
func (p *Pool) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	ctx, cancel := p.bound(ctx)
	defer cancel()
	c, err := p.Acquire(ctx)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	defer c.Release()
	return c.Exec(ctx, sql, args...)
}

// Query is pgxpool's: the connection is released when the rows are closed or read to their end.
func (p *Pool) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	ctx, cancel := p.bound(ctx)
	c, err := p.Acquire(ctx)
	if err != nil {
		cancel()
		return failed{err: err}, err
	}
	rows, err := c.Query(ctx, sql, args...)
	if err != nil {
		cancel()
		c.Release()
		return failed{err: err}, err
	}
	return &poolRows{Rows: rows, conn: c, cancel: cancel}, nil
}

// QueryRow is pgxpool's: the connection is released by Scan.
func (p *Pool) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	ctx, cancel := p.bound(ctx)
	c, err := p.Acquire(ctx)
	if err != nil {
		cancel()
		return failed{err: err}
	}
	return &poolRow{row: c.QueryRow(ctx, sql, args...), conn: c, cancel: cancel}
}

// SendBatch is pgxpool's: the connection is released when the results are closed.
func (p *Pool) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	ctx, cancel := p.bound(ctx)
	c, err := p.Acquire(ctx)
	if err != nil {
		cancel()
		return failedBatch{err: err}
	}
	return &poolBatch{BatchResults: c.SendBatch(ctx, b), conn: c, cancel: cancel}
}

// Begin is pgxpool's: the connection is released by Commit or Rollback.
func (p *Pool) Begin(ctx context.Context) (pgx.Tx, error) { return p.BeginTx(ctx, pgx.TxOptions{}) }

// BeginTx is Begin with options.
func (p *Pool) BeginTx(ctx context.Context, o pgx.TxOptions) (pgx.Tx, error) {
	c, err := p.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	tx, err := c.BeginTx(ctx, o)
	if err != nil {
		c.Release()
		return nil, err
	}
	return &poolTx{Tx: tx, conn: c}, nil
}

// CopyFrom is pgxpool's.
func (p *Pool) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, rows pgx.CopyFromSource) (int64, error) {
	c, err := p.Acquire(ctx)
	if err != nil {
		return 0, err
	}
	defer c.Release()
	return c.CopyFrom(ctx, table, columns, rows)
}

// askTries is how many connections that were found dead are passed over before a server counts as away.
const askTries = 16

// Ask asks whether the server answers: nil if it does, ErrNoLease if the lease had no connection to ask with, else what is wrong. Connections
// that have died unnoticed say nothing; what a new one meets does. ctx needs a deadline.
func (p *Pool) Ask(ctx context.Context) error {
	var err error
	for range askTries {
		if err = p.Ping(ctx); err == nil || ctx.Err() != nil || errors.Is(err, ErrNoLease) {
			return err
		}
		if _, dial := errors.AsType[*pgconn.ConnectError](err); dial {
			return err
		}
	}
	return err
}

// Ping asks the server for nothing.
func (p *Pool) Ping(ctx context.Context) error {
	return p.AcquireFunc(ctx, func(c *Conn) error { return c.Ping(ctx) })
}

// Stat is what pgxpool says of the pool.
func (p *Pool) Stat() *pgxpool.Stat { return p.pool.Stat() }

// Close closes all connections and waits until those in use were released. A Manager closes its pools by itself.
func (p *Pool) Close() { p.pool.Close() }

// closeIdle closes up to n idle connections and returns how many.
func (p *Pool) closeIdle(ctx context.Context, n int) int {
	closed := 0
	for _, c := range p.pool.AcquireAllIdle(ctx) {
		if closed < n {
			closeConn(c.Conn())
			closed++
		}
		c.Release()
	}
	return closed
}

// failed is the row or rows of a query that could not be sent.
type failed struct {
	pgx.Rows
	err error
}

func (failed) Close()                                       {}
func (f failed) Err() error                                 { return f.err }
func (failed) CommandTag() pgconn.CommandTag                { return pgconn.CommandTag{} }
func (failed) Next() bool                                   { return false }
func (f failed) Scan(...any) error                          { return f.err }
func (f failed) Values() ([]any, error)                     { return nil, f.err }
func (failed) RawValues() [][]byte                          { return nil }
func (failed) Conn() *pgx.Conn                              { return nil }
func (failed) FieldDescriptions() []pgconn.FieldDescription { return nil }

type poolRows struct {
	pgx.Rows
	conn   *Conn
	cancel context.CancelFunc
}

func (r *poolRows) Close() {
	r.Rows.Close()
	r.cancel()
	r.conn.Release()
}

func (r *poolRows) Next() bool {
	if r.Rows.Next() {
		return true
	}
	r.Close()
	return false
}

// Scan ends the rows when it fails, as pgx's own does.
func (r *poolRows) Scan(dest ...any) error {
	err := r.Rows.Scan(dest...)
	if err != nil {
		r.Close()
	}
	return err
}

func (r *poolRows) Values() ([]any, error) {
	v, err := r.Rows.Values()
	if err != nil {
		r.Close()
	}
	return v, err
}

type poolRow struct {
	row    pgx.Row
	conn   *Conn
	cancel context.CancelFunc
}

func (r *poolRow) Scan(dest ...any) error {
	defer r.conn.Release()
	defer r.cancel()
	return r.row.Scan(dest...)
}

type poolTx struct {
	pgx.Tx
	conn *Conn
}

func (t *poolTx) Commit(ctx context.Context) error {
	defer t.conn.Release()
	return t.Tx.Commit(ctx)
}

func (t *poolTx) Rollback(ctx context.Context) error {
	defer t.conn.Release()
	return t.Tx.Rollback(ctx)
}

type poolBatch struct {
	pgx.BatchResults
	conn   *Conn
	cancel context.CancelFunc
}

func (b *poolBatch) Close() error {
	defer b.conn.Release()
	defer b.cancel()
	return b.BatchResults.Close()
}

// failedBatch is the results of a batch that could not be sent.
type failedBatch struct{ err error }

func (b failedBatch) Exec() (pgconn.CommandTag, error) { return pgconn.CommandTag{}, b.err }
func (b failedBatch) Query() (pgx.Rows, error)         { return failed{err: b.err}, b.err }
func (b failedBatch) QueryRow() pgx.Row                { return failed{err: b.err} }
func (b failedBatch) Tx() pgx.Tx                       { return nil }
func (b failedBatch) Close() error                     { return b.err }
