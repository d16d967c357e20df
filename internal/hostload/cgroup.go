package hostload

import (
	"math"
	"path/filepath"
	"strconv"
	"strings"
)

// maxDepth bounds how far up the tree of cgroups is looked.
const maxDepth = 16

// noLimit is what cgroup v1 writes for none, or more.
const noLimit = 1 << 60

// groups are the cgroups of this process from its own upwards, for processors and for memory. Version 1 has a tree for each, version 2 one.
type groups struct {
	v2          []string
	v1CPU, v1Me []string
	v1Acct      []string
}

// findGroups reads where this process is. In a container that sees only its own tree the path named may not exist; then the root of what
// it sees is its group.
func findGroups(cfg Config) groups {
	var g groups
	text, err := read(filepath.Join(cfg.Proc, "self", "cgroup"))
	if err != nil {
		return g
	}
	for line := range strings.Lines(string(text)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		path := filepath.Clean("/" + parts[2])
		if parts[1] == "" {
			g.v2 = upwards(cfg.Cgroup, path)
			if _, ok := number(filepath.Join(cfg.Cgroup, "unified", "cgroup.procs")); ok {
				g.v2 = upwards(filepath.Join(cfg.Cgroup, "unified"), path)
			}
			continue
		}
		for controller := range strings.SplitSeq(parts[1], ",") {
			switch controller {
			case "cpu":
				g.v1CPU = upwards(filepath.Join(cfg.Cgroup, "cpu"), path)
			case "cpuacct":
				g.v1Acct = upwards(filepath.Join(cfg.Cgroup, "cpuacct"), path)
			case "memory":
				g.v1Me = upwards(filepath.Join(cfg.Cgroup, "memory"), path)
			}
		}
	}
	return g
}

// upwards lists a group's directory and those above it, up to the root.
func upwards(root, path string) []string {
	var list []string
	for range maxDepth {
		list = append(list, filepath.Join(root, path))
		if path == "/" || path == "." {
			return list
		}
		path = filepath.Dir(path)
	}
	return append(list, root)
}

// quota is how many processors the tightest group allows; 0: no limit.
func (g *groups) quota() float64 {
	_, quota := g.tightest()
	return quota
}

// tightest finds the group with the least quota; its directory is that of cpu.stat.
func (g *groups) tightest() (dir string, quota float64) {
	least := math.Inf(1)
	for _, d := range g.v2 {
		text, err := read(filepath.Join(d, "cpu.max"))
		if err != nil {
			continue
		}
		fields := strings.Fields(string(text))
		if len(fields) != 2 || fields[0] == "max" {
			continue
		}
		most, err1 := strconv.ParseFloat(fields[0], 64)
		period, err2 := strconv.ParseFloat(fields[1], 64)
		if err1 == nil && err2 == nil && most > 0 && period > 0 && most/period < least {
			dir, least = d, most/period
		}
	}
	for _, d := range g.v1CPU {
		most, ok1 := number(filepath.Join(d, "cpu.cfs_quota_us"))
		period, ok2 := number(filepath.Join(d, "cpu.cfs_period_us"))
		if ok1 && ok2 && most > 0 && period > 0 && most/period < least {
			dir, least = d, most/period
		}
	}
	if math.IsInf(least, 1) {
		return "", 0
	}
	return dir, least
}

// usage is the processor time used by the tightest group, in core-seconds.
func (g *groups) usage() (float64, bool) {
	dir, quota := g.tightest()
	if quota == 0 {
		return 0, false
	}
	if v, ok := statLine(filepath.Join(dir, "cpu.stat"), "usage_usec"); ok {
		return v / 1e6, true
	}
	for i, d := range g.v1CPU {
		if d == dir && i < len(g.v1Acct) {
			v, ok := number(filepath.Join(g.v1Acct[i], "cpuacct.usage"))
			return v / 1e9, ok
		}
	}
	return 0, false
}

// throttled is for how long the quota has stopped the tightest group, in seconds.
func (g *groups) throttled() (float64, bool) {
	dir, quota := g.tightest()
	if quota == 0 {
		return 0, false
	}
	if v, ok := statLine(filepath.Join(dir, "cpu.stat"), "throttled_usec"); ok {
		return v / 1e6, true
	}
	v, ok := statLine(filepath.Join(dir, "cpu.stat"), "throttled_time")
	return v / 1e9, ok
}

// memory is the least limit and what its group uses, without what the kernel can drop at once; 0 for no limit.
func (g *groups) memory() (limit, used float64) {
	left := math.Inf(1)
	look := func(d, limitFile, usedFile, inactive string) {
		most, ok1 := number(filepath.Join(d, limitFile))
		now, ok2 := number(filepath.Join(d, usedFile))
		if !ok1 || !ok2 || most <= 0 || most >= noLimit {
			return
		}
		if cache, ok := statLine(filepath.Join(d, "memory.stat"), inactive); ok {
			now = max(0, now-cache)
		}
		if most-now < left {
			left, limit, used = most-now, most, now
		}
	}
	for _, d := range g.v2 {
		look(d, "memory.max", "memory.current", "inactive_file")
	}
	for _, d := range g.v1Me {
		look(d, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
	}
	return limit, used
}

// statLine reads one number of a file of lines "name number".
func statLine(path, name string) (float64, bool) {
	text, err := read(path)
	if err != nil {
		return 0, false
	}
	for row := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(row, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			return v, err == nil && v >= 0
		}
	}
	return 0, false
}
