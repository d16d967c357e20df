package worker

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/queueville/queueville/queues"
)

// ShadowConfig is what a Shadow is made of.
type ShadowConfig struct {
	Store   *queues.Store
	Queues  []string      // looked at, never touched
	Classes []string      // native ones
	Share   int           // of 10,000, by jid
	Hosts   []string      // only jobs for these destinations; nil means all
	Every   time.Duration // between two looks; default 1 s
	Depth   int           // jobs looked at per queue; default 200
	Log     *slog.Logger

	// Try does all of a job's work that has no effect outside this process, and names its destination.
	Try func(ctx context.Context, job *queues.Job) (dest string, err error)
}

// Shadow looks at queues and says what a worker would have done. It takes nothing, sends nothing and writes nothing.
type Shadow struct {
	cfg  ShadowConfig
	mu   sync.Mutex
	seen *recent
	rep  ShadowReport
}

// ShadowReport is what a Shadow has seen.
type ShadowReport struct {
	Since        time.Time     `json:"since"`
	Looks        int           `json:"looks"`
	Seen         int           `json:"seen"`         // different jobs
	Native       int           `json:"native"`       // of these, jobs of native classes within the share and hosts
	Ready        int           `json:"ready"`        // of these, jobs that were read and signed without an error
	Broken       int           `json:"broken"`       // of these, jobs that would have failed before sending
	Destinations int           `json:"destinations"` // different ones; counting ends at 20,000
	FirstError   string        `json:"first_error,omitempty"`
	Work         time.Duration `json:"work_nanoseconds"` // time spent on reading and signing
}

// shadowSeen bounds the jids and destinations that are remembered.
const shadowSeen = 20_000

// NewShadow makes a Shadow. It starts nothing.
func NewShadow(cfg ShadowConfig) *Shadow {
	setDefault(&cfg.Every, time.Second)
	setDefault(&cfg.Depth, 200)
	setDefault(&cfg.Share, 10_000)
	return &Shadow{cfg: cfg, seen: newRecent(shadowSeen), rep: ShadowReport{Since: time.Now()}}
}

// Run looks until ctx ends and logs what it saw once a minute and at the end.
func (s *Shadow) Run(ctx context.Context) error {
	dests := newRecent(shadowSeen)
	look := time.NewTicker(s.cfg.Every)
	defer look.Stop()
	tell := time.NewTicker(time.Minute)
	defer tell.Stop()
	for {
		for _, q := range s.cfg.Queues {
			s.look(ctx, q, dests)
		}
		select {
		case <-ctx.Done():
			s.tell(context.WithoutCancel(ctx))
			return nil
		case <-tell.C:
			s.tell(ctx)
		case <-look.C:
		}
	}
}

func (s *Shadow) look(ctx context.Context, queue string, dests *recent) {
	callCtx, cancel := context.WithTimeout(ctx, fetchTimeout)
	payloads, err := s.cfg.Store.Peek(callCtx, queue, s.cfg.Depth)
	cancel()
	if err != nil {
		if ctx.Err() == nil {
			s.cfg.Log.WarnContext(ctx, "look failed", slog.String("queue", queue), slog.Any("err", err))
		}
		return
	}
	s.mu.Lock()
	s.rep.Looks++
	s.mu.Unlock()
	for _, p := range payloads {
		if ctx.Err() != nil {
			return
		}
		job, err := queues.ParseJob(p)
		if err != nil || !s.seen.add(job.JID) {
			continue
		}
		s.rehearse(ctx, &job, dests)
	}
}

func (s *Shadow) rehearse(ctx context.Context, job *queues.Job, dests *recent) {
	native := slices.Contains(s.cfg.Classes, job.Class) && queues.InShare(job.JID, s.cfg.Share)
	start := time.Now()
	var dest string
	var err error
	if native {
		callCtx, cancel := context.WithTimeout(ctx, 10*time.Second)
		dest, err = s.cfg.Try(callCtx, job)
		cancel()
		native = len(s.cfg.Hosts) == 0 || slices.Contains(s.cfg.Hosts, dest)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rep.Seen++
	if !native {
		return
	}
	s.rep.Native++
	s.rep.Work += time.Since(start)
	if dests.add(dest) {
		s.rep.Destinations++
	}
	if err == nil {
		s.rep.Ready++
		return
	}
	s.rep.Broken++
	if s.rep.FirstError == "" {
		s.rep.FirstError = err.Error()
	}
}

// Report is what was seen so far.
func (s *Shadow) Report() ShadowReport {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rep
}

func (s *Shadow) tell(ctx context.Context) {
	r := s.Report()
	s.cfg.Log.InfoContext(ctx, "shadow: nothing was taken or sent", slog.Int("seen", r.Seen), slog.Int("would_take", r.Native), slog.Int("signed", r.Ready),
		slog.Int("would_fail", r.Broken), slog.Int("destinations", r.Destinations), slog.String("first_error", r.FirstError))
}

// recent remembers the last n strings.
type recent struct {
	set  map[string]struct{}
	ring []string
	next int
}

func newRecent(n int) *recent {
	return &recent{set: make(map[string]struct{}), ring: make([]string, n)}
}

// add is true when s was not remembered.
func (r *recent) add(s string) bool {
	if _, ok := r.set[s]; ok {
		return false
	}
	delete(r.set, r.ring[r.next])
	r.ring[r.next] = s
	r.next = (r.next + 1) % len(r.ring)
	r.set[s] = struct{}{}
	return true
}
