// Package hostload reads how busy the host is, or the cgroup that bounds us: processors, pressure, quota, memory, and what of it is ours. It
// reads a few small files below /proc and /sys when asked, starts nothing and keeps only the last counters. What it cannot read is Unknown.
package hostload

import (
	"bytes"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/queueville/queueville/scheduler"
)

const (
	maxFile = 1 << 20 // bytes; /proc/stat of a host with a thousand processors has a few hundred kB
	userHZ  = 100.0   // of /proc/*/stat, on every Linux
	maxPIDs = 1024

	leastCores = 0.1 // of which nobody takes all
)

// Config says where to look. Zero values mean the running system.
type Config struct {
	Proc   string       // default /proc
	Cgroup string       // default /sys/fs/cgroup
	PIDs   func() []int // of our child processes; nil: there are none
}

// Sensor reads the host. Its methods belong to one goroutine.
type Sensor struct {
	cfg    Config
	groups groups

	last    time.Time
	cpu     counter // core-seconds in use on the host
	stolen  counter // that the hypervisor gave to other machines
	group   counter // of the cgroup
	own     counter // of this process
	psiCPU  counter // seconds
	psiMem  counter
	stopped counter // seconds for which the quota stopped us
	pids    map[int]float64

	ownRate, childRate float64 // from the last Read
	lost               float64 // cores stolen at the last look
}

// New makes a Sensor. It finds out once in which cgroup this process is.
func New(cfg Config) *Sensor {
	if cfg.Proc == "" {
		cfg.Proc = "/proc"
	}
	if cfg.Cgroup == "" {
		cfg.Cgroup = "/sys/fs/cgroup"
	}
	s := &Sensor{cfg: cfg, pids: make(map[int]float64), ownRate: scheduler.Unknown, childRate: scheduler.Unknown, lost: scheduler.Unknown}
	s.groups = findGroups(cfg)
	return s
}

// counter turns a growing total into a rate.
type counter struct {
	total float64
	known bool
}

// rate is the growth a second since the last call; Unknown at first, after a gap, and when the total went back.
func (c *counter) rate(total float64, ok bool, dt float64) float64 {
	was, known := c.total, c.known
	c.total, c.known = total, ok
	if !ok || !known || dt <= 0 || total < was {
		return scheduler.Unknown
	}
	return (total - was) / dt
}

// Read returns means since the last Read; the first one knows only sizes.
func (s *Sensor) Read(now time.Time) scheduler.Host {
	h, dt := s.processors(now)
	h.Ours = s.ours(dt)
	if h.Busy >= 0 && h.Ours > h.Busy {
		// Two clocks that do not quite agree, or a child of a child that has ended: all that it ever used comes at once.
		s.childRate = max(0, min(s.childRate, h.Busy-s.ownRate))
		h.Ours = h.Busy
	}
	total, ok := s.pressure("cpu", "some")
	h.Pressure = share(s.psiCPU.rate(total, ok, dt))
	total, ok = s.pressure("memory", "full")
	h.MemoryPressure = share(s.psiMem.rate(total, ok, dt))
	total, ok = s.groups.throttled()
	h.Throttled = share(s.stopped.rate(total, ok, dt))
	h.MemoryTotal, h.MemoryAvailable = s.memory()
	return h
}

// Processors is Read for who wants to know of Cores and Busy only: it reads two files, not ten. A Sensor is asked by one of both.
func (s *Sensor) Processors(now time.Time) scheduler.Host {
	h, _ := s.processors(now)
	return h
}

// Stolen is how many cores other machines on the same hardware took while somebody here wanted them, at the last look; Unknown as Busy is.
func (s *Sensor) Stolen() float64 { return s.lost }

// processors begins a look, and returns how many seconds the last one is ago; 0 if there was none.
func (s *Sensor) processors(now time.Time) (h scheduler.Host, dt float64) {
	dt = now.Sub(s.last).Seconds()
	if s.last.IsZero() {
		dt = 0
	}
	s.last = now
	h = scheduler.UnknownHost()
	busy, stolen, cores, ok := s.hostCPU()
	if ok {
		// What other machines take is not there, for nobody here: to make way for them would give it to no one. It is counted only while somebody wants
		// a processor, so a host that has less than it should looks as full as it is.
		s.lost = s.stolen.rate(stolen, ok, dt)
		h.Cores = max(leastCores, cores-max(0, s.lost))
	}
	h.Busy = s.cpu.rate(busy, ok, dt)
	used, ok := s.groups.usage()
	group := s.group.rate(used, ok, dt)
	// A quota that leaves less than the host does is the whole of what there is for us.
	if quota := s.groups.quota(); quota > 0 && (h.Cores < 0 || quota < h.Cores) && (h.Busy < 0 || group < 0 || quota-group < h.Cores-h.Busy) {
		h.Cores, h.Busy = quota, group
	}
	return h, dt
}

func share(v float64) float64 { return min(v, 1) }

// hostCPU sums up the processors' time in use, and what of it was stolen, in core-seconds, and counts the processors.
func (s *Sensor) hostCPU() (busy, stolen, cores float64, ok bool) {
	text, err := read(filepath.Join(s.cfg.Proc, "stat"))
	if err != nil {
		return 0, 0, 0, false
	}
	for line := range bytes.Lines(text) {
		fields := strings.Fields(string(line))
		if len(fields) < 5 || !strings.HasPrefix(fields[0], "cpu") {
			continue
		}
		if fields[0] != "cpu" {
			cores++
			continue
		}
		for i, f := range fields[1:] {
			if i == 3 || i == 4 || i > 7 { // idle, waiting for a disk; guests are in user already
				continue
			}
			n, err := strconv.ParseUint(f, 10, 64)
			if err != nil {
				return 0, 0, 0, false
			}
			if i == 7 {
				stolen = float64(n) / userHZ
				continue
			}
			busy += float64(n) / userHZ
		}
		ok = true
	}
	return busy, stolen, cores, ok && cores > 0
}

// ours is the rate of this process and its children. A child counts from the second look on.
func (s *Sensor) ours(dt float64) float64 {
	var u syscall.Rusage
	err := syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	total := seconds(u.Utime) + seconds(u.Stime)
	rate := s.own.rate(total, err == nil, dt)
	s.ownRate, s.childRate = rate, 0
	if s.cfg.PIDs == nil || rate < 0 {
		s.pids = make(map[int]float64)
		s.childRate = min(rate, 0)
		if s.cfg.PIDs == nil {
			return rate
		}
	}
	list := s.cfg.PIDs()
	list = list[:min(len(list), maxPIDs)]
	seen := make(map[int]float64, len(list))
	for _, pid := range list {
		total, ok := s.process(pid)
		if !ok {
			continue
		}
		if was, known := s.pids[pid]; known && rate >= 0 && total > was {
			s.childRate += (total - was) / dt
		}
		seen[pid] = total
	}
	s.pids = seen
	if rate < 0 {
		return rate
	}
	return rate + s.childRate
}

// Split is what of Ours, at the last Read, this process used itself and what its children did, in cores; Unknown as Ours is.
func (s *Sensor) Split() (own, children float64) { return s.ownRate, s.childRate }

// process is the time that a process has used, with that of its children that have ended.
func (s *Sensor) process(pid int) (float64, bool) {
	text, err := read(filepath.Join(s.cfg.Proc, strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, false
	}
	// The name may hold spaces and brackets; what follows the last bracket does not.
	_, rest, ok := cutLast(string(text), ')')
	fields := strings.Fields(rest)
	if !ok || len(fields) < 15 {
		return 0, false
	}
	total := 0.0
	for _, f := range fields[11:15] { // utime, stime, cutime, cstime
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil || n < 0 {
			return 0, false
		}
		total += float64(n) / userHZ
	}
	return total, true
}

func cutLast(s string, sep byte) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

func seconds(t syscall.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }

// pressure is the total of one line of PSI, in seconds. Kernels without PSI have no such file.
func (s *Sensor) pressure(what, line string) (float64, bool) {
	text, err := read(filepath.Join(s.cfg.Proc, "pressure", what))
	if err != nil {
		return 0, false
	}
	for row := range strings.Lines(string(text)) {
		if !strings.HasPrefix(row, line+" ") {
			continue
		}
		_, total, ok := strings.Cut(row, "total=")
		n, err := strconv.ParseUint(strings.TrimSpace(total), 10, 64)
		return float64(n) / 1e6, ok && err == nil
	}
	return 0, false
}

// memory is what there is and what can be had without swapping: of the host or of the cgroup, whichever is less.
func (s *Sensor) memory() (total, available float64) {
	total, available = scheduler.Unknown, scheduler.Unknown
	if text, err := read(filepath.Join(s.cfg.Proc, "meminfo")); err == nil {
		for row := range strings.Lines(string(text)) {
			name, value, _ := strings.Cut(row, ":")
			kb, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 53)
			if err != nil {
				continue
			}
			switch name {
			case "MemTotal":
				total = float64(kb) * 1024
			case "MemAvailable":
				available = float64(kb) * 1024
			}
		}
	}
	limit, used := s.groups.memory()
	if limit > 0 && used >= 0 && (total < 0 || limit < total) {
		total = limit
		if left := max(0, limit-used); available < 0 || left < available {
			available = left
		}
	}
	return total, available
}

// read reads a small file.
func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, maxFile))
}

// number reads a file that holds one number; "max" and what is no limit are infinite.
func number(path string) (float64, bool) {
	text, err := read(path)
	if err != nil {
		return 0, false
	}
	word := strings.TrimSpace(string(text))
	if word == "max" {
		return math.Inf(1), true
	}
	v, err := strconv.ParseFloat(word, 64)
	if err != nil || math.IsNaN(v) {
		return 0, false
	}
	return v, true
}
