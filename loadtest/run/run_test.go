package run

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/queueville/queueville/loadtest/mastodondata"
	"github.com/queueville/queueville/loadtest/scenario"
	"github.com/queueville/queueville/loadtest/simulate"
	"github.com/queueville/queueville/loadtest/world"
)

func load(tb testing.TB, name string) *scenario.Scenario {
	tb.Helper()
	text, err := scenario.Source(name)
	if err != nil {
		tb.Fatal(err)
	}
	s, problems := scenario.Parse(text)
	if len(problems) > 0 {
		tb.Fatal(problems)
	}
	return s
}

// accountsOf makes the accounts once: their keys take a while.
var accountsOf = sync.OnceValues(func() (*mastodondata.Data, error) {
	return mastodondata.Plan(mastodondata.Config{Line: mastodondata.Line43, Domain: domain, Accounts: 4})
})

// conductorOf is a conductor whose run has begun, without any server.
func conductorOf(tb testing.TB, s *scenario.Scenario, most int) *conductor {
	tb.Helper()
	cfg, err := s.Config(simulate.Sidekiq)
	if err != nil {
		tb.Fatal(err)
	}
	data, err := accountsOf()
	if err != nil {
		tb.Fatal(err)
	}
	name := func(to int32) string { return fmt.Sprintf("i%d.test", to) }
	c := &conductor{
		world: cfg.World, length: s.Length, books: newBooks(most), meter: newMeter(cfg.World, cfg.Goals), dests: make([]dest, cfg.World.Instances()),
		perStep: 5, address: func(int32) string { return "127.64.0.1" },
		write: newWriter(data, 1, time.Now(), func(to int32) string { return "https://" + name(to) }, name),
	}
	c.begin()
	return c
}

func TestSmall(t *testing.T) {
	for _, name := range scenario.Names() {
		full := load(t, name)
		small, err := Small(full, Form{Length: time.Minute, Machine: 2, Cores: 1})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if small.Length != time.Minute || small.World.Fedi.Instances != DefaultInstances || small.Hardware[0].Hosts[0].Cores != 1 || len(small.Hardware) != 1 {
			t.Errorf("%s: %v long, %d instances, hardware %+v", name, small.Length, small.World.Fedi.Instances, small.Hardware)
		}
		for i, in := range small.Incidents {
			if in.At+in.For > small.Length || in.For > time.Minute/6+time.Second && in.For > full.Incidents[i].For {
				t.Errorf("%s: incident %+v", name, in)
			}
		}
		for _, e := range small.World.Events {
			if e.At > small.Length {
				t.Errorf("%s: event %+v after the end", name, e)
			}
		}
		if again := load(t, name); again.Length != full.Length || len(full.World.Events) > 0 && full.World.Events[0].At != again.World.Events[0].At {
			t.Errorf("%s: Small has changed what it was given", name)
		}
		if _, err := small.Config(simulate.Queueville); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	s := load(t, "viral-post")
	for about, f := range map[string]Form{
		"too short": {Length: time.Second}, "too long": {Length: 2 * MaxLength}, "nobody": {Rate: -1}, "a drain of nothing": {Drain: 1}, "too many instances": {Instances: 1e6},
		"all cores": {Cores: 2, Machine: 2},
	} {
		if _, err := Small(s, f); err == nil {
			t.Errorf("%s: no error", about)
		}
	}
	if _, err := Small(s, Form{Length: 1, Drain: 1, Rate: -1}); err == nil || strings.Count(err.Error(), "possible") != 3 {
		t.Errorf("Small with three problems: %v", err)
	}
}

// TestAll takes a whole run by hand: every job that is pushed begins, leaves what follows from it, and ends, as Ruby would tell of it.
func TestAll(t *testing.T) {
	s, err := Small(load(t, "follow-wave"), Form{Length: 10 * time.Second, Instances: 20, Rate: 2})
	if err != nil {
		t.Fatal(err)
	}
	c := conductorOf(t, s, 100_000)
	var pending []string
	say := func(line string) (string, []byte) {
		t.Helper()
		answer, more, err := c.line(line)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		return answer, more
	}
	stream := c.world.Stream()
	arrive := func(p world.Push) {
		if p.Scheduled {
			return
		}
		payload, key, err := c.write.payload(&p.Job, 0, c.start, c.start)
		if err != nil {
			t.Fatal(err)
		}
		r := c.books.add(&p.Job, 0, queued)
		c.key(r, key)
		c.meter.pushed(r)
		pending = append(pending, string(payload))
	}
	for {
		if _, ok := stream.Next(arrive); !ok {
			break
		}
	}
	ran := 0
	for ; len(pending) > 0; ran++ {
		var p struct {
			JID, Class, Queue string
			Args              []any
			Retry             int
			Enqueued          float64 `json:"enqueued_at"`
		}
		if err := json.Unmarshal([]byte(pending[0]), &p); err != nil {
			t.Fatalf("%v in %s", err, pending[0])
		}
		pending = pending[1:]
		id, ok := idOf(p.JID)
		if r := c.books.jobs[id]; !ok || r == nil || world.ClassTable[r.Class].Name != p.Class || world.QueueNames[r.Queue()] != p.Queue {
			t.Fatalf("a payload of no job of ours: %+v", p)
		}
		answer, _ := say(fmt.Sprintf("S %s 0 17 %.6f", p.JID, p.Enqueued))
		if f := strings.Fields(answer); len(f) != 8 {
			t.Fatalf("a job's costs: %q", answer)
		}
		answer, more := say("L " + p.JID + " 0")
		var n, bytes int
		if _, err := fmt.Sscan(answer, &n, &bytes); err != nil || bytes != len(more) {
			t.Fatalf("what a job leaves: %q and %d bytes", answer, len(more))
		}
		lines := strings.Split(strings.TrimSuffix(string(more), "\n"), "\n")
		for i := 0; i+1 < len(lines); i += 2 {
			if strings.HasSuffix(lines[i], " 0") {
				pending = append(pending, lines[i+1])
			}
		}
		if again, _ := say("L " + p.JID + " 0"); strings.Fields(again)[0] != strings.Fields(answer)[0] { // cut off before it pushed: it is given the same again
			t.Fatalf("what a job leaves: %q, then %q", answer, again)
		}
		say("E " + p.JID + " 0")
		if again, _ := say("L " + p.JID + " 0"); again != "0 0" {
			t.Fatalf("a job that is over leaves %q", again)
		}
	}
	if ran < 100 || c.meter.done != ran || c.books.open() != 0 || c.books.count[handed] != 0 || c.meter.arrived != ran {
		t.Errorf("%d jobs ran; the books say %d done, %d open, %d handed over, %d pushed", ran, c.meter.done, c.books.open(), c.books.count[handed], c.meter.arrived)
	}
}

// TestBooks: where jobs are, by what is told of them and what is found.
func TestBooks(t *testing.T) {
	s, err := Small(load(t, "viral-post"), Form{Length: 10 * time.Second, Instances: 5})
	if err != nil {
		t.Fatal(err)
	}
	for about, test := range map[string]struct {
		class world.ClassID
		lines []string // %s is the job
		found place
		want  fates

		accepted bool // by the receiver
	}{
		"still there":                      {class: world.Mail, found: inQueue, want: fates{Enqueued: 1, Waiting: 1}},
		"nowhere":                          {class: world.Mail, want: fates{Enqueued: 1, Missing: 1}},
		"done":                             {class: world.Mail, lines: []string{"S %s 0 1 0", "E %s 0"}, want: fates{Enqueued: 1, Done: 1}},
		"done, and there again":            {class: world.Mail, lines: []string{"S %s 0 1 0", "E %s 0"}, found: inQueue, want: fates{Enqueued: 1, Done: 1, Doubled: 1}},
		"done twice":                       {class: world.Mail, lines: []string{"S %s 0 1 0", "E %s 0", "S %s 0 1 0", "E %s 0"}, want: fates{Enqueued: 1, Done: 1, Doubled: 1}},
		"killed, and given back":           {class: world.Mail, lines: []string{"S %s 0 1 0", "S %s 0 1 0", "E %s 0"}, want: fates{Enqueued: 1, Done: 1}},
		"killed":                           {class: world.Mail, lines: []string{"S %s 0 1 0"}, want: fates{Enqueued: 1, Missing: 1}},
		"killed, and in a worker's hash":   {class: world.Mail, lines: []string{"S %s 0 1 0"}, found: inFlight, want: fates{Enqueued: 1, Running: 1}},
		"cut off":                          {class: world.Mail, lines: []string{"S %s 0 1 0", "F %s 0 cut"}, found: inQueue, want: fates{Enqueued: 1, Waiting: 1}},
		"failed":                           {class: world.Mail, lines: []string{"S %s 0 1 0", "F %s 0 failed"}, found: inRetry, want: fates{Enqueued: 1, Again: 1}},
		"failed, and its retry is nowhere": {class: world.Mail, lines: []string{"S %s 0 1 0", "F %s 0 failed"}, want: fates{Enqueued: 1, Missing: 1}},
		"failed for the last time":         {class: world.Mail, lines: []string{"S %s 25 1 0", "F %s 25 failed"}, found: inDead, want: fates{Enqueued: 1, Dead: 1}},
		"failed for the last time, and discarded": {
			class: world.LinkCrawl, lines: []string{"S %s 0 1 0", "F %s 0 failed"}, want: fates{Enqueued: 1, Discarded: 1},
		},
		"a native one":                         {class: world.Delivery, lines: []string{"X %s acked 1000 2000"}, want: fates{Enqueued: 1, Done: 1}},
		"a native one whose end nobody told":   {class: world.Delivery, accepted: true, want: fates{Enqueued: 1, Done: 1, Unheard: 1}},
		"accepted, and there again":            {class: world.Delivery, accepted: true, found: inQueue, want: fates{Enqueued: 1, Waiting: 1}},
		"accepted, and its process was killed": {class: world.Delivery, accepted: true, lines: []string{"S %s 0 1 0"}, want: fates{Enqueued: 1, Missing: 1}},
		"a native one that is put off": {
			class: world.Delivery, lines: []string{"X %s deferred 1000 0"}, found: inSchedule, want: fates{Enqueued: 1, Again: 1},
		},
		"a native one that failed": {class: world.Delivery, lines: []string{"X %s retried 1000 5000"}, found: inRetry, want: fates{Enqueued: 1, Again: 1}},
		"a native one given back":  {class: world.Delivery, lines: []string{"X %s requeued 1000 0"}, found: inQueue, want: fates{Enqueued: 1, Waiting: 1}},
	} {
		t.Run(about, func(t *testing.T) {
			c := conductorOf(t, s, 10)
			c.books.add(&world.Job{ID: 7, Class: test.class}, 0, queued)
			for _, line := range test.lines {
				if _, _, err := c.line(fmt.Sprintf(line, jidOf(7))); err != nil {
					t.Fatalf("%q: %v", line, err)
				}
			}
			c.books.jobs[7].accepted = test.accepted
			var got fates
			got.enter(c.books.jobs[7], test.found, c.meter)
			got.MissingJIDs, got.DoubledJIDs = nil, nil
			if fmt.Sprint(got) != fmt.Sprint(test.want) {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestQuantile(t *testing.T) {
	list := []float64{1, 2, 3, 4}
	for q, want := range map[float64]float64{0: 1, 0.5: 3, 0.99: 4, 1: 4} {
		if got := quantile(list, q); got != want {
			t.Errorf("quantile(%v) = %v, want %v", q, got, want)
		}
	}
	if quantile(nil, 0.5) != 0 {
		t.Error("a quantile of nothing is not 0")
	}
}

func TestRubyThreads(t *testing.T) {
	for _, test := range []struct{ budget, cores, want int }{{25, 1, 20}, {25, 2, 10}, {200, 4, 25}, {10, 1, 5}, {60, 2, 25}} {
		if got := rubyThreads(test.budget, test.cores); got != test.want {
			t.Errorf("rubyThreads(%d, %d) = %d, want %d", test.budget, test.cores, got, test.want)
		}
	}
}

func TestClasses(t *testing.T) {
	list := rubyClasses()
	if c := list["ActivityPub::DeliveryWorker"]; c.Queue != "push" || c.Retry != 16 || c.Dead || c.Backoff != "delivery" {
		t.Errorf("the class of deliveries is %+v", c)
	}
	if c := list["ThreadResolveWorker"]; c.Backoff != "exponential" || !slices.Contains(world.QueueNames[:], c.Queue) {
		t.Errorf("a class with waits of its own is %+v", c)
	}
}

// FuzzLine: whoever finds the socket can say anything.
func FuzzLine(f *testing.F) {
	for _, line := range []string{"S %s 0 1 0", "L %s 0", "E %s 0", "F %s 0 cut", "X %s acked 1 1", "S", "", "X", "S x y z"} {
		f.Add(strings.ReplaceAll(line, "%s", jidOf(7)))
	}
	s, err := Small(load(f, "viral-post"), Form{Length: 10 * time.Second, Instances: 5})
	if err != nil {
		f.Fatal(err)
	}
	c := conductorOf(f, s, 100)
	f.Fuzz(func(_ *testing.T, line string) {
		c.mu.Lock()
		c.books.add(&world.Job{ID: 7, Class: world.Distribution, Fan: 3}, 0, queued)
		c.mu.Unlock()
		_, _, _ = c.line(line)
	})
}

func TestParseCPUs(t *testing.T) {
	for text, want := range map[string]string{"0": "[0]", "0-2": "[0 1 2]", "0,2-3": "[0 2 3]"} {
		if got, err := parseCPUs(text); err != nil || fmt.Sprint(got) != want {
			t.Errorf("parseCPUs(%q) = %v, %v; want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "a", "1-", "3-1", "-1", "0-9999999"} {
		if got, err := parseCPUs(text); err == nil {
			t.Errorf("parseCPUs(%q) = %v; want an error", text, got)
		}
	}
}

// TestGuard: when we are gone, so are the job processes and their directory.
func TestGuard(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	g, err := startGuard(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	var list [2]*process
	for i := range list {
		if list[i], err = spawn(g, "/", nil, "", "/bin/sh", "-c", "/bin/sleep 60 & wait"); err != nil {
			t.Fatal(err)
		}
	}
	list[0].stop(time.Second) // one has ended before; its number is nobody's any more
	if err := g.in.Close(); err != nil {
		t.Fatal(err)
	}
	if err := g.cmd.Wait(); err != nil {
		t.Error(err)
	}
	select {
	case <-list[1].done:
	case <-time.After(10 * time.Second):
		t.Error("a job process goes on without us")
		list[1].kill()
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("the directory is still there")
	}
}
