package activitypub

import (
	"errors"
	"net/netip"
)

// errPrivateAddress says that a host has only addresses that may not be connected to; Mastodon::PrivateNetworkAddressError.
var errPrivateAddress = errors.New("host has only private addresses")

// blockedPrefixes are the addresses that requests made for others may not reach (app/lib/private_address_check.rb).
var blockedPrefixes = func() []netip.Prefix {
	var list []netip.Prefix
	for _, s := range []string{
		"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
		"192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
		"224.0.0.0/4", "240.0.0.0/4",
		"::/128", "::1/128", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/32", "2001:10::/28", "2001:20::/28",
		"2001:db8::/32", "2002::/16", "fc00::/7", "fe80::/10", "3fff::/20", "ff00::/8",
	} {
		list = append(list, netip.MustParsePrefix(s))
	}
	return list
}()

var v4Compatible = netip.MustParsePrefix("::/96")

// guard decides which addresses may be connected to.
type guard struct {
	allowed []netip.Prefix // exempted by ALLOWED_PRIVATE_ADDRESSES
	off     bool           // a proxy connects for us, and it decides
}

// permits says whether addr may be connected to. IPv4 addresses in IPv6 clothes are judged as what they are.
func (g *guard) permits(addr netip.Addr) bool {
	if g.off {
		return true
	}
	if !addr.IsValid() || addr.Zone() != "" {
		return false
	}
	plain := unwrap(addr)
	for _, p := range g.allowed {
		if p.Contains(plain) || p.Contains(addr) {
			return true
		}
	}
	for _, p := range blockedPrefixes {
		if p.Contains(plain) || p.Contains(addr) {
			return false
		}
	}
	return true
}

func unwrap(addr netip.Addr) netip.Addr {
	if addr.Is4In6() {
		return addr.Unmap()
	}
	if v4Compatible.Contains(addr) && addr != netip.IPv6Unspecified() && addr != netip.IPv6Loopback() {
		b := addr.As16()
		return netip.AddrFrom4([4]byte(b[12:]))
	}
	return addr
}
