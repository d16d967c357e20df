package queues

import (
	"context"
	_ "embed" // the script
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

//go:embed lua/leader.lua
var leaderLua string

var leaderScript = newScript(leaderLua)

// The times of a leadership, in proportion to TTL 60 s: a dead leader's place is taken after at most TTL + absence + the time between two tries.
const (
	defaultLeaderTTL = time.Minute
	leaderMargin     = 4 // the holder stops a quarter of TTL before its lease ends
	leaderAbsence    = 8 // an absent key must stay absent for an eighth of TTL
)

// Leader is a lease in Redis of which at most one holder in the fleet exists: queueville:leader:<name>. Each taking gets a higher fencing
// number. Safe for concurrent use.
//
// A key that is not there is only taken after it was missing for a while: a Redis that has forgotten everything does not make a second
// leader before the first one's next renewal fails. A holder counts its lease from before the renewal was sent, and stops a quarter of it
// before its end, so slow replies and a paused process are within the margin as long as its clock runs.
type Leader struct {
	// TTL of the lease; set it before the first use. Default 60 s.
	TTL time.Duration

	store         *Store
	identity      string
	key, fenceKey string
	mu            sync.Mutex
	value         string    // of the lease that we hold; "" if none
	until         time.Time // until when we may act
	absent        time.Time // since when the key was seen missing
	fence         int64
}

// NewLeader returns a candidate for the lease of that name, e.g. "cron". identity names it for people: hostname:pid:nonce.
func NewLeader(s *Store, name, identity string) *Leader {
	key := s.keys.own + "leader:" + name
	return &Leader{TTL: defaultLeaderTTL, store: s, identity: identity, key: key, fenceKey: key + ":fence"}
}

// Try takes the lease, or renews it if it is held, and returns until when the holder may act; the zero time if another has it. After an
// error the last answer stays true. To be called several times within a quarter of TTL.
func (l *Leader) Try(ctx context.Context) (time.Time, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	begin := time.Now()
	if l.value != "" {
		got, err := l.run(ctx, "renew", l.value)
		if err != nil {
			return l.until, fmt.Errorf("renew %s: %w", l.key, err)
		}
		if got != "" {
			l.until = begin.Add(l.TTL - l.TTL/leaderMargin)
			return l.until, nil
		}
		l.value, l.until, l.absent = "", time.Time{}, time.Time{}
		return l.until, nil // whoever took it may be at work; if nobody did, the next tries find out
	}
	mode := ""
	if !l.absent.IsZero() && begin.Sub(l.absent) >= l.TTL/leaderAbsence {
		mode = "absent"
	}
	got, err := l.run(ctx, "take", l.identity, mode)
	if err != nil {
		return time.Time{}, fmt.Errorf("take %s: %w", l.key, err)
	}
	switch got {
	case "":
		l.absent = time.Time{}
		return time.Time{}, nil
	case "absent":
		if l.absent.IsZero() {
			l.absent = begin
		}
		return time.Time{}, nil
	}
	number, _, _ := strings.Cut(got, " ")
	if l.fence, err = strconv.ParseInt(number, 10, 64); err != nil {
		return time.Time{}, fmt.Errorf("take %s: %w", l.key, err)
	}
	l.value, l.absent, l.until = got, time.Time{}, begin.Add(l.TTL-l.TTL/leaderMargin)
	return l.until, nil
}

// Fence is the fencing number of the last taking: higher than that of every earlier holder, unless Redis forgot; 0 before the first.
func (l *Leader) Fence() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fence
}

// Release gives the lease up, if it is held: another can take it at once. The caller must have stopped acting.
func (l *Leader) Release(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.value == "" {
		return nil
	}
	value := l.value
	l.value, l.until = "", time.Time{}
	if _, err := l.run(ctx, "release", value); err != nil {
		return fmt.Errorf("release %s: %w", l.key, err)
	}
	return nil
}

// run calls the script; mode is only for take.
func (l *Leader) run(ctx context.Context, action, value string, mode ...string) (string, error) {
	args := append(leaderScript.begin(make([]any, 0, 9), 2), l.key, l.fenceKey, action, value, l.TTL.Milliseconds())
	for _, m := range mode {
		args = append(args, m)
	}
	var reply *redis.Cmd
	err := leaderScript.run(ctx, l.store.client, args, func(a []any) redis.Cmder {
		reply = redis.NewCmd(ctx, a...)
		return reply
	})
	if err != nil {
		return "", err
	}
	return reply.Text()
}
