package ruby

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/queueville/queueville/internal/hostload"
	"github.com/queueville/queueville/queues"
)

// Supervisor keeps the Ruby processes of this host. All methods are safe for concurrent use.
type Supervisor struct {
	cfg  Config
	wake chan struct{} // capacity 1: something happened that decide should look at
	wg   sync.WaitGroup

	dir    string // made by Run
	socket string

	mu        sync.Mutex
	state     runState
	waiting   []*waitingJob // in the order of Submit
	procs     []*process    // not ended
	tokens    map[string]*process
	zygote    *zygote
	conns     map[net.Conn]struct{}
	costs     *costs
	typical   map[string]float64 // mean CPU share of what ran lately, by queue
	wanted    []string           // queues that Room was asked for since RoomGrew was called
	host      *hostload.Sensor   // loop's alone
	hostUse   float64            // CPU use of the host lately, 1 is all of it
	stolen    float64            // of what was wanted of it, by other machines, lately
	sampledAt time.Time
	ended     int     // jobs since then
	ending    float64 // jobs that end per second, lately
	number    uint64  // of the last job given out
	quiet     bool
	leadTill  time.Time // until when this host runs the cron scheduler; zero: it does not
	hold      hold

	outer     outer
	boots     boots
	seats     seats
	growSince time.Time // since when more processes are wanted; zero: they are not
	spare     time.Time // since when fewer suffice
	lookedAt  time.Time
	abandoned map[string]int // jid → how often its thread ended or was killed without counting as a death
	deaths    map[string][]time.Time
}

const (
	typicalWeight = 0.1 // of one more job in a queue's mean share
	maxQueues     = 256 // means remembered
)

type runState uint8

const (
	notRun runState = iota
	runs
	stopping // ctx of Run has ended
	over     // Run has returned
)

// waitingJob is one that no process has.
type waitingJob struct {
	job   Job
	alone bool
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
	Waits     string // why the next process waits for its database connections; "" if none does
	Held      string // why no job may start, see Hold; "" if they may
}

// Process is one Ruby process, for status and for counting its database connections.
type Process struct {
	PID     int // 0 until it is known
	Slot    int // below Slots
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
	return &Supervisor{
		cfg: cfg, wake: make(chan struct{}, 1), tokens: map[string]*process{}, conns: map[net.Conn]struct{}{}, costs: newCosts(),
		host: hostload.New(hostload.Config{}), typical: map[string]float64{}, abandoned: map[string]int{}, deaths: map[string][]time.Time{}, seats: seats{of: map[*process]*seat{}},
	}, nil
}

// errRunTwice says that Run was called a second time.
var errRunTwice = errors.New("a Supervisor runs once")

// Run starts processes, watches and replaces them until ctx ends; then it stops them as Sidekiq is stopped (quiet, StopTimeout, kill)
// and returns when all have ended and Done was called for every job. A process that does not boot is no error: it is logged, shown in
// Load and tried again. Run can be called once.
func (s *Supervisor) Run(ctx context.Context) error {
	s.mu.Lock()
	if s.state != notRun {
		s.mu.Unlock()
		return errRunTwice
	}
	s.state = runs
	s.mu.Unlock()

	listener, err := s.open(ctx)
	if err == nil {
		s.wg.Go(func() { s.accept(listener) }) //nolint:contextcheck // deaths are counted to the end, also in a stop
		s.loop(ctx)
		_ = listener.Close() // ends accept
		s.mu.Lock()
		for c := range s.conns {
			_ = c.Close() // of processes that have ended: their readers end with it
		}
		s.mu.Unlock()
		s.wg.Wait()
		err = os.RemoveAll(s.dir)
	}
	s.mu.Lock()
	s.state = over
	var e effects
	s.returnWaiting(&e)
	s.mu.Unlock()
	s.carryOut(&e)
	return err
}

// Slots is how many processes can exist at the same time, one that is being replaced included: each has DBPool connections, and so has the
// preloaded parent while it boots.
func (s *Supervisor) Slots() int { return s.cfg.MaxProcs + 1 }

// Room is how many more jobs of each queue Submit should get now: about what can start soon. It is 0 before a process is ready, when quiet, and
// while enough jobs wait. Jobs that compute leave room for jobs that wait, and the reverse: they wait for different things, as long as there
// are idle threads.
func (s *Supervisor) Room(names []string) []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range names {
		if !slices.Contains(s.wanted, name) {
			s.wanted = append(s.wanted, name)
		}
	}
	rooms := make([]int, len(names))
	if s.quiet || s.state != runs || s.hold.why != "" {
		return rooms
	}
	views := s.views(nil)
	if len(views) == 0 {
		return rooms
	}
	wait, full := s.backlog(), noneIdle(views)
	for i, name := range names {
		rooms[i] = s.roomFor(name, views, &wait, full)
	}
	return rooms
}

// roomFor is how many more jobs of a queue are wanted. full: no thread is idle. mu is held.
func (s *Supervisor) roomFor(name string, views []ProcView, wait *backlog, full bool) int {
	typical := s.typicalOf(name)
	waiting := wait.heavy
	if typical < lightShare {
		waiting = wait.light
	}
	waiting = max(waiting, wait.byQueue[name]) // a queue may have both kinds
	if full {
		waiting = len(s.waiting)
	}
	return s.roomWithin(Room(waiting, views, typical, s.ahead()), len(views))
}

// roomGrew reports whether RoomGrew is to be called, once: there is room for a job of a queue that Room has been asked for since it was called last.
// Whoever asks knows which others are empty, and a job that ends leaves room for something nearly always. mu is held.
func (s *Supervisor) roomGrew() bool {
	if s.quiet || s.state != runs || s.hold.why != "" {
		return false
	}
	views := s.views(nil)
	wait, full := s.backlog(), noneIdle(views)
	for _, name := range s.wanted {
		if s.roomFor(name, views, &wait, full) > 0 {
			s.wanted = s.wanted[:0]
			return true
		}
	}
	return false
}

// noneIdle tells whether all threads have a job. Then whatever waits here waits for the same thing, a thread, whether it computes or not. Were room
// left for each kind, half of the threads that become free would go to each, whatever their goals: 18 threads full of link cards kept
// jobs of default waiting for 18 s.
func noneIdle(views []ProcView) bool {
	for i := range views {
		if views[i].Idle > 0 {
			return false
		}
	}
	return true
}

// backlog counts what waits: jobs that compute, jobs that wait for others, and the jobs of each queue.
type backlog struct {
	heavy, light int
	byQueue      map[string]int
}

// backlog: mu is held.
func (s *Supervisor) backlog() backlog {
	l := backlog{byQueue: make(map[string]int, len(s.cfg.Queues)+1)}
	for _, w := range s.waiting {
		if s.costs.share(w.job.Class) < lightShare {
			l.light++
		} else {
			l.heavy++
		}
		l.byQueue[w.job.Queue]++
	}
	return l
}

// typicalOf is the mean CPU share of what came from a queue lately. mu is held.
func (s *Supervisor) typicalOf(queue string) float64 {
	if share, ok := s.typical[queue]; ok {
		return share
	}
	return unknownShare
}

// learnTypical takes one more share into a queue's mean. mu is held.
func (s *Supervisor) learnTypical(queue string, share float64) {
	old, known := s.typical[queue]
	if !known {
		if len(s.typical) >= maxQueues {
			clear(s.typical)
		}
		old = unknownShare
	}
	s.typical[queue] = old + typicalWeight*(share-old)
}

// views are the processes that take jobs; index, if not nil, gets which they are. mu is held.
func (s *Supervisor) views(index *[]*process) []ProcView {
	views := make([]ProcView, 0, len(s.procs))
	for _, p := range s.procs {
		if p.state != serving {
			continue
		}
		views = append(views, p.view())
		if index != nil {
			*index = append(*index, p)
		}
	}
	return views
}

// Submit takes jobs in the order in which they should start. It never blocks and takes any number. Jobs submitted after Quiet or after
// the end of Run are returned through Done, before Submit returns.
func (s *Supervisor) Submit(jobs []Job) {
	var e effects
	s.mu.Lock()
	for i := range jobs {
		s.waiting = append(s.waiting, &waitingJob{job: jobs[i], alone: mustBeAlone(jobs[i].Payload)})
	}
	if s.quiet || s.state > runs {
		s.returnWaiting(&e)
	} else {
		s.place(&e, time.Now())
	}
	s.mu.Unlock()
	s.carryOut(&e)
}

// mustBeAlone reads the mark of a job whose processes died by themselves. A job without the word is not scanned.
func mustBeAlone(payload string) bool {
	if !strings.Contains(payload, queues.PoisonField) {
		return false
	}
	_, marked := queues.TopLevel(payload, queues.PoisonField)
	return marked
}

// Withdraw takes back every job that no process has got, in the order of Submit. Done is not called for them.
func (s *Supervisor) Withdraw() []Job {
	s.mu.Lock()
	defer s.mu.Unlock()
	jobs := make([]Job, len(s.waiting))
	for i, w := range s.waiting {
		jobs[i] = w.job
	}
	s.waiting = nil
	return jobs
}

// Quiet lets no further job start, returns those that wait and tells every process to be quiet; what runs goes on. There is no way back.
func (s *Supervisor) Quiet() {
	var e effects
	s.mu.Lock()
	s.quiet = true
	s.returnWaiting(&e)
	now := time.Now()
	for _, p := range s.procs {
		p.leave(EndingStopped, now)
	}
	s.mu.Unlock()
	s.carryOut(&e)
	s.nudge()
}

// Load is how full the Ruby side is now.
func (s *Supervisor) Load() Load {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := Load{Waiting: len(s.waiting), Problem: s.boots.problem, Waits: s.seats.problem, Held: s.hold.why}
	for _, p := range s.procs {
		l.Running += len(p.jobs)
		switch p.state {
		case booting:
			l.Booting++
		case serving:
			l.Processes++
			l.Threads += p.seats
			l.Cron = l.Cron || p.cron
		case leaving, ended:
			l.Leaving++
		}
	}
	return l
}

// Processes lists the Ruby processes, by slot.
func (s *Supervisor) Processes() []Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Process, len(s.procs))
	for i, p := range s.procs {
		list[i] = Process{PID: p.pid, Slot: p.slot, State: p.state.String(), Running: len(p.jobs), PSS: p.pss, Cron: p.cron}
	}
	slices.SortFunc(list, func(a, b Process) int { return a.Slot - b.Slot })
	return list
}

// nudge lets decide look at once.
func (s *Supervisor) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}
