package dbpool

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Ledger is the cluster's book of leased connections, on Sidekiq's Redis. Safe for concurrent use.
type Ledger struct {
	client  redis.UniversalClient
	cluster string
	keys    []string // state, leases
	journal string
}

// NewLedger names a ledger without asking Redis. namespace is Sidekiq's ("" for none). cluster names the workers that share one budget; it
// is part of application_name, so two clusters on one PostgreSQL server must not share it. The client must not repeat commands by
// itself (MaxRetries -1).
func NewLedger(client redis.UniversalClient, namespace, cluster string) *Ledger {
	own := "queueville:"
	if namespace != "" {
		own += namespace + ":"
	}
	return &Ledger{
		client: client, cluster: part(cluster, clusterBytes),
		keys: []string{own + "dbpool:state", own + "dbpool:leases"}, journal: own + "dbpool:journal",
	}
}

// Cluster is the cluster's name as it stands in application_name.
func (l *Ledger) Cluster() string { return l.cluster }

// Budget reads the stored budget; ErrNoBudget when there is none.
func (l *Ledger) Budget(ctx context.Context) (Budget, error) {
	m, err := l.client.HGetAll(ctx, l.keys[0]).Result()
	if err != nil {
		return Budget{}, fmt.Errorf("read the connection budget: %w", err)
	}
	b := budgetOf(m)
	if b.Connections == 0 {
		return b, ErrNoBudget
	}
	return b, nil
}

// SetBudget stores b (SetAt and Serial are given by Redis) and returns what is stored now: b, or with OnlyIfUnset what was there. It
// returns a *BudgetError with the sum when b cannot be, and then nothing has changed. A budget below what is leased is
// stored: hosts shrink to it within seconds, and nothing is granted until they have.
func (l *Ledger) SetBudget(ctx context.Context, b Budget, o SetOptions) (Budget, error) {
	if err := b.check(o); err != nil {
		return Budget{}, err
	}
	mode, fresh := "", ""
	if o.OnlyIfUnset {
		mode = "unset"
	}
	if o.NewCluster {
		fresh = "new"
	}
	r, err := budgetScript.Run(ctx, l.client, l.keys, newEpoch(), l.cluster, b.Connections, b.MinPerHost, line(b.SetBy), line(b.Reason), mode, fresh, 1).Slice()
	if err != nil {
		return Budget{}, fmt.Errorf("set the connection budget: %w", err)
	}
	if len(r) != 6 {
		return Budget{}, fmt.Errorf("set the connection budget: a reply of %d elements", len(r))
	}
	switch live, slots := integer(r[1]), integer(r[5]); r[0] {
	case "cluster":
		return Budget{}, fmt.Errorf("%w: %v", ErrCluster, r[1])
	case "short":
		need := live*b.MinPerHost + reserve(slots)
		return Budget{}, &BudgetError{
			Budget: b, LiveHosts: live, Reserve: reserve(slots), Options: o,
			Problem: fmt.Sprintf("%d live hosts × a minimum of %d + %d kept to confirm with = %d, more than %d", live, b.MinPerHost, reserve(slots), need, b.Connections),
		}
	}
	return l.Budget(ctx)
}

// LeaseState says how much of a lease is certain.
type LeaseState string

// States of a lease.
const (
	Live        LeaseState = "live"        // its holder renews it
	Unconfirmed LeaseState = "unconfirmed" // it has ended, and PostgreSQL has not yet shown that its connections are gone
)

// Lease is what one process, or one confirmation, may have open.
type Lease struct {
	Epoch        string     `json:"epoch"` // its name in application_name; never used twice
	Host         string     `json:"host"`
	State        LeaseState `json:"state"`
	Confirmation bool       `json:"confirmation,omitempty"` // a confirmation's own
	Pooled       bool       `json:"pooled,omitempty"`       // behind PgBouncer: cannot be confirmed
	Gone         bool       `json:"gone,omitempty"`         // a neighbour has seen that its process has ended
	Granted      int        `json:"granted"`                // connections that count against the budget
	Reserved     int        `json:"reserved"`               // of these, for child processes
	Demand       int        `json:"demand"`                 // connections its host could use
	Priority     int        `json:"priority"`               // higher goes first when it is short
	Expires      time.Time  `json:"expires,omitzero"`       // by Redis's clock; of a live one
	Since        time.Time  `json:"since"`                  // by Redis's clock: when it got this state

	proc string // see processName
}

// Snapshot is the ledger at one moment.
type Snapshot struct {
	Budget     Budget    `json:"budget"`  // zero when none is set
	Cluster    string    `json:"cluster"` // whose ledger it is, as it stands in application_name; "" for nobody's yet
	Generation string    `json:"generation"`
	Recovering bool      `json:"recovering"` // Redis may have forgotten: nothing is granted until PostgreSQL has shown what is open
	Since      time.Time `json:"since"`      // when the generation began
	Confirmed  time.Time `json:"confirmed"`  // when PostgreSQL was last asked; zero if never
	At         time.Time `json:"at"`         // by Redis's clock
	Reserve    int       `json:"reserve"`    // kept to confirm with
	Leases     []Lease   `json:"leases"`     // sorted by host
	Leased     int       `json:"leased"`     // sum of live leases
	Doubtful   int       `json:"doubtful"`   // sum of unconfirmed leases
	Free       int       `json:"free"`       // what could be granted now
}

// Snapshot reads the ledger. It changes nothing: a lease that ended since the last call of any host is shown as unconfirmed, too.
func (l *Ledger) Snapshot(ctx context.Context) (Snapshot, error) {
	var state, leases *redis.MapStringStringCmd
	var now *redis.TimeCmd
	_, err := l.client.TxPipelined(ctx, func(p redis.Pipeliner) error {
		state, leases, now = p.HGetAll(ctx, l.keys[0]), p.HGetAll(ctx, l.keys[1]), p.Time(ctx)
		return nil
	})
	if err != nil {
		return Snapshot{}, fmt.Errorf("read the ledger of connections: %w", err)
	}
	m := state.Val()
	s := Snapshot{
		Budget: budgetOf(m), Cluster: m["cluster"], Generation: m["generation"], Recovering: m["phase"] != "normal", At: now.Val(),
		Since: millis(m["since"]), Confirmed: millis(m["confirmed"]), Reserve: reserve(max(1, integer(m["slots"]))),
	}
	for epoch, text := range leases.Val() {
		e, ok := parseLease(epoch, text)
		if !ok {
			continue // not ours: somebody else writes under our keys
		}
		if e.State == Live && !e.Expires.After(s.At) {
			if e.Granted == 0 {
				continue
			}
			e.State, e.Since, e.Expires = Unconfirmed, e.Expires, time.Time{}
		}
		s.add(e)
	}
	s.finish()
	return s, nil
}

func (s *Snapshot) add(e Lease) {
	s.Leases = append(s.Leases, e)
	switch {
	case e.Confirmation: // inside the reserve
	case e.State == Live:
		s.Leased += e.Granted
	default:
		s.Doubtful += e.Granted
	}
}

func (s *Snapshot) finish() {
	slices.SortFunc(s.Leases, func(a, b Lease) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Epoch, b.Epoch))
	})
	if !s.Recovering {
		s.Free = max(0, s.Budget.Connections-s.Reserve-s.Leased-s.Doubtful)
	}
}

func budgetOf(m map[string]string) Budget {
	return Budget{
		Connections: integer(m["connections"]), MinPerHost: integer(m["min"]), SetBy: m["set_by"], Reason: m["reason"],
		SetAt: millis(m["set_at"]), Serial: int64(integer(m["serial"])),
	}
}

// parseLease reads a field of the hash of leases; see lua/begin.lua.
func parseLease(epoch, text string) (Lease, bool) {
	f := strings.Fields(text)
	if len(f) != 11 {
		return Lease{}, false
	}
	e := Lease{
		Epoch: epoch, Host: f[9], State: Live, Confirmation: f[0] == "c", Pooled: f[0] == "p", Gone: f[1] == "G",
		Granted: integer(f[3]), Reserved: integer(f[4]), Demand: integer(f[5]), Priority: integer(f[6]), Expires: millis(f[7]), Since: millis(f[8]),
		proc: f[10],
	}
	if f[1] != "L" {
		e.State, e.Expires = Unconfirmed, time.Time{}
	}
	return e, true
}

// integer reads what a script returns, a number or its text; 0 for anything else.
func integer(v any) int {
	switch v := v.(type) {
	case int64:
		return int(v)
	case string:
		n, err := strconv.Atoi(v)
		if err == nil {
			return n
		}
	}
	return 0
}

// millis reads milliseconds since 1970; the zero time for none.
func millis(s string) time.Time {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return time.Time{}
	}
	return millisOf(n)
}

func millisOf(n int64) time.Time {
	if n <= 0 {
		return time.Time{}
	}
	return time.UnixMilli(n)
}

// line makes text one line.
func line(s string) string { return strings.Join(strings.Fields(s), " ") }

// newEpoch makes a name that nobody else has or will have: 50 random bits in 10 characters.
func newEpoch() string { return strings.ToLower(rand.Text()[:epochBytes]) }

var errReply = errors.New("redis: a reply that is not the ledger's")
