package fullmode

import (
	"fmt"
	"os"
	"strings"
)

// readState is the state letter of a process.
func readState(pid int) (string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	rest := string(text[strings.LastIndexByte(string(text), ')')+1:])
	return strings.Fields(rest)[0], nil
}
