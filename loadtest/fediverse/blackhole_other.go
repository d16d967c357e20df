//go:build !linux

package fediverse

import (
	"errors"
	"net/netip"
)

// blackhole exists on Linux only: elsewhere the kernels answer a full queue differently, and such a host is silent instead.
type blackhole struct{}

func openBlackhole(netip.AddrPort) (*blackhole, error) { return nil, errors.ErrUnsupported }

func (*blackhole) close() error { return nil }
