package activitypub

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestGuard(t *testing.T) {
	blocked := []string{
		"0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255",
		"192.0.0.1", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255",
		"::", "::1", "64:ff9b::1", "64:ff9b:1::1", "100::1", "2001::1", "2001:10::1", "2001:20::1", "2001:db8::1", "2002::1", "fc00::1", "fdff::1", "fe80::1", "3fff::1", "ff02::1",
		"::ffff:10.0.0.1", "::ffff:127.0.0.1", "::127.0.0.1", "::10.0.0.1",
	}
	free := []string{"1.1.1.1", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1", "192.0.1.1", "198.17.0.1", "198.20.0.1", "223.255.255.255", "2606:4700::1", "2003::1", "2a00::1", "::ffff:1.1.1.1"}
	g := &guard{}
	for _, a := range blocked {
		if g.permits(netip.MustParseAddr(a)) {
			t.Errorf("%s is permitted", a)
		}
		if !(&guard{off: true}).permits(netip.MustParseAddr(a)) {
			t.Errorf("%s is refused behind a proxy", a)
		}
	}
	for _, a := range free {
		if !g.permits(netip.MustParseAddr(a)) {
			t.Errorf("%s is refused", a)
		}
	}
	g.allowed = []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("::1/128")}
	for a, want := range map[string]bool{"10.1.2.3": true, "::ffff:10.1.2.3": true, "10.2.0.1": false, "::1": true, "127.0.0.1": false} {
		if got := g.permits(netip.MustParseAddr(a)); got != want {
			t.Errorf("with exceptions permits(%s) = %v", a, got)
		}
	}
	if g.permits(netip.Addr{}) || g.permits(netip.MustParseAddr("fe80::1%eth0")) {
		t.Error("a strange address is permitted")
	}
}

// recordingDialer notes what would be connected to and connects to nothing.
func recordingDialer(names nameMap, answers map[string]error, delay time.Duration) (*dialer, func() []string) {
	var mu sync.Mutex
	var list []string
	d := &dialer{
		resolver: names, dns: time.Second, connect: 5 * time.Second, write: time.Second, stagger: 50 * time.Millisecond,
		dialIP: func(ctx context.Context, _, address string) (net.Conn, error) {
			mu.Lock()
			list = append(list, address)
			mu.Unlock()
			select {
			case <-time.After(delay):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			host, _, _ := net.SplitHostPort(address)
			if err, ok := answers[host]; ok {
				return nil, err
			}
			a, b := net.Pipe()
			_ = b.Close()
			return a, nil
		},
	}
	return d, func() []string { mu.Lock(); defer mu.Unlock(); return slices.Clone(list) }
}

func TestDialer(t *testing.T) {
	refused := syscall.ECONNREFUSED
	tests := map[string]struct {
		addrs   []string
		answers map[string]error
		want    []string
		err     error
	}{
		"one address":              {[]string{"1.1.1.1"}, nil, []string{"1.1.1.1:443"}, nil},
		"IPv6 goes first":          {[]string{"1.1.1.1", "2606::1"}, nil, []string{"[2606::1]:443"}, nil},
		"the next if one refuses":  {[]string{"1.1.1.1", "2606::1"}, map[string]error{"2606::1": refused}, []string{"[2606::1]:443", "1.1.1.1:443"}, nil},
		"two of each at most":      {[]string{"1.1.1.1", "1.1.1.2", "1.1.1.3", "2606::1", "2606::2", "2606::3"}, map[string]error{"1.1.1.1": refused, "1.1.1.2": refused, "2606::1": refused, "2606::2": refused}, []string{"[2606::1]:443", "[2606::2]:443", "1.1.1.1:443", "1.1.1.2:443"}, refused},
		"private ones are skipped": {[]string{"10.0.0.1", "1.1.1.1", "::1"}, nil, []string{"1.1.1.1:443"}, nil},
		"all private":              {[]string{"10.0.0.1", "::1", "169.254.169.254"}, nil, nil, errPrivateAddress},
		"private in IPv6 clothes":  {[]string{"::ffff:127.0.0.1"}, nil, nil, errPrivateAddress},
		"none at all":              {[]string{}, nil, nil, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			names := nameMap{new(sync.Mutex), map[string][]netip.Addr{}}
			names.set("h.test", tt.addrs...)
			d, dialled := recordingDialer(names, tt.answers, 0)
			conn, err := d.DialContext(t.Context(), "tcp", "h.test:443")
			if conn != nil {
				_ = conn.Close()
			}
			if _, dns := errors.AsType[*net.DNSError](err); len(tt.addrs) == 0 && !dns || len(tt.addrs) > 0 && !errors.Is(err, tt.err) {
				t.Errorf("DialContext = %v, want %v", err, tt.err)
			}
			if got := dialled(); !slices.Equal(got, tt.want) {
				t.Errorf("dialled %v, want %v", got, tt.want)
			}
		})
	}
	t.Run("literals are checked too", func(t *testing.T) {
		d, dialled := recordingDialer(nameMap{}, nil, 0)
		if _, err := d.DialContext(t.Context(), "tcp", "[::1]:443"); !errors.Is(err, errPrivateAddress) || len(dialled()) != 0 {
			t.Errorf("DialContext = %v, dialled %v", err, dialled())
		}
	})
	t.Run("a silent address gets a head start only", func(t *testing.T) {
		names := nameMap{new(sync.Mutex), map[string][]netip.Addr{}}
		names.set("h.test", "1.1.1.1", "2606::1")
		d, dialled := recordingDialer(names, nil, 200*time.Millisecond)
		conn, err := d.DialContext(t.Context(), "tcp", "h.test:443")
		must(t, err)
		_ = conn.Close()
		if got := dialled(); len(got) != 2 {
			t.Errorf("dialled %v", got)
		}
	})
}

// TestPrivate: every address private is an error that is not retried, and counts in the tracker.
func TestPrivate(t *testing.T) {
	b := setup(t, "4.7.0", func(c *Config) { c.AllowedPrivate = nil })
	b.names.set("inside.test", "127.0.0.1", "10.0.0.1")
	for _, inbox := range []string{"https://inside.test/inbox", "https://127.0.0.1/inbox", "http://[::1]:6379/", "https://[::ffff:10.0.0.1]/"} {
		got := b.deliver(b.job(inbox))
		if got.Outcome != HostRefused || got.ErrorClass != "Mastodon::PrivateNetworkAddressError" || got.Kind != KindPrivate {
			t.Errorf("Deliver to %s = %+v", inbox, got)
		}
	}
	if days := b.tracked("inside.test"); len(days) != 1 {
		t.Errorf("tracked %v, want today", days)
	}
}

// TestHidden: hidden services are refused unless allowed, and go through their own proxy.
func TestHidden(t *testing.T) {
	b := setup(t, "4.7.0")
	for _, inbox := range []string{"https://abc.onion/inbox", "http://abc.I2P/inbox"} {
		if got := b.deliver(b.job(inbox)); got.Outcome != HostRefused || got.ErrorClass != "Mastodon::HostValidationError" {
			t.Errorf("Deliver to %s = %+v", inbox, got)
		}
	}
	if len(b.tracked("abc.onion")) != 1 {
		t.Error("not tracked; Ruby tracks every exception")
	}
}

// TestProxy: a proxy gets every request, and no address is checked; hidden services may have another.
func TestProxy(t *testing.T) {
	var mu sync.Mutex
	var asked []string
	proxy := func(name string) *url.URL {
		server := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			asked = append(asked, fmt.Sprintf("%s %s %s %v", name, r.Method, r.URL, r.Header.Get("Signature") != ""))
			mu.Unlock()
			if r.Header.Get("Proxy-Authorization") == "" {
				w.WriteHeader(http.StatusProxyAuthRequired)
				return
			}
			w.WriteHeader(http.StatusAccepted)
		})}
		listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		must(t, err)
		done := make(chan struct{})
		go func() { defer close(done); _ = server.Serve(listener) }()
		t.Cleanup(func() { _ = server.Close(); <-done })
		return &url.URL{Scheme: "http", Host: listener.Addr().String(), User: url.UserPassword("u", "p")}
	}
	b := setup(t, "4.7.0", func(c *Config) {
		c.AllowedPrivate, c.HTTPProxy, c.HiddenProxy, c.AllowHidden = nil, proxy("plain"), proxy("hidden"), true
	})
	for _, inbox := range []string{"http://a.test/inbox", "http://10.0.0.1/inbox", "http://abc.onion/inbox"} {
		if got := b.deliver(b.job(inbox)); got.Outcome != Delivered {
			t.Errorf("Deliver to %s = %+v", inbox, got)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	want := "plain POST http://a.test/inbox true, plain POST http://10.0.0.1/inbox true, hidden POST http://abc.onion/inbox true"
	if got := strings.Join(asked, ", "); got != want {
		t.Errorf("proxies were asked %s, want %s", got, want)
	}
}
