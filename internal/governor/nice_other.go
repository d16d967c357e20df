//go:build !linux

package governor

import "errors"

// BeNice works on Linux, where limits have sensors too; elsewhere it says that it does not.
func BeNice(int) error { return errors.ErrUnsupported }
