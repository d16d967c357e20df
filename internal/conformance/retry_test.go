package conformance

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/queueville/queueville/internal/oracle"
	"github.com/queueville/queueville/scheduler"
	"github.com/queueville/queueville/worker"
)

// failing are jobs whose next run fails, by what is special about them.
var failing = map[string]string{
	"item 33: a first failure":              payload("OracleFail", `["boom"]`, jid(1), ""),
	"item 34: a second failure":             payload("OracleFail", `["boom"]`, jid(2), `,"failed_at":1795291061.25,"retry_count":0,"error_class":"E","error_message":"old"`),
	"item 31: unknown fields":               payload("OracleFail", `[]`, jid(3), `,"x":{"a":[1,null,{"b":12345678901234567890123}]},"y":1.50e3,"tags":["t"],"bid":"b-1"`),
	"item 32: without retry":                `{"queue":"default","class":"OracleFail","args":[],"jid":"` + jid(4) + `","created_at":1795291060.5,"enqueued_at":1795291060.5}`,
	"item 38: retry_queue":                  payload("OracleFail", `[]`, jid(5), `,"retry_queue":"low"`),
	"item 39: the last retry":               payload("OracleFail", `[]`, jid(6), `,"retry":3,"failed_at":1795291061.25,"retried_at":1795291062.25,"retry_count":2`),
	"item 39: the last retry but one":       payload("OracleFail", `[]`, jid(7), `,"retry":3,"failed_at":1795291061.25,"retried_at":1795291062.25,"retry_count":1`),
	"item 40: retry 0":                      payload("OracleFail", `[]`, jid(8), `,"retry":0`),
	"item 41: retry false":                  payload("OracleFail", `[]`, jid(9), `,"retry":false`),
	"item 42: retry as a string":            payload("OracleFail", `[]`, jid(10), `,"retry":"1"`),
	"item 43: after a press on retry now":   payload("OracleFail", `[]`, jid(11), `,"failed_at":1795291061.25,"retry_count":-1`),
	"item 44: dead false":                   payload("OracleFail", `[]`, jid(12), `,"retry":0,"dead":false`),
	"item 47: a long message":               payload("OracleFail", `["`+strings.Repeat("ü", 12_000)+`"]`, jid(13), ""),
	"item 49: with backtrace":               payload("OracleFail", `[]`, jid(14), `,"backtrace":5`),
	"item 50: integer milliseconds":         strings.NewReplacer("1795291060.2769928", "1795291060276", "1795291060.277345", "1795291060277").Replace(payload("OracleFail", `["ü<>& "]`, jid(15), "")),
	"item 50: milliseconds, second failure": strings.NewReplacer("1795291060.2769928", "1795291060276", "1795291060.277345", "1795291060277").Replace(payload("OracleFail", `[]`, jid(16), `,"failed_at":1795291061250,"retry_count":0`)),
}

// fate is where a failed job is and what its entry says.
type fate struct {
	set   string // retry, dead or nowhere
	entry map[string]json.RawMessage
	score float64
}

func fates(g *ground) map[string]fate {
	out := map[string]fate{}
	for _, set := range []string{"retry", "dead"} {
		for _, z := range g.c.ZRangeWithScores(g.t.Context(), set, 0, -1).Val() {
			f := fields(g.t, z.Member.(string))
			var id string
			_ = json.Unmarshal(f["jid"], &id)
			out[id] = fate{set, f, z.Score}
		}
	}
	return out
}

func deaths(g *ground) []string {
	var out []string
	for _, line := range g.c.LRange(g.t.Context(), "oracle:deaths", 0, -1).Val() {
		var d struct{ JID string }
		if err := json.Unmarshal([]byte(line), &d); err != nil {
			g.t.Fatal(err)
		}
		out = append(out, d.JID)
	}
	slices.Sort(out)
	return out
}

// TestConformanceFailuresAsRuby: the same failing jobs given to a real Sidekiq and to us; both must leave the same in Redis.
func TestConformanceFailuresAsRuby(t *testing.T) {
	t.Parallel()
	theirs, ours := newGround(t), newGround(t)
	major, _ := theirs.sidekiqVersion()
	n := len(failing)
	for _, g := range []*ground{theirs, ours} {
		for _, name := range slices.Sorted(maps.Keys(failing)) {
			g.push("default", failing[name])
		}
	}
	sidekiq := theirs.ruby.StartSidekiq(nil, "-q", "default", "-c", "1")
	e := ours.start(nil)
	ours.waitFor("our failures", func() bool {
		return e.ended(worker.Retried)+e.ended(worker.Dead)+e.ended(worker.Discarded) == n
	})
	e.stop(t)
	theirs.waitFor("Ruby's failures", func() bool { return len(fates(theirs)) >= n-2 && len(deaths(theirs)) >= 4 })
	sidekiq.Stop()

	want, got := fates(theirs), fates(ours)
	for name, text := range failing {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var id string
			_ = json.Unmarshal(fields(t, text)["jid"], &id)
			w, g := want[id], got[id]
			if w.set != g.set {
				t.Fatalf("Ruby has it in %q, we have it in %q", w.set, g.set)
			}
			compareEntries(t, text, w.entry, g.entry, major)
			if w.set == "retry" {
				checkDue(t, g)
			}
		})
	}
	if w, g := deaths(theirs), e.jids(worker.Dead, worker.Discarded); !slices.Equal(w, g) {
		t.Errorf("items 41, 44: Ruby's death handlers were told of %v, ours of %v", w, g)
	}
	ours.judgeEntries(major)
}

// compareEntries: the same fields with the same values, but for times that were written now and the backtrace.
func compareEntries(t *testing.T, before string, want, got map[string]json.RawMessage, major int) {
	t.Helper()
	if w, g := slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got)); !slices.Equal(w, g) {
		t.Errorf("Ruby's entry has the fields %v, ours %v", w, g)
	}
	old := fields(t, before)
	for name, w := range want {
		g := got[name]
		switch {
		case name == "error_backtrace":
		case name == "retried_at", name == "failed_at" && old[name] == nil:
			if major < 8 && !strings.Contains(string(g), ".") {
				t.Errorf("%s = %s, want a float", name, g)
			}
		case old[name] != nil && string(old[name]) == string(g) && name != "args":
			// Untouched bytes: Ruby may have written the same value otherwise (1.50e3 as 1500.0).
		case string(w) != string(g):
			t.Errorf("%s = %.200s, Ruby has %.200s", name, g, w)
		}
	}
	for name, raw := range old {
		if slices.Contains([]string{"retry_count", "error_class", "error_message", "retried_at"}, name) {
			continue
		}
		if string(got[name]) != string(raw) && len(got) > 0 && (name != "queue" || old["retry_queue"] == nil) {
			t.Errorf("%s was %s and is %.200s", name, raw, got[name])
		}
	}
}

// checkDue: item 35, the time of the next try.
func checkDue(t *testing.T, f fate) {
	t.Helper()
	var count, at float64
	_ = json.Unmarshal(f.entry["retry_count"], &count)
	stamp := f.entry["retried_at"]
	if stamp == nil {
		stamp = f.entry["failed_at"]
	}
	_ = json.Unmarshal(stamp, &at)
	least := count*count*count*count + 15
	if delay := f.score - at; delay < least-0.01 || delay >= least+10*(count+1)+0.01 {
		t.Errorf("item 35: due %.1f s after the failure, want %v to %v", delay, least, least+10*(count+1))
	}
}

// judgeEntries has Ruby read everything that failed.
func (g *ground) judgeEntries(major int) {
	g.t.Helper()
	v := g.ruby.Inspect("retry", "dead", "stats")
	for _, j := range slices.Concat(v.Retry, v.Dead) {
		if strings.Contains(string(j.Latency), "!error") || strings.Contains(string(j.CreatedAt), "!error") {
			g.t.Errorf("Ruby cannot read %s: created %s, latency %s", j.JID, j.CreatedAt, j.Latency)
		}
		if j.JID == jid(15) && major >= 8 && !strings.Contains(string(j.CreatedAt), "2026-11-21T19:57:40.276") {
			g.t.Errorf("item 50: created_at = %s", j.CreatedAt)
		}
	}
	var pages []string
	for _, z := range g.c.ZRangeWithScores(g.t.Context(), "retry", 0, -1).Val() {
		var id string
		_ = json.Unmarshal(fields(g.t, z.Member.(string))["jid"], &id)
		pages = append(pages, fmt.Sprintf("/retries/%s-%s", rubyFloat(z.Score), id))
	}
	if page, ok := g.ruby.WebGet(pages[0]); !ok {
		g.t.Errorf("item 51: %s fails: %s", pages[0], page)
	}
	g.ruby.WebSmoke()
}

// rubyFloat prints a score as Ruby's pages name it.
func rubyFloat(f float64) string {
	s := fmt.Sprintf("%.7f", f)
	s = strings.TrimRight(s, "0")
	if strings.HasSuffix(s, ".") {
		s += "0"
	}
	return s
}

// TestConformanceRetriesChangeHands: a retry made by Go is finished by Ruby, and the reverse; items 52, 54 to 56, 66 with whole engines.
func TestConformanceRetriesChangeHands(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	g.push("default", payload("OracleFailTimes", `["a",1]`, jid(1), ""), payload("OracleFailTimes", `["b",1]`, jid(2), `,"retry_queue":"low"`))
	e := g.start(nil)
	g.waitFor("two retries by Go", func() bool { return len(g.set("retry")) == 2 })
	e.stop(t)
	g.makeDue("retry")
	sidekiq := g.ruby.StartSidekiq([]string{"ORACLE_POLL=0.2"}, "-q", "default", "-q", "low", "-c", "2")
	g.waitFor("Ruby to finish them", func() bool { return len(g.done()) == 2 })
	// The reverse: fails in Ruby, finished by Go.
	g.push("default", payload("OracleFailTimes", `["c",1]`, jid(3), ""))
	g.ruby.Push(`{"class":"OracleFailTimes","args":["d",1],"jid":"`+jid(4)+`"}`, `{"class":"OracleFail","args":["dies"],"jid":"`+jid(5)+`","retry":0}`)
	g.waitFor("Ruby's failures", func() bool { return len(g.set("retry")) == 2 && len(g.set("dead")) == 1 })
	sidekiq.Stop()
	if got := g.done(); len(got) != 2 {
		t.Fatalf("done = %v before Go's turn", got)
	}
	// Scheduled by Ruby, run by Go (54); resurrected by Ruby, fails again in Go (66).
	in := g.ruby.Push(fmt.Sprintf(`{"class":"OracleNoop","args":["later"],"jid":"%s","at":%d}`, jid(6), time.Now().Unix()-5))
	if len(in) != 1 || len(g.set("schedule")) != 1 {
		t.Fatalf("schedule = %v", g.set("schedule"))
	}
	if !g.ruby.Control("resurrect", jid(5)) {
		t.Error("item 66: nothing to resurrect")
	}
	g.makeDue("retry")
	e = g.start(func(cfg *worker.Config, _ *oracleJobs) { cfg.Owned = append(cfg.Owned, scheduler.Queue{Name: "low"}) })
	g.waitFor("Go to finish them", func() bool { return len(g.done()) == 5 && len(g.set("dead")) == 1 && e.ended(worker.Dead) == 1 })
	e.stop(t)
	for id, runs := range g.done() {
		if runs != 1 {
			t.Errorf("%s was finished %d times", id, runs)
		}
	}
	for _, key := range []string{"a", "b", "c", "d"} {
		if n := g.c.Get(t.Context(), "oracle:attempts:"+key).Val(); n != "2" {
			t.Errorf("job %s ran %s times, want 2", key, n)
		}
	}
	v := g.ruby.Inspect("dead")
	if len(v.Dead) != 1 || v.Dead[0].JID != jid(5) || v.Dead[0].Class != "OracleFail" {
		t.Errorf("item 66: dead = %s", v.Raw)
	}
	g.ruby.WebSmoke()
}

// TestConformanceRubysButtons: Ruby's retry now, kill and delete on entries that a running engine made (52), the job coming back to it.
func TestConformanceRubysButtons(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	for i := 1; i <= 4; i++ {
		g.push("default", payload("OracleFail", "[]", jid(i), ""))
	}
	e := g.start(nil)
	g.waitFor("four retries", func() bool { return e.ended(worker.Retried) == 4 })
	entries := map[string]string{}
	for _, m := range g.set("retry") {
		var id string
		_ = json.Unmarshal(fields(t, m)["jid"], &id)
		entries[id] = m
	}
	for _, action := range [][]string{{"retry-now", jid(1)}, {"kill", jid(2)}, {"delete", "retry", jid(3)}} {
		if !g.ruby.Control(action...) {
			t.Errorf("item 52: %v finds nothing", action)
		}
	}
	g.waitFor("the fifth failure", func() bool { return e.ended(worker.Retried) == 5 })
	now := fates(g)
	if f := now[jid(1)]; f.set != "retry" || string(f.entry["retry_count"]) != "0" || f.entry["retried_at"] == nil {
		t.Errorf("items 43, 52: after retry now: %v", f)
	}
	if _, there := now[jid(3)]; there || len(now) != 3 {
		t.Errorf("item 52: %d entries left", len(now))
	}
	if dead := g.set("dead"); len(dead) != 1 || dead[0] != entries[jid(2)] {
		t.Errorf("item 52: dead = %q, want the bytes of the retry entry", dead)
	}
	if page := mustPage(t, g.ruby, "/morgue"); !strings.Contains(page, "OracleFail") {
		t.Errorf("the dead page does not show it: %s", page)
	}
	if page := mustPage(t, g.ruby, "/retries"); strings.Count(page, "failing on purpose") < 2 {
		t.Errorf("the retries page does not show them: %s", page)
	}
}

func mustPage(t *testing.T, o *oracle.Oracle, path string) string {
	t.Helper()
	page, ok := o.WebGet(path)
	if !ok {
		t.Errorf("%s fails: %s", path, page)
	}
	return page
}
