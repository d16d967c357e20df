// Package footprint keeps a long-running process small.
package footprint

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ForgetStartup lets go of the pages of the program's own file that are in this process's memory: a third of them or more were needed only to start,
// by packages that set up tables for commands that this process does not run. What is needed again comes back from the page cache, 64 KiB at a
// time. It returns how many bytes were resident. Pages that were written to are never touched. Linux only; an error elsewhere.
func ForgetStartup() (resident int64, err error) {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return 0, fmt.Errorf("find the program's file: %w", err)
	}
	file, err := os.Open("/proc/self/smaps")
	if err != nil {
		return 0, fmt.Errorf("read the memory map: %w", err)
	}
	defer file.Close() //nolint:errcheck // read only
	list, err := cleanMappings(bufio.NewScanner(file), program)
	if err != nil {
		return 0, err
	}
	for _, m := range list {
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, m.start, m.end-m.start, unix.MADV_DONTNEED); errno != 0 {
			return resident, fmt.Errorf("give pages back: %w", errno)
		}
		resident += m.resident
	}
	return resident, nil
}

// mapping is a part of the program's file in memory.
type mapping struct {
	start, end uintptr
	resident   int64 // bytes
	changed    bool  // some of its pages are this process's own: relocated, or written
}

// cleanMappings are the read-only mappings of a file of which no page differs from the file. lines are those of /proc/PID/smaps.
func cleanMappings(lines *bufio.Scanner, file string) (list []mapping, err error) {
	var at *mapping
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) < 2 {
			continue
		}
		if !strings.HasSuffix(words[0], ":") { // "start-end perms offset device inode path"
			at = nil
			if len(words) < 6 || words[5] != file || strings.ContainsAny(words[1], "ws") {
				continue
			}
			m := mapping{}
			if m.start, m.end, err = span(words[0]); err != nil {
				return nil, err
			}
			list = append(list, m)
			at = &list[len(list)-1]
			continue
		}
		if at == nil {
			continue
		}
		switch words[0] {
		case "Rss:":
			kb, err := strconv.ParseInt(words[1], 10, 64)
			if err != nil {
				return nil, fmt.Errorf("read the memory map: %w", err)
			}
			at.resident = kb << 10
		case "Anonymous:", "Swap:": // dirty pages of a file just written are still the file's
			at.changed = at.changed || words[1] != "0"
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the memory map: %w", err)
	}
	clean := list[:0]
	for _, m := range list {
		if !m.changed {
			clean = append(clean, m)
		}
	}
	return clean, nil
}

func span(text string) (start, end uintptr, err error) {
	low, high, _ := strings.Cut(text, "-")
	a, err := strconv.ParseUint(low, 16, 64)
	if err == nil {
		var b uint64
		if b, err = strconv.ParseUint(high, 16, 64); err == nil {
			return uintptr(a), uintptr(b), nil
		}
	}
	return 0, 0, fmt.Errorf("read the memory map: %w", err)
}
