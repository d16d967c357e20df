package run

import (
	"fmt"
	"strconv"
	"strings"
)

// parseCPUs reads a list of processors as taskset does: "0", "0-3", "0,2-3".
func parseCPUs(text string) ([]int, error) {
	var list []int
	for part := range strings.SplitSeq(text, ",") {
		low, high, ranged := strings.Cut(part, "-")
		from, err := strconv.Atoi(low)
		to := from
		if err == nil && ranged {
			to, err = strconv.Atoi(high)
		}
		if err != nil || from < 0 || to < from || to >= 1024 {
			return nil, fmt.Errorf("processors %q; write 0 or 0-3", text)
		}
		for i := from; i <= to; i++ {
			list = append(list, i)
		}
	}
	return list, nil
}
