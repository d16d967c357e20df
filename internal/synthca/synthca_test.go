package synthca

import (
	"crypto/x509"
	"testing"
	"time"
)

func TestLeaf(t *testing.T) {
	ca, err := New()
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	tests := map[string]struct {
		name      string
		from, to  time.Time
		asked     string
		wantValid bool
	}{
		"a DNS name":             {"a.example", now.Add(-time.Hour), now.Add(time.Hour), "a.example", true},
		"another DNS name":       {"a.example", now.Add(-time.Hour), now.Add(time.Hour), "b.example", false},
		"an IPv4 address":        {"127.0.0.7", now.Add(-time.Hour), now.Add(time.Hour), "127.0.0.7", true},
		"an IPv6 address":        {"::1", now.Add(-time.Hour), now.Add(time.Hour), "::1", true},
		"expired yesterday":      {"a.example", now.Add(-48 * time.Hour), now.Add(-24 * time.Hour), "a.example", false},
		"valid only tomorrow":    {"a.example", now.Add(24 * time.Hour), now.Add(48 * time.Hour), "a.example", false},
		"the name of a wildcard": {"*.example", now.Add(-time.Hour), now.Add(time.Hour), "x.example", true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			cert, err := ca.Leaf(tt.name, tt.from, tt.to)
			if err != nil {
				t.Fatal(err)
			}
			_, err = cert.Leaf.Verify(x509.VerifyOptions{DNSName: tt.asked, Roots: ca.Pool(), CurrentTime: now})
			if got := err == nil; got != tt.wantValid {
				t.Errorf("certificate for %s verifies as %s = %v (%v), want %v", tt.name, tt.asked, got, err, tt.wantValid)
			}
		})
	}
	if _, err := ca.LeafFor(); err == nil {
		t.Error("a certificate for no name was made")
	}
}
