package ruby

import (
	"bufio"
	"bytes"
	"log/slog"
	"math"
	"net"
	"os"
	"strconv"
	"time"
)

// look begins a look at the memory of the processes and at jobs that run too long. mu is held.
func (s *Supervisor) look(now time.Time) {
	pids := make(map[*process]int, len(s.procs))
	for _, p := range s.procs {
		if p.pid > 1 && p.state != booting {
			pids[p] = p.pid
		}
		for _, r := range p.jobs {
			s.lookAtJob(p, r, now)
		}
	}
	if len(pids) == 0 {
		return
	}
	// Reading a large process's memory map takes milliseconds.
	s.wg.Go(func() {
		for p, pid := range pids {
			if pss, ok := pssOf(pid); ok {
				s.sized(p, pss)
			}
		}
	})
}

// sized takes note of a process's memory, and has it replaced if it is too much: one at a time.
func (s *Supervisor) sized(p *process, pss int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.pss = pss
	if s.cfg.MemoryLimit < 0 || pss <= s.cfg.MemoryLimit || p.state != serving || p.drain || s.state != runs {
		return
	}
	for _, other := range s.procs {
		if other.drain {
			return
		}
	}
	s.cfg.Log.Warn("ruby process is over its memory limit: it is replaced", slog.Int("pid", p.pid), slog.Int64("pss_bytes", pss), slog.Int64("limit_bytes", s.cfg.MemoryLimit))
	p.drain = true
	s.nudge()
}

// lookAtJob reports a job that runs far longer than its class usually does. mu is held.
func (s *Supervisor) lookAtJob(p *process, r *running, now time.Time) {
	limit := s.costs.limit(r.job.Class, s.cfg.Stuck)
	if r.stuck || now.Sub(r.started) < limit {
		return
	}
	r.stuck = true
	s.cfg.Observer.Stuck(r.job.Class)
	s.cfg.Log.Warn("job is stuck", slog.String("queue", r.job.Queue), slog.String("class", r.job.Class), slog.String("jid", r.job.JID), slog.Int("pid", p.pid),
		slog.Float64("run_s", now.Sub(r.started).Seconds()), slog.Float64("limit_s", limit.Seconds()))
	if p.control != nil {
		s.wg.Go(func() { ask(p.control, r.line.number) })
	}
	if s.cfg.Stuck.Action == Kill && p.state == serving {
		p.why, p.drain = EndingStuck, true
	}
}

func ask(control net.Conn, number uint64) {
	_ = control.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = control.Write(appendFrame(nil, 'T', numberBody(number))) // without an answer there is no backtrace
}

// traced logs where a stuck job's thread is.
func (s *Supervisor) traced(p *process, number uint64, text string) {
	s.mu.Lock()
	var job *Job
	for l := range p.lines {
		if l.number == number && l.job != nil && l.job.stuck {
			job = &l.job.job
		}
	}
	s.mu.Unlock()
	if job == nil {
		return // it has ended meanwhile
	}
	s.cfg.Log.Warn("where the stuck job is", slog.String("class", job.Class), slog.String("jid", job.JID), slog.Int("pid", p.pid), slog.String("backtrace", firstRunes(text, 20_000)))
}

// pssOf is the memory of a process in bytes, shared pages in proportion; its resident memory where the kernel does not tell.
func pssOf(pid int) (int64, bool) {
	dir := "/proc/" + strconv.Itoa(pid)
	if kb, ok := field(dir+"/smaps_rollup", "Pss:"); ok {
		return kb << 10, true
	}
	kb, ok := field(dir+"/status", "VmRSS:")
	return kb << 10, ok
}

// field reads a number of kB from a file of /proc.
func field(path, name string) (int64, bool) {
	f, err := os.Open(path)
	if err != nil {
		return 0, false
	}
	defer f.Close() //nolint:errcheck // read only
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		words := bytes.Fields(lines.Bytes())
		if len(words) >= 2 && string(words[0]) == name {
			kb, err := strconv.ParseInt(string(words[1]), 10, 64)
			return kb, err == nil && kb >= 0 && kb < math.MaxInt64>>10
		}
	}
	return 0, false
}

// unknownPSS is what a process is taken for that was not measured yet.
const unknownPSS = 400 << 20

// memoryRoom is how many more processes the available memory has room for. mu is held.
func (s *Supervisor) memoryRoom() int {
	if s.cfg.MemoryKeep < 0 {
		return math.MaxInt32
	}
	kb, ok := field("/proc/meminfo", "MemAvailable:")
	if !ok {
		return math.MaxInt32
	}
	each := int64(0)
	for _, p := range s.procs {
		each = max(each, p.pss)
	}
	if each == 0 {
		each = unknownPSS
	}
	return int(max(0, kb<<10-s.cfg.MemoryKeep) / each)
}
