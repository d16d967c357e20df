package hostload

import (
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/queueville/queueville/scheduler"
)

var t0 = time.Unix(1_700_000_000, 0)

// tree writes files below a fresh directory.
func tree(t *testing.T, files map[string]string) Config {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, files)
	return Config{Proc: filepath.Join(dir, "proc"), Cgroup: filepath.Join(dir, "cgroup")}
}

func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if math.Abs(got-want) > 1e-6 {
		t.Errorf("%s = %v, want %v", what, got, want)
	}
}

func TestReadHost(t *testing.T) {
	t.Parallel()
	cfg := tree(t, map[string]string{
		"proc/stat":            "cpu  1000 0 500 9000 100 0 50 50 400 0\ncpu0 0 0 0 0\ncpu1 0 0 0 0\nintr 5\n",
		"proc/pressure/cpu":    "some avg10=1.00 avg60=0.00 avg300=0.00 total=1000000\nfull avg10=0.00 total=0\n",
		"proc/pressure/memory": "some avg10=0.00 total=7\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=2000000\n",
		"proc/meminfo":         "MemTotal:        8000000 kB\nMemFree: 1 kB\nMemAvailable:    2000000 kB\n",
		"proc/self/cgroup":     "0::/system.slice/queueville.service\n",
		"proc/77/stat":         "77 (ruby (x) y) S 1 77 77 0 -1 4194560 1 2 3 4 100 50 10 5 20 0 1 0 9 9 9\n",
	})
	cfg.PIDs = func() []int { return []int{77, 78} }
	s := New(cfg)
	h := s.Read(t0)
	near(t, "cores", h.Cores, 2)
	near(t, "memory", h.MemoryTotal, 8000000*1024)
	near(t, "available", h.MemoryAvailable, 2000000*1024)
	if h.Busy != scheduler.Unknown || h.Ours != scheduler.Unknown || h.Pressure != scheduler.Unknown {
		t.Errorf("the first look knows rates: %+v", h)
	}
	write(t, filepath.Dir(cfg.Proc), map[string]string{
		"proc/stat":            "cpu  1200 0 550 9100 100 0 60 90 500 0\ncpu0 0 0 0 0\ncpu1 0 0 0 0\n",
		"proc/pressure/cpu":    "some avg10=1.00 avg60=0.00 avg300=0.00 total=2000000\n",
		"proc/pressure/memory": "full avg10=0.00 avg60=0.00 avg300=0.00 total=2000000\n",
		"proc/77/stat":         "77 (ruby (x) y) S 1 77 77 0 -1 4194560 1 2 3 4 200 100 10 5 20 0 1 0 9 9 9\n",
	})
	h = s.Read(t0.Add(2 * time.Second))
	near(t, "busy", h.Busy, 1.3)   // 200 + 50 + 10 ticks in 2 s
	near(t, "cores", h.Cores, 1.8) // of two, 40 ticks were stolen
	near(t, "pressure", h.Pressure, 0.5)
	near(t, "memory pressure", h.MemoryPressure, 0)
	if h.Ours < 0.75 || h.Ours > 1.5 { // the child's 0.75, and this test
		t.Errorf("ours = %v", h.Ours)
	}
	if h.Throttled != scheduler.Unknown {
		t.Errorf("throttled = %v without a quota", h.Throttled)
	}
	// The clock goes back, the counters too: nothing is known, and the next look is right again.
	h = s.Read(t0)
	if h.Busy != scheduler.Unknown {
		t.Errorf("busy = %v after the clock went back", h.Busy)
	}
}

func TestReadCgroup(t *testing.T) {
	t.Parallel()
	stat := "cpu  1000 0 0 9000 0 0 0 0 0 0\ncpu0 0 0 0 0\ncpu1 0 0 0 0\ncpu2 0 0 0 0\ncpu3 0 0 0 0\n"
	for name, c := range map[string]struct{ before, after map[string]string }{
		"version 2, the quota on a parent": {
			map[string]string{
				"proc/self/cgroup": "0::/a/b\n", "cgroup/a/b/cpu.max": "max 100000\n", "cgroup/a/cpu.max": "150000 100000\n",
				"cgroup/a/cpu.stat":     "usage_usec 5000000\nthrottled_usec 0\n",
				"cgroup/a/b/memory.max": "max\n", "cgroup/a/b/memory.current": "1\n", "cgroup/a/memory.max": "1000000\n", "cgroup/a/memory.current": "700000\n", "cgroup/a/memory.stat": "anon 1\ninactive_file 200000\n",
			},
			map[string]string{"cgroup/a/cpu.stat": "usage_usec 6000000\nthrottled_usec 250000\n"},
		},
		"version 1": {
			map[string]string{
				"proc/self/cgroup": "4:memory:/a\n2:cpuacct:/a\n1:cpu:/a\n", "cgroup/cpu/a/cpu.cfs_quota_us": "150000\n", "cgroup/cpu/a/cpu.cfs_period_us": "100000\n",
				"cgroup/cpu/a/cpu.stat": "nr_periods 1\nthrottled_time 0\n", "cgroup/cpuacct/a/cpuacct.usage": "5000000000\n", "cgroup/cpu/cpu.cfs_quota_us": "-1\n", "cgroup/cpu/cpu.cfs_period_us": "100000\n",
				"cgroup/memory/a/memory.limit_in_bytes": "1000000\n", "cgroup/memory/a/memory.usage_in_bytes": "700000\n", "cgroup/memory/a/memory.stat": "total_inactive_file 200000\n",
				"cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n", "cgroup/memory/memory.usage_in_bytes": "5\n",
			},
			map[string]string{"cgroup/cpu/a/cpu.stat": "nr_periods 1\nthrottled_time 250000000\n", "cgroup/cpuacct/a/cpuacct.usage": "6000000000\n"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := tree(t, c.before)
			dir := filepath.Dir(cfg.Proc)
			write(t, dir, map[string]string{"proc/stat": stat, "proc/meminfo": "MemTotal: 8000 kB\nMemAvailable: 4000 kB\n"})
			s := New(cfg)
			s.Read(t0)
			write(t, dir, c.after)
			h := s.Read(t0.Add(time.Second))
			near(t, "cores", h.Cores, 1.5)
			near(t, "busy", h.Busy, 1)
			near(t, "throttled", h.Throttled, 0.25)
			near(t, "memory", h.MemoryTotal, 1000000)
			near(t, "available", h.MemoryAvailable, 500000)
		})
	}
}

func TestReadNothing(t *testing.T) {
	t.Parallel()
	s := New(tree(t, nil))
	s.Read(t0)
	h := s.Read(t0.Add(time.Second))
	h.Ours = scheduler.Unknown // of this process, by a call
	if h != scheduler.UnknownHost() {
		t.Errorf("%+v", h)
	}
}

func TestReadThisHost(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/stat"); err != nil && os.Getenv("CI") != "true" {
		t.Skip("no /proc")
	}
	s := New(Config{})
	s.Read(time.Now())
	for end := time.Now().Add(60 * time.Millisecond); time.Now().Before(end); {
	}
	h := s.Read(time.Now())
	if h.Cores < 0.1 || h.Busy < 0 || h.Ours <= 0 || h.MemoryTotal <= 0 || h.MemoryAvailable <= 0 {
		t.Errorf("%+v", h)
	}
}

// Files of any content are read without panic, and give numbers that are none or finite.
func FuzzRead(f *testing.F) {
	f.Add("cpu 1 2 3 4 5\ncpu0 1\n", "MemTotal: 5 kB\n", "some total=5\n", "0::/a\n", "5 6\n")
	f.Add("cpu ", ":", "some", "1:cpu", "max max")
	f.Fuzz(func(t *testing.T, stat, meminfo, psi, self, limit string) {
		cfg := tree(t, map[string]string{
			"proc/stat": stat, "proc/meminfo": meminfo, "proc/pressure/cpu": psi, "proc/pressure/memory": psi, "proc/self/cgroup": self, "proc/5/stat": stat,
			"cgroup/cpu.max": limit, "cgroup/cpu.stat": limit, "cgroup/memory.max": limit, "cgroup/memory.current": limit, "cgroup/cpu/cpu.cfs_quota_us": limit,
		})
		cfg.PIDs = func() []int { return []int{5} }
		s := New(cfg)
		s.Read(t0)
		h := s.Read(t0.Add(time.Second))
		for _, v := range []float64{h.Cores, h.Busy, h.Ours, h.Pressure, h.Throttled, h.MemoryTotal, h.MemoryAvailable, h.MemoryPressure} {
			if math.IsNaN(v) || math.IsInf(v, 0) {
				t.Errorf("%+v", h)
			}
		}
	})
}
