package simulate

import (
	"math"
	"time"

	"github.com/queueville/queueville/loadtest/world"
)

// Buckets of a histogram of times: four to a doubling, from a millisecond to twelve days.
const (
	buckets   = 120
	perOctave = 4
)

// hist counts times in logarithmic buckets.
type hist struct {
	counts [buckets]uint32
	total  uint64
	sum    float64 // seconds
	most   int64
}

func (h *hist) add(ns int64) {
	i := 0
	if ns > int64(time.Millisecond) {
		i = min(buckets-1, 1+int(perOctave*math.Log2(float64(ns)/float64(time.Millisecond))))
	}
	h.counts[i]++
	h.total++
	h.sum += float64(ns) / 1e9
	h.most = max(h.most, ns)
}

// quantile is an estimate of a quantile in seconds: geometric within the bucket, never above the greatest value.
func (h *hist) quantile(q float64) float64 {
	if h.total == 0 {
		return 0
	}
	left := q * float64(h.total)
	for i, n := range h.counts {
		if left -= float64(n); left <= 0 && n > 0 {
			if i == 0 {
				return 0
			}
			low := math.Exp2(float64(i-1) / perOctave)
			within := 1 + left/float64(n) // share of the bucket below the quantile
			return min(low*math.Exp2(within/perOctave)/1000, float64(h.most)/1e9)
		}
	}
	return float64(h.most) / 1e9
}

// Reached is how many deliveries one instance was due, and how many it got in time.
type Reached struct{ Due, InTime uint32 }

// classMeter is what became of one class's jobs.
type classMeter struct {
	pushed, runs, failed int
	cpu                  int64
	wait                 float64 // seconds
}

// meter keeps the books of a run. Its memory does not depend on the length of the run.
type meter struct {
	s       *sim
	every   int64 // length of a bin
	series  Series
	queue   [world.Queues]queueMeter
	classes [world.Classes]classMeter
	reached []Reached
	deliver hist // first pushed to accepted, at healthy instances

	done, failures, retried, dead, discarded int
	lost, refused, overflow, scheduled       int
	deferred, repeated                       int
	returning                                int // jobs that wait for Redis to go back to their queue
	poolWaits, poolTimeouts                  int
	late                                     int // deliveries accepted too late
	queries                                  int
	lastEnd                                  int64

	peakBacklog, peakRunning, peakConnections int
	peakMemory                                float64
	coreSeconds, memorySeconds                float64
	cpuNS                                     int64 // of machines that are gone
	lastCPU, lastDB                           int64
	lastArrived, lastDone                     int
	arrived                                   int
	recovery                                  []recovery
}

type queueMeter struct {
	pushed, started int
	within          int // started within the goal
	all, bin        hist
	binBacklog      int // greatest in this bin
	binLatency      float64
	breached        int // bins whose 99th percentile was beyond the goal
	backlogPeak     int
	latencyPeak     float64
	overSeconds     int // seconds in which the oldest waiting job was beyond the goal
}

// recovery watches how long it takes after a mark until every queue is within its goal.
type recovery struct {
	Mark
	backlog int
	at      int64 // −1: not yet
}

func newMeter(s *sim) *meter {
	total := int64(s.cfg.Length + s.cfg.Drain)
	every := max(int64(time.Second), total/int64(s.cfg.Bins))
	every -= every % int64(time.Second)
	m := &meter{s: s, every: every, reached: make([]Reached, s.cfg.World.Instances())}
	for _, mark := range s.cfg.Marks {
		m.recovery = append(m.recovery, recovery{Mark: mark, at: -1})
	}
	return m
}

func (m *meter) pushed(job *world.Job, fresh bool) {
	q := &m.queue[job.Queue()]
	q.pushed++
	if !fresh {
		return
	}
	m.arrived++
	m.classes[job.Class].pushed++
	if job.Class == world.Delivery && m.s.cfg.World.Temper(job.Dest, time.Duration(m.s.now)).Healthy() {
		m.reached[job.Dest].Due++
	}
}

func (m *meter) fetched(*world.Job, int64) {}

// started: a job leaves its queue for good and begins.
func (m *meter) started(job *world.Job, now int64) {
	q := &m.queue[job.Queue()]
	wait := now - int64(job.Enqueued)
	q.started++
	q.all.add(wait)
	q.bin.add(wait)
	if wait <= int64(m.s.cfg.Goals[job.Queue()]) {
		q.within++
	}
	m.classes[job.Class].wait += float64(wait) / 1e9
}

// inTime is how long after its goal a delivery may be accepted to count as in time: what a request to a slow instance takes.
const inTime = 10 * time.Second

// ended: a run is over.
func (m *meter) ended(t *task, now int64, failed bool) {
	c := &m.classes[t.job.Class]
	c.runs++
	c.cpu += t.spent
	if failed {
		c.failed++
		return
	}
	m.lastEnd = now
	if t.job.Class == world.Delivery && t.answer.Verdict == world.Accepted {
		took := now - int64(t.job.Created)
		m.deliver.add(took)
		if took <= int64(m.s.cfg.Goals[world.QueuePush]+inTime) {
			m.reached[t.job.Dest].InTime++
		} else {
			m.late++
		}
	}
}

// second samples what changes all the time.
func (m *meter) second() {
	s := m.s
	backlog, beyond := 0, false
	for i := range m.queue {
		q := &m.queue[i]
		n := s.queues[i].len() + s.eng.beside(i)
		backlog += n
		latency := 0.0
		if s.queues[i].len() > 0 {
			latency = float64(s.now-int64(s.queues[i].peek().Enqueued)) / 1e9
		}
		q.binBacklog, q.backlogPeak = max(q.binBacklog, n), max(q.backlogPeak, n)
		q.binLatency, q.latencyPeak = max(q.binLatency, latency), max(q.latencyPeak, latency)
		if goal := s.cfg.Goals[i].Seconds(); goal > 0 && latency > goal {
			q.overSeconds++
			beyond = true
		}
	}
	m.peakBacklog = max(m.peakBacklog, backlog)
	m.peakRunning = max(m.peakRunning, s.running)
	m.peakConnections = max(m.peakConnections, s.connections)
	for i := range m.recovery {
		r := &m.recovery[i]
		switch over := int64(r.At + r.For); {
		case s.now < over || r.at >= 0:
		case s.now == over || r.backlog == 0:
			r.backlog = backlog
			fallthrough
		default:
			if !beyond && s.now >= s.downTo {
				r.at = s.now
			}
		}
	}
	for _, h := range s.machines {
		m.coreSeconds += float64(h.Cores)
	}
	if s.now > 0 && s.now%m.every == 0 {
		m.closeBin()
	}
}

// cpuUsed is the processor time of all machines, in core-ns.
func (m *meter) cpuUsed() int64 {
	sum := m.cpuNS
	for _, h := range m.s.machines {
		sum += h.busy
	}
	for _, h := range m.s.old {
		sum += h.busy
	}
	return sum
}

// closeBin adds a point to every curve.
func (m *meter) closeBin() {
	s, r := m.s, &m.series
	length := float64(m.every) / 1e9
	r.Seconds = append(r.Seconds, float64(s.now)/1e9)
	if r.Queues == nil {
		r.Queues = make([]QueueSeries, world.Queues)
		for i := range r.Queues {
			r.Queues[i].Name = world.QueueNames[i]
		}
	}
	for i := range m.queue {
		q, out := &m.queue[i], &r.Queues[i]
		p99 := q.bin.quantile(0.99)
		out.Backlog = append(out.Backlog, q.binBacklog)
		out.Latency = append(out.Latency, round(q.binLatency))
		out.P50 = append(out.P50, round(q.bin.quantile(0.5)))
		out.P99 = append(out.P99, round(p99))
		if goal := s.cfg.Goals[i].Seconds(); goal > 0 && (p99 > goal || q.binLatency > goal) {
			q.breached++
		}
		q.bin, q.binBacklog, q.binLatency = hist{}, 0, 0
	}
	cores := 0
	for _, h := range s.machines {
		cores += h.Cores
	}
	used := m.cpuUsed()
	r.CPU = append(r.CPU, round(float64(used-m.lastCPU)/(length*1e9*float64(max(1, cores)))))
	m.lastCPU = used
	r.Cores = append(r.Cores, cores)
	r.Database = append(r.Database, round(float64(s.db.busy-m.lastDB)/(length*1e9*float64(max(1, s.db.Cores)))))
	m.lastDB = s.db.busy
	r.Arrived = append(r.Arrived, round(float64(m.arrived-m.lastArrived)/length))
	r.Done = append(r.Done, round(float64(m.done-m.lastDone)/length))
	m.lastArrived, m.lastDone = m.arrived, m.done
	r.Running = append(r.Running, s.running)
	r.Connections = append(r.Connections, s.connections)
	r.Retrying = append(r.Retrying, s.retrying)
	r.Held = append(r.Held, s.held)
	r.Down = append(r.Down, s.eng.troubled())
	r.Unhealthy = append(r.Unhealthy, m.unhealthy())
	memory := s.eng.memory()
	m.peakMemory = max(m.peakMemory, memory)
	m.memorySeconds += memory * length
	r.Memory = append(r.Memory, round(memory))
}

// unhealthy is how many instances in truth take nothing.
func (m *meter) unhealthy() int {
	n := 0
	for i := range m.reached {
		if !m.s.cfg.World.Temper(int32(i), time.Duration(m.s.now)).Healthy() {
			n++
		}
	}
	return n
}

// round keeps four significant digits: results are for people and for diffs.
func round(x float64) float64 {
	if x == 0 || math.IsInf(x, 0) || math.IsNaN(x) {
		return 0
	}
	scale := math.Pow(10, 3-math.Floor(math.Log10(math.Abs(x))))
	return math.Round(x*scale) / scale
}
