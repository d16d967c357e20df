package run

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/queueville/queueville/loadtest/fediverse"
	"github.com/queueville/queueville/loadtest/sink"
	"github.com/queueville/queueville/loadtest/world"
)

// conductor knows every job of a run: it is asked what a job costs and what follows from it, is told what becomes of it, and decides what the
// receivers answer. All of that under one lock: a run has some thousand jobs a second at most.
type conductor struct {
	world  *world.World
	length time.Duration

	mu      sync.Mutex
	start   time.Time // zero until the run begins
	books   *books
	meter   *meter
	write   *writer
	seen    world.Seen
	outside outside // what the outside pushes later
	dests   []dest
	perStep float64 // iterations of loadtest_work that a microsecond of PostgreSQL's is
	address func(dest int32) string
	warmed  int              // jobs that are no part of the run have ended
	silent  [2]time.Duration // from when to when Redis did not answer a push last
	// onlyDeliveries: other jobs are taken to be done at once, and what comes of them is pushed.
	onlyDeliveries bool
}

// dest is how busy an instance is.
type dest struct {
	second int32
	sent   uint16
}

// outside is a heap of pushes that the outside makes at a later time.
type outside []world.Job

func (o *outside) Len() int           { return len(*o) }
func (o *outside) Less(i, j int) bool { return (*o)[i].Enqueued < (*o)[j].Enqueued }
func (o *outside) Swap(i, j int)      { (*o)[i], (*o)[j] = (*o)[j], (*o)[i] }
func (o *outside) Push(x any)         { *o = append(*o, x.(world.Job)) }
func (o *outside) Pop() any {
	old := *o
	last := old[len(old)-1]
	*o = old[:len(old)-1]
	return last
}

// begin starts the clock.
func (c *conductor) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.start = time.Now()
}

// now is the time since the beginning; 0 before it.
func (c *conductor) now() time.Duration {
	if c.start.IsZero() {
		return 0
	}
	return time.Since(c.start)
}

// errUnknown: a line of a program that is none of ours.
var errUnknown = errors.New("not understood")

// line answers one line of a Ruby process or of the worker; "" means that no answer is wanted. more is sent after the answer.
func (c *conductor) line(text string) (answer string, more []byte, err error) {
	word, rest, _ := strings.Cut(text, " ")
	if word == "X" {
		return "", nil, c.native(rest)
	}
	f := strings.Fields(rest)
	if len(f) < 2 {
		return "", nil, errUnknown
	}
	retries, err := strconv.ParseUint(f[1], 10, 8)
	if err != nil {
		return "", nil, fmt.Errorf("%w: %w", errUnknown, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	id, ours := idOf(f[0])
	r := c.books.jobs[id]
	if !ours || r == nil { // what warms the processes up
		switch word {
		case "S":
			return fmt.Sprintf("1000 0 %d 1 0 ok - 0", int(c.perStep)), nil, nil
		case "L":
			return "0 0", nil, nil
		case "E":
			c.warmed++
			return "ok", nil, nil
		default:
			return "", nil, nil
		}
	}
	switch word {
	case "S":
		if len(f) < 4 {
			return "", nil, errUnknown
		}
		return c.started(r, uint8(retries), f[3]), nil, nil
	case "L":
		return c.leaves(r)
	case "E":
		c.endedWell(r)
		return "ok", nil, nil
	case "F":
		c.failed(r, len(f) > 2 && f[2] == "cut")
		return "", nil, nil
	}
	return "", nil, errUnknown
}

// started: a Ruby thread has begun with a job. The answer is what the job costs.
func (c *conductor) started(r *record, retries uint8, enqueued string) string {
	now := c.now()
	wait := now - r.Enqueued
	// The retry and schedule sets' pollers enqueue too; the payload says when.
	if at, err := strconv.ParseFloat(enqueued, 64); err == nil && at > 1e9 {
		if at > 1e12 { // Sidekiq 8: milliseconds
			at /= 1e3
		}
		wait = now - time.Duration((at-float64(c.start.UnixNano())/1e9)*1e9)
	}
	c.begins(r, retries, now, wait)
	job := r.Job
	d := c.world.Demand(&job)
	class := &world.ClassTable[r.Class]
	verdict, net, address, addresses := "ok", time.Duration(0), "-", 0
	switch class.Net {
	case world.NetNone:
	case world.NetDelivery:
		verdict, address, addresses = "deliver", c.address(r.Dest), 1
		if a := c.world.Attempt(&job, now, 0); a.Verdict == world.TimedOut && a.Took == 10*time.Second && c.world.Temper(r.Dest, now) == world.Dark {
			addresses = 2 // each of which the client waits five seconds for
		}
	default:
		a := c.world.Attempt(&job, now, c.busy(r.Dest, now))
		if net = a.Took; a.Verdict >= world.Failed {
			verdict = "fail"
		}
	}
	return fmt.Sprintf("%d %d %d %d %d %s %s %d", d.CPU.Microseconds(), d.Native.Microseconds(), int(c.perStep*float64(d.DB.Microseconds())), d.Queries,
		net.Microseconds(), verdict, address, addresses)
}

// begins enters the beginning of a run of a job.
func (c *conductor) begins(r *record, retries uint8, now, wait time.Duration) {
	switch {
	case r.state.over(): // its end was not written, or somebody has it twice; what comes of this run is not counted again
		r.doubled = true
		c.meter.repeated++
		return
	case r.state == running: // its process is gone, and somebody has given it back
		c.meter.repeated++
	}
	if r.state == handed || r.state == scheduled {
		c.meter.pushed(r)
	}
	r.Retries, r.began = retries, now
	r.runs++
	c.books.move(r, running)
	c.meter.started(r, now, wait)
}

// leaves is what follows from a job that is about to end: what it pushes itself. What the outside does of it later is kept here.
func (c *conductor) leaves(r *record) (string, []byte, error) {
	if r.left {
		return "0 0", nil, nil
	}
	now := c.now()
	wall := c.start.Add(now)
	var text []byte
	n := 0
	var failure error
	c.world.Spawn(&r.Job, now, &c.seen, func(p world.Push) {
		switch {
		case c.books.full():
			c.meter.dropped++
			return
		case p.After > 0 && !p.Scheduled:
			return // endedWell takes care of it
		}
		child := c.books.add(&p.Job, r.ID, handed)
		if child.state != handed {
			return // pushed by a run that was cut off
		}
		payload, key, err := c.write.payload(&p.Job, r.ID, wall, wall)
		if err != nil {
			failure = err
			return
		}
		c.key(child, key)
		score := "0"
		if p.After > 0 {
			score = strconv.FormatFloat(float64(wall.Add(p.After).UnixMicro())/1e6, 'f', 6, 64)
		}
		text = append(text, world.QueueNames[p.Job.Queue()]...)
		text = append(text, ' ')
		text = append(text, score...)
		text = append(text, '\n')
		text = append(text, payload...)
		text = append(text, '\n')
		n++
	})
	return fmt.Sprintf("%d %d", n, len(text)), text, failure
}

func (c *conductor) key(r *record, key fediverse.Key) {
	if key != 0 {
		r.key = key
		c.books.byKey[key] = r.ID
	}
}

// endedWell: a job is over, and what follows from it is in Redis.
func (c *conductor) endedWell(r *record) {
	now := c.now()
	if r.state != running {
		return
	}
	c.meter.ran(r, now, false)
	c.books.move(r, done)
	c.meter.done++
	c.follow(r, now)
}

// follow enters what follows from a job: what it has pushed, and what the outside will.
func (c *conductor) follow(r *record, now time.Duration) {
	if r.left {
		return
	}
	r.left = true
	c.world.Spawn(&r.Job, now, &c.seen, func(p world.Push) {
		if p.After > 0 && !p.Scheduled {
			if !c.books.full() {
				c.later(p.Job)
			}
			return
		}
		child := c.books.jobs[p.Job.ID]
		if child == nil || child.state != handed {
			return // started already, or dropped
		}
		if p.After > 0 {
			c.books.move(child, scheduled) // counts as pushed when it has left the set
			return
		}
		c.books.move(child, queued)
		c.meter.pushed(child)
	})
}

// failed: a run has raised, or was cut off by the end of its process, which gives the job back.
func (c *conductor) failed(r *record, cut bool) {
	if r.state != running {
		return
	}
	now := c.now()
	c.meter.ran(r, now, true)
	if cut {
		c.books.move(r, queued)
		return
	}
	c.meter.failures++
	class := &world.ClassTable[r.Class]
	switch {
	case r.Retries < class.Retries:
		c.meter.retried++
		c.books.move(r, again)
	case class.Dead:
		c.books.move(r, dead)
	default:
		c.books.move(r, discarded)
	}
}

// native takes in the end of a job in the worker: "<jid> <result> <wait µs> <run µs> <retries>".
func (c *conductor) native(text string) error {
	f := strings.Fields(text)
	if len(f) != 4 {
		return errUnknown
	}
	wait, err1 := strconv.ParseInt(f[2], 10, 64)
	run, err2 := strconv.ParseInt(f[3], 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("%w: %w", errUnknown, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	id, ours := idOf(f[0])
	r := c.books.jobs[id]
	if !ours || r == nil {
		return nil
	}
	now := c.now()
	retries := r.Retries
	if r.state == again {
		retries++
	}
	switch f[1] {
	case "acked", "retried", "dead", "discarded":
		if run > 0 || f[1] != "acked" {
			c.begins(r, retries, max(0, now-time.Duration(run)*time.Microsecond), time.Duration(wait)*time.Microsecond)
		} else if !r.state.over() {
			c.books.move(r, running)
		}
		if f[1] == "acked" {
			c.endedWell(r)
		} else {
			c.failed(r, false)
		}
	case "deferred":
		c.meter.deferred++
		c.put(r, held)
	case "postponed":
		c.meter.deferred++
		c.put(r, postponed)
	case "requeued":
		c.put(r, queued)
	}
	return nil
}

// put says where a job that is not over is.
func (c *conductor) put(r *record, s state) {
	if !r.state.over() {
		c.books.move(r, s)
	}
}

// busy counts a request to an instance, and returns how many there were in this second.
func (c *conductor) busy(to int32, now time.Duration) int {
	if to < 0 {
		return 0
	}
	d := &c.dests[to]
	if second := int32(now / time.Second); d.second != second {
		d.second, d.sent = second, 0
	}
	d.sent++
	return int(d.sent)
}

// Connecting implements fediverse.Live.
func (c *conductor) Connecting(host int) fediverse.Connecting {
	c.mu.Lock()
	defer c.mu.Unlock()
	return sink.Connecting(c.world.Temper(int32(host), c.now()))
}

// Answer implements fediverse.Live: what the world says of this job and this attempt.
func (c *conductor) Answer(_ int, key fediverse.Key) fediverse.Answer {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	r := c.books.jobs[c.books.byKey[key]]
	if r == nil {
		c.meter.strange++
		return fediverse.Answer{}
	}
	job := r.Job
	job.Retries = r.requests
	r.requests++
	a := sink.Answer(c.world, &job, now, c.busy(r.Dest, now))
	if a.Status == 0 && !a.Hang && !a.Drip {
		c.meter.accepted(r, now+a.After)
		r.accepted = true
	}
	return a
}
