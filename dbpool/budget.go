package dbpool

import (
	"errors"
	"fmt"
	"time"
)

// ErrNoBudget says that no budget is stored yet: nothing is granted.
var ErrNoBudget = errors.New("no connection budget is set")

// ErrCluster says that the ledger belongs to a cluster of another name. Two names on one Redis would confirm each other's connections
// away.
var ErrCluster = errors.New("the connection budget on this Redis belongs to another cluster")

// Bounds of what may be stored.
const (
	maxConnections = 1 << 15
	maxHosts       = 1000
)

// Budget is the ceiling for the connections of all workers of a cluster together.
type Budget struct {
	Connections int       `json:"connections"`  // open at most, Ruby children and the confirmation's own included
	MinPerHost  int       `json:"min_per_host"` // what every live host gets whatever the others ask for
	SetBy       string    `json:"set_by"`       // who, e.g. "alice@web1", or "discovered"
	SetAt       time.Time `json:"set_at"`       // by Redis's clock
	Reason      string    `json:"reason"`       // why, or the sum it comes from
	Serial      int64     `json:"serial"`       // grows with each change: the higher one wins when Redis comes back older than its clients
}

// SetOptions are what SetBudget checks a budget against.
type SetOptions struct {
	MaxConnections int  // of the PostgreSQL server; 0: not known, not checked
	Reserved       int  // of these, kept for superusers and reserved roles
	Others         int  // of these, what Puma, streaming and all others can hold
	OnlyIfUnset    bool // keep a budget that is there: for one that was discovered, not decided
	// NewCluster says that no worker of this cluster has been running for two minutes, so that nobody can hold connections this Redis does
	// not know of. Without it an empty Redis may be one that has forgotten, and the first grants wait for PostgreSQL to show otherwise.
	NewCluster bool
}

// BudgetError says why a budget was refused, with the sum.
type BudgetError struct {
	Budget    Budget
	LiveHosts int // hosts with a lease
	Reserve   int // connections kept for the confirmation
	Options   SetOptions
	Problem   string // the part of the sum that fails
}

// Error gives the problem and the sum, on one line.
func (e *BudgetError) Error() string {
	return fmt.Sprintf("a budget of %d connections: %s", e.Budget.Connections, e.Problem)
}

// check refuses what no number of hosts could make right.
func (b Budget) check(o SetOptions) error {
	refuse := func(format string, args ...any) error {
		return &BudgetError{Budget: b, Options: o, Reserve: reserve(1), Problem: fmt.Sprintf(format, args...)}
	}
	switch {
	case b.Connections <= 0 || b.Connections > maxConnections:
		return refuse("must be between 1 and %d", maxConnections)
	case b.MinPerHost < 0 || b.MinPerHost > maxConnections:
		return refuse("the minimum per host is %d, and must be between 0 and %d", b.MinPerHost, maxConnections)
	case b.MinPerHost+reserve(1) > b.Connections:
		return refuse("one host's minimum %d + %d kept to confirm with = %d, more than %d", b.MinPerHost, reserve(1), b.MinPerHost+reserve(1), b.Connections)
	case len(b.SetBy) > 200 || len(b.Reason) > 2000:
		return refuse("who set it has at most 200 bytes, and the reason 2000")
	case o.MaxConnections > 0 && b.Connections > o.MaxConnections-o.Reserved-o.Others:
		return refuse("max_connections %d − %d reserved − %d that others can hold = %d, less than %d",
			o.MaxConnections, o.Reserved, o.Others, o.MaxConnections-o.Reserved-o.Others, b.Connections)
	}
	return nil
}

// reserve is what is kept for confirmations that take so many connections each: for the one that works, and for one that froze.
func reserve(slots int) int { return 2 * slots }

// Leasable is how many connections leases can have together: the budget less what is kept to confirm with.
func (b Budget) Leasable(slots int) int { return max(0, b.Connections-reserve(max(1, slots))) }
