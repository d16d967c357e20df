//go:build !linux

package dbpool

import "os"

func network() string { return "" }

func holdName(string) (*os.File, error) { return nil, errNoKin }
