package activitypub

import (
	"context"
	"fmt"
	"sync"
	"time"
)

const (
	unavailableRefresh = 10 * time.Second
	unavailableLimit   = 5 * time.Second
	// maxUnavailable bounds the copy; the whole fediverse has far fewer hosts.
	maxUnavailable = 500_000
)

// unavailable is a copy of the table unavailable_domains, at most ten seconds old while Postgres answers.
type unavailable struct {
	db DB

	mu      sync.RWMutex
	domains map[string]struct{}
	stamp   string    // what the table looked like when it was read
	checked time.Time // when it was last compared; zero: never read

	refreshing sync.Mutex // one reader at a time
}

// lists says whether host has a row. The error is Postgres's, and only when the table was never read.
func (u *unavailable) lists(ctx context.Context, host string) (bool, error) {
	u.mu.RLock()
	age := time.Since(u.checked)
	loaded := !u.checked.IsZero()
	_, listed := u.domains[host]
	u.mu.RUnlock()
	if loaded && age < unavailableRefresh {
		return listed, nil
	}
	if loaded {
		// Stale because nobody runs Run, or Postgres is away. One caller looks, the others go on with what is there.
		if !u.refreshing.TryLock() {
			return listed, nil
		}
	} else {
		u.refreshing.Lock()
	}
	defer u.refreshing.Unlock()
	if err := u.refreshLocked(ctx, age < unavailableRefresh); err != nil && !loaded {
		return false, err
	}
	u.mu.RLock()
	defer u.mu.RUnlock()
	_, listed = u.domains[host]
	return listed, nil
}

// refresh brings the copy up to date.
func (u *unavailable) refresh(ctx context.Context) error {
	u.refreshing.Lock()
	defer u.refreshing.Unlock()
	return u.refreshLocked(ctx, false)
}

func (u *unavailable) refreshLocked(ctx context.Context, onlyIfNever bool) error {
	u.mu.RLock()
	stamp, checked := u.stamp, u.checked
	u.mu.RUnlock()
	if onlyIfNever && !checked.IsZero() || !checked.IsZero() && time.Since(checked) < time.Second {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, unavailableLimit)
	defer cancel()
	now := time.Now()
	// Ids only grow, so any insertion or deletion changes the count or the sum; then the table is read again.
	var current string
	if err := queryOne(ctx, u.db, []any{&current},
		`SELECT count(*)::text || ' ' || coalesce(sum(id), 0)::text FROM unavailable_domains`); err != nil {
		u.postpone(now)
		return fmt.Errorf("look at unavailable_domains: %w", err)
	}
	if current == stamp {
		u.mu.Lock()
		u.checked = now
		u.mu.Unlock()
		return nil
	}
	domains, err := u.read(ctx)
	if err != nil {
		u.postpone(now)
		return err
	}
	u.mu.Lock()
	u.domains, u.stamp, u.checked = domains, current, now
	u.mu.Unlock()
	return nil
}

// postpone keeps deliveries from asking an absent Postgres one by one.
func (u *unavailable) postpone(now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.checked.IsZero() {
		u.checked = now.Add(2*time.Second - unavailableRefresh)
	}
}

func (u *unavailable) read(ctx context.Context) (map[string]struct{}, error) {
	rows, err := u.db.Query(ctx, `SELECT domain FROM unavailable_domains LIMIT $1`, int64(maxUnavailable))
	if err != nil {
		return nil, fmt.Errorf("read unavailable_domains: %w", err)
	}
	defer rows.Close()
	domains := make(map[string]struct{})
	for rows.Next() {
		var domain string
		if err := rows.Scan(&domain); err != nil {
			return nil, fmt.Errorf("read unavailable_domains: %w", err)
		}
		domains[domain] = struct{}{}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read unavailable_domains: %w", err)
	}
	return domains, nil
}

// change applies our own writes, which need not wait for the next look.
func (u *unavailable) change(hosts []string, listed bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, host := range hosts {
		if listed && u.domains != nil {
			u.domains[host] = struct{}{}
		} else {
			delete(u.domains, host)
		}
	}
}
