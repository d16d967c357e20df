package ruby

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"
)

// schedule is what the kernel counts of a thread (proc(5), /proc/[pid]/task/[tid]/schedstat). The zero value knows nothing.
type schedule struct {
	file *os.File
	buf  [64]byte // three numbers of at most 20 digits
}

// openSchedule finds a thread of a process. A thread of another process is not found, whatever Ruby says, and some systems count nothing.
func openSchedule(pid, thread int) (s schedule) {
	if pid > 1 && thread > 0 {
		s.file, _ = os.Open(fmt.Sprintf("/proc/%d/task/%d/schedstat", pid, thread))
	}
	return s
}

func (s *schedule) close() {
	if s.file != nil {
		_ = s.file.Close()
	}
}

// delayed is for how long the thread could have run and had no processor, since it began.
func (s *schedule) delayed() (time.Duration, bool) {
	if s.file == nil {
		return 0, false
	}
	n, _ := s.file.ReadAt(s.buf[:], 0) // it always reports the end, too
	_, rest, _ := bytes.Cut(s.buf[:n], []byte(" "))
	number, _, ok := bytes.Cut(rest, []byte(" "))
	if !ok {
		return 0, false
	}
	ns, err := strconv.ParseInt(string(number), 10, 64)
	return time.Duration(ns), err == nil && ns >= 0
}

// meter is what a process and one of its threads have had so far.
type meter struct {
	cpu     time.Duration // of the process
	delayed time.Duration // of the thread
	known   [2]bool
}

// measure reads what the process and the line's thread have had. Supervisor.mu is held.
func (p *process) measure(l *line) (m meter) {
	cpu, err := processCPU(p.pid)
	m.cpu, m.known[0] = cpu, err == nil
	m.delayed, m.known[1] = l.sched.delayed()
	return m
}

// around is what went on beside a run that ends now. mu is held, and the run is no longer one of its process's jobs.
func (s *Supervisor) around(r *running, now time.Time) around {
	p := r.line.proc
	a := around{jobs: 1 + float64(r.beside+len(p.jobs))/2, used: p.used, host: s.hostUse, crowd: s.crowd(), delayed: -1, stolen: s.stolen}
	after, took := p.measure(r.line), now.Sub(r.started).Seconds()
	if after.known[0] && r.before.known[0] && after.cpu >= r.before.cpu && took > 0 {
		a.used = min(1, (after.cpu-r.before.cpu).Seconds()/took)
	}
	if after.known[1] && r.before.known[1] && after.delayed >= r.before.delayed {
		a.delayed = after.delayed - r.before.delayed
	}
	return a
}
