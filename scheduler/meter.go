package scheduler

import "time"

// Meter turns the starts and ends of a lane's jobs into the Lane of each step. It belongs to one goroutine or one lock.
type Meter struct {
	name  string
	costs *Costs
	mean  float64 // seconds that a job of the lane takes, over the mix of the last while; 0: not known

	at      time.Time // of the last change
	began   time.Time // of this sample
	running int
	full    bool
	busyFor float64 // job-seconds
	fullFor float64 // seconds
	done    float64
	work    float64
	squares float64 // of what each was worth
	long    float64 // seconds, each by what it was worth
	wall    float64
	cpu     float64
	cpuMiss bool
}

// NewMeter makes the Meter of a lane. It keeps costs of its own, since what matters is what the jobs of this lane take in relation to each
// other.
func NewMeter(name string, now time.Time) *Meter {
	return &Meter{name: name, costs: NewCosts(CostsConfig{MaxClasses: 200}), at: now, began: now}
}

// Level notes how many jobs run from now on, and whether more would, were the limit greater.
func (m *Meter) Level(now time.Time, running int, full bool) {
	m.pass(now)
	m.running, m.full = max(0, running), full
}

func (m *Meter) pass(now time.Time) {
	if d := now.Sub(m.at).Seconds(); d > 0 {
		m.busyFor += d * float64(m.running)
		if m.full {
			m.fullFor += d
		}
	}
	m.at = now
}

// Ended notes the end of a job.
//
// It counts as a part or a multiple of the lane's average job, by what its class takes: ten short jobs in the place of one long one are not
// ten times the throughput. What all classes take more than before cancels out; it must, or a lane that only became slower would seem to
// get more done.
func (m *Meter) Ended(now time.Time, r Run) {
	weight := 1.0
	if m.mean > 0 {
		if k := m.costs.Of(now, r.Class); k.Weight >= 1 {
			weight = min(k.Wall/m.mean, 1000)
		}
	}
	m.costs.Observe(now, r)
	m.done++
	m.work += weight
	m.squares += weight * weight
	m.long += weight * sample(r.Wall)
	m.wall += sample(r.Wall)
	if r.CPU < 0 {
		m.cpuMiss = true
	} else {
		m.cpu += sample(r.CPU)
	}
}

// Sample returns what happened since the last one and begins the next. The caller adds what the Meter does not know: Cores, Arrivals,
// Backlog, Goal, Caps, and the CPU if it is measured in another way than by job.
func (m *Meter) Sample(now time.Time) Lane {
	m.pass(now)
	v := Lane{Name: m.name, Done: m.done, Work: m.work, CPU: Unknown, Arrivals: Unknown, Backlog: Unknown}
	if span := now.Sub(m.began).Seconds(); span > 0 {
		v.Running, v.Full = m.busyFor/span, min(1, m.fullFor/span)
		if !m.cpuMiss && m.done > 0 {
			v.CPU = m.cpu / span
		}
	}
	if m.done > 0 {
		v.Wall = m.wall / m.done
	}
	if m.work > 0 {
		v.Long, v.Telling = m.long/m.work, m.work*m.work/m.squares
	}
	m.began, m.busyFor, m.fullFor, m.done, m.work, m.squares, m.long, m.wall, m.cpu, m.cpuMiss = now, 0, 0, 0, 0, 0, 0, 0, 0, false
	if mean := m.costs.mean(now); mean > 0 {
		m.mean = mean
	}
	return v
}

// Costs are what the classes of this lane cost.
func (m *Meter) Costs() *Costs { return m.costs }
