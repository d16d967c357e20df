package ruby

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Poison counts the deaths of processes against the jobs that ran in them. queues.Store has it (CountPoison).
type Poison interface {
	// CountPoison counts one death, named so that a repeated call counts once, against a jid, and returns how many there were
	// within the last 72 h, this one included.
	CountPoison(ctx context.Context, jid, death string) (int, error)
}

// Leader is a fleet-wide lease of which at most one holder exists. queues.Leader has it.
type Leader interface {
	// Try acquires the lease or renews the one that is held. It returns until when the holder may act, by its own clock; the zero
	// time if another has it. After an error the last answer stays true.
	Try(ctx context.Context) (until time.Time, err error)
	// Release gives the lease up at once, if it is held.
	Release(ctx context.Context) error
}

// Action is what happens to a stuck job beyond the report.
type Action uint8

// The actions.
const (
	Report Action = iota // log and count it
	Kill                 // and replace its process: when only stuck jobs are left in it, it is killed and they are returned
)

// StuckPolicy says from when on a running job counts as stuck: Factor times the 99th percentile of its class's run times, between
// Floor and Ceiling; Ceiling while fewer than MinRuns runs of the class are known.
type StuckPolicy struct {
	Factor  float64       // default 20
	Floor   time.Duration // default 10 min
	Ceiling time.Duration // default 6 h; −1: never stuck
	MinRuns int           // default 50
	Action  Action        // default Report
}

// Config is what a Supervisor needs. New fills defaults.
type Config struct {
	Command Command  // how a Ruby of the application is started; see FindCommand
	Queues  []string // -q of every process, in order: what Sidekiq::Web and the application see it serving. Required

	Threads     int           // -c: the ceiling of jobs at once in one process. Default 25
	MinProcs    int           // processes kept even when there is nothing to do. Default 1
	MaxProcs    int           // processes at most, but for a replacement's overlap. Default: four times the number of CPUs, for Ruby jobs wait too
	NoPreload   bool          // start every process by itself instead of forking it from a preloaded parent
	MemoryLimit int64         // bytes of PSS above which a process is replaced; default 2 GiB, −1: none
	MemoryKeep  int64         // bytes of the host's available memory below which no process is added; default 512 MiB, −1: none
	StopTimeout time.Duration // -t: how long running jobs may go on at a stop. Default 25 s
	BootTimeout time.Duration // from start to the first request for a job. Default 5 min
	GrowAfter   time.Duration // how long more processes must be wanted. Default 1 s
	ShrinkAfter time.Duration // how long fewer processes must suffice. Default 2 min
	Look        time.Duration // between two looks at memory and at stuck jobs. Default 10 s
	Stuck       StuckPolicy

	DBPool      int         // DB_POOL of every process; 0: as in the environment
	Connections Connections // lends each process, and the preloaded parent while it boots, the database connections it may open; nil: nobody counts them
	Kin         *os.File    // every process inherits it, and need not read it: as long as one has it open, others see that one lives. Optional

	Poison    Poison        // nil: deaths are counted in this process only
	Leader    Leader        // nil: no process runs the cron scheduler
	CronQueue string        // the queue whose listener is the cron scheduler; default "scheduler". Taken out of Queues
	CronEvery time.Duration // between two tries for, or renewals of, the leadership. Default 5 s
	CronSeed  uint32        // seeds the random minutes of sidekiq.yml, so that every leader draws the same; the same in the whole fleet

	SocketDir string            // a private directory for socket and Ruby files is made below it; default os.TempDir()
	Done      func(Job, Result) // called once for each submitted and not withdrawn job, from several goroutines. Required
	RoomGrew  func()            // called, once, when there is room for a queue that Room has been asked for since the last call; must not block. Optional
	Observer  Observer          // default: none
	Log       *slog.Logger      // default: none
}

const maxThreads = 1000 // beyond this -c is a mistake

// fill sets defaults and returns every problem at once.
func (c *Config) fill() error {
	var problems []error
	setInt := func(p *int, fallback, lowest int, name string) {
		if *p == 0 {
			*p = fallback
		}
		if *p < lowest {
			problems = append(problems, fmt.Errorf("%s %d: must be at least %d", name, *p, lowest))
		}
	}
	setTime := func(p *time.Duration, fallback time.Duration, name string) {
		if *p == 0 {
			*p = fallback
		}
		if *p < 0 {
			problems = append(problems, fmt.Errorf("%s %v: must be positive", name, *p))
		}
	}
	setInt(&c.Threads, 25, 1, "threads")
	setInt(&c.MinProcs, 1, 1, "processes at least")
	setInt(&c.MaxProcs, max(c.MinProcs, 4*runtime.GOMAXPROCS(0)), 1, "processes at most")
	setTime(&c.StopTimeout, 25*time.Second, "stop timeout")
	setTime(&c.BootTimeout, 5*time.Minute, "boot timeout")
	setTime(&c.GrowAfter, time.Second, "grow after")
	setTime(&c.ShrinkAfter, 2*time.Minute, "shrink after")
	setTime(&c.Look, 10*time.Second, "look")
	setTime(&c.CronEvery, 5*time.Second, "cron every")
	if c.MinProcs > c.MaxProcs {
		problems = append(problems, fmt.Errorf("processes at least %d: more than at most %d", c.MinProcs, c.MaxProcs))
	}
	if c.Threads > maxThreads {
		problems = append(problems, fmt.Errorf("threads %d: must be at most %d", c.Threads, maxThreads))
	}
	if c.MemoryLimit == 0 {
		c.MemoryLimit = 2 << 30
	}
	if c.MemoryKeep == 0 {
		c.MemoryKeep = 512 << 20
	}
	c.Stuck.fill()
	if c.CronQueue == "" {
		c.CronQueue = "scheduler"
	}
	c.Queues = slices.DeleteFunc(slices.Clone(c.Queues), func(q string) bool { return q == c.CronQueue })
	if len(c.Queues) == 0 {
		problems = append(problems, errors.New("no queues"))
	}
	for _, q := range append(slices.Clone(c.Queues), c.CronQueue) {
		if q == "" || strings.ContainsAny(q, ", \t\n\x00") {
			problems = append(problems, fmt.Errorf("queue %q: not a queue's name", q))
		}
	}
	if c.Done == nil {
		problems = append(problems, errors.New("no Done function"))
	}
	problems = append(problems, c.Command.check()...)
	if c.SocketDir == "" {
		c.SocketDir = os.TempDir()
	}
	// sun_path has 108 bytes; our part is "/qv-ruby-<10 digits>/s".
	if dir, err := filepath.Abs(c.SocketDir); err != nil {
		problems = append(problems, fmt.Errorf("socket directory: %w", err))
	} else if c.SocketDir = dir; len(dir) > 80 {
		problems = append(problems, fmt.Errorf("socket directory %s: the path of a Unix socket must be shorter", dir))
	}
	if c.RoomGrew == nil {
		c.RoomGrew = func() {}
	}
	if c.Observer == nil {
		c.Observer = NoObserver{}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return errors.Join(problems...)
}

func (p *StuckPolicy) fill() {
	if p.Factor <= 0 {
		p.Factor = 20
	}
	if p.Floor <= 0 {
		p.Floor = 10 * time.Minute
	}
	if p.Ceiling == 0 {
		p.Ceiling = 6 * time.Hour
	}
	if p.MinRuns <= 0 {
		p.MinRuns = 50
	}
}
