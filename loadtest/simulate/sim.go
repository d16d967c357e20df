package simulate

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/queueville/queueville/loadtest/world"
)

// engine decides what runs where.
type engine interface {
	// install makes the engine's processes on new machines, which are ready at a time (ns).
	install(machines []*machine, ready int64)
	// retire takes machines out: they take nothing new. killed: what runs on them is gone at once.
	retire(machines []*machine, killed bool)
	// pushed tells that there is a job more in a queue.
	pushed(queue int)
	// look tells that a second has passed, or that Redis is back.
	look()
	// ended tells that a task has ended; its outcome has been seen to.
	ended(t *task, failed bool)
	// pollers is how many processes look for due jobs.
	pollers() int
	// troubled is how many destinations the engine holds for down.
	troubled() int
	// waiting is how many jobs it has fetched and not started.
	waiting() int
	// beside is how many jobs wait beside a queue, in lists of the engine's own.
	beside(queue int) int
	// memory is the resident memory of its processes in GiB, by the figures of docs/loadtest.md.
	memory() float64
}

// sim is one run.
type sim struct {
	cfg   *Config
	now   int64
	seq   uint32
	heap  events
	timer []func() // by −1−event.task
	spare []int32  // timers that have fired

	stream *world.Stream
	nextAt int64 // of the stream
	over   bool  // no more arrivals

	queues    [world.Queues]jobRing
	due       dueJobs // Sidekiq's retry and schedule sets: a poller has to find them
	outside   dueJobs // pushes that the outside makes at a later time
	dueSeq    uint64
	jobs      int // in queues and sets
	held      int // of these, in sets because their destination is down
	retrying  int // of these, in sets because they failed
	tasks     []task
	freeTasks []int32
	running   int

	machines    []*machine // of the current stage
	old         []*machine // of earlier ones, while something runs there
	db          database
	connections int // open, of all job processes

	dests []destination
	seen  world.Seen
	rnd   *rand.Rand
	eng   engine
	met   *meter

	redisDownTo int64
	downTo      int64 // outage
	stopped     bool
}

// destination is what the machines' common state knows of an instance.
type destination struct {
	second int32
	sent   uint16
	fails  uint8 // in a row, for the breaker per inbox
	kept   uint8 // connections from earlier requests
	until  int64 // which they are kept until
	redTo  int64
}

// Run simulates cfg. The error lists every problem of cfg; there is none otherwise.
func Run(cfg Config) (*Result, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("simulate: %w", err)
	}
	s := &sim{
		cfg: &cfg, stream: cfg.World.Stream(), rnd: rand.New(rand.NewPCG(cfg.Seed, 0x73696d)),
		dests: make([]destination, cfg.World.Instances()),
	}
	s.met = newMeter(s)
	switch cfg.Engine {
	case Sidekiq:
		s.eng = newSidekiq(s)
	default:
		s.eng = newQueueville(s)
	}
	s.plan()
	s.loop()
	return s.met.result(), nil
}

// plan sets the timers of what is known beforehand.
func (s *sim) plan() {
	for _, in := range s.cfg.Incidents {
		from, to := int64(in.At), int64(in.At+in.For)
		switch in.Kind {
		case PostgresStall:
			s.db.stalls = append(s.db.stalls, stall{from, to})
		case RedisFailover:
			s.after(from, func() { s.redisDownTo = to })
			s.after(to, s.eng.look)
		case Outage:
			s.after(from, func() { s.goDown(to) })
		}
	}
	for i := range s.cfg.Stages {
		stage := &s.cfg.Stages[i]
		s.after(int64(stage.At), func() { s.change(stage) })
	}
	s.after(0, s.second)
	s.after(s.pollIn(), s.poll)
	s.peek()
}

// after calls f at a time.
func (s *sim) after(at int64, f func()) {
	s.seq++
	if n := len(s.spare); n > 0 {
		i := s.spare[n-1]
		s.spare = s.spare[:n-1]
		s.timer[i] = f
		s.heap.push(event{at: at, seq: s.seq, task: -1 - i})
		return
	}
	s.timer = append(s.timer, f)
	s.heap.push(event{at: at, seq: s.seq, task: -int32(len(s.timer))})
}

func (s *sim) peek() {
	at, ok := s.stream.Peek()
	s.nextAt, s.over = int64(at), !ok
}

// loop takes one event after the other, in the order of time.
func (s *sim) loop() {
	end := int64(s.cfg.Length + s.cfg.Drain)
	for !s.stopped {
		at := s.heap[0].at // there is always the timer of the next second
		source := 0
		if len(s.outside) > 0 && s.outside[0].at < at {
			at, source = s.outside[0].at, 1
		}
		if !s.over && s.nextAt < at {
			at, source = s.nextAt, 2
		}
		if at > end {
			s.now = end
			return
		}
		s.now = at
		switch source {
		case 1:
			d := s.outside.pop()
			s.jobs--
			if d.at <= int64(s.cfg.Length) {
				s.arrive(&d.job)
			}
		case 2:
			_, _ = s.stream.Next(s.happen)
			s.peek()
		default:
			e := s.heap.pop()
			if e.task >= 0 {
				s.fire(e.task, e.seq)
				continue
			}
			i := -1 - e.task
			f := s.timer[i]
			s.timer[i] = nil
			s.spare = append(s.spare, i)
			f()
		}
	}
}

// happen takes a push of the outside.
func (s *sim) happen(p world.Push) {
	if p.After <= 0 {
		s.arrive(&p.Job)
		return
	}
	s.follow(p)
}

// follow takes a push that may have to wait.
func (s *sim) follow(p world.Push) {
	switch {
	case p.After <= 0:
		s.push(&p.Job, true)
	case p.Scheduled:
		s.met.scheduled++
		s.later(&s.due, int64(p.Job.Enqueued), &p.Job, false)
	default:
		s.later(&s.outside, int64(p.Job.Enqueued), &p.Job, false)
	}
}

// arrive is a push by the web: refused when Redis takes no writes. The open loop does not wait for it to come back.
func (s *sim) arrive(job *world.Job) {
	if s.redisDown() {
		s.met.refused++
		return
	}
	job.Created, job.Enqueued = time.Duration(s.now), time.Duration(s.now)
	s.push(job, true)
}

// push puts a job on its queue.
func (s *sim) push(job *world.Job, fresh bool) {
	if s.jobs >= s.cfg.MostJobs {
		s.met.overflow++
		return
	}
	job.Enqueued = time.Duration(s.now)
	q := job.Queue()
	s.queues[q].push(*job)
	s.jobs++
	s.met.pushed(job, fresh)
	s.eng.pushed(q)
}

// fetch takes the next job of a queue.
func (s *sim) fetch(q int) world.Job {
	job := s.queues[q].pop()
	s.jobs--
	s.met.fetched(&job, s.now)
	return job
}

// later puts a job into a set.
func (s *sim) later(set *dueJobs, at int64, job *world.Job, held bool) {
	if s.jobs >= s.cfg.MostJobs {
		s.met.overflow++
		return
	}
	s.jobs++
	s.dueSeq++
	if held {
		s.held++
	} else if job.Retries > 0 {
		s.retrying++
	}
	set.push(dueJob{at: at, seq: s.dueSeq, job: *job, held: held})
}

// poll moves due jobs to their queues, as each Sidekiq process's poller does. All together look about once in five seconds.
func (s *sim) poll() {
	if s.eng.pollers() > 0 && !s.redisDown() {
		for len(s.due) > 0 && s.due[0].at <= s.now {
			d := s.due.pop()
			s.jobs--
			if d.held {
				s.held--
			} else if d.job.Retries > 0 {
				s.retrying--
			}
			s.push(&d.job, d.job.Retries == 0 && !d.held)
		}
	}
	s.after(s.now+s.pollIn(), s.poll)
}

func (s *sim) pollIn() int64 { return int64((2.5 + 5*s.rnd.Float64()) * float64(time.Second)) }

func (s *sim) redisDown() bool { return s.now < s.redisDownTo }

// boot is how long a Ruby process takes to load Mastodon.
const boot = int64(20 * time.Second)

// change exchanges the hardware.
func (s *sim) change(stage *Stage) {
	s.eng.retire(s.machines, false)
	s.old = append(s.old, s.machines...)
	s.db.set(s.now, stage.Database)
	s.machines = s.machines[:0:0]
	for i := range stage.Hosts {
		s.machines = append(s.machines, s.machine(stage.Hosts[i], time.Duration(s.now)))
	}
	if s.now < s.downTo {
		return
	}
	ready := s.now + boot
	if s.now == 0 {
		ready = 0
	}
	s.eng.install(s.machines, ready)
}

// machine starts a host.
func (s *sim) machine(h Host, since time.Duration) *machine {
	m := &machine{Host: h, idle: h.Cores, since: since, slice: quantum}
	if s.cfg.Shared {
		m.slice = sharedSlice
	}
	return m
}

// goDown is a power cut of all machines that run jobs.
func (s *sim) goDown(to int64) {
	s.downTo = to
	s.eng.retire(s.machines, true)
	for i, m := range s.machines {
		s.old = append(s.old, m)
		s.machines[i] = s.machine(m.Host, time.Duration(to))
	}
	s.after(to, func() { s.eng.install(s.machines, s.now+boot) })
}

// kill ends all tasks of a machine and returns the jobs that they had.
func (s *sim) kill(m *machine) []world.Job {
	var jobs []world.Job
	free := make(map[int32]bool, len(s.freeTasks))
	for _, id := range s.freeTasks {
		free[id] = true
	}
	for id := range s.tasks {
		t := &s.tasks[id]
		if free[int32(id)] || t.dead || t.proc == nil || t.proc.host != m {
			continue
		}
		t.dead = true // its number is not used again: an event may still name it
		s.running--
		s.disconnect(t.proc)
		t.proc.gone = true
		jobs = append(jobs, t.job)
	}
	for _, p := range m.procs {
		s.disconnect(p)
		p.gone = true
	}
	return jobs
}

// second is called every second.
func (s *sim) second() {
	s.met.second()
	if !s.redisDown() {
		s.eng.look()
	}
	s.idleConnections()
	if s.cfg.Progress != nil && s.now%int64(time.Minute) == 0 {
		if !s.cfg.Progress(float64(s.now) / float64(s.cfg.Length+s.cfg.Drain)) {
			s.stopped = true
			return
		}
	}
	if s.over && s.empty() {
		s.stopped = true
		return
	}
	s.after(s.now+int64(time.Second), s.second)
}

// empty says whether nothing is left but what waits in sets.
func (s *sim) empty() bool {
	if s.running > 0 || s.eng.waiting() > 0 || s.now < int64(s.cfg.Length) {
		return false
	}
	for q := range s.queues {
		if s.queues[q].len()+s.eng.beside(q) > 0 {
			return false
		}
	}
	return len(s.outside) == 0 || s.outside[0].at > int64(s.cfg.Length)
}

// idleConnections closes what a pool has not used for a while: Active Record's reaper does after five minutes.
func (s *sim) idleConnections() {
	if s.now%int64(5*time.Minute) != 0 {
		return
	}
	for _, m := range s.machines {
		for _, p := range m.procs {
			if p.open > p.used {
				s.connections -= p.open - p.used
				p.open = p.used
			}
		}
	}
}

// moved tells who knows tasks by number that one has another now.
func (s *sim) moved(from, to int32) {
	if e, ok := s.eng.(interface{ moved(from, to int32) }); ok {
		e.moved(from, to)
	}
}
