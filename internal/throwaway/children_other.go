//go:build !linux

package throwaway

import (
	"errors"
	"fmt"
)

// childrenOf lists the ids of a process's direct children; only Linux tells without a helper program.
func childrenOf(int) ([]int, error) {
	return nil, fmt.Errorf("list child processes: %w", errors.ErrUnsupported)
}
