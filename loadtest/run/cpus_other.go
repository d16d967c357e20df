//go:build !linux

package run

import "errors"

// confine needs Linux.
func confine([]int) (restore func(), err error) { return nil, errors.ErrUnsupported }
