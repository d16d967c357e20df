package dbpool

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"github.com/queueville/queueville/internal/redistest"
)

// TestScriptsEqualTheBook makes the same calls to the real scripts on a real Redis and to the Book and compares every reply. The Book is
// given the time that the script's reply names; for judgements, which name none, leases far from their end are used. Restarts are
// shown to the scripts by another run id in their state.
func TestScriptsEqualTheBook(t *testing.T) {
	client := redistest.Client(t)
	runID := ""
	for line := range strings.Lines(client.Info(t.Context(), "server").Val()) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "run_id:"); ok {
			runID = v
		}
	}
	if runID == "" {
		t.Fatal("Redis does not name its run id")
	}
	calls := 0
	rapid.Check(t, func(t *rapid.T) { compare(t, client, runID, &calls) })
	t.Logf("%d calls compared", calls)
}

func compare(t *rapid.T, client *redis.Client, runID string, calls *int) {
	ctx := t.Context()
	if err := client.FlushDB(ctx).Err(); err != nil {
		t.Fatal(err)
	}
	l := NewLedger(client, "", "c")
	book := &Book{}
	epoch := rapid.Custom(func(t *rapid.T) string { return fmt.Sprintf("epoch%05d", rapid.IntRange(1, 6).Draw(t, "epoch")) })
	small := rapid.IntRange(0, 12)
	state := l.keys[0]
	known := []string{"", "foreign"}
	now := func() int64 { return client.Time(ctx).Val().UnixMilli() }
	sameState := func() {
		m := client.HGetAll(ctx, state).Val()
		if got := m["generation"]; got != book.Generation {
			// Both choose a name at random when a generation begins; from then on it is the scripts'.
			if slices.Contains(known, got) || slices.Contains(known, book.Generation) {
				t.Fatalf("generation %q, the Book has %q", got, book.Generation)
			}
			book.Generation = got
		}
		if !slices.Contains(known, book.Generation) {
			known = append(known, book.Generation)
		}
	}
	sync := func(t *rapid.T) {
		c := Call{
			Generation: rapid.SampledFrom(known).Draw(t, "generation"), Epoch: epoch.Draw(t, "epoch"), Leave: rapid.IntRange(0, 5).Draw(t, "leave") == 0,
			Doubt:  rapid.IntRange(0, 3).Draw(t, "doubt") == 0,
			Number: int64(rapid.IntRange(1, 30).Draw(t, "number")), Held: rapid.SampledFrom([]int{0, 0, 1, 2, 5, 9}).Draw(t, "held"),
			Want: small.Draw(t, "want"), Reserved: rapid.SampledFrom([]int{0, 0, 0, 2}).Draw(t, "reserved"), Demand: small.Draw(t, "demand"),
			Priority: rapid.IntRange(-2, 2).Draw(t, "priority"), TTL: rapid.SampledFrom([]int64{1, 50_000}).Draw(t, "ttl"),
			Pooled: rapid.IntRange(0, 5).Draw(t, "pooled") == 0, Host: "h", Process: "-", Slots: rapid.IntRange(1, 2).Draw(t, "slots"),
			Confirm: rapid.SampledFrom([]string{"", "confirm001", "confirm002", "confirm003"}).Draw(t, "confirm"), Drop: rapid.IntRange(0, 3).Draw(t, "drop") == 0,
		}
		if rapid.IntRange(0, 8).Draw(t, "knows") == 0 {
			c.Known = Budget{Connections: 20, MinPerHost: 1, SetBy: "x", Reason: "old", Serial: int64(rapid.IntRange(0, 9).Draw(t, "serial")), SetAt: time.UnixMilli(12345)}
		}
		r, err := l.sync(ctx, &c)
		if err != nil {
			t.Fatal(err)
		}
		want := book.Sync(r.Now, runID, r.Generation, "c", c)
		slices.SortFunc(r.Leases, func(a, b Lease) int { return strings.Compare(a.Epoch, b.Epoch) })
		sameReply(t, &c, r, &want)
		sameState()
		*calls++
	}
	t.Repeat(map[string]func(*rapid.T){
		"sync": sync, "sync again": sync, "and again": sync, "still": sync, "on": sync,
		"wait": func(*rapid.T) { time.Sleep(2 * time.Millisecond) }, // leases of 1 ms end
		"judge": func(t *rapid.T) {
			list := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Judgement {
				return Judgement{
					What:  rapid.SampledFrom([]JudgementKind{JudgeLeft, JudgeLeft, JudgeGone, JudgeOver, JudgeSeen, JudgeDone, JudgeLook}).Draw(t, "what"),
					Epoch: epoch.Draw(t, "epoch"), Count: rapid.IntRange(0, 6).Draw(t, "count"), Host: "h",
				}
			}), 1, 4).Draw(t, "judgements")
			generation := rapid.SampledFrom(known).Draw(t, "generation")
			time.Sleep(2 * time.Millisecond) // whatever can end has ended for both
			got, err := l.judge(ctx, generation, list)
			if err != nil {
				t.Fatal(err)
			}
			fresh := client.HGet(ctx, state, "generation").Val()
			at := now()
			if want := book.Judge(at, runID, fresh, generation, list); got != want {
				t.Fatalf("judge = %v, want %v", got, want)
			}
			book.Confirmed = int64(integer(client.HGet(ctx, state, "confirmed").Val()))
			sameState()
			*calls++
		},
		"set budget": func(t *rapid.T) {
			b := Budget{Connections: rapid.IntRange(5, 30).Draw(t, "connections"), MinPerHost: rapid.IntRange(0, 3).Draw(t, "min"), SetBy: "p", Reason: "why"}
			o := SetOptions{OnlyIfUnset: rapid.Bool().Draw(t, "only if unset"), NewCluster: rapid.Bool().Draw(t, "new")}
			time.Sleep(2 * time.Millisecond)
			before := book.Budget.Serial
			_, err := l.SetBudget(ctx, b, o)
			ok := book.SetBudget(now(), runID, client.HGet(ctx, state, "generation").Val(), "c", b, o, 1)
			stored := client.HGet(ctx, state, "serial").Val()
			if ok != (int64(integer(stored)) > before) {
				t.Fatalf("SetBudget stored %v, the Book %v (%v)", stored, ok, err)
			}
			if ok {
				book.Budget.SetAt = millis(client.HGet(ctx, state, "set_at").Val())
			}
			sameState()
			*calls++
		},
		"restart": func(t *rapid.T) {
			if book.Run != "" && rapid.IntRange(0, 3).Draw(t, "really") == 0 {
				book.Run = "another"
				if err := client.HSet(ctx, state, "run", "another").Err(); err != nil {
					t.Fatal(err)
				}
			}
		},
		"forget": func(t *rapid.T) {
			if rapid.IntRange(0, 9).Draw(t, "really") == 0 {
				*book = Book{}
				if err := client.FlushDB(ctx).Err(); err != nil {
					t.Fatal(err)
				}
			}
		},
	})
}

func sameReply(t *rapid.T, c *Call, got, want *Reply) {
	text := func(r *Reply) string {
		s := fmt.Sprintf("%s %s recovering %v, granted %d, confirms %v, slots %d, budget %+v\n", r.Verdict, r.Generation, r.Recovering, r.Granted, r.Confirms, r.Slots, r.Budget)
		if r.Verdict == VerdictCluster {
			return s
		}
		for _, l := range r.Leases {
			// A judgement's time is not known to the millisecond.
			l.Since = time.Time{}
			s += fmt.Sprintf("  %+v\n", l)
		}
		return s
	}
	if g, w := text(got), text(want); g != w {
		t.Fatalf("sync(%+v)\ngot  %s\nwant %s", *c, g, w)
	}
}

// A key of ours that holds something else must not stop the ledger.
func TestForeignRowsAreIgnored(t *testing.T) {
	client := redistest.Client(t)
	l := NewLedger(client, "", "c")
	if _, err := l.SetBudget(t.Context(), Budget{Connections: 10}, SetOptions{NewCluster: true}); err != nil {
		t.Fatal(err)
	}
	for i, v := range []string{"", "garbage", "w L 1 99999 0 0 0 1", strings.Repeat("x ", 11)} {
		if err := client.HSet(t.Context(), l.keys[1], "bad"+strconv.Itoa(i), v).Err(); err != nil {
			t.Fatal(err)
		}
	}
	c := Call{Epoch: newEpoch(), Number: 1, TTL: 5000, Host: "h", Process: "-", Slots: 1, Want: 8}
	r, err := l.sync(t.Context(), &c)
	if err != nil || r.Verdict != VerdictOK {
		t.Fatalf("register: %+v, %v", r, err)
	}
	c.Number++
	if r, err = l.sync(t.Context(), &c); err != nil || r.Granted != 8 {
		t.Errorf("grow: %+v, %v, want 8 granted", r, err)
	}
}
