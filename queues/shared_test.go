package queues

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// foreignOrNative draws payloads of every shape that the script has to judge: class in front, behind the args, nested in
// them, in strings, twice, with white space, and things that are no jobs.
func foreignOrNative(t *rapid.T, n int) string {
	class := rapid.SampledFrom([]string{"Native", "Native2", "Other", "Nativ", "NativeX", `Nat\u0069ve`}).Draw(t, "class")
	args := rapid.SampledFrom([]string{
		`[]`, `[1,"x"]`, `["{\"class\":\"Native\"}",[2]]`, `[{"class":"Native","a":[]}]`, `[{"a":1,"class":"Other"}]`,
		`["a,\"class\":\"Native\"",{}]`, `["body","https://one.example/inbox"]`, `["body","http://two.example:8080",{}]`,
		`["class","Native"]`, `[",\\",{"class":"Native"}]`,
	}).Draw(t, "args")
	id := fmt.Sprintf("%020x%04x", n, rapid.IntRange(0, 65535).Draw(t, "jid"))
	return rapid.SampledFrom([]string{
		`{"class":"` + class + `","args":` + args + `,"jid":"` + id + `"}`,
		`{"retry":true,"queue":"q","class":"` + class + `","args":` + args + `,"jid":"` + id + `","created_at":1.5}`,
		`{"retry":true,"queue":"q","args":` + args + `,"class":"` + class + `","jid":"` + id + `","created_at":1.5}`,
		`{"retry":true,"args":` + args + `,"class":"` + class + `","jid":"` + id + `","tags":["a"]}`,
		`{"meta":{"x":1},"class":"` + class + `","args":` + args + `,"jid":"` + id + `"}`,
		`{"class":"Other","class":"` + class + `","args":` + args + `,"jid":"` + id + `"}`,
		`{"class":"` + class + `","args":` + args + `,"jid":"` + id + `","class":"Other"}`,
		`{"class":"Native","args":` + args + `,"jid":"` + id + `", "class" : "` + class + `"}`,
		`{ "args" : ` + args + `, "class" : "` + class + `" , "jid":"` + id + `"}`,
		`{"args":` + args + `,"class":"` + class + `","jid":"` + id + `"} `,
		`{"jid":"` + id + `","args":` + args + `}`,
		`{"class":null,"args":` + args + `,"jid":"` + id + `"}`,
		`not json ` + id,
	}).Draw(t, "shape")
}

// plain says whether the script must see what class the payload has: named once, in the form every client writes.
func plain(payload string, job Job) bool {
	p := scanner{s: payload}
	var m member
	named := 0
	for p.begin(); p.member(&m); {
		if m.name(payload) == "class" {
			named++
		}
	}
	return named == 1 && (strings.Contains(payload, `,"class":"`+job.Class+`"`) || strings.HasPrefix(payload, `{"class":"`+job.Class+`"`))
}

func TestFetchSharedAgainstAModel(t *testing.T) {
	store, c := newStore(t)
	session := newSession(t, store, "h:1:a")
	bg := t.Context()
	var taken, total int
	rapid.Check(t, func(t *rapid.T) {
		queues := []string{"q1", "q2", "q3"}
		before := map[string][]string{}
		for _, q := range queues {
			n := rapid.IntRange(0, 40).Draw(t, "n")
			var payloads []string
			for i := range n {
				if i > 0 && rapid.IntRange(0, 9).Draw(t, "twin") == 0 {
					payloads = append(payloads, payloads[rapid.IntRange(0, i-1).Draw(t, "of")])
					continue
				}
				payloads = append(payloads, foreignOrNative(t, i))
			}
			before[q] = payloads
			if err := c.Del(bg, "queue:"+q).Err(); err != nil {
				t.Fatal(err)
			}
			for _, p := range payloads {
				if err := c.LPush(bg, "queue:"+q, p).Err(); err != nil {
					t.Fatal(err)
				}
			}
		}
		c.Del(bg, "paused")
		paused := rapid.SampledFrom([]string{"", "q2"}).Draw(t, "paused")
		if paused != "" {
			c.SAdd(bg, "paused", paused)
		}
		l := Look{
			Queues: queues, Classes: []string{"Native", "Native2"},
			Max: rapid.IntRange(1, 60).Draw(t, "max"), WindowJobs: rapid.IntRange(1, 50).Draw(t, "window"),
			WindowBytes: rapid.SampledFrom([]int{1, 500, 3000, 1 << 20}).Draw(t, "bytes"),
			Share:       rapid.SampledFrom([]int{10_000, 5_000, 1}).Draw(t, "share"),
			Hosts:       rapid.SampledFrom([][]string{nil, {"one.example", "two.example:8080"}}).Draw(t, "hosts"),
		}
		jobs, looked, err := session.FetchShared(bg, l)
		if err != nil {
			t.Fatal(err)
		}
		// What each queue has lost, and that nothing else has moved.
		byQueue := map[string][]string{}
		for i, j := range jobs {
			byQueue[j.Ref.Queue] = append(byQueue[j.Ref.Queue], j.Payload)
			if i > 0 && j.Ref.Seq != jobs[i-1].Ref.Seq+1 {
				t.Fatalf("numbers %d, %d", jobs[i-1].Ref.Seq, j.Ref.Seq)
			}
			if got := c.HGet(bg, session.inflight, string(appendField(nil, j.Ref))).Val(); got != j.Payload {
				t.Fatalf("in flight %q, want %q", got, j.Payload)
			}
		}
		room, bytes, seen := l.Max, l.WindowBytes, 0
		for _, q := range queues {
			var stay []string
			wanted := byQueue[q]
			for i, p := range before[q] {
				inside := i < l.WindowJobs && bytes > 0 && room > 0 && q != paused
				job, bad := ParseJob(p)
				if inside {
					bytes -= len(p)
					seen++
				}
				fits := bad == nil && slices.Contains(l.Classes, job.Class) && InShare(job.JID, l.Share) &&
					(l.Hosts == nil || strings.Contains(p, `,"https://one.example/`) || strings.Contains(p, `,"http://two.example:8080"`))
				if inside && len(wanted) > 0 && wanted[0] == p {
					if !fits {
						t.Fatalf("taken: %s", p)
					}
					wanted = wanted[1:]
					room--
					taken++
					continue
				}
				if inside && fits && plain(p, job) {
					t.Fatalf("left: %s", p)
				}
				stay = append(stay, p)
				total++
			}
			if len(wanted) > 0 {
				t.Fatalf("from %s was taken what was not to be looked at: %q", q, wanted)
			}
			left := c.LRange(bg, "queue:"+q, 0, -1).Val()
			slices.Reverse(left)
			if !slices.Equal(left, stay) {
				t.Fatalf("%s is left as %q, want %q", q, left, stay)
			}
		}
		if looked != seen {
			t.Fatalf("looked = %d, want %d", looked, seen)
		}
		if _, err := session.Complete(bg, acks(jobs)); err != nil {
			t.Fatal(err)
		}
	})
	t.Logf("%d taken, %d left", taken, total)
	if taken == 0 {
		t.Error("nothing was ever taken")
	}
}

func TestSharedLookOverLargePayloads(t *testing.T) {
	store, c := newStore(t)
	s := newSession(t, store, "h:1:a")
	huge := `{"class":"Other","args":["` + strings.Repeat("x", 4<<20) + `"],"jid":"` + jid(1) + `"}`
	native := `{"class":"Native","args":[],"jid":"` + jid(2) + `"}`
	push(t, c, "queue:a", huge, huge, huge, native)
	l := Look{Queues: []string{"a"}, Classes: []string{"Native"}, Max: 10, WindowJobs: 100, WindowBytes: 1 << 20, Share: 10_000}
	jobs, looked, err := s.FetchShared(t.Context(), l)
	if err != nil || len(jobs) != 0 || looked != 1 {
		t.Errorf("FetchShared = %d jobs, %d looked at, %v; want to stop at the first", len(jobs), looked, err)
	}
	l.WindowBytes = 20 << 20
	if jobs, looked, err = s.FetchShared(t.Context(), l); err != nil || len(jobs) != 1 || looked != 4 {
		t.Errorf("FetchShared = %d jobs, %d looked at, %v", len(jobs), looked, err)
	}
}
