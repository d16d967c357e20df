package ruby

import (
	"runtime"
	"time"

	"github.com/queueville/queueville/scheduler"
)

// LaneRuby is the name of the lane of Ruby jobs.
const LaneRuby = "ruby"

// outer is the bound, set from outside, on how many jobs run at once in all processes together, and what it is decided on. Below it the policy
// decides which jobs start where. Guarded by Supervisor.mu.
type outer struct {
	most  int              // 0: no bound
	meter *scheduler.Meter // nil until somebody asks

	at      time.Time // of the last look
	blocked bool      // since then jobs wait which the bound would let start
	heldFor float64   // seconds of this sample for which that was so
	began   time.Time
}

// Resize sets how many jobs may run at once, in all processes together; what runs goes on. 0 or less: as many as the policy starts.
func (s *Supervisor) Resize(most int) {
	s.mu.Lock()
	grown := most <= 0 || s.outer.most > 0 && most > s.outer.most
	s.outer.most = max(0, most)
	s.mu.Unlock()
	if grown {
		s.nudge()
		s.cfg.RoomGrew()
	}
}

// Sample is what the processes did since the last Sample, for whoever decides on their limit (see Resize). The first one begins the measuring. It
// does not know what waits in Redis; Held says what keeps jobs that are here from starting, if it is not the limit.
func (s *Supervisor) Sample(now time.Time) scheduler.Lane {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := &s.outer
	if o.meter == nil {
		o.meter = scheduler.NewMeter(LaneRuby, now)
		o.began = now
	}
	s.level(now)
	v := o.meter.Sample(now)
	want, n := 0.0, 0
	for _, p := range s.procs {
		if p.state == serving {
			v.Cores++
		}
		want += min(p.load, 1) // Ruby runs one thread at a time
		n += len(p.jobs)
	}
	if n > 0 {
		v.Want = want / float64(n) * v.Running
	}
	if span := now.Sub(o.began).Seconds(); span > 0 && o.heldFor > span/2 {
		v.Held = s.held()
	}
	o.began, o.heldFor = now, 0
	return v
}

// running is how many jobs all processes have. mu is held.
func (s *Supervisor) running() int {
	n := 0
	for _, p := range s.procs {
		n += len(p.jobs)
	}
	return n
}

// left is how many more jobs the bound lets start. mu is held.
func (s *Supervisor) left() int {
	if s.outer.most == 0 {
		return maxThreads * maxThreads
	}
	return max(0, s.outer.most-s.running())
}

// level notes how many jobs run and whether more would. mu is held.
func (s *Supervisor) level(now time.Time) {
	o := &s.outer
	if o.meter == nil {
		return
	}
	if d := now.Sub(o.at).Seconds(); d > 0 && o.blocked {
		o.heldFor += d
	}
	n := s.running()
	full := o.most > 0 && n >= o.most
	o.at, o.blocked = now, len(s.waiting) > 0 && !full
	o.meter.Level(now, n, len(s.waiting) > 0 && full)
}

// measure notes the end of a job. mu is held.
func (s *Supervisor) measure(now time.Time, class string, res *Result) {
	if s.outer.meter != nil {
		s.outer.meter.Ended(now, scheduler.Run{Class: class, Wall: res.Run, CPU: res.CPU, DB: res.DB, Failed: res.Failed})
	}
}

// roomWithin bounds the room for jobs by what the bound lets start, and a few so that no process runs dry. mu is held.
func (s *Supervisor) roomWithin(room, processes int) int {
	return max(0, min(room, s.left()+s.ahead()*processes-len(s.waiting)))
}

// held is what keeps waiting jobs from starting that the bound would let start. mu is held.
func (s *Supervisor) held() scheduler.Cap {
	serves, boots, idle, seats := 0, 0, 0, 0
	for _, p := range s.procs {
		switch p.state {
		case booting:
			boots++
		case serving:
			serves++
			seats += p.seats
			idle += p.view().Idle
		case leaving, ended:
		}
	}
	more := serves+boots < s.cfg.MaxProcs
	switch {
	case s.hold.why != "":
		return scheduler.Cap{By: scheduler.ByDB}
	case s.boots.problem != "":
		return scheduler.Cap{By: scheduler.ByBoot, Slots: float64(serves)}
	case more && s.seats.problem != "":
		return scheduler.Cap{By: scheduler.ByDB, Slots: float64(seats)}
	case boots > 0 || serves == 0:
		return scheduler.Cap{By: scheduler.ByBoot, Slots: float64(serves)}
	case more && s.memoryRoom() == 0:
		return scheduler.Cap{By: scheduler.ByMemory}
	case s.hostUse > hostFull:
		return scheduler.Cap{By: scheduler.ByCPU}
	case idle == 0 && seats < serves*s.cfg.Threads:
		return scheduler.Cap{By: scheduler.ByDB, Slots: float64(seats)}
	case idle == 0:
		return scheduler.Cap{By: scheduler.ByThreads, Slots: float64(seats)}
	}
	return scheduler.Cap{By: scheduler.ByProcesses, Slots: float64(serves)}
}

// firstRuby is how many jobs run at once before anything is known of them, for each processor: the policy gives each process only what it has
// time for, so more than that is needed by those that wait.
const firstRuby = 16

// FirstLimit is the limit to begin with.
func (s *Supervisor) FirstLimit() int { return min(s.Most(), firstRuby*runtime.GOMAXPROCS(0)) }

// Most is how many jobs can run at once in all processes together: a greater limit has no effect.
func (s *Supervisor) Most() int { return s.cfg.MaxProcs * s.cfg.Threads }

// PIDs are the processes whose use of the host's processors is the Ruby lane's: those that run jobs, and the preloaded parent.
func (s *Supervisor) PIDs() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]int, 0, len(s.procs)+1)
	for _, p := range s.procs {
		if p.pid > 1 {
			list = append(list, p.pid)
		}
	}
	if s.zygote != nil && s.zygote.pid > 1 {
		list = append(list, s.zygote.pid)
	}
	return list
}
