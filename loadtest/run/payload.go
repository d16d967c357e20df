package run

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/queueville/queueville/loadtest/activities"
	"github.com/queueville/queueville/loadtest/fediverse"
	"github.com/queueville/queueville/loadtest/mastodondata"
	"github.com/queueville/queueville/loadtest/world"
)

// jidOf is a job's id in Sidekiq's form: its number, and eight zeros.
func jidOf(id uint64) string { return fmt.Sprintf("%016x00000000", id) }

// idOf is the number of a job by its id; false when it is none of ours.
func idOf(jid string) (uint64, bool) {
	if len(jid) != 24 || jid[16:] != "00000000" {
		return 0, false
	}
	id, err := strconv.ParseUint(jid[:16], 16, 64)
	return id, err == nil
}

// writer writes jobs as Sidekiq's client does. Not safe for concurrent use.
type writer struct {
	data   *mastodondata.Data
	jobs   *mastodondata.Jobs
	maker  *activities.Maker
	origin func(dest int32) string // scheme and authority of an instance
	host   func(dest int32) string
	bodies [8]cachedBody // what was sent lately: all deliveries of a post share it
	next   int
}

type cachedBody struct {
	cause uint64
	body  *mastodondata.Body
	by    int
}

func newWriter(data *mastodondata.Data, seed uint64, now time.Time, origin, host func(int32) string) *writer {
	return &writer{data: data, jobs: mastodondata.NewJobs(data.Line, seed), maker: activities.NewMaker(seed, now), origin: origin, host: host}
}

// payload writes a job. cause is the number of the job that it follows from, 0 for none: what is delivered for one post is one text.
// The key names a delivery at its receiver; 0 for other jobs.
func (w *writer) payload(j *world.Job, cause uint64, created, enqueued time.Time) (payload []byte, key fediverse.Key, err error) {
	class := &world.ClassTable[j.Class]
	if class.Net != world.NetDelivery {
		return w.plain(j, class, created, enqueued), 0, nil
	}
	if cause == 0 || j.Class == world.Delivery && j.What == world.NewPerson {
		cause = j.ID
	}
	body, by, err := w.body(cause, class)
	if err != nil {
		return nil, 0, err
	}
	inbox := w.origin(j.Dest) + "/inbox"
	d := mastodondata.Delivery{JID: jidOf(j.ID), Class: class.Name, Queue: world.QueueNames[class.Queue], Body: body, AccountID: w.data.Accounts[by].ID, Inbox: inbox, Options: "{}"}
	return w.jobs.AppendPayload(make([]byte, 0, len(body.Raw)+1024), &d, created, enqueued), fediverse.DeliveryKey(w.host(j.Dest), "/inbox", body.Raw), nil
}

// body is the activity of a post, a follow or a removal, about as large as the class's payloads are.
func (w *writer) body(cause uint64, class *world.Class) (*mastodondata.Body, int, error) {
	for i := range w.bodies {
		if b := &w.bodies[i]; b.body != nil && b.cause == cause {
			return b.body, b.by, nil
		}
	}
	by := int(cause % uint64(len(w.data.Accounts)))
	account := &w.data.Accounts[by]
	author := activities.Author{Username: account.Username, URI: account.URI, Followers: account.Followers}
	status := int64(115_000_000_000_000_000 + cause%1_000_000_000_000_000)
	write := w.maker.Create
	if class.Bytes < 2000 {
		write = w.maker.Delete
	}
	raw, err := write(author, status)
	if err != nil {
		return nil, 0, fmt.Errorf("make an activity: %w", err)
	}
	b := &w.bodies[w.next]
	w.next = (w.next + 1) % len(w.bodies)
	*b = cachedBody{cause: cause, body: mastodondata.NewBody(raw), by: by}
	return b.body, by, nil
}

// plain is any other job: its arguments are its number, and as much text as makes it as large as the class's payloads are.
func (w *writer) plain(j *world.Job, class *world.Class, created, enqueued time.Time) []byte {
	type payload struct {
		Retry    int     `json:"retry"`
		Queue    string  `json:"queue"`
		Dead     bool    `json:"dead"`
		Class    string  `json:"class"`
		Args     []any   `json:"args"`
		JID      string  `json:"jid"`
		Created  float64 `json:"created_at"`
		Enqueued float64 `json:"enqueued_at"`
	}
	const frame = 200 // about what everything but the text is
	p := payload{
		Retry: int(class.Retries), Queue: world.QueueNames[class.Queue], Dead: class.Dead, Class: class.Name, JID: jidOf(j.ID),
		Args: []any{j.ID >> 12, strings.Repeat("x", max(0, class.Bytes-frame))}, Created: seconds(created), Enqueued: seconds(enqueued),
	}
	text, err := json.Marshal(p)
	if err != nil {
		panic(err) // numbers and plain text: a mistake of ours
	}
	return text
}

// seconds is a time as Sidekiq 6 and 7 write it; never whole, for a whole number would be read as milliseconds.
func seconds(t time.Time) float64 { return float64(t.UnixMicro()/10*10+1) / 1e6 }
