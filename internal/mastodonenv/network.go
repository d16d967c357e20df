package mastodonenv

import (
	"net/netip"
	"net/url"
	"strings"
	"unicode"
)

func (r *reader) readNetwork(c *Config) {
	c.AllowedPrivateAddresses = r.prefixes("ALLOWED_PRIVATE_ADDRESSES")
	c.HTTPProxy = r.proxy("http_proxy")
	c.HTTPHiddenProxy = r.proxy("http_hidden_proxy")
	c.AllowHiddenServices = r.text("ALLOW_ACCESS_TO_HIDDEN_SERVICE") == "true"
	c.MaxRequestPoolSize = r.number("MAX_REQUEST_POOL_SIZE", 512, 1, 1_000_000)
	if r.isSet("HTTP_PROXY") && !r.isSet("http_proxy") {
		r.warnf("HTTP_PROXY", "write http_proxy if requests should go through it", "Mastodon reads this variable in lower case only")
	}
}

// prefixes reads addresses and networks with commas or white space between them.
func (r *reader) prefixes(name string) []netip.Prefix {
	split := func(c rune) bool { return c == ',' || unicode.IsSpace(c) }
	var out []netip.Prefix
	for _, part := range strings.FieldsFunc(r.text(name), split) {
		if addr, err := netip.ParseAddr(part); err == nil && addr.Zone() == "" {
			addr = addr.Unmap()
			out = append(out, netip.PrefixFrom(addr, addr.BitLen()))
			continue
		}
		prefix, err := netip.ParsePrefix(part)
		if err != nil {
			r.errorf(name, "write addresses and networks like 10.0.0.5 or 10.0.0.0/8", "%q is neither", shorten(part))
			continue
		}
		if prefix.Addr().Is4In6() && prefix.Bits() >= 96 {
			prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-96)
		}
		out = append(out, prefix.Masked())
	}
	return out
}

func (r *reader) proxy(name string) *url.URL {
	v := r.text(name)
	if v == "" {
		return nil
	}
	u, err := url.Parse(v)
	// The error's text is not shown: it quotes parts of the URL, which may hold a password.
	if err != nil || u.Hostname() == "" || (u.Scheme != "http" && u.Scheme != "https") {
		r.errorf(name, "write http://host:port or http://user:password@host:port, special characters percent-encoded", "is not the URL of an HTTP proxy")
		return nil
	}
	return u
}
