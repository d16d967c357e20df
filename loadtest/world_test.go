package loadtest

import (
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/queueville/queueville/loadtest/fediverse"
	"github.com/queueville/queueville/loadtest/mastodondata"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestWorld(t *testing.T) {
	classes := DefaultClasses()
	for _, n := range []int{len(classes), 25, 60, 200, 1000} {
		w, err := NewWorld(classes, n)
		if err != nil {
			t.Fatal(err)
		}
		counts := make(map[string]int)
		names := make(map[string]bool)
		for i := range w.Hosts {
			counts[w.Hosts[i].Class]++
			names[w.Hosts[i].Name] = true
			if w.Class(i).Name != w.Hosts[i].Class {
				t.Errorf("host %d is of class %s, not %s", i, w.Hosts[i].Class, w.Class(i).Name)
			}
		}
		if len(w.Hosts) != n || len(names) != n || len(counts) != len(classes) {
			t.Errorf("%d hosts: %d made, %d names, %d of %d classes", n, len(w.Hosts), len(names), len(counts), len(classes))
		}
		if n == 1000 && (counts["quick"] < 540 || counts["quick"] > 580) {
			t.Errorf("%d of 1000 hosts are quick", counts["quick"])
		}
		if len(w.Unavailable()) != counts["unavailable"] {
			t.Errorf("%d hosts are unavailable, want %d", len(w.Unavailable()), counts["unavailable"])
		}
	}
	for name, bad := range map[string]func() (*World, error){
		"too few hosts":       func() (*World, error) { return NewWorld(classes, 3) },
		"no classes":          func() (*World, error) { return NewWorld(nil, 3) },
		"a class of no share": func() (*World, error) { return NewWorld([]Class{{Name: "x"}}, 3) },
	} {
		if _, err := bad(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestDeliveries(t *testing.T) {
	w, err := NewWorld(DefaultClasses(), 60)
	if err != nil {
		t.Fatal(err)
	}
	data, err := mastodondata.Plan(mastodondata.Config{Line: mastodondata.Line47, Domain: "local.test", Accounts: 12, Suspended: 4})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	inbox := func(host string) string { return "https://" + host + ":1234/inbox" }
	list, err := Deliveries(w, data, 5000, 1, now, inbox)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Deliveries(w, data, 5000, 1, now, inbox)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[fediverse.Key]bool)
	for i := range list {
		seen[fediverse.DeliveryKey(w.Hosts[list[i].Host].Name, "/inbox", list[i].Body.Raw)] = true
	}
	if len(seen) != len(list) {
		t.Errorf("%d deliveries are only %d different ones", len(list), len(seen))
	}
	jids, low, options := make(map[string]bool), 0, make(map[string]int)
	for i := range list {
		d := &list[i]
		jids[d.JID] = true
		options[d.Options]++
		if d.Queue == "pull" {
			low++
		}
		if d.Inbox != inbox(w.Hosts[d.Host].Name) {
			t.Fatalf("delivery to %s is for %s", d.Inbox, w.Hosts[d.Host].Name)
		}
		if a := &again[i]; a.JID != d.JID || a.Inbox != d.Inbox || string(a.Body.Raw) != string(d.Body.Raw) {
			t.Fatalf("delivery %d differs from run to run", i)
		}
	}
	if len(list) != 5000 || len(jids) != 5000 || low == 0 || low > 800 || len(options) != 4 {
		t.Errorf("%d deliveries, %d ids, %d on pull, options %v", len(list), len(jids), low, options)
	}
}
