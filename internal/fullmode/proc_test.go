package fullmode

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// childOf tells whether a process that lives descends from another one.
func childOf(pid, ancestor int) bool {
	for pid > 1 {
		if pid == ancestor {
			return true
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return false
		}
		rest := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		if pid, err = strconv.Atoi(rest[1]); err != nil {
			return false
		}
	}
	return false
}

// readState is the state letter of a process.
func readState(pid int) (string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	rest := string(text[strings.LastIndexByte(string(text), ')')+1:])
	return strings.Fields(rest)[0], nil
}
