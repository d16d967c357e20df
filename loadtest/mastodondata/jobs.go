package mastodondata

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/redis/go-redis/v9"
)

// pushChunk is how many jobs go into one LPUSH: Sidekiq's batch size since 7.1.
const pushChunk = 1000

// Delivery is one job: an activity to one inbox.
type Delivery struct {
	JID       string
	Class     string // ActivityPub::DeliveryWorker or ActivityPub::LowPriorityDeliveryWorker; see Low
	Queue     string // push or pull
	Body      *Body  // shared by all deliveries of an activity
	AccountID int64
	Inbox     string
	Options   string // the fourth argument as JSON; "" leaves it out
}

// Low is a LowPriorityDeliveryWorker's job on pull instead of a DeliveryWorker's on push.
func (d *Delivery) Low() { d.Class, d.Queue = "ActivityPub::LowPriorityDeliveryWorker", "pull" }

// Body is an activity's bytes, and the same as a JSON string, which all its jobs share.
type Body struct {
	Raw    []byte
	quoted []byte
}

// NewBody quotes an activity once.
func NewBody(raw []byte) *Body { return &Body{Raw: raw, quoted: appendRubyString(nil, raw)} }

// Jobs makes jobs of one line's form. Not safe for concurrent use.
type Jobs struct {
	line Line
	rng  *rand.Rand
}

// NewJobs makes jobs whose ids depend on seed only.
func NewJobs(line Line, seed uint64) *Jobs {
	return &Jobs{line: line, rng: rand.New(rand.NewPCG(seed, 0x6a6f6273))}
}

// New makes a DeliveryWorker's job on push.
func (j *Jobs) New(body *Body, accountID int64, inbox, options string) Delivery {
	return Delivery{
		JID: newJID(j.rng.Uint64(), j.rng.Uint32()), Class: "ActivityPub::DeliveryWorker", Queue: "push",
		Body: body, AccountID: accountID, Inbox: inbox, Options: options,
	}
}

// AppendPayload appends the job as Sidekiq's client writes it: 16 retries (8 on pull), no dead set, times in the line's unit.
func (j *Jobs) AppendPayload(dst []byte, d *Delivery, created, enqueued time.Time) []byte {
	retries := 16
	if d.Queue == "pull" {
		retries = 8
	}
	dst = append(dst, `{"retry":`...)
	dst = strconv.AppendInt(dst, int64(retries), 10)
	dst = append(dst, `,"queue":`...)
	dst = appendRubyString(dst, []byte(d.Queue))
	dst = append(dst, `,"dead":false,"class":`...)
	dst = appendRubyString(dst, []byte(d.Class))
	dst = append(dst, `,"args":[`...)
	dst = append(dst, d.Body.quoted...)
	dst = append(dst, ',')
	dst = strconv.AppendInt(dst, d.AccountID, 10)
	dst = append(dst, ',')
	dst = appendRubyString(dst, []byte(d.Inbox))
	if d.Options != "" {
		dst = append(dst, ',')
		dst = append(dst, d.Options...)
	}
	dst = append(dst, `],"jid":"`...)
	dst = append(dst, d.JID...)
	dst = append(dst, `","created_at":`...)
	dst = j.appendTime(dst, created)
	dst = append(dst, `,"enqueued_at":`...)
	dst = j.appendTime(dst, enqueued)

	return append(dst, '}')
}

// appendTime writes integer milliseconds (Sidekiq 8) or float seconds with a point (6, 7).
func (j *Jobs) appendTime(dst []byte, at time.Time) []byte {
	if j.line.milliseconds() {
		return strconv.AppendInt(dst, at.UnixMilli(), 10)
	}
	start := len(dst)
	dst = strconv.AppendFloat(dst, float64(at.UnixMicro())/1e6, 'f', -1, 64)
	if !strings.Contains(string(dst[start:]), ".") {
		dst = append(dst, ".0"...)
	}

	return dst
}

// Push enqueues jobs as Sidekiq's bulk push does: in their order, in slices of 1,000 of one queue, each one SADD and one LPUSH. It calls
// pushed, if not nil, after each slice, with how many it had. The client's timeouts hold.
func (j *Jobs) Push(ctx context.Context, client redis.Cmdable, list []Delivery, pushed func(slice []Delivery, at time.Time)) error {
	created := time.Now()
	for len(list) > 0 {
		n := 1
		for n < len(list) && n < pushChunk && list[n].Queue == list[0].Queue {
			n++
		}
		now := time.Now()
		values := make([]any, n)
		for i := range n {
			values[i] = j.AppendPayload(make([]byte, 0, len(list[i].Body.quoted)+512), &list[i], created, now)
		}
		pipe := client.Pipeline()
		pipe.SAdd(ctx, "queues", list[0].Queue)
		pipe.LPush(ctx, "queue:"+list[0].Queue, values...)
		if _, err := pipe.Exec(ctx); err != nil {
			return fmt.Errorf("enqueue %d jobs on %s: %w", n, list[0].Queue, err)
		}
		if pushed != nil {
			pushed(list[:n], now)
		}
		list = list[n:]
	}

	return nil
}

// appendRubyString quotes text as Ruby's JSON.generate does: only quotes, backslashes and control characters are escaped, the latter with
// lower-case hex; everything else is raw UTF-8. Bytes that are no UTF-8 become U+FFFD, for Ruby would refuse to push them.
func appendRubyString(dst, text []byte) []byte {
	const hexDigits = "0123456789abcdef"
	dst = append(dst, '"')
	for i := 0; i < len(text); {
		c := text[i]
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c >= 0x20 && c < utf8.RuneSelf:
			dst = append(dst, c)
		case c >= utf8.RuneSelf:
			r, size := utf8.DecodeRune(text[i:])
			dst = utf8.AppendRune(dst, r)
			i += size

			continue
		case c == '\b':
			dst = append(dst, `\b`...)
		case c == '\t':
			dst = append(dst, `\t`...)
		case c == '\n':
			dst = append(dst, `\n`...)
		case c == '\f':
			dst = append(dst, `\f`...)
		case c == '\r':
			dst = append(dst, `\r`...)
		default:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
		i++
	}

	return append(dst, '"')
}
