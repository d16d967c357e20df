package jobs

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/queueville/queueville/activitypub"
	"github.com/queueville/queueville/queues"
)

// All forms must carry the same arguments, or the contenders would not do the same work.
func TestFormsCarryTheSameDelivery(t *testing.T) {
	t.Parallel()
	m := NewMaker(1, 900, 3600, []int64{110_000_000_000_000_001}, []string{"https://host.fedi.test/inbox"})
	for range 200 {
		d := m.Next()
		if len(d.Body) < 800 || len(d.Body) > 3700 {
			t.Fatalf("body of %d bytes", len(d.Body))
		}
		if !json.Valid([]byte(d.Body)) {
			t.Fatalf("body is not JSON: %s", d.Body)
		}
		job, err := queues.ParseJob(d.Sidekiq("push", time.Now()))
		if err != nil {
			t.Fatal(err)
		}
		if job.Class != Class || job.Queue != "push" || len(job.JID) != 24 || job.EnqueuedAt == 0 {
			t.Fatalf("payload reads as %+v", job)
		}
		args, err := activitypub.ParseArgs(job.Args)
		if err != nil {
			t.Fatal(err)
		}
		if args.Body != d.Body || args.AccountID != d.Account || args.InboxURL != d.Inbox {
			t.Fatalf("arguments read as %+v, want %+v", args, d)
		}
		var task struct {
			Body, Inbox string
			Account     int64
		}
		if err := json.Unmarshal(d.AsynqPayload(), &task); err != nil || task.Body != d.Body || task.Account != d.Account || task.Inbox != d.Inbox {
			t.Fatalf("asynq payload reads as %+v, %v", task, err)
		}
		var work struct {
			Name string
			Args struct{ Body string }
		}
		if err := json.Unmarshal([]byte(d.Gocraft("noop", time.Now())), &work); err != nil || work.Args.Body != d.Body || work.Name != "noop" {
			t.Fatalf("gocraft payload: %v", err)
		}
	}
}

func TestSameSeedSameDeliveries(t *testing.T) {
	t.Parallel()
	make1 := func() Delivery { return NewMaker(7, 900, 3600, []int64{1}, []string{"https://a.test/inbox"}).Next() }
	if a, b := make1(), make1(); a != b {
		t.Errorf("two makers with one seed differ:\n%v\n%v", a, b)
	}
}
