package dbpool

import (
	"context"
	"fmt"
	"strconv"
)

// Verdict is the ledger's answer to a Call.
type Verdict string

// Verdicts.
const (
	VerdictOK      Verdict = "ok"
	VerdictEnded   Verdict = "ended"   // this epoch is over: close everything, begin another
	VerdictStale   Verdict = "stale"   // a later call was here first
	VerdictFull    Verdict = "full"    // too many hosts
	VerdictCluster Verdict = "cluster" // the ledger is another cluster's
)

// Call is what a holder says to the ledger: what it holds and what it wants. One call registers, renews, grows, shrinks, gives back, and
// claims what was held when Redis has forgotten. See lua/sync.lua.
type Call struct {
	Generation string // the one the holder knows; "" at first
	Epoch      string // the lease's name
	Doubt      bool   // the lease may have ended: if Redis has forgotten anything since, it has
	Leave      bool   // the epoch ends; Held, not yet shown to be closed, stays counted
	Number     int64  // rises with every call of the epoch
	Held       int    // connections that the holder has, or may open until the reply
	Want       int
	Reserved   int // of Held, for child processes
	Demand     int
	Priority   int
	TTL        int64 // lease in ms
	Pooled     bool  // behind PgBouncer
	Host       string
	Process    string // who could be seen to be gone by a neighbour; "-" if nobody could
	Slots      int    // connections that a confirmation takes: one per PostgreSQL server
	Confirm    string // epoch under which the holder would confirm; "" if it cannot
	Drop       bool   // it has stopped confirming, and its connection is closed
	Known      Budget // the last budget the holder saw
}

// Reply is the ledger's answer.
type Reply struct {
	Verdict    Verdict
	Generation string
	Recovering bool
	Now        int64 // ms, Redis's clock
	Budget     Budget
	Slots      int
	Granted    int  // at least Held
	Confirms   bool // the caller confirms from now on
	Leases     []Lease
}

// Judgement is something that has been shown about a lease; see lua/judge.lua.
type Judgement struct {
	What  JudgementKind
	Epoch string
	Count int    // connections
	Host  string // of JudgeSeen
}

// JudgementKind is what was shown.
type JudgementKind string

// Kinds of judgements.
const (
	JudgeLeft JudgementKind = "left" // of an ended lease no more than Count can be open, now or ever
	JudgeGone JudgementKind = "gone" // its process has ended
	JudgeOver JudgementKind = "over" // its process has ended, and all child processes that it had
	JudgeSeen JudgementKind = "seen" // Count connections are open of an epoch that is nobody's, has ended, or was remembered with less
	JudgeDone JudgementKind = "done" // what was open before this generation is in the ledger, and what is not can never be opened
	JudgeLook JudgementKind = "look" // PostgreSQL has been asked
)

// sync makes one call. An error means that Redis may or may not have carried it out.
func (l *Ledger) sync(ctx context.Context, c *Call) (*Reply, error) {
	op, drop := "sync", "want"
	switch {
	case c.Leave:
		op = "leave"
	case c.Doubt:
		op = "doubt"
	}
	if c.Drop {
		drop = "drop"
	}
	var at int64
	if !c.Known.SetAt.IsZero() {
		at = c.Known.SetAt.UnixMilli()
	}
	r, err := syncScript.Run(ctx, l.client, l.keys, newEpoch(), l.cluster, c.Generation, c.Epoch, op, c.Number, c.Held, c.Want, c.Reserved,
		c.Demand, c.Priority, c.TTL, kind(c.Pooled), c.Host, c.Process, c.Slots, c.Confirm, drop,
		c.Known.Serial, c.Known.Connections, c.Known.MinPerHost, c.Known.SetBy, at, c.Known.Reason).Slice()
	if err != nil {
		return nil, fmt.Errorf("sync the lease of connections: %w", err)
	}
	return parseReply(r)
}

func kind(pooled bool) string {
	if pooled {
		return "p"
	}
	return "w"
}

func parseReply(r []any) (*Reply, error) {
	const head = 13
	if len(r) < head || (len(r)-head)%2 != 0 {
		return nil, fmt.Errorf("%w: %d elements", errReply, len(r))
	}
	text := func(i int) string { s, _ := r[i].(string); return s }
	reply := &Reply{
		Verdict: Verdict(text(0)), Generation: text(1), Recovering: text(2) != "normal", Slots: integer(r[7]), Granted: integer(r[8]), Confirms: integer(r[9]) == 1,
		Budget: Budget{
			Connections: integer(r[4]), MinPerHost: integer(r[5]), Serial: int64(integer(r[6])),
			SetBy: text(10), SetAt: millis(text(11)), Reason: text(12),
		},
	}
	now, err := strconv.ParseInt(text(3), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("%w: time %q", errReply, text(3))
	}
	reply.Now = now
	for i := head; i < len(r); i += 2 {
		if e, ok := parseLease(text(i), text(i+1)); ok {
			reply.Leases = append(reply.Leases, e)
		}
	}
	return reply, nil
}

// judge tells the ledger what was shown. It returns false when the generation is over: nothing has changed then.
func (l *Ledger) judge(ctx context.Context, generation string, list []Judgement) (bool, error) {
	args := make([]any, 0, 2+5*len(list))
	args = append(args, newEpoch(), generation)
	for _, j := range list {
		args = append(args, string(j.What), j.Epoch, j.Count, j.Host, "")
	}
	r, err := judgeScript.Run(ctx, l.client, l.keys, args...).Slice()
	if err != nil {
		return false, fmt.Errorf("judge leases of connections: %w", err)
	}
	if len(r) == 0 {
		return false, errReply
	}
	return r[0] == "ok", nil
}
