package oracle_test

import (
	"testing"
	"time"

	"github.com/queueville/queueville/internal/oracle"
	"github.com/queueville/queueville/internal/redistest"
)

// TestRubyRunsWhatRubyEnqueues shows that the toolkit itself works, before anything else is blamed.
func TestRubyRunsWhatRubyEnqueues(t *testing.T) {
	o := oracle.New(t, redistest.URL(t))
	pushed := o.Enqueue("async", "bulk", "retry_zero")
	if len(pushed) != 3 || len(pushed[1].JIDs) != 3 {
		t.Fatalf("Enqueue = %+v", pushed)
	}
	if v := o.Inspect("stats", "queues"); v.Stats.Enqueued != 5 || len(v.Queues) != 1 || v.Queues[0].Jobs[0].Class == "" || v.Sidekiq == "" {
		t.Errorf("Inspect = %s", v.Raw)
	}
	s := o.StartSidekiq(nil, "-q", "default", "-c", "1")
	deadline := time.Now().Add(30 * time.Second)
	for o.Inspect("stats").Stats.Dead == 0 && time.Now().Before(deadline) {
		time.Sleep(100 * time.Millisecond)
	}
	s.Stop()
	v := o.Inspect("stats", "dead")
	if v.Stats.Processed != 5 || v.Stats.Failed != 1 || len(v.Dead) != 1 || v.Dead[0].JID != pushed[2].JIDs[0] {
		t.Errorf("Inspect = %s\n%s", v.Raw, s.Output())
	}
	o.WebSmoke()
	if !o.Control("resurrect", pushed[2].JIDs[0]) || o.Control("resurrect", "nobody") {
		t.Error("Control does not tell what it did")
	}
}
