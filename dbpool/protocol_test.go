package dbpool

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// The protocol as a state machine: hosts run the real holder and witness against the Book (which TestScriptsEqualTheBook holds equal to
// the scripts), a PostgreSQL that is a set of backends, and a network that loses and delays. Every step is a fault or an event of
// one of them; after every step no more backends may be open than the budget has.
const (
	simTTL    = 12 * time.Second
	simLogin  = 20 * time.Second
	simGone   = 2 * time.Second
	simSlack  = time.Second
	simBudget = 12
	simMin    = 1
	simHosts  = 4
)

type simBackend struct {
	host    string
	epoch   string
	confirm bool
	child   bool
	running bool // in a query: does not notice that its client has gone
	client  bool // the client's socket is open
	used    time.Duration
}

type simDial struct { // a log-in: the client checked its lease and opened a socket, the server has not let it in
	backend  simBackend
	accepted time.Duration
}

type simCall struct {
	host      *simHost
	call      Call
	sent      instant
	reply     *Reply // set when Redis has carried it out
	abandoned bool
}

type simJudge struct {
	generation string
	list       []Judgement
}

type simHost struct {
	name     string
	h        holder
	w        witness
	alive    bool
	frozen   bool
	skew     time.Duration // of the wall clock
	stopped  time.Duration // how long the monotonic clock stood still
	waiting  *simCall
	dials    []*simDial
	reply    *Reply // the last good one
	demand   int
	conns    []*simBackend // own sockets, open on the client's side
	children int           // connections the children can open; they outlive a frozen parent
	kids     string        // the epoch they use
	coming   []*simDial    // log-ins of theirs
	looked   *simLook
}

type simLook struct { // an answer of PostgreSQL that is being thought about
	asked   time.Duration
	visible map[string]backends
	epoch   string
	reply   *Reply
}

// simOrphans are children whose parent was killed, and who do not know yet.
type simOrphans struct {
	host    string
	epoch   string
	process string // their parent's
	count   int
	until   time.Duration // what the parent's last word allows
	coming  []*simDial
}

type sim struct {
	now      time.Duration // true time
	redis    *Book
	run      int
	skew     time.Duration // of Redis's clock
	replicas []*Book
	hosts    []*simHost
	backends []*simBackend
	orphans  []*simOrphans
	calls    []*simCall
	judges   []simJudge
	epochs   int
	pgUp     bool
	ended    int // backends ended by a confirmer
}

func (s *sim) fresh() string { s.epochs++; return fmt.Sprintf("epoch%05d", s.epochs) }

func (s *sim) redisNow() int64 { return (time.Hour*1000 + s.now + s.skew).Milliseconds() }

func (s *sim) runID() string { return strconv.Itoa(s.run) }

func (s *sim) clock(h *simHost) instant {
	return instant{mono: s.now - h.stopped, wall: s.now + h.skew}
}

func newSim() *sim {
	s := &sim{redis: &Book{}, pgUp: true}
	s.redis.SetBudget(s.redisNow(), s.runID(), s.fresh(), "c", Budget{Connections: simBudget, MinPerHost: simMin}, SetOptions{NewCluster: true}, 1)
	for i := range simHosts {
		s.hosts = append(s.hosts, &simHost{name: "h" + strconv.Itoa(i)})
	}
	return s
}

func (s *sim) start(h *simHost) {
	*h = simHost{name: h.name, alive: true, skew: h.skew, stopped: h.stopped, demand: h.demand}
	h.h = holder{host: h.name, process: h.name + ":" + strconv.Itoa(s.epochs), ttl: simTTL, slots: 1}
	h.h.begin(s.fresh())
	h.w = witness{ttl: simTTL, login: simLogin, gone: simGone, slack: simSlack, bounded: true}
}

// active hosts can take a step.
func (h *simHost) active() bool { return h.alive && !h.frozen }

// send makes the host's next call, if none is on the way or the last one is given up.
func (s *sim) send(h *simHost) {
	if !h.active() {
		return
	}
	s.lease(h)
	if h.waiting != nil {
		h.waiting.abandoned = true
	}
	now := s.clock(h)
	if h.h.confirm == "" {
		h.h.confirm = s.fresh()
	}
	confirm := h.reply == nil || needed(h.reply) || h.h.confirmOpen > 0
	if h.reply != nil && h.w.early(now.mono, h.reply) {
		confirm = false
	}
	if h.reply != nil && !needed(h.reply) && h.looked == nil {
		s.closeConfirm(h)
		confirm = false
	}
	c := &simCall{host: h, call: h.h.next(now, h.demand, confirm), sent: now}
	h.waiting = c
	s.calls = append(s.calls, c)
}

// carry lets Redis carry out a call, at any time after it was sent.
func (s *sim) carry(c *simCall) {
	if c.reply == nil {
		r := s.redis.Sync(s.redisNow(), s.runID(), s.fresh(), "c", c.call)
		c.reply = &r
	}
}

// receive gives a reply to its caller, if that still waits for it.
func (s *sim) receive(c *simCall) {
	h := c.host
	if c.reply == nil || c.abandoned || !h.active() || h.waiting != c {
		return
	}
	h.waiting = nil
	h.w.note(s.clock(h).mono, c.reply)
	if c.reply.Verdict == VerdictStale {
		panic("the only call under way is stale")
	}
	if !h.h.accept(c.sent, &c.call, c.reply) {
		s.rotate(h)
		return
	}
	h.reply = c.reply
	if list := h.w.unblock(s.clock(h).mono, h.reply); len(list) > 0 {
		s.judges = append(s.judges, simJudge{h.reply.Generation, list})
	}
	if h.h.confirm == "" {
		s.closeConfirm(h)
	}
}

// rotate ends the epoch: close, then begin another.
func (s *sim) rotate(h *simHost) {
	s.closeAll(h)
	s.closeConfirm(h)
	left := 0
	for _, b := range s.backends { // what is not shown to be closed is not said to be
		if b.host == h.name && b.epoch == h.h.epoch {
			left++
		}
	}
	if len(h.dials) == 0 && left == 0 && h.children == 0 && h.h.reserved == 0 && h.h.generation != "" {
		s.judges = append(s.judges, simJudge{h.h.generation, []Judgement{{What: JudgeLeft, Epoch: h.h.epoch}}})
	}
	// The children of the old epoch are ended by their parent before anything else.
	s.endChildren(h)
	h.dials, h.conns, h.reply, h.waiting, h.looked = nil, nil, nil, nil, nil
	h.h.begin(s.fresh())
}

func (s *sim) endChildren(h *simHost) {
	kept := s.backends[:0]
	for _, b := range s.backends {
		if b.child && b.host == h.name && b.epoch == h.kids {
			continue
		}
		kept = append(kept, b)
	}
	s.backends = kept
	h.children, h.kids, h.coming = 0, "", nil
}

// permitted tells whether a child may begin to connect: what its parent has written down at best, read by a clock that goes on while the
// parent is frozen.
func (s *sim) permitted(h *simHost) bool {
	return h.children > 0 && h.kids == h.h.epoch && h.h.fresh(s.clock(h))
}

// connected counts the backends of children.
func (s *sim) connected(epoch string) int {
	n := 0
	for _, b := range s.backends {
		if b.child && b.epoch == epoch {
			n++
		}
	}
	return n
}

// admitChild ends a log-in of a child, which takes as long as PostgreSQL allows.
func (s *sim) admitChild(d *simDial) {
	if s.pgUp && s.now-d.accepted <= simLogin {
		b := d.backend
		s.backends = append(s.backends, &b)
	}
}

// orphansEnd: they have seen that their parent is gone.
func (s *sim) orphansEnd(o *simOrphans) {
	s.orphans = remove(s.orphans, o)
	for _, b := range append([]*simBackend(nil), s.backends...) {
		if b.child && b.epoch == o.epoch {
			b.child = false
			if !b.running {
				s.backends = remove(s.backends, b)
			}
		}
	}
}

// lease is what the Manager does all the time: when the lease is in doubt everything is closed.
func (s *sim) lease(h *simHost) {
	if h.h.held && !h.h.fresh(s.clock(h)) {
		s.closeAll(h)
		s.closeConfirm(h)
	}
}

func (s *sim) closeAll(h *simHost) {
	for _, b := range append([]*simBackend(nil), h.conns...) {
		if !b.confirm {
			s.close(h, b)
		}
	}
}

// close closes the client's side. Only what the server has closed, too, is counted as closed.
func (s *sim) close(h *simHost, b *simBackend) {
	b.client = false
	h.conns = remove(h.conns, b)
	if !b.running {
		s.exit(b)
	}
}

// exit is a backend's end; the client, if it is the same epoch's still, sees it.
func (s *sim) exit(b *simBackend) {
	s.backends = remove(s.backends, b)
	for _, h := range s.hosts {
		if h.name != b.host || !h.alive || b.child {
			continue
		}
		switch {
		case b.confirm && b.epoch == h.h.confirm:
			h.h.confirmOpen--
		case b.epoch == h.h.epoch:
			h.h.open--
		}
		h.conns = remove(h.conns, b)
	}
}

func (s *sim) closeConfirm(h *simHost) {
	for _, b := range append([]*simBackend(nil), h.conns...) {
		if b.confirm {
			s.close(h, b)
		}
	}
	h.looked = nil
}

func remove[T comparable](list []T, x T) []T {
	kept := make([]T, 0, len(list))
	for _, y := range list {
		if y != x {
			kept = append(kept, y)
		}
	}
	return kept
}

// dial begins to open a connection: the check, the socket, and the first bytes, at which the process may freeze for any time.
func (s *sim) dial(h *simHost, confirm bool) {
	now := s.clock(h)
	if !h.active() || !s.pgUp {
		return
	}
	b := simBackend{host: h.name, epoch: h.h.epoch, client: true}
	if confirm {
		if !h.h.mayConfirm(now) || h.reply == nil || h.w.early(now.mono, h.reply) {
			return
		}
		b.confirm, b.epoch = true, h.h.confirm
		h.h.confirmOpen++
	} else {
		if !h.h.mayOpen(now, 1) {
			return
		}
		h.h.open++
	}
	h.dials = append(h.dials, &simDial{backend: b, accepted: s.now})
}

// login ends a dial: the server lets it in if it still waits.
func (s *sim) login(h *simHost, d *simDial) {
	if !h.active() {
		return
	}
	h.dials = remove(h.dials, d)
	mine := d.backend.epoch == h.h.epoch
	if d.backend.confirm {
		mine = d.backend.epoch == h.h.confirm
	}
	if s.now-d.accepted > simLogin || !s.pgUp {
		if mine {
			if d.backend.confirm {
				h.h.confirmOpen--
			} else {
				h.h.open--
			}
		}
		return
	}
	b := d.backend
	b.used = s.now
	s.backends = append(s.backends, &b)
	h.conns = append(h.conns, &b)
	if !mine || !h.h.fresh(s.clock(h)) { // AfterConnect looks again
		s.close(h, &b)
	}
}

// look is one round of a confirmer, its answer thought about later.
func (s *sim) look(h *simHost) {
	now := s.clock(h)
	if !h.active() || !s.pgUp || h.reply == nil || !h.h.fresh(now) {
		return
	}
	for _, b := range h.conns {
		if b.confirm && b.epoch == h.h.confirm {
			b.used = s.now
			h.looked = &simLook{asked: now.mono, visible: s.visible(), epoch: h.h.confirm, reply: h.reply}
			return
		}
	}
}

func (s *sim) visible() map[string]backends {
	m := map[string]backends{}
	for _, b := range s.backends {
		v := m[b.epoch]
		m[b.epoch] = backends{host: b.host, count: v.count + 1}
	}
	return m
}

// think makes judgements of what was seen; they arrive at Redis some time later.
func (s *sim) think(h *simHost) {
	if !h.active() || h.looked == nil {
		return
	}
	list, end := h.w.look(h.looked.asked, h.looked.reply, h.looked.visible)
	s.judges = append(s.judges, simJudge{h.looked.reply.Generation, list})
	h.looked = nil
	for _, epoch := range end {
		for _, b := range append([]*simBackend(nil), s.backends...) {
			if b.epoch == epoch {
				s.ended++
				s.exit(b)
			}
		}
	}
}

func (s *sim) judge(i int) {
	j := s.judges[i]
	s.judges = append(s.judges[:i:i], s.judges[i+1:]...)
	s.redis.Judge(s.redisNow(), s.runID(), s.fresh(), j.generation, j.list)
}

// kill ends a process. Its sockets close; a backend in a query notices later. Its children live on until they notice.
func (s *sim) kill(h *simHost) {
	if h.children > 0 {
		o := &simOrphans{host: h.name, epoch: h.kids, process: h.h.process, count: h.children, until: -1, coming: h.coming}
		if s.permitted(h) {
			o.until = s.now + h.h.left(s.clock(h))
		}
		s.orphans = append(s.orphans, o)
	}
	for _, b := range append([]*simBackend(nil), s.backends...) {
		if b.host == h.name && b.client {
			b.client = false
			if !b.running {
				s.backends = remove(s.backends, b)
			}
		}
	}
	dials := h.dials
	*h = simHost{name: h.name, skew: h.skew, stopped: h.stopped, demand: h.demand}
	_ = dials // a half-open log-in ends with its socket
}

// round is a second of a host: it calls, opens all it may, and confirms.
func (s *sim) round(h *simHost) {
	if !h.alive {
		s.start(h)
	}
	s.send(h)
	c := h.waiting
	s.calls = remove(s.calls, c)
	s.carry(c)
	s.receive(c)
	for len(h.conns) > 0 && h.h.open+h.h.reserved > h.h.limit() {
		before := len(h.conns)
		for _, b := range h.conns {
			if !b.confirm {
				s.close(h, b)
				break
			}
		}
		if len(h.conns) == before {
			break
		}
	}
	for h.h.open < h.demand && h.h.mayOpen(s.clock(h), 1) && s.pgUp {
		s.dial(h, false)
	}
	if h.reply != nil && needed(h.reply) {
		s.dial(h, true)
	}
	for len(h.dials) > 0 {
		s.login(h, h.dials[0])
	}
	s.look(h)
	s.think(h)
	for len(s.judges) > 0 {
		s.judge(len(s.judges) - 1)
	}
}

func (s *sim) check(t *rapid.T) {
	for _, b := range append([]*simBackend(nil), s.backends...) {
		if b.confirm && s.now-b.used > confirmIdle { // idle_session_timeout
			s.exit(b)
		}
	}
	if len(s.backends) > simBudget {
		t.Fatalf("%d backends with a budget of %d: %s", len(s.backends), simBudget, s.describe())
	}
}

func (s *sim) describe() string {
	var text strings.Builder
	fmt.Fprintf(&text, "at %v, generation %s, recovering %v\n", s.now, s.redis.Generation, s.redis.Recovering)
	for epoch, e := range s.redis.Leases {
		fmt.Fprintf(&text, "  lease %s of %s: %c%c granted %d reserved %d\n", epoch, e.Host, e.Kind, e.State, e.Granted, e.Reserved)
	}
	for epoch, v := range s.visible() {
		fmt.Fprintf(&text, "  %d backends of %s, %s\n", v.count, epoch, v.host)
	}
	for _, h := range s.hosts {
		fmt.Fprintf(&text, "  host %s alive %v frozen %v epoch %s granted %d target %d open %d reserved %d fresh %v confirm %s %v %d\n", h.name, h.alive, h.frozen,
			h.h.epoch, h.h.granted, h.h.target, h.h.open, h.h.reserved, h.h.fresh(s.clock(h)), h.h.confirm, h.h.confirms, h.h.confirmOpen)
	}
	return text.String()
}

func (s *sim) actions(t *rapid.T) map[string]func(*rapid.T) {
	host := func(t *rapid.T) *simHost { return s.hosts[rapid.IntRange(0, simHosts-1).Draw(t, "host")] }
	pick := func(t *rapid.T, n int) int { return rapid.IntRange(0, n-1).Draw(t, "which") }
	// Everything goes its usual way for a while: all that can run does, and takes what it can get.
	flow := func(t *rapid.T) {
		if rapid.IntRange(0, 2).Draw(t, "demands") == 0 {
			host(t).demand = rapid.SampledFrom([]int{0, 1, simBudget}).Draw(t, "demand")
		}
		for range rapid.SampledFrom([]int{1, 2, 3, 30}).Draw(t, "seconds") {
			s.now += time.Second
			for _, h := range s.hosts {
				if !h.frozen {
					s.round(h)
				}
			}
			s.check(t)
		}
	}
	tick := func(t *rapid.T) {
		s.now += time.Duration(rapid.IntRange(1, 4000).Draw(t, "ms")) * time.Millisecond
		for _, h := range s.hosts {
			if h.active() {
				s.lease(h)
			}
		}
	}
	return map[string]func(*rapid.T){
		"flow": flow, "flow on": flow, "and on": flow, "on": flow, "still": flow, "flowing": flow, "flows": flow, "flown": flow,
		"tick": tick, "tick more": tick,
		"send": func(t *rapid.T) { s.send(host(t)) },
		"carry": func(t *rapid.T) {
			if n := len(s.calls); n > 0 {
				s.carry(s.calls[pick(t, n)])
			}
		},
		"receive": func(t *rapid.T) {
			if n := len(s.calls); n > 0 {
				c := s.calls[pick(t, n)]
				if c.reply != nil {
					s.calls = remove(s.calls, c)
					s.receive(c)
				}
			}
		},
		"lose": func(t *rapid.T) {
			if n := len(s.calls); n > 0 {
				s.calls = remove(s.calls, s.calls[pick(t, n)])
			}
		},
		"dial": func(t *rapid.T) { s.dial(host(t), rapid.Bool().Draw(t, "confirm")) },
		"login": func(t *rapid.T) {
			h := host(t)
			if n := len(h.dials); n > 0 {
				s.login(h, h.dials[pick(t, n)])
			}
		},
		"query": func(t *rapid.T) {
			if n := len(s.backends); n > 0 {
				b := s.backends[pick(t, n)]
				b.running = !b.running && !b.confirm
				if !b.running && !b.client && !b.child {
					s.exit(b)
				}
			}
		},
		"close": func(t *rapid.T) {
			h := host(t)
			if n := len(h.conns); n > 0 && h.active() {
				if b := h.conns[pick(t, n)]; !b.confirm {
					s.close(h, b)
				}
			}
		},
		"reserve": func(t *rapid.T) {
			h := host(t)
			if h.active() && h.h.reserved == 0 && h.h.mayOpen(s.clock(h), 2) {
				h.h.reserved = 2
			}
		},
		"child": func(t *rapid.T) { // starts when the ledger knows of it
			h := host(t)
			if h.active() && h.children == 0 && h.h.reserved > 0 && h.h.announced >= h.h.reserved && h.h.fresh(s.clock(h)) {
				h.children, h.kids = 2, h.h.epoch
			}
		},
		"child dials": func(t *rapid.T) { // also while its parent is frozen
			h := host(t)
			if h.alive && s.permitted(h) && s.connected(h.kids)+len(h.coming) < h.children && s.pgUp {
				h.coming = append(h.coming, &simDial{backend: simBackend{host: h.name, epoch: h.kids, child: true}, accepted: s.now})
			}
		},
		"child connects": func(t *rapid.T) {
			h := host(t)
			if n := len(h.coming); n > 0 {
				d := h.coming[pick(t, n)]
				h.coming = remove(h.coming, d)
				s.admitChild(d)
			}
		},
		"orphan dials": func(t *rapid.T) {
			if n := len(s.orphans); n > 0 {
				if o := s.orphans[pick(t, n)]; s.now < o.until && s.connected(o.epoch)+len(o.coming) < o.count && s.pgUp {
					o.coming = append(o.coming, &simDial{backend: simBackend{host: o.host, epoch: o.epoch, child: true}, accepted: s.now})
				}
			}
		},
		"orphan connects": func(t *rapid.T) {
			if n := len(s.orphans); n > 0 {
				if o := s.orphans[pick(t, n)]; len(o.coming) > 0 {
					s.admitChild(o.coming[0])
					o.coming = o.coming[1:]
				}
			}
		},
		"orphans end": func(t *rapid.T) {
			if n := len(s.orphans); n > 0 {
				s.orphansEnd(s.orphans[pick(t, n)])
			}
		},
		"child ends": func(t *rapid.T) {
			h := host(t)
			if h.active() && h.h.reserved > 0 {
				s.endChildren(h)
				h.h.reserved = 0
			}
		},
		"look":  func(t *rapid.T) { s.look(host(t)) },
		"think": func(t *rapid.T) { s.think(host(t)) },
		"judge": func(t *rapid.T) {
			if n := len(s.judges); n > 0 {
				s.judge(pick(t, n))
			}
		},
		"kill": func(t *rapid.T) { s.kill(host(t)) },
		"neighbour": func(t *rapid.T) { // sees that processes are gone
			h := host(t)
			if !h.active() || h.reply == nil {
				return
			}
			for _, l := range h.reply.Leases {
				gone := true
				for _, o := range s.hosts {
					gone = gone && (!o.alive || o.h.process != l.proc)
				}
				alone := true // children of it that still live keep the name of its kin
				for _, o := range s.orphans {
					alone = alone && o.process != l.proc
				}
				switch {
				case !gone || l.proc == "-":
				case alone && l.Reserved > 0:
					s.judges = append(s.judges, simJudge{h.reply.Generation, []Judgement{{What: JudgeOver, Epoch: l.Epoch}}})
				case !l.Gone:
					s.judges = append(s.judges, simJudge{h.reply.Generation, []Judgement{{What: JudgeGone, Epoch: l.Epoch}}})
				}
			}
		},
		"freeze": func(t *rapid.T) {
			if h := host(t); h.alive {
				h.frozen = true
			}
		},
		"wake": func(t *rapid.T) { host(t).frozen = false },
		"wake and dial": func(t *rapid.T) { // what was under way goes on before any timer fires
			h := host(t)
			h.frozen = false
			for len(h.dials) > 0 && h.alive {
				s.login(h, h.dials[0])
			}
			s.dial(h, false)
			for len(h.dials) > 0 && h.alive {
				s.login(h, h.dials[0])
			}
		},
		"freeze in a dial": func(t *rapid.T) {
			h := host(t)
			s.dial(h, rapid.IntRange(0, 3).Draw(t, "confirm") == 0)
			h.frozen = h.frozen || h.active() && len(h.dials) > 0
		},
		"freeze before a judgement": func(t *rapid.T) {
			h := host(t)
			s.look(h)
			h.frozen = h.frozen || h.looked != nil
		},
		"shrink unheard": func(t *rapid.T) { // the call is under way for long, and another one is sent
			h := host(t)
			h.demand = 0
			s.send(h)
			h.demand = simBudget
		},
		"long freeze": func(t *rapid.T) {
			h := host(t)
			if h.active() {
				h.frozen = true
				s.now += time.Duration(rapid.IntRange(10, 200).Draw(t, "s")) * time.Second
			}
		},
		"suspend": func(t *rapid.T) { // the machine sleeps: its monotonic clock stands still
			h := host(t)
			d := time.Duration(rapid.IntRange(1, 40).Draw(t, "s")) * time.Second
			s.now += d
			h.stopped += d
		},
		"set clock":       func(t *rapid.T) { host(t).skew += time.Duration(rapid.IntRange(0, 100).Draw(t, "s")) * time.Second },
		"set redis clock": func(t *rapid.T) { s.skew += time.Duration(rapid.IntRange(-3600, 3600).Draw(t, "s")) * time.Second },
		"replicate": func(t *rapid.T) {
			s.replicas = append(s.replicas, s.redis.Clone())
			if len(s.replicas) > 4 {
				s.replicas = s.replicas[1:]
			}
		},
		"fail over": func(t *rapid.T) {
			if n := len(s.replicas); n > 0 && rapid.IntRange(0, 3).Draw(t, "really") == 0 {
				s.redis = s.replicas[pick(t, n)].Clone()
				s.run++
			}
		},
		"amnesia": func(t *rapid.T) {
			if rapid.IntRange(0, 5).Draw(t, "really") == 0 {
				s.redis = &Book{}
				s.replicas = nil
				if rapid.Bool().Draw(t, "restarted") {
					s.run++
				}
			}
		},
		"postgres": func(t *rapid.T) { s.pgUp = !s.pgUp },
		"":         s.check,
	}
}

// settle stops the faults and lets time pass; then all must be as if there never had been any.
func (s *sim) settle(t *rapid.T) {
	s.pgUp = true
	s.calls = nil
	for len(s.orphans) > 0 {
		s.orphansEnd(s.orphans[0])
	}
	for _, b := range append([]*simBackend(nil), s.backends...) {
		b.running = false
		if !b.client && !b.child {
			s.exit(b)
		}
	}
	wants := []int{8, 8, 0, 3}
	for i, h := range s.hosts {
		h.frozen = false
		if !h.alive {
			s.start(h)
		}
		s.endChildrenOf(h)
		h.demand = wants[i]
	}
	if s.redis.Budget.Connections == 0 { // nobody who knew it was left: a person sets it again
		s.redis.SetBudget(s.redisNow(), s.runID(), s.fresh(), "c", Budget{Connections: simBudget, MinPerHost: simMin}, SetOptions{}, 1)
	}
	for range 300 {
		s.now += time.Second
		for _, h := range s.hosts {
			s.round(h)
			s.check(t)
		}
	}
	total := 0
	for epoch, e := range s.redis.Leases {
		if e.State != 'L' {
			t.Fatalf("lease %s is stuck\n%s", epoch, s.describe())
		}
		if e.Kind != 'c' {
			total += e.Granted
		}
	}
	if s.redis.Recovering {
		t.Fatalf("still recovering\n%s", s.describe())
	}
	if want := simBudget - 2; total != want {
		t.Fatalf("%d of %d connections leased, hosts want more\n%s", total, want, s.describe())
	}
	for i, h := range s.hosts {
		if h.h.granted < min(max(simMin, wants[i]), 3) {
			t.Fatalf("host %d has %d\n%s", i, h.h.granted, s.describe())
		}
	}
}

func (s *sim) endChildrenOf(h *simHost) {
	if h.h.reserved > 0 {
		s.endChildren(h)
		h.h.reserved = 0
	}
}

// TestProtocol takes QUEUEVILLE_DBPOOL_STEPS steps (default about 30,000).
func TestProtocol(t *testing.T) {
	steps := 30_000
	if v := os.Getenv("QUEUEVILLE_DBPOOL_STEPS"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			t.Fatal(err)
		}
		steps = n
	}
	each := 150
	if steps > 100_000 {
		each = 400 // fewer ends, which take most of the time
	}
	for name, value := range map[string]int{"rapid.steps": each, "rapid.checks": max(1, steps*5/4/each)} {
		f := flag.Lookup(name)
		if f == nil {
			t.Fatalf("rapid has no flag %s", name)
		}
		old := f.Value.String()
		if err := flag.Set(name, strconv.Itoa(value)); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = flag.Set(name, old) }()
	}
	taken, ended := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		s := newSim()
		actions := s.actions(t)
		for name, do := range actions {
			if name != "" {
				actions[name] = func(t *rapid.T) { taken++; do(t) }
			}
		}
		t.Repeat(actions)
		s.settle(t)
		ended += s.ended
	})
	t.Logf("%d steps; confirmers ended %d backends", taken, ended)
}
