package scheduler

import (
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// host is a line in tests.
type host struct {
	name    string
	account Account
	cost    float64
	used    float64
	starts  int
}

func (h *host) Account() *Account { return &h.account }

// start charges the next one's job.
func start(t *testing.T, turns *Turns[*host]) *host {
	t.Helper()
	h, ok := turns.Next()
	if !ok {
		t.Fatal("nobody's turn")
	}
	turns.Charge(h, h.cost)
	h.used += h.cost
	h.starts++
	return h
}

func TestTurnsShareByCost(t *testing.T) {
	t.Parallel()
	var turns Turns[*host]
	turns.SetQuantum(1)
	hosts := []*host{{name: "fast", cost: 0.2}, {name: "slow", cost: 2}, {name: "slower", cost: 10}}
	total := 0.0
	for _, h := range hosts {
		turns.Join(h)
		turns.Join(h)
	}
	for range 20_000 {
		total += start(t, &turns).cost
	}
	for _, h := range hosts {
		near(t, h.name, h.used/total, 1.0/3, 0.02)
	}
	if hosts[0].starts < 9*hosts[1].starts {
		t.Errorf("starts: %d and %d", hosts[0].starts, hosts[1].starts)
	}
}

// A thousand jobs of one line do not make another line's job wait for more than a turn, however they came.
func TestTurnsDoNotCareForLength(t *testing.T) {
	t.Parallel()
	var turns Turns[*host] // no cost is known: one job a turn
	big := &host{name: "big", cost: 1}
	turns.Join(big)
	for range 50 {
		start(t, &turns)
	}
	small := []*host{{name: "a", cost: 1}, {name: "b", cost: 1}}
	for _, h := range small {
		turns.Join(h)
	}
	for range 3 {
		start(t, &turns)
	}
	if small[0].starts != 1 || small[1].starts != 1 {
		t.Errorf("%d and %d starts in a round of three", small[0].starts, small[1].starts)
	}
}

// A job that turns out to be expensive is paid for afterwards, but not for ever.
func TestTurnsChargeWhatItCost(t *testing.T) {
	t.Parallel()
	var turns Turns[*host]
	turns.SetQuantum(0.1)
	hanging, quick := &host{cost: 0.1}, &host{cost: 0.1}
	turns.Join(hanging)
	turns.Join(quick)
	start(t, &turns)
	turns.Charge(hanging, 1000-0.1) // it hung
	for range 20 {
		start(t, &turns)
	}
	if hanging.starts > 1 {
		t.Errorf("%d starts of what has hung", hanging.starts)
	}
	for range 40 {
		start(t, &turns)
	}
	if hanging.starts < 2 {
		t.Errorf("it never gets a turn again: %d", hanging.starts)
	}
	turns.Leave(hanging)
	turns.Leave(hanging)
	for range 5 {
		if start(t, &turns) != quick {
			t.Fatal("a turn of one that has left")
		}
	}
}

// Next ends, names only who is in, and forgets nobody.
func TestTurnsProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var turns Turns[*host]
		hosts, in := make([]*host, 10), 0
		for i := range hosts {
			hosts[i] = &host{}
		}
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			h := hosts[rapid.IntRange(0, 9).Draw(t, "destination")]
			was := h.account.In()
			switch rapid.IntRange(0, 4).Draw(t, "what") {
			case 0:
				turns.Join(h)
				if !was {
					in++
				}
			case 1:
				turns.Leave(h)
				if was {
					in--
				}
			case 2:
				turns.SetQuantum(strange(t, "quantum"))
			default:
				got, ok := turns.Next()
				if ok != (in > 0) || ok && !got.account.In() {
					t.Fatalf("Next = %v, %v of %d", got, ok, in)
				}
				if again, _ := turns.Next(); again != got {
					t.Fatal("Next of the same state names another")
				}
				if ok {
					turns.Charge(got, strange(t, "cost"))
				} else {
					turns.Charge(h, -strange(t, "refund"))
				}
			}
			if turns.Len() != in || len(turns.ring) > 200 {
				t.Fatalf("%d take turns, want %d; ring of %d", turns.Len(), in, len(turns.ring))
			}
		}
		turns.Clear()
		for _, h := range hosts {
			if h.account.In() {
				t.Fatal("in a ring that is empty")
			}
		}
		if _, ok := turns.Next(); ok {
			t.Fatal("somebody's turn in an empty ring")
		}
	})
}

func TestRetryBudgetIsAShareOfTheStarts(t *testing.T) {
	t.Parallel()
	b := NewRetryBudget(0.2)
	rnd := rand.New(rand.NewPCG(1, 2))
	tries, retries := 0, 0
	now := t0
	for range 100_000 { // a thousand starts a second, more retries wait than anything else
		now = now.Add(time.Millisecond)
		if rnd.Float64() < 0.7 && b.May(now, true, 512) {
			b.Retried(true)
			b.Ended()
			retries++
		} else {
			tries++
			b.Tried()
		}
	}
	if share := float64(retries) / float64(tries+retries); share > 0.205 || share < 0.18 {
		t.Errorf("retries took %.1f %% of the starts", 100*share)
	}
	for i := range 100 {
		if !b.May(now, false, 512) {
			t.Fatalf("%d of 100 retries started although nobody else wanted the slots", i)
		}
		b.Retried(false)
	}
	floor := 0
	for range 600 { // nothing new for a minute
		now = now.Add(100 * time.Millisecond)
		if b.May(now, true, 512) {
			b.Retried(true)
			floor++
		}
	}
	if floor < 10 || floor > 40 {
		t.Errorf("%d retries in a minute without anything new", floor)
	}
}

// Retries that hang hold no more than their share of the slots from when others want them, and all when nobody does.
func TestRetryBudgetIsAShareOfTheSlots(t *testing.T) {
	t.Parallel()
	b := NewRetryBudget(0.25)
	now := t0
	fill := func() int {
		n := 0
		for b.May(now, false, 100) {
			b.Retried(false)
			n++
		}
		return n
	}
	if n := fill(); n != 100 || b.Running() != 100 {
		t.Errorf("%d of 100 idle slots for retries", n)
	}
	b.Scarce(now)
	for range 90 {
		b.Ended()
	}
	if n := fill(); n != 15 {
		t.Errorf("%d more beside 10 that run, want 15", n)
	}
	now = now.Add(scarceFor)
	if n := fill(); n != 75 {
		t.Errorf("%d more once nobody wants the slots, want 75", n)
	}
	b.Scarce(now.Add(time.Hour)) // the clock went back
	if b.IsScarce(now) || b.Slots(now, 8) != 8 {
		t.Error("scarce in the future")
	}
	b.Scarce(now)
	for range 200 {
		b.Ended()
	}
	if n := b.Slots(now, 2); n != 1 || b.Running() != 0 || !b.May(now, true, 1) {
		t.Errorf("%d of 2 slots, %d running", n, b.Running())
	}
}

func TestRetryBudgetWithNonsense(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		share := strange(t, "share")
		b := NewRetryBudget(share)
		if s := b.Share(); !(s > 0 && s <= 1) {
			t.Fatalf("share %v of %v", s, share)
		}
		now := t0
		for range 50 {
			now = now.Add(time.Duration(rapid.Int64().Draw(t, "passes") / 1e6))
			if b.May(now, rapid.Bool().Draw(t, "contended"), rapid.IntRange(-1, 5).Draw(t, "slots")) {
				b.Retried(true)
			}
			if b.Share() == 1 && !b.May(now, true, 0) {
				t.Fatal("no bound was wanted")
			}
			if rapid.Bool().Draw(t, "ended") {
				b.Ended()
			}
			if rapid.Bool().Draw(t, "scarce") {
				b.Scarce(now)
			}
		}
	})
}

func BenchmarkTurns(b *testing.B) {
	var turns Turns[*host]
	turns.SetQuantum(1)
	for k := range 1000 {
		turns.Join(&host{cost: 0.5 + float64(k%3)})
	}
	b.ReportAllocs()
	for b.Loop() {
		h, _ := turns.Next()
		turns.Charge(h, h.cost)
	}
}
