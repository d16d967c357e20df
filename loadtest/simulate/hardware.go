package simulate

import (
	"errors"
	"fmt"
	"time"

	"github.com/queueville/queueville/loadtest/world"
	"github.com/queueville/queueville/scheduler"
)

// EngineName is which engine runs the jobs.
type EngineName string

// Engines.
const (
	Sidekiq    EngineName = "sidekiq"
	Queueville EngineName = "queueville"
)

// Host is a machine that runs jobs.
type Host struct {
	Cores   int       `json:"cores"`
	Speed   float64   `json:"speed"`             // of one core, against the one that costs were estimated on; 0 means 1
	Memory  float64   `json:"memory_gib"`        // 0 means 2 GiB per core
	Sidekiq []Process `json:"sidekiq,omitempty"` // stock Sidekiq's processes; Queueville needs none
}

// Process is one Sidekiq process.
type Process struct {
	Concurrency int               `json:"concurrency"` // -c
	Queues      []scheduler.Queue `json:"queues"`      // -q, in order
	DBPool      int               `json:"db_pool"`     // DB_POOL; 0 means Concurrency
}

// Stage is the hardware from a time on. What was there before stops as a unit stops: it takes nothing new, and what runs ends.
type Stage struct {
	At       time.Duration `json:"at_ns"`
	Hosts    []Host        `json:"hosts"`
	Database Database      `json:"database"`
}

// Database is PostgreSQL's machine, as far as jobs may use it.
type Database struct {
	Cores       int           `json:"cores"`
	RoundTrip   time.Duration `json:"round_trip_ns"` // of one query, besides its work
	Connections int           `json:"connections"`   // that all job processes together may have open; 0: not looked at. It is Queueville's budget, too
}

// IncidentKind is what befalls the server itself.
type IncidentKind string

// Incidents.
const (
	Outage        IncidentKind = "outage"         // no job process runs, the web goes on enqueuing
	RedisFailover IncidentKind = "redis-failover" // Sidekiq's Redis takes no writes
	PostgresStall IncidentKind = "postgres-stall" // no query ends
)

// Incident is something that befalls the server itself.
type Incident struct {
	Kind IncidentKind  `json:"kind"`
	At   time.Duration `json:"at_ns"`
	For  time.Duration `json:"for_ns"`
}

// Mark is a stretch of time with a name: an incident, or an event of the world.
type Mark struct {
	Name string        `json:"name"`
	At   time.Duration `json:"at_ns"`
	For  time.Duration `json:"for_ns"`
}

// Goals are how long a job may wait in its queue; 99 of 100 of the window's jobs have to start within it.
type Goals [world.Queues]time.Duration

// Config is one run.
type Config struct {
	World     *world.World
	Engine    EngineName
	Seed      uint64
	Length    time.Duration // arrivals end; what is queued then is run for Drain more
	Drain     time.Duration
	Bins      int // points of each curve; 0 means 360
	Stages    []Stage
	Incidents []Incident
	Goals     Goals
	Marks     []Mark // what the report says how long it took to recover from
	Native    int    // deliveries at once per host; 0 means 512, the worker's default
	Fixed     bool   // Queueville's limits are Native and what Ruby has threads for, instead of being found by trial
	// Shared: PostgreSQL, Redis, the receivers and the generator are on the hosts that run the jobs, as in a real run, and use the same cores. They come
	// before the jobs for a core, as what wants it for a moment does, and what a worker that is nice leaves it to.
	Shared bool
	// Stolen is the share of the hosts' processors that somebody else takes: on a virtual machine, what the hypervisor gives to others.
	Stolen float64
	// Policy is Queueville's order of queues; "" means goals.
	Policy   scheduler.Policy
	Overhead Overhead
	// MostJobs bounds jobs in queues and sets together. Beyond it jobs are dropped and counted. 0 means 4,000,000 (about 300 MB).
	MostJobs int
	// Progress, if not nil, is called about once a second of virtual time's hundredth with how far it is, 0 to 1. When it returns false the run ends early;
	// the result is true for the part.
	Progress func(done float64) bool
}

// Overhead is what a job takes besides its own work. The zero value means docs/benchmarks.md's figures; loadtest/league measures those of a machine.
type Overhead struct {
	Fetch    time.Duration `json:"fetch_ns"`     // processor time under Ruby's lock, of a job of Ruby; 0 means 250 µs, −1 none
	HandOver time.Duration `json:"hand_over_ns"` // processor time of the worker, of the same; 0 means 130 µs, −1 none
	Query    time.Duration `json:"query_ns"`     // of PostgreSQL's processor, of each query
	Delivery time.Duration `json:"delivery_ns"`  // of the worker's or Ruby's, of each delivery, beyond what the class costs
	Beside   time.Duration `json:"beside_ns"`    // of Redis, the generator and whoever else serves a load test, of each job; only on a shared host
	Receive  time.Duration `json:"receive_ns"`   // of the receivers, of each delivery; only on a shared host
}

const (
	defaultMostJobs = 4_000_000
	defaultBins     = 360
	mostStolen      = 0.95
	maxCores        = 1024
	maxThreads      = 1000
	maxHosts        = 2000
)

// check fills defaults and returns every problem at once.
func (c *Config) check() error {
	var problems []error
	complain := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if c.World == nil {
		complain("no world")
	}
	if c.Engine != Sidekiq && c.Engine != Queueville {
		complain("engine %q: sidekiq or queueville", c.Engine)
	}
	if c.Length <= 0 || c.Length > world.MaxLength {
		complain("length %v", c.Length)
	}
	if c.MostJobs == 0 {
		c.MostJobs = defaultMostJobs
	}
	if c.Bins == 0 {
		c.Bins = defaultBins
	}
	if c.Overhead.Fetch == 0 {
		c.Overhead.Fetch = fetchTime
	}
	if c.Overhead.HandOver == 0 {
		c.Overhead.HandOver = handOver
	}
	c.Overhead.Fetch, c.Overhead.HandOver = max(0, c.Overhead.Fetch), max(0, c.Overhead.HandOver)
	if c.Native == 0 {
		c.Native = 512
	}
	if !(c.Stolen >= 0 && c.Stolen <= mostStolen) {
		complain("%v of the processors are stolen; 0 to %v is possible", c.Stolen, mostStolen)
	}
	if len(c.Stages) == 0 || c.Stages[0].At != 0 {
		complain("no hardware at the beginning")
	}
	if c.Policy == "" {
		c.Policy = scheduler.PolicyGoals
	}
	stages := make([]Stage, len(c.Stages))
	for i, s := range c.Stages {
		hosts := make([]Host, len(s.Hosts))
		copy(hosts, s.Hosts)
		s.Hosts = hosts
		stages[i] = s
		if i > 0 && s.At <= c.Stages[i-1].At {
			complain("hardware number %d is not after the one before", i+1)
		}
		if len(hosts) == 0 || len(hosts) > maxHosts {
			complain("%d hosts; 1 to %d are possible", len(hosts), maxHosts)
		}
		if s.Database.Cores < 1 || s.Database.Cores > maxCores {
			complain("a database with %d cores", s.Database.Cores)
		}
		for h := range hosts {
			host := &hosts[h]
			if host.Speed == 0 {
				host.Speed = 1
			}
			if host.Memory == 0 {
				host.Memory = 2 * float64(host.Cores)
			}
			if host.Cores < 1 || host.Cores > maxCores || host.Speed < 0 {
				complain("host %d: %d cores of speed %v", h+1, host.Cores, host.Speed)
			}
			if c.Engine == Sidekiq && len(host.Sidekiq) == 0 {
				complain("host %d: no Sidekiq process", h+1)
			}
			for p := range host.Sidekiq {
				proc := &host.Sidekiq[p]
				if proc.Concurrency < 1 || proc.Concurrency > maxThreads || len(proc.Queues) == 0 {
					complain("host %d: a Sidekiq with %d threads and %d queues", h+1, proc.Concurrency, len(proc.Queues))
				}
			}
		}
	}
	c.Stages = stages
	return errors.Join(problems...)
}
