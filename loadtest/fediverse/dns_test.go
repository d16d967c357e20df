package fediverse

import (
	"context"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

func TestNamesOverTCP(t *testing.T) {
	f := start(t, Host{Name: "a.fedi.test"})
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer

		return d.DialContext(ctx, "tcp4", f.NameServer())
	}}
	addresses, err := resolver.LookupNetIP(t.Context(), "ip", "A.fedi.test")
	if err != nil || len(addresses) != 1 || addresses[0].Unmap() != netip.MustParseAddr("127.64.0.1") {
		t.Errorf("LookupNetIP = %v, %v", addresses, err)
	}
}

func FuzzAnswer(f *testing.F) {
	s := &nameServer{records: map[string]nameRecord{
		"a.fedi.test": {address: netip.MustParseAddr("127.64.0.1")},
		"b.fedi.test": {naming: NameServfail},
	}}
	for _, name := range []string{"a.fedi.test.", "b.fedi.test.", "c.fedi.test."} {
		query := dnsmessage.Message{
			Header:    dnsmessage.Header{ID: 7, RecursionDesired: true},
			Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
		}
		packet, err := query.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packet)
	}
	f.Fuzz(func(t *testing.T, query []byte) {
		reply := s.answer(query)
		if reply == nil {
			return
		}
		var message dnsmessage.Message
		if err := message.Unpack(reply); err != nil || !message.Response || len(message.Questions) != 1 {
			t.Errorf("answer(%x) = %x: %v", query, reply, err)
		}
	})
}
