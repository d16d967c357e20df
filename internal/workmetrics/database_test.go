package workmetrics

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/queueville/queueville/dbpool"
	"github.com/queueville/queueville/internal/redistest"
	"github.com/queueville/queueville/queues"
)

// TestDatabase: the page says what the lease is and what is done with it, by role.
func TestDatabase(t *testing.T) {
	t.Parallel()
	events := &LeaseEvents{}
	events.LeaseLost("expired") // before there are metrics: nobody counts
	m := New(Config{
		Prefix: "ruby_", Store: queues.NewStore(redistest.Client(t), ""), LeaseEvents: events,
		Database: func() dbpool.Stats {
			return dbpool.Stats{
				Budget: dbpool.Budget{Connections: 180}, Leased: 40, Limit: 38, Share: 39, Demand: 41, Recovering: true, Calls: 7,
				Roles: map[string]dbpool.RoleStats{
					"worker": {InUse: 3, Waiting: 2, Open: 5, Acquired: 100, Waited: 4, WaitTime: 1500 * time.Millisecond, Refused: 1},
					"ruby":   {Reserved: 25, Acquired: 1},
				},
			}
		},
	})
	events.LeaseLost("expired")
	events.Failed("redis", errors.New("away"))
	events.BackendEnded(dbpool.Ended{Role: "ruby.17"})
	for i := range 2 * maxRoles {
		events.BackendEnded(dbpool.Ended{Role: fmt.Sprint("strange", i)})
	}
	status, body := page(t, m, NewHealth(time.Minute))("/metrics")
	if status != http.StatusOK {
		t.Fatalf("/metrics answers %d: %.2000s", status, body)
	}
	for _, want := range []string{
		"queueville_db_budget 180", "queueville_db_leased 40", "queueville_db_limit 38", "queueville_db_share 39", "queueville_db_demand 41",
		"queueville_db_recovering 1", "queueville_db_confirms 0", "queueville_db_lease_calls_total 7",
		`queueville_db_open{role="worker"} 5`, `queueville_db_in_use{role="worker"} 3`, `queueville_db_waiting{role="worker"} 2`,
		`queueville_db_reserved{role="ruby"} 25`, `queueville_db_acquired_total{role="worker"} 100`, `queueville_db_wait_seconds_sum{role="worker"} 1.5`,
		`queueville_db_wait_seconds_count{role="worker"} 4`, `queueville_db_refused_total{role="worker"} 1`,
		`queueville_db_lease_lost_total{reason="expired"} 1`, `queueville_db_lease_errors_total{with="redis"} 1`, `queueville_db_backends_ended_total{role="ruby"} 1`,
	} {
		if !strings.Contains(body, "\n"+want+"\n") {
			t.Errorf("the page lacks %s", want)
		}
	}
	if n := strings.Count(body, "\nqueueville_db_backends_ended_total{"); n != maxRoles+1 {
		t.Errorf("%d roles of ended connections", n)
	}
}
