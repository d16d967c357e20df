package dbpool_test

import (
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/queueville/queueville/dbpool"
	"github.com/queueville/queueville/internal/pgtest"
	"github.com/queueville/queueville/internal/redistest"
)

// BenchmarkAcquire is Acquire and Release of a connection that is there: bare pgxpool's, and under an ample lease.
func BenchmarkAcquire(b *testing.B) {
	dsn := pgtest.DB(b)
	b.Run("pool=bare", func(b *testing.B) {
		p, err := pgxpool.New(b.Context(), dsn)
		if err != nil {
			b.Fatal(err)
		}
		defer p.Close()
		b.ReportAllocs()
		for b.Loop() {
			c, err := p.Acquire(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			c.Release()
		}
	})
	b.Run("pool=leased", func(b *testing.B) {
		client := redistest.Client(b)
		r := &rig{redis: client, cluster: "bench", dsn: dsn, ledger: dbpool.NewLedger(client, "", "bench")}
		if _, err := r.ledger.SetBudget(b.Context(), dbpool.Budget{Connections: 50, MinPerHost: 5}, dbpool.SetOptions{NewCluster: true}); err != nil {
			b.Fatal(err)
		}
		h := r.host(b, "h", func(c *dbpool.ManagerConfig) { c.Log = nil })
		p := h.pool(b, "worker", 0)
		c, err := p.Acquire(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		c.Release()
		b.ReportAllocs()
		for b.Loop() {
			c, err := p.Acquire(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			c.Release()
		}
		b.StopTimer()
		h.stop()
	})
}
