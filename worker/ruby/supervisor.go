package ruby

import (
	"context"
	"errors"
	"sync"
)

// Supervisor keeps the Ruby processes of this host. All methods are safe for concurrent use.
type Supervisor struct {
	cfg Config

	mu      sync.Mutex
	waiting []Job // in the order of Submit
	quiet   bool
}

// Load is how full the Ruby side is, at one moment.
type Load struct {
	Waiting   int // submitted, not with a process
	Running   int
	Processes int // that take jobs
	Booting   int
	Leaving   int // that end when their jobs have
	Threads   int // of the processes that take jobs: jobs at once at most
	Cron      bool
	Problem   string // why no process can be booted at present; "" if none is known
}

// Process is one Ruby process, for status and for counting its database connections.
type Process struct {
	PID     int
	Slot    int // below Slots: names the process's PGAPPNAME
	State   string
	Running int
	PSS     int64 // bytes, 0 if not known yet
	Cron    bool
}

// New checks the configuration, every problem at once. It starts nothing.
func New(cfg Config) (*Supervisor, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	return &Supervisor{cfg: cfg}, nil
}

// Run starts processes, watches and replaces them until ctx ends; then it stops them as Sidekiq is stopped (quiet, StopTimeout, kill)
// and returns when all have ended and Done was called for every job. A process that does not boot is no error: it is logged, shown in
// Load and tried again. Run can be called once.
func (s *Supervisor) Run(ctx context.Context) error {
	<-ctx.Done()
	return errors.New("not built yet")
}

// Slots is how many processes can exist at the same time, one that is being replaced included: each has the DBPool connections.
func (s *Supervisor) Slots() int { return s.cfg.MaxProcs + 1 }

// Room is how many more jobs Submit should get now: about what can start soon. It is 0 before a process is ready, when quiet, and
// while jobs wait that cannot start.
func (s *Supervisor) Room() int { return 0 }

// Submit takes jobs in the order in which they should start. It never blocks and takes any number. Jobs submitted after Quiet or after
// the end of Run are returned through Done.
func (s *Supervisor) Submit(jobs []Job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = append(s.waiting, jobs...)
}

// Withdraw takes back every job that no process has got, in the order of Submit. Done is not called for them.
func (s *Supervisor) Withdraw() []Job {
	s.mu.Lock()
	defer s.mu.Unlock()
	jobs := s.waiting
	s.waiting = nil
	return jobs
}

// Quiet lets no further job start and tells every process to be quiet; what runs goes on. There is no way back.
func (s *Supervisor) Quiet() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.quiet = true
}

// Load is how full the Ruby side is now.
func (s *Supervisor) Load() Load { return Load{} }

// Processes lists the Ruby processes.
func (s *Supervisor) Processes() []Process { return nil }
