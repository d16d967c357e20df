package queues

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// ErrRefused is a push that Sidekiq would refuse or lose; Redis is unchanged. What is wrong is in the text.
var ErrRefused = errors.New("push refused")

// Push is a job to be pushed.
type Push struct {
	Class string
	// Args is a slice of plain values (see AppendJSON), or the json.RawMessage of an array; nil is an empty array.
	Args any
	// Queue is the destination; "" means default. A middleware must not make it empty.
	Queue string
	// JID is made if it is "".
	JID string
	// Retry is a bool or an integer; nil means true.
	Retry any
	// At is when the job is to run, in Unix seconds, also in the past; 0 puts it onto its queue at once.
	At float64
	// Fields are further top-level fields (tags, dead, backtrace, retry_for, retry_queue, wrapped …), in order.
	Fields []Field
}

// Middleware sees every job before it is pushed. It may change it, or return false to stop it: nothing is pushed then.
type Middleware func(ctx context.Context, p *Push) (bool, error)

// Client pushes jobs as Sidekiq's client does. Safe for concurrent use if its middleware is.
type Client struct {
	store      *Store
	middleware []Middleware
	now        func() time.Time
}

// NewClient returns a client with the given middleware, outermost first.
func NewClient(s *Store, middleware ...Middleware) *Client {
	return &Client{store: s, middleware: middleware, now: time.Now}
}

// relativeBelow: PushIn takes a smaller number for a delay, a larger one for a time.
const relativeBelow = 1_000_000_000

// bulkSlice is the number of jobs in one pipeline, Sidekiq's batch_size.
const bulkSlice = 1000

// Push pushes one job and returns its jid, "" if a middleware stopped it. The error wraps ErrRefused for what Sidekiq would
// refuse, or would lose later on.
func (c *Client) Push(ctx context.Context, p Push) (jid string, err error) {
	jids, err := c.push(ctx, p, []any{p.Args}, []float64{p.At})
	if err != nil {
		return "", fmt.Errorf("push %s: %w", p.Class, err)
	}
	return jids[0], nil
}

// PushIn is perform_in and perform_at: a delay in seconds if it is below 10⁹, else a Unix time. If that is not in the
// future the job goes onto its queue at once.
func (c *Client) PushIn(ctx context.Context, delay float64, p Push) (jid string, err error) {
	now := unixSeconds(c.now())
	p.At = delay
	if delay < relativeBelow {
		p.At = now + delay
	}
	if p.At <= now {
		p.At = 0
	}
	return c.Push(ctx, p)
}

// PushBulk pushes one job for each element of args (which takes the place of p.Args), the first to be executed first,
// 1,000 per pipeline. at may be left out (p.At counts), be one time for all, or one for each. It returns the jids in
// order, "" for those that a middleware stopped and, after an error of Redis, for those that may not have been pushed.
func (c *Client) PushBulk(ctx context.Context, p Push, args []any, at ...float64) ([]string, error) {
	times := slices.Repeat([]float64{p.At}, len(args))
	switch {
	case len(at) == 1:
		times = slices.Repeat(at, len(args))
	case len(at) > 0 && len(at) != len(args):
		return nil, fmt.Errorf("push %s: %w: %d times for %d jobs", p.Class, ErrRefused, len(at), len(args))
	case len(at) > 0:
		times = at
	}
	if p.JID != "" && len(args) > 1 {
		return nil, fmt.Errorf("push %s: %w: one jid for %d jobs", p.Class, ErrRefused, len(args))
	}
	jids, err := c.push(ctx, p, args, times)
	if err != nil {
		return jids, fmt.Errorf("push %d jobs %s: %w", len(args), p.Class, err)
	}
	return jids, nil
}

// ready is a job that has only to be sent.
type ready struct {
	index   int
	queue   string
	at      float64
	payload []byte // without its last fields and the closing brace
}

func (c *Client) push(ctx context.Context, p Push, args []any, at []float64) ([]string, error) {
	if p.Queue == "" {
		p.Queue = "default"
	}
	created := stampJSON(unixSeconds(c.now()), c.store.Milliseconds)
	jobs := make([]ready, 0, len(args))
	jids := make([]string, len(args))
	for i := range args {
		one := p
		one.Args, one.At = args[i], at[i]
		one.Fields = slices.Clone(p.Fields)
		if one.JID == "" {
			one.JID = newJID()
		}
		going, err := c.through(ctx, &one)
		if err != nil {
			return nil, err
		}
		if !going {
			continue
		}
		payload, err := one.appendJSON(nil, created)
		if err != nil {
			return nil, err
		}
		jids[i] = one.JID
		jobs = append(jobs, ready{index: i, queue: one.Queue, at: one.At, payload: payload})
	}
	for part := range slices.Chunk(jobs, bulkSlice) {
		if err := c.send(ctx, part); err != nil {
			for _, j := range jobs {
				if j.index >= part[0].index {
					jids[j.index] = ""
				}
			}
			return jids, err
		}
	}
	return jids, nil
}

func (c *Client) through(ctx context.Context, p *Push) (bool, error) {
	for _, m := range c.middleware {
		if going, err := m(ctx, p); err != nil || !going {
			return false, err
		}
	}
	return true, nil
}

// send pushes a slice of jobs in one pipeline: SADD before LPUSH, one LPUSH per queue.
func (c *Client) send(ctx context.Context, jobs []ready) error {
	s := c.store
	stamp := `,"enqueued_at":` + stampJSON(unixSeconds(c.now()), s.Milliseconds)
	var later []redis.Z
	var order []string
	lists := make(map[string][]any)
	for _, j := range jobs {
		if j.at != 0 {
			later = append(later, redis.Z{Score: j.at, Member: append(j.payload, '}')})
			continue
		}
		if lists[j.queue] == nil {
			order = append(order, j.queue)
		}
		lists[j.queue] = append(lists[j.queue], append(append(j.payload, stamp...), '}'))
	}
	pipe := s.client.Pipeline()
	if len(later) > 0 {
		pipe.ZAdd(ctx, s.keys.schedule, later...)
	}
	for _, q := range order {
		pipe.SAdd(ctx, s.keys.queues, q)
		pipe.LPush(ctx, s.keys.queue(q), lists[q]...)
	}
	if pipe.Len() == 0 {
		return nil
	}
	_, err := pipe.Exec(ctx)
	return err
}

// appendJSON prints the payload in Ruby's order of fields, without enqueued_at and closing brace.
func (p *Push) appendJSON(out []byte, created string) ([]byte, error) {
	switch {
	case p.Class == "":
		return nil, fmt.Errorf("%w: no class", ErrRefused)
	case p.Queue == "":
		return nil, fmt.Errorf("%w: no queue", ErrRefused)
	case p.At < 0 || math.IsNaN(p.At) || math.IsInf(p.At, 0):
		return nil, fmt.Errorf("%w: time %v", ErrRefused, p.At)
	}
	retry, err := p.retryJSON()
	if err != nil {
		return nil, err
	}
	out = append(append(out, `{"retry":`...), retry...)
	field := func(name string, v any) {
		if err != nil {
			return
		}
		out = append(append(append(out, `,"`...), name...), `":`...)
		var grown []byte
		if grown, err = AppendJSON(out, v, 1); err != nil {
			err = fmt.Errorf("%w: %s: %w", ErrRefused, name, err)
			return
		}
		out = grown
	}
	field("queue", p.Queue)
	field("class", p.Class)
	from := len(out) + len(`,"args":`)
	if p.Args == nil {
		p.Args = json.RawMessage("[]")
	}
	if v := reflect.ValueOf(p.Args); v.Kind() == reflect.Slice && v.IsNil() {
		p.Args = json.RawMessage("[]")
	}
	field("args", p.Args)
	if err != nil {
		return nil, err
	}
	if out[from] != '[' {
		return nil, fmt.Errorf("%w: args are no array", ErrRefused)
	}
	for _, f := range p.Fields {
		if err := f.refuse(); err != nil {
			return nil, err
		}
		out = append(appendString(append(out, ','), f.Name), ':')
		if out, err = AppendJSON(out, json.RawMessage(f.Raw), 1); err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrRefused, f.Name, err)
		}
	}
	field("jid", p.JID)
	field("created_at", json.RawMessage(created))
	return out, err
}

func (p *Push) retryJSON() (string, error) {
	if p.Retry == nil {
		return "true", nil
	}
	switch v := reflect.ValueOf(p.Retry); {
	case v.Kind() == reflect.Bool:
		return strconv.FormatBool(v.Bool()), nil
	case v.CanInt():
		return JSONInt(v.Int()), nil
	}
	return "", fmt.Errorf("%w: retry is neither a boolean nor an integer", ErrRefused)
}

// refuse says what is wrong with a further field.
func (f *Field) refuse() error {
	switch f.Name {
	case "class", "args", "queue", "jid", "retry", "at", "created_at", "enqueued_at":
		return fmt.Errorf("%w: %s is no further field", ErrRefused, f.Name)
	case "tags":
		if f.Raw == "" || f.Raw[0] != '[' {
			return fmt.Errorf("%w: tags are no array", ErrRefused)
		}
	case "retry_for":
		if seconds, err := strconv.ParseFloat(f.Raw, 64); err != nil || seconds > maxRetryFor {
			return fmt.Errorf("%w: retry_for is no number up to 10⁹", ErrRefused)
		}
	}
	return nil
}
