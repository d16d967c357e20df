package queues

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// ErrLeaseLost says that this holder's lease is gone; nothing was changed.
var ErrLeaseLost = errors.New("lease lost")

// Holder is what identifies a registration to others that may have to adopt its jobs.
type Holder struct {
	Identity  string  `json:"identity"`   // hostname:pid:nonce
	Epoch     int64   `json:"epoch"`      // set by Register, always above the one given
	Hostname  string  `json:"hostname"`   //
	PID       int     `json:"pid"`        //
	BootID    string  `json:"boot_id"`    // /proc/sys/kernel/random/boot_id
	PIDNS     string  `json:"pid_ns"`     // readlink /proc/self/ns/pid
	StartTick uint64  `json:"start_tick"` // field 22 of /proc/<pid>/stat
	StartedAt float64 `json:"started_at"` // Unix seconds

	Sides string `json:"sides,omitempty"` // queues of which it serves the side lists too, with spaces between them: see Store.Merge
}

// Session is one registration: lease plus in-flight hash. All methods are safe for concurrent use.
type Session struct {
	store      *Store
	holder     Holder
	name       string
	generation string
	ttl        time.Duration
	json       string

	lease, inflight string
	batches         string // hash of batches
	lists           string // prefix of their lists
	claims          claims
	open            openBatches
	calls           atomic.Uint64 // of Fetch: names its batches
}

// Register takes a new epoch and writes lease (ttl), in-flight hash and registration in one script. restore, if not
// empty, is put into the new in-flight hash (used when Redis has forgotten) and returned with new Refs in the same
// order.
func (s *Store) Register(ctx context.Context, h Holder, ttl time.Duration, restore []Fetched) (*Session, []Fetched, error) {
	lowest := max(h.Epoch, s.epoch.Load()) + 1
	h.Epoch = 0
	text, err := json.Marshal(h)
	if err != nil {
		return nil, nil, fmt.Errorf("register %s: %w", h.Identity, err)
	}
	// The script knows the epoch. It is put first, so that nothing before it can look like its place.
	registration := `{"epoch":%E,` + strings.Replace(strings.TrimPrefix(string(text), "{"), `"epoch":0,`, "", 1)
	args := registerScript.begin(make([]any, 0, 16+2*len(restore)), 3)
	args = append(args, s.keys.epoch, s.keys.generation, s.keys.workers,
		lowest, newGeneration(), h.Identity, registration, ttl.Milliseconds(), s.keys.leasePrefix, s.keys.inflight)
	for i := range restore {
		args = append(args, &restore[i].Ref.Queue, &restore[i].Payload)
	}
	var reply *redis.StringSliceCmd
	err = registerScript.run(ctx, s.client, args, func(a []any) redis.Cmder {
		reply = redis.NewStringSliceCmd(ctx, a...)
		return reply
	})
	if err != nil {
		return nil, nil, fmt.Errorf("register %s: %w", h.Identity, err)
	}
	got := reply.Val()
	if len(got) != 2 {
		return nil, nil, fmt.Errorf("register %s: unexpected reply", h.Identity)
	}
	if h.Epoch, err = strconv.ParseInt(got[0], 10, 64); err != nil {
		return nil, nil, fmt.Errorf("register %s: %w", h.Identity, err)
	}
	for last := s.epoch.Load(); h.Epoch > last && !s.epoch.CompareAndSwap(last, h.Epoch); last = s.epoch.Load() {
	}
	session := &Session{
		store: s, holder: h, name: h.Identity + "/" + got[0], generation: got[1], ttl: ttl,
		json: strings.Replace(registration, "%E", got[0], 1),
	}
	session.lease, session.inflight = s.keys.lease(session.name), s.keys.inflightOf(session.name)
	session.batches = s.keys.batchesOf(session.name)
	session.lists = session.batches + ":"
	restored := make([]Fetched, len(restore))
	for i, f := range restore {
		f.Ref.Seq = uint64(i + 1)
		restored[i] = f
	}
	session.claims.grow(uint64(len(restore)))
	return session, restored, nil
}

func newGeneration() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// Epoch is the fencing number of this registration.
func (s *Session) Epoch() int64 { return s.holder.Epoch }

// Name is the holder's name, <identity>/<epoch>.
func (s *Session) Name() string { return s.name }

// Generation is Redis's generation as of Register.
func (s *Session) Generation() string { return s.generation }

// Renew extends the lease; ErrLeaseLost when it is gone (it is never re-created). A registration that somebody deleted
// is put back.
func (s *Session) Renew(ctx context.Context) error {
	args := append(renewScript.begin(make([]any, 0, 9), 3),
		s.lease, s.inflight, s.store.keys.workers, s.ttl.Milliseconds(), s.name, s.json)
	n, err := s.store.runInt(ctx, &renewScript, args)
	if err != nil {
		return fmt.Errorf("renew lease of %s: %w", s.name, err)
	}
	if n == 0 {
		return ErrLeaseLost
	}
	return nil
}

func (s *Store) runInt(ctx context.Context, script *script, args []any) (int64, error) {
	var reply *redis.IntCmd
	err := script.run(ctx, s.client, args, func(a []any) redis.Cmder {
		reply = redis.NewIntCmd(ctx, a...)
		return reply
	})
	if err != nil {
		return 0, err
	}
	return reply.Val(), nil
}

// Generation reads the current generation, "" if Redis has none (then it has forgotten).
func (s *Store) Generation(ctx context.Context) (string, error) {
	g, err := s.client.Get(ctx, s.keys.generation).Result()
	if errors.Is(err, redis.Nil) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read generation: %w", err)
	}
	return g, nil
}

// Close gives all that the session still holds back to its queues, oldest next to run, and removes lease and registration;
// for a clean stop. ErrLeaseLost if the lease is gone: others will have adopted the jobs, or will.
func (s *Session) Close(ctx context.Context) (returned int, err error) {
	if returned, err = s.store.giveBack(ctx, s.name, "own"); err != nil {
		return returned, fmt.Errorf("close %s: %w", s.name, err)
	}
	return returned, nil
}

// field prints the name of an in-flight field.
func appendField(b []byte, r Ref) []byte {
	b = strconv.AppendUint(b, r.Seq, 10)
	return append(append(b, ' '), r.Queue...)
}

// parseField reads it back; false for the counter and what is not ours.
func parseField(field string) (Ref, bool) {
	number, queue, ok := strings.Cut(field, " ")
	if !ok {
		return Ref{}, false
	}
	seq, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return Ref{}, false
	}
	return Ref{Seq: seq, Queue: queue}, true
}

// Unknown returns in-flight jobs whose Seq known denies, in the order they were fetched: those whose fetch reply was
// lost. Fetches that are under way at the same time may be among them, so the caller must not fetch meanwhile.
func (s *Session) Unknown(ctx context.Context, known func(seq uint64) bool) ([]Fetched, error) {
	alive, err := s.store.client.Exists(ctx, s.lease, s.inflight).Result()
	if err != nil {
		return nil, fmt.Errorf("look at lease of %s: %w", s.name, err)
	}
	if alive < 2 {
		return nil, ErrLeaseLost
	}
	jobs, batches, err := s.store.held(ctx, s.name, func(r Ref) bool { return !known(r.Seq) })
	if err != nil {
		return nil, fmt.Errorf("list jobs in flight of %s: %w", s.name, err)
	}
	s.open.merge(batches)
	if len(jobs) > 0 {
		s.claims.grow(jobs[len(jobs)-1].Ref.Seq)
	}
	return jobs, nil
}

func compareSeq(a, b Ref) int {
	switch {
	case a.Seq < b.Seq:
		return -1
	case a.Seq > b.Seq:
		return 1
	}
	return 0
}
