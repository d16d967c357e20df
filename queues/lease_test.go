package queues

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/queueville/queueville/internal/redistest"
)

func numbered(n int) []string {
	p := make([]string, n)
	for i := range p {
		p[i] = fmt.Sprintf(`{"class":"C","args":[%d],"jid":"%024x"}`, i, i)
	}
	return p
}

func acks(jobs []Fetched) []Completion {
	var l []Completion
	for _, j := range jobs {
		l = append(l, Completion{Ref: j.Ref, Op: OpAck})
	}
	return l
}

func TestFetchTakesTheOldestFirstQueueByQueue(t *testing.T) {
	store, c := newStore(t)
	s := newSession(t, store, "h:1:a")
	jobs := numbered(6)
	push(t, c, "queue:a", jobs[:4]...)
	push(t, c, "queue:b", jobs[4:]...)
	push(t, c, "queue:p", "paused")
	if err := c.SAdd(t.Context(), "paused", "p").Err(); err != nil {
		t.Fatal(err)
	}
	if err := c.Set(t.Context(), "queue:wrong", "no list", 0).Err(); err != nil {
		t.Fatal(err)
	}
	queues := []string{"p", "wrong", "a", "empty", "b"}
	got, err := s.Fetch(t.Context(), queues, 3)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "first three", payloadsOf(got), jobs[:3])
	got2, err := s.Fetch(t.Context(), queues, 10)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the rest", payloadsOf(got2), jobs[3:])
	if got2[0].Ref != (Ref{Seq: 4, Queue: "a"}) || got2[1].Ref != (Ref{Seq: 5, Queue: "b"}) {
		t.Errorf("refs = %v, want 4 a and 5 b", got2)
	}
	equal(t, "paused queue", list(t, c, "queue:p"), []string{"paused"})
	inflight, err := c.HGetAll(t.Context(), "queueville:inflight:"+s.Name()).Result()
	if err != nil {
		t.Fatal(err)
	}
	if len(inflight) != 7 || inflight["#"] != "6" || inflight["5 b"] != jobs[4] {
		t.Errorf("in flight = %v", inflight)
	}
	if none, err := s.Fetch(t.Context(), queues, 10); err != nil || none != nil {
		t.Errorf("Fetch of empty queues = %v, %v", none, err)
	}
}

func TestFetchOfLargeBatches(t *testing.T) {
	store, c := newStore(t)
	s := newSession(t, store, "h:1:a")
	jobs := numbered(3000)
	push(t, c, "queue:a", jobs...)
	var all []Fetched
	for range 3 {
		got, err := s.Fetch(t.Context(), []string{"a"}, 5000)
		if err != nil || len(got) != MaxBatch {
			t.Fatalf("Fetch = %d jobs, %v", len(got), err)
		}
		all = append(all, got...)
	}
	equal(t, "jobs", payloadsOf(all), jobs)
	held, err := s.Complete(t.Context(), acks(all))
	if err != nil || slices.Contains(held, false) {
		t.Fatalf("Complete = %v", err)
	}
	if n := c.HLen(t.Context(), s.inflight).Val(); n != 1 {
		t.Errorf("fields in flight after all acks = %d, want the counter alone", n)
	}
}

func TestFetchStopsAfterManyBytes(t *testing.T) {
	store, c := newStore(t)
	s := newSession(t, store, "h:1:a")
	var jobs []string
	for i, small := range numbered(60) {
		if i%2 == 1 {
			small = `{"class":"Big","jid":"` + strconv.Itoa(i) + `","args":["` + strings.Repeat("x", 1<<20) + `"]}`
		}
		jobs = append(jobs, small)
		push(t, c, "queue:a", small)
	}
	var all []Fetched
	for len(all) < len(jobs) {
		got, err := s.Fetch(t.Context(), []string{"a"}, 500)
		if err != nil || len(got) == 0 {
			t.Fatalf("Fetch = %d jobs, %v", len(got), err)
		}
		size := 0
		for _, j := range got {
			size += len(j.Payload)
		}
		if size > maxFetchBytes+(8<<20) {
			t.Errorf("one fetch took %d bytes", size)
		}
		all = append(all, got...)
	}
	equal(t, "jobs", payloadsOf(all), jobs)
	if all[59].Ref.Seq != 60 {
		t.Errorf("last number = %d, want 60", all[59].Ref.Seq)
	}
}

func TestCompleteCarriesOutEveryOutcome(t *testing.T) {
	store, c := newStore(t)
	s := newSession(t, store, "h:1:a")
	jobs := numbered(8)
	push(t, c, "queue:a", jobs...)
	got, err := s.Fetch(t.Context(), []string{"a"}, 8)
	if err != nil {
		t.Fatal(err)
	}
	push(t, c, "queue:ruby", "first")
	list1 := []Completion{
		{Ref: got[0].Ref, Op: OpRetry, Payload: "retry me", At: 1795291060.2769928},
		{Ref: got[1].Ref, Op: OpAck},
		{Ref: got[2].Ref, Op: OpSchedule, At: 1795291061},
		{Ref: got[3].Ref, Op: OpDead, Payload: "dead", At: 4102444800},
		{Ref: got[5].Ref, Op: OpRequeue},
		{Ref: got[4].Ref, Op: OpRequeue},
		{Ref: got[6].Ref, Op: OpForward, Queue: "ruby"},
		{Ref: got[7].Ref, Op: OpForward, Queue: "ruby"},
	}
	held, err := s.Complete(t.Context(), list1)
	if err != nil || slices.Contains(held, false) {
		t.Fatalf("Complete = %v, %v", held, err)
	}
	equal(t, "queue:a", list(t, c, "queue:a"), []string{jobs[4], jobs[5]})
	equal(t, "queue:ruby", list(t, c, "queue:ruby"), []string{"first", jobs[6], jobs[7]})
	for set, want := range map[string]redis.Z{
		"retry": {Member: "retry me", Score: 1795291060.2769928}, "schedule": {Member: jobs[2], Score: 1795291061}, "dead": {Member: "dead", Score: 4102444800},
	} {
		if got := c.ZRangeWithScores(t.Context(), set, 0, -1).Val(); len(got) != 1 || got[0] != want {
			t.Errorf("%s = %v, want %v", set, got, want)
		}
	}
	for _, q := range []string{"a", "ruby"} {
		if !c.SIsMember(t.Context(), "queues", q).Val() {
			t.Errorf("%s is not in queues", q)
		}
	}
	// Once more, as after a lost reply: no effect.
	before := dump(t, c)
	held, err = s.Complete(t.Context(), list1)
	if err != nil || slices.Contains(held, true) {
		t.Errorf("second Complete = %v, %v, want nothing held", held, err)
	}
	equal(t, "Redis after the second Complete", dump(t, c), before)
}

// dump prints all of a database, the lease's remaining time left out.
func dump(tb testing.TB, c *redis.Client) []string {
	tb.Helper()
	var out []string
	keys, err := c.Keys(tb.Context(), "*").Result()
	if err != nil {
		tb.Fatal(err)
	}
	for _, k := range keys {
		v, err := c.Dump(tb.Context(), k).Result()
		if err != nil {
			tb.Fatal(err)
		}
		out = append(out, k+"\t"+v)
	}
	slices.Sort(out)
	return out
}

func TestCompleteTellsWhichWereHeld(t *testing.T) {
	store, c := newStore(t)
	s := newSession(t, store, "h:1:a")
	push(t, c, "queue:a", numbered(200)...)
	got, err := s.Fetch(t.Context(), []string{"a"}, 200)
	if err != nil {
		t.Fatal(err)
	}
	// Odd ones first, then all: in one call each, acks and others mixed.
	var odd, all []Completion
	for i, j := range got {
		c := Completion{Ref: j.Ref, Op: OpAck}
		if i%3 == 0 {
			c = Completion{Ref: j.Ref, Op: OpRetry, At: float64(i)}
		}
		all = append(all, c)
		if i%2 == 1 {
			odd = append(odd, c)
		}
	}
	if held, err := s.Complete(t.Context(), odd); err != nil || slices.Contains(held, false) {
		t.Fatalf("Complete = %v, %v", held, err)
	}
	held, err := s.Complete(t.Context(), append(all, all[0], Completion{Ref: Ref{Seq: 9999, Queue: "a"}, Op: OpAck}))
	if err != nil {
		t.Fatal(err)
	}
	for i, h := range held {
		if want := i < 200 && i%2 == 0; h != want {
			t.Errorf("held[%d] = %v, want %v", i, h, want)
		}
	}
	for _, bad := range []Completion{{Ref: got[0].Ref}, {Ref: got[0].Ref, Op: OpForward}, {Ref: got[0].Ref, Op: 'x'}} {
		if _, err := s.Complete(t.Context(), []Completion{bad}); err == nil {
			t.Errorf("Complete(%v) is accepted", bad)
		}
	}
}

func TestScoresOfOneCallDiffer(t *testing.T) {
	store, c := newStore(t)
	s := newSession(t, store, "h:1:a")
	push(t, c, "queue:a", numbered(50)...)
	got, err := s.Fetch(t.Context(), []string{"a"}, 50)
	if err != nil {
		t.Fatal(err)
	}
	var l []Completion
	for _, j := range got {
		l = append(l, Completion{Ref: j.Ref, Op: OpRetry, At: 1795291060.25})
	}
	if _, err := s.Complete(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	seen := map[float64]bool{}
	for _, z := range c.ZRangeWithScores(t.Context(), "retry", 0, -1).Val() {
		if seen[z.Score] || z.Score < 1795291060.25 || z.Score > 1795291060.26 {
			t.Errorf("score %v", z.Score)
		}
		seen[z.Score] = true
	}
}

// TestItem64And65: the dead set keeps max−1 members, and none older than the timeout.
func TestItem64And65DeadSetIsTrimmed(t *testing.T) {
	store, c := newStore(t)
	store.DeadMax = 5
	s := newSession(t, store, "h:1:a")
	at := float64(time.Now().Unix())
	if err := c.ZAdd(t.Context(), "dead", redis.Z{Score: at - 181*86400, Member: "old"}, redis.Z{Score: at - 179*86400, Member: "young"}).Err(); err != nil {
		t.Fatal(err)
	}
	jobs := numbered(8)
	push(t, c, "queue:a", jobs...)
	got, err := s.Fetch(t.Context(), []string{"a"}, 8)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Complete(t.Context(), []Completion{{Ref: got[0].Ref, Op: OpDead, At: at}}); err != nil {
		t.Fatal(err)
	}
	equal(t, "dead", c.ZRange(t.Context(), "dead", 0, -1).Val(), []string{"young", jobs[0]})
	for i, j := range got[1:] {
		if _, err := s.Complete(t.Context(), []Completion{{Ref: j.Ref, Op: OpDead, At: at + float64(i+1)}}); err != nil {
			t.Fatal(err)
		}
	}
	equal(t, "dead", c.ZRange(t.Context(), "dead", 0, -1).Val(), jobs[4:])
}

func TestALostLeaseStopsEverything(t *testing.T) {
	store, c := newStore(t)
	s := newSession(t, store, "h:1:a")
	push(t, c, "queue:a", numbered(4)...)
	got, err := s.Fetch(t.Context(), []string{"a"}, 2)
	if err != nil {
		t.Fatal(err)
	}
	c.Del(t.Context(), s.lease)
	before := dump(t, c)
	_, errs := s.Complete(t.Context(), acks(got))
	_, errF := s.Fetch(t.Context(), []string{"a"}, 2)
	_, _, errS := s.FetchShared(t.Context(), Look{Queues: []string{"a"}, Classes: []string{"C"}, Max: 1, WindowJobs: 10, WindowBytes: 1000, Share: 10000})
	_, errU := s.Unknown(t.Context(), func(uint64) bool { return false })
	_, errC := s.Close(t.Context())
	for name, err := range map[string]error{"Complete": errs, "Fetch": errF, "FetchShared": errS, "Unknown": errU, "Close": errC, "Renew": s.Renew(t.Context())} {
		if !errors.Is(err, ErrLeaseLost) {
			t.Errorf("%s without a lease = %v, want ErrLeaseLost", name, err)
		}
	}
	equal(t, "Redis", dump(t, c), before)
}

func TestADeletedInFlightHashIsALostLease(t *testing.T) {
	store, c := newStore(t)
	s := newSession(t, store, "h:1:a")
	push(t, c, "queue:a", numbered(4)...)
	c.Del(t.Context(), s.inflight)
	// Else sequence numbers would begin again, and an old ack would forget a new job.
	if _, err := s.Fetch(t.Context(), []string{"a"}, 1); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("Fetch = %v, want ErrLeaseLost", err)
	}
}

func TestAdoption(t *testing.T) {
	store, c := newStore(t)
	frozen := newSession(t, store, "h:1:a")
	jobs := numbered(450)
	push(t, c, "queue:a", jobs...)
	push(t, c, "queue:b", "b1", "b2")
	got, err := frozen.Fetch(t.Context(), []string{"a", "b"}, 500)
	if err != nil || len(got) != 452 {
		t.Fatal(len(got), err)
	}
	push(t, c, "queue:a", "newer")
	c.SRem(t.Context(), "queues", "a", "b")
	if n, err := store.Adopt(t.Context(), frozen.Name(), false); n != 0 || err != nil {
		t.Fatalf("Adopt of a living holder = %d, %v", n, err)
	}
	if n := c.LLen(t.Context(), "queue:a").Val(); n != 1 {
		t.Fatalf("jobs of a living holder went back: %d", n)
	}
	hs, err := store.Holders(t.Context())
	if err != nil || len(hs) != 1 || !hs[0].Alive || hs[0].InFlight != 452 || hs[0].Epoch != frozen.Epoch() || hs[0].PID != 1 {
		t.Errorf("Holders = %+v, %v", hs, err)
	}
	c.Del(t.Context(), frozen.lease) // as when it expires
	n, err := store.Adopt(t.Context(), frozen.Name(), false)
	if n != 452 || err != nil {
		t.Fatalf("Adopt = %d, %v", n, err)
	}
	equal(t, "queue:a", list(t, c, "queue:a"), append(slices.Clone(jobs), "newer"))
	equal(t, "queue:b", list(t, c, "queue:b"), []string{"b1", "b2"})
	if n := c.SCard(t.Context(), "queues").Val(); n != 2 {
		t.Errorf("queues has %d members, want 2", n)
	}
	if n := c.Exists(t.Context(), frozen.inflight, frozen.lease, "queueville:workers").Val(); n != 0 {
		t.Errorf("%d keys of the adopted holder are left", n)
	}
	// The frozen process wakes up.
	before := dump(t, c)
	if held, err := frozen.Complete(t.Context(), []Completion{{Ref: got[0].Ref, Op: OpRetry, Payload: "again", At: 1}}); !errors.Is(err, ErrLeaseLost) || held != nil {
		t.Errorf("Complete after adoption = %v, %v, want ErrLeaseLost", held, err)
	}
	if err := frozen.Renew(t.Context()); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("Renew after adoption = %v", err)
	}
	equal(t, "Redis", dump(t, c), before)
	if n, err := store.Adopt(t.Context(), frozen.Name(), true); n != 0 || err != nil {
		t.Errorf("second Adopt = %d, %v", n, err)
	}
}

func TestAdoptionThatIsCertainEndsTheLease(t *testing.T) {
	store, c := newStore(t)
	s := newSession(t, store, "h:1:a")
	push(t, c, "queue:a", numbered(3)...)
	if _, err := s.Fetch(t.Context(), []string{"a"}, 3); err != nil {
		t.Fatal(err)
	}
	if n, err := store.Adopt(t.Context(), s.Name(), true); n != 3 || err != nil {
		t.Fatalf("Adopt = %d, %v", n, err)
	}
	equal(t, "queue:a", list(t, c, "queue:a"), numbered(3))
}

func TestStraysAreFoundAndAdopted(t *testing.T) {
	client := redistest.Client(t)
	store := NewStore(client, "ns")
	s := newSession(t, store, "h:1:a")
	push(t, client, "ns:queue:a", numbered(3)...)
	if _, err := s.Fetch(t.Context(), []string{"a"}, 3); err != nil {
		t.Fatal(err)
	}
	client.Del(t.Context(), "queueville:ns:workers", "queueville:ns:lease:"+s.Name())
	got, err := store.Strays(t.Context())
	equal(t, "strays", got, []string{s.Name()})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := store.Adopt(t.Context(), got[0], false); n != 3 || err != nil {
		t.Fatalf("Adopt = %d, %v", n, err)
	}
	equal(t, "queue:a", list(t, client, "ns:queue:a"), numbered(3))
	keys := client.Keys(t.Context(), "*").Val()
	for _, k := range keys {
		if !strings.HasPrefix(k, "ns:") && !strings.HasPrefix(k, "queueville:ns:") {
			t.Errorf("key %q is outside of the namespace", k)
		}
	}
}

func TestRegisterRestoresAndNeverReusesANumber(t *testing.T) {
	store, c := newStore(t)
	h := Holder{Identity: "h:1:a", Epoch: 41, StartTick: 1<<63 + 1}
	lost := []Fetched{{Ref{7, "a"}, "seven"}, {Ref{9, "b b"}, "nine"}}
	s, restored, err := store.Register(t.Context(), h, time.Minute, lost)
	if err != nil {
		t.Fatal(err)
	}
	if s.Epoch() != 42 || s.Name() != "h:1:a/42" || len(s.Generation()) != 32 {
		t.Errorf("session = %d %s %q", s.Epoch(), s.Name(), s.Generation())
	}
	want := []Fetched{{Ref{1, "a"}, "seven"}, {Ref{2, "b b"}, "nine"}}
	if !slices.Equal(restored, want) {
		t.Errorf("restored = %v, want %v", restored, want)
	}
	if g, err := store.Generation(t.Context()); g != s.Generation() || err != nil {
		t.Errorf("Generation = %q, %v", g, err)
	}
	hs, err := store.Holders(t.Context())
	if err != nil || len(hs) != 1 || hs[0].Epoch != 42 || hs[0].StartTick != h.StartTick || hs[0].InFlight != 2 {
		t.Errorf("Holders = %+v, %v", hs, err)
	}
	push(t, c, "queue:a", "new")
	got, err := s.Fetch(t.Context(), []string{"a"}, 1)
	if err != nil || got[0].Ref.Seq != 3 {
		t.Errorf("Fetch = %v, %v, want number 3", got, err)
	}
	if d := c.PTTL(t.Context(), s.lease).Val(); d < 50*time.Second || d > time.Minute {
		t.Errorf("lease ends in %v", d)
	}
	c.Del(t.Context(), "queueville:workers")
	if err := s.Renew(t.Context()); err != nil {
		t.Error(err)
	}
	if again, err := store.Holders(t.Context()); err != nil || !slices.Equal(again, []HolderState{{Holder: hs[0].Holder, Name: hs[0].Name, Alive: true, InFlight: 3}}) {
		t.Errorf("Holders after Renew = %+v, %v", again, err)
	}
	second := newSession(t, store, "h:1:a")
	if second.Epoch() != 43 {
		t.Errorf("second epoch = %d", second.Epoch())
	}
	c.FlushDB(t.Context())
	if third := newSession(t, store, "h:1:a"); third.Epoch() != 44 {
		t.Errorf("epoch after Redis has forgotten = %d, want 44: old sessions of this process may still have acks under way", third.Epoch())
	}
	c.FlushDB(t.Context())
	if g, err := store.Generation(t.Context()); g != "" || err != nil {
		t.Errorf("Generation of an empty Redis = %q, %v", g, err)
	}
}

func TestUnknownFindsWhatALostReplyHeld(t *testing.T) {
	store, c := newStore(t)
	s := newSession(t, store, "h:1:a")
	jobs := numbered(500)
	push(t, c, "queue:a", jobs...)
	got, err := s.Fetch(t.Context(), []string{"a"}, 500)
	if err != nil {
		t.Fatal(err)
	}
	found, err := s.Unknown(t.Context(), func(seq uint64) bool { return seq <= 100 })
	if err != nil || !slices.Equal(found, got[100:]) {
		t.Errorf("Unknown = %d jobs, %v, want the last 400 in order", len(found), err)
	}
}

func TestCloseGivesBackInOrder(t *testing.T) {
	store, c := newStore(t)
	s := newSession(t, store, "h:1:a")
	jobs := numbered(300)
	push(t, c, "queue:a", jobs...)
	got, err := s.Fetch(t.Context(), []string{"a"}, 299)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Complete(t.Context(), acks(got[:5])); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Close(t.Context()); n != 294 || err != nil {
		t.Errorf("Close = %d, %v", n, err)
	}
	equal(t, "queue:a", list(t, c, "queue:a"), jobs[5:])
	if hs, err := store.Holders(t.Context()); len(hs) != 0 || err != nil {
		t.Errorf("Holders = %v, %v", hs, err)
	}
	if left := c.Keys(t.Context(), "queueville:*").Val(); len(left) != 2 {
		t.Errorf("keys left = %v, want epoch and generation", left)
	}
}

func TestAwait(t *testing.T) {
	store, c := newStore(t)
	began := time.Now()
	if got, err := store.Await(t.Context(), "a", time.Second); got || err != nil || time.Since(began) < 900*time.Millisecond {
		t.Errorf("Await of an empty queue = %v, %v after %v", got, err, time.Since(began))
	}
	woken := make(chan error, 1)
	go func() {
		got, err := store.Await(t.Context(), "a", 10*time.Second)
		if err == nil && !got {
			err = errors.New("nothing")
		}
		woken <- err
	}()
	time.Sleep(50 * time.Millisecond)
	push(t, c, "queue:a", "x", "y")
	select {
	case err := <-woken:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("Await did not wake up")
	}
	equal(t, "queue:a", list(t, c, "queue:a"), []string{"x", "y"})
	if got, err := store.Await(t.Context(), "a", time.Second); !got || err != nil {
		t.Errorf("Await of a full queue = %v, %v", got, err)
	}
	equal(t, "queue:a", list(t, c, "queue:a"), []string{"x", "y"})
}

// TestOutOfMemory: a write that Redis refuses changes nothing, and what frees memory still works.
func TestOutOfMemory(t *testing.T) {
	server := redistest.Start(t)
	c := redistest.NewClient(server.Addr(), 0)
	t.Cleanup(func() { _ = c.Close() })
	store := NewStore(c, "")
	s := newSession(t, store, "h:1:a")
	other := newSession(t, store, "h:2:b")
	jobs := numbered(20)
	push(t, c, "queue:a", jobs...)
	got, err := s.Fetch(t.Context(), []string{"a"}, 6)
	if err != nil {
		t.Fatal(err)
	}
	push(t, c, "queue:b", "b1")
	if _, err := other.Fetch(t.Context(), []string{"b"}, 1); err != nil {
		t.Fatal(err)
	}
	c.Del(t.Context(), other.lease)
	if err := c.ZAdd(t.Context(), "schedule", redis.Z{Score: 1, Member: jobs[0]}).Err(); err != nil {
		t.Fatal(err)
	}
	// Scripts are loaded already except these two; loading must not be what fails.
	for _, sc := range []*script{&sharedScript, &dueScript, &givebackScript, &forgetScript, &completeScript} {
		if err := c.ScriptLoad(t.Context(), sc.source).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.ConfigSet(t.Context(), "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	before := dump(t, c)
	calls := map[string]func() error{
		"Fetch": func() error { _, err := s.Fetch(t.Context(), []string{"a"}, 2); return err },
		"FetchShared": func() error {
			_, _, err := s.FetchShared(t.Context(), Look{Queues: []string{"a"}, Classes: []string{"C"}, Max: 3, WindowJobs: 10, WindowBytes: 10_000, Share: 10_000})
			return err
		},
		"retry": func() error {
			_, err := s.Complete(t.Context(), []Completion{{Ref: got[0].Ref, Op: OpRetry, At: 5}})
			return err
		},
		"requeue": func() error {
			_, err := s.Complete(t.Context(), []Completion{{Ref: got[1].Ref, Op: OpRequeue}})
			return err
		},
		"forward": func() error {
			_, err := s.Complete(t.Context(), []Completion{{Ref: got[2].Ref, Op: OpForward, Queue: "r"}})
			return err
		},
		"dead": func() error {
			_, err := s.Complete(t.Context(), []Completion{{Ref: got[3].Ref, Op: OpDead, At: 5}})
			return err
		},
		"Adopt":   func() error { _, err := store.Adopt(t.Context(), other.Name(), false); return err },
		"Close":   func() error { _, err := s.Close(t.Context()); return err },
		"PollDue": func() error { _, err := store.PollDue(t.Context(), SetSchedule, now, 10); return err },
		"Register": func() error {
			_, _, err := store.Register(t.Context(), Holder{Identity: "x"}, time.Minute, nil)
			return err
		},
	}
	for name, call := range calls {
		if err := call(); err == nil || errors.Is(err, ErrLeaseLost) || !strings.Contains(err.Error(), "OOM") {
			t.Errorf("%s without memory = %v, want OOM", name, err)
		}
		equal(t, "Redis after "+name, dump(t, c), before)
	}
	if held, err := s.Complete(t.Context(), acks(got[4:])); err != nil || slices.Contains(held, false) {
		t.Errorf("acks without memory = %v, %v", held, err)
	}
	if err := s.Renew(t.Context()); err != nil {
		t.Errorf("Renew without memory = %v", err)
	}
	if err := c.ConfigSet(t.Context(), "maxmemory", "0").Err(); err != nil {
		t.Fatal(err)
	}
	if held, err := s.Complete(t.Context(), []Completion{{Ref: got[0].Ref, Op: OpRetry, At: 5}}); err != nil || !held[0] {
		t.Errorf("retry after the want = %v, %v", held, err)
	}
}

func TestScriptFlushIsNoticed(t *testing.T) {
	store, c := newStore(t)
	s := newSession(t, store, "h:1:a")
	push(t, c, "queue:a", "x", "y")
	for range 2 {
		c.ScriptFlush(t.Context())
		if got, err := s.Fetch(t.Context(), []string{"a"}, 1); err != nil || len(got) != 1 {
			t.Errorf("Fetch = %v, %v", got, err)
		}
	}
}

func TestClaims(t *testing.T) {
	var c claims
	c.grow(10_000)
	ref := func(seqs ...uint64) []Completion {
		var l []Completion
		for _, s := range seqs {
			l = append(l, Completion{Ref: Ref{Seq: s}})
		}
		return l
	}
	for _, step := range []struct {
		seqs []uint64
		free bool
	}{
		{[]uint64{1, 2, 3}, true},
		{[]uint64{3, 4}, false},
		{[]uint64{4}, false},
		{[]uint64{5, 5}, false},
		{[]uint64{10_001}, false},
		{[]uint64{10_000}, true},
	} {
		if got := c.take(ref(step.seqs...)); got != step.free {
			t.Errorf("take(%v) = %v, want %v", step.seqs, got, step.free)
		}
	}
	for s := uint64(6); s < 10_000; s++ {
		if !c.take(ref(s)) {
			t.Fatalf("take(%d) is not free", s)
		}
	}
	if len(c.words) > 1 || c.take(ref(7)) {
		t.Errorf("%d words are kept", len(c.words))
	}
}
