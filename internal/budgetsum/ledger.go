package budgetsum

import (
	"context"
	"errors"
	"fmt"

	"github.com/queueville/queueville/dbpool"
	"github.com/queueville/queueville/internal/mastodonenv"
	"github.com/queueville/queueville/internal/status"
	"github.com/queueville/queueville/queues"
)

// ReadLedger asks Sidekiq's Redis for the stored budget (nil when there is none) and who has leases of it. ctx needs a deadline.
func ReadLedger(ctx context.Context, ledger *dbpool.Ledger) (*Stored, *Ledger, error) {
	snapshot, err := ledger.Snapshot(ctx)
	if err != nil {
		return nil, nil, err
	}
	out := &Ledger{Reserve: snapshot.Reserve, Doubtful: snapshot.Doubtful, Free: snapshot.Free, Leases: []Lease{}}
	for _, l := range snapshot.Leases {
		if l.Confirmation {
			continue // inside the reserve
		}
		out.Leases = append(out.Leases, Lease{Host: l.Host, Leased: l.Granted, Demand: l.Demand, Ruby: l.Reserved, State: string(l.State), Expires: l.Expires})
	}
	if snapshot.Budget.Connections == 0 {
		return nil, out, nil
	}
	out.Recovering = snapshot.Recovering
	return storedOf(snapshot.Budget), out, nil
}

func storedOf(b dbpool.Budget) *Stored {
	return &Stored{Connections: b.Connections, MinPerHost: b.MinPerHost, SetBy: b.SetBy, SetAt: b.SetAt, Reason: b.Reason}
}

// ReadRunning lists the Sidekiq processes of Ruby that run on any host by themselves. Those of our workers are in the workers' leases.
func ReadRunning(ctx context.Context, store *queues.Store) ([]RubyProcess, error) {
	s, err := status.Read(ctx, store)
	if err != nil {
		return nil, fmt.Errorf("read Sidekiq's process list: %w", err)
	}
	var out []RubyProcess
	for i := range s.Processes {
		if p := &s.Processes[i]; p.Worker == nil && !p.Supervised() {
			out = append(out, RubyProcess{Host: p.Hostname, Concurrency: p.Concurrency})
		}
	}
	return out, nil
}

// RefusedError says why a budget is not stored. Sum is what shows it.
type RefusedError struct {
	Why  string
	Hint string
	Sum  *Sum
}

// Error is why.
func (e *RefusedError) Error() string { return e.Why }

// Change is a budget that a person wants to store.
type Change struct {
	Connections int
	Found       bool // store what the sum found instead of Connections
	MinPerHost  int
	SetBy       string
	Reason      string
	Force       bool // although others can hold what is stored
	NewCluster  bool // no worker has been running for two minutes
}

// Store stores a budget for the cluster, once it has been held against the sum, and returns what is stored then. The error is a
// *RefusedError, or that of a Redis that does not answer; then nothing has changed.
func Store(ctx context.Context, ledger *dbpool.Ledger, s *Sum, c Change) (*Stored, error) {
	if c.Found {
		if s.Found == nil {
			return nil, &RefusedError{Why: "no budget was found, because what the pooler allows is not known", Hint: "give the number yourself", Sum: s}
		}
		c.Connections = *s.Found
	}
	if err := s.judge(c); err != nil {
		return nil, err
	}
	b, err := ledger.SetBudget(ctx, dbpool.Budget{Connections: c.Connections, MinPerHost: c.MinPerHost, SetBy: c.SetBy, Reason: c.Reason},
		dbpool.SetOptions{NewCluster: c.NewCluster})
	if refused, ok := errors.AsType[*dbpool.BudgetError](err); ok {
		return nil, &RefusedError{Why: refused.Error(), Hint: "store a larger budget or a smaller minimum (--min)", Sum: s}
	}
	if err != nil {
		return nil, err
	}
	return storedOf(b), nil
}

// judge refuses a budget that contradicts the sum. What depends on the hosts that are live, the ledger refuses.
func (s *Sum) judge(c Change) error {
	refuse := func(hint, format string, args ...any) error {
		return &RefusedError{Why: fmt.Sprintf("a budget of %d connections: ", c.Connections) + fmt.Sprintf(format, args...), Hint: hint, Sum: s}
	}
	wrong := mastodonenv.Errors(s.Warnings)
	switch {
	case wrong != nil && !c.Force:
		return refuse("mend them, or --force", "units could not be read, so the sum is not to be relied on")
	case c.Connections <= 0 && c.Found:
		return refuse("make the pools of others fewer, or raise max_connections", "nothing was found to be free")
	case c.Connections <= 0:
		return refuse("give a number from 1 on", "must be more than none")
	case s.Found == nil:
		return nil // behind a pooler that does not tell its sizes
	case c.Connections > s.Available:
		return refuse(fmt.Sprintf("store %d or less", max(0, *s.Found)), "everybody together can have %d", s.Available)
	case c.Connections > s.Available-s.CanHold && !c.Force:
		return refuse(fmt.Sprintf("store %d or less, make the pools of others fewer, or --force", max(0, *s.Found)),
			"%d for everybody − %d that others can hold = %d, less than %d", s.Available, s.CanHold, s.Available-s.CanHold, c.Connections)
	}
	return nil
}
