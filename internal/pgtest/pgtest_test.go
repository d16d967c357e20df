package pgtest_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/queueville/queueville/internal/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEachTestHasItsOwnDatabase(t *testing.T) {
	for range 2 { // the same table twice: only in two databases. Left connected: DROP must not wait for it
		conn, err := pgx.Connect(t.Context(), pgtest.DB(t))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(t.Context(), "CREATE TABLE accounts (id bigint)"); err != nil {
			t.Fatal(err)
		}
	}
}

func TestServerOfItsOwnBehindPgBouncer(t *testing.T) {
	s := pgtest.Start(t)
	b := pgtest.PgBouncer(t, s)
	cfg, err := pgx.ParseConfig(b.DSN())
	if err != nil {
		t.Fatal(err)
	}
	cfg.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context()) //nolint:errcheck // a test
	var n int
	if err := conn.QueryRow(t.Context(), "SELECT 41 + $1::int", 1).Scan(&n); err != nil || n != 42 {
		t.Errorf("SELECT 41 + 1 = %d, %v, want 42", n, err)
	}
}
