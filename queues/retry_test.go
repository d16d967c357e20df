package queues

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/redis/go-redis/v9"
)

func mustParse(t *testing.T, payload string) Job {
	t.Helper()
	job, err := ParseJob(payload)
	if err != nil {
		t.Fatal(err)
	}
	return job
}

func entry(t *testing.T, payload string, o RetryOptions) Retry {
	t.Helper()
	r, err := RetryEntry(mustParse(t, payload), "default", Failure{Class: "E", Message: "m", Backtrace: []string{"a", "b", "c"}}, now.Add(276992800*time.Nanosecond), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func none(int) int { return 0 }

func TestRetryEntry(t *testing.T) {
	const at = 1795291060.2769928
	for name, c := range map[string]struct {
		in      string
		o       RetryOptions
		verdict Verdict
		dies    bool // exhausted
		after   float64
		out     string
	}{
		"item 33: a first failure": {
			in: `{"retry":true,"queue":"default","class":"C","args":[]}`, verdict: VerdictRetry, after: 15,
			out: `{"retry":true,"queue":"default","class":"C","args":[],"error_message":"m","error_class":"E","failed_at":1795291060.2769928,"retry_count":0}`,
		},
		"item 34: a second failure": {
			in: `{"retry":true,"queue":"default","failed_at":1795000000123,"retry_count":0,"error_class":"X","error_message":"y"}`, verdict: VerdictRetry, after: 16,
			out: `{"retry":true,"queue":"default","failed_at":1795000000123,"retry_count":1,"error_class":"E","error_message":"m","retried_at":1795291060.2769928}`,
		},
		"item 32: without retry": {
			in: `{"queue":"default"}`, verdict: VerdictRetry, after: 15,
			out: `{"queue":"default","error_message":"m","error_class":"E","failed_at":1795291060.2769928,"retry_count":0,"retry":true}`,
		},
		"item 38: retry_queue": {
			in: `{"retry":1,"queue":"default","retry_queue":"low"}`, verdict: VerdictRetry, after: 15,
			out: `{"retry":1,"queue":"low","retry_queue":"low","error_message":"m","error_class":"E","failed_at":1795291060.2769928,"retry_count":0}`,
		},
		"item 39: the last of 3 retries": {in: `{"retry":3,"retry_count":2,"failed_at":1.5}`, verdict: VerdictDead, dies: true},
		"item 39: the one before":        {in: `{"retry":3,"retry_count":1,"failed_at":1.5}`, verdict: VerdictRetry, after: 31},
		"item 40: retry 0": {
			in: `{"retry":0,"queue":"default"}`, verdict: VerdictDead, dies: true,
			out: `{"retry":0,"queue":"default","error_message":"m","error_class":"E","failed_at":1795291060.2769928,"retry_count":0}`,
		},
		"item 41: retry false":           {in: `{"retry":false}`, verdict: VerdictDiscard, dies: true, out: `{"retry":false}`},
		"item 42: retry a string":        {in: `{"retry":"1","retry_count":23,"failed_at":1.5}`, verdict: VerdictRetry, after: math.Pow(24, 4) + 15},
		"item 42: and its end":           {in: `{"retry":"1","retry_count":24,"failed_at":1.5}`, verdict: VerdictDead, dies: true},
		"item 43: after retry now":       {in: `{"retry":true,"retry_count":-1,"failed_at":1.5}`, verdict: VerdictRetry, after: 15},
		"item 44: dead false":            {in: `{"retry":0,"dead":false}`, verdict: VerdictDiscard, dies: true},
		"item 45: retry_for, seconds":    {in: `{"retry":true,"retry_for":10,"failed_at":1795287460.25,"retry_count":0}`, verdict: VerdictDead, dies: true},
		"item 45: retry_for, ms":         {in: `{"retry":true,"retry_for":10,"failed_at":1795287460250,"retry_count":0}`, verdict: VerdictDead, dies: true},
		"item 45: retry_for, not over":   {in: `{"retry":true,"retry_for":7200,"failed_at":1795287460250,"retry_count":99}`, verdict: VerdictRetry, after: 1e8 + 15},
		"item 46: 8.1 rule":              {in: `{"retry":0,"retry_for":3600}`, verdict: VerdictRetry, after: 15},
		"item 46: 8.0 rule":              {in: `{"retry":0,"retry_for":3600}`, o: RetryOptions{RetryForByCount: true}, verdict: VerdictDead, dies: true},
		"max_retries of the process":     {in: `{"retry":true,"retry_count":1,"failed_at":1.5}`, o: RetryOptions{MaxRetries: 2}, verdict: VerdictDead, dies: true},
		"not for a job with a number":    {in: `{"retry":3,"retry_count":1,"failed_at":1.5}`, o: RetryOptions{MaxRetries: 2}, verdict: VerdictRetry, after: 31},
		"item 37: custom delay":          {in: `{"retry":true}`, o: delay(60*time.Second, DelayCustom), verdict: VerdictRetry, after: 60},
		"custom delay of nothing":        {in: `{"retry":true}`, o: delay(0, DelayCustom), verdict: VerdictRetry, after: 15},
		"kill":                           {in: `{"retry":true}`, o: delay(0, DelayKill), verdict: VerdictDead, dies: true},
		"kill with dead false":           {in: `{"retry":true,"dead":false}`, o: delay(0, DelayKill), verdict: VerdictDiscard, dies: true},
		"discard":                        {in: `{"retry":true}`, o: delay(0, DelayDiscard), verdict: VerdictDiscard, dies: true},
		"what Ruby cannot write is kept": {in: "{\"retry\":true,\"dead\":false,\"args\":[\"\xff\"]}", verdict: VerdictDead, dies: true, out: "{\"retry\":true,\"dead\":false,\"args\":[\"\xff\"]}"},
		"milliseconds": {
			in: `{"retry":true,"queue":"default"}`, o: RetryOptions{Milliseconds: true}, verdict: VerdictRetry, after: 15,
			out: `{"retry":true,"queue":"default","error_message":"m","error_class":"E","failed_at":1795291060276,"retry_count":0}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			c.o.Rand = none
			r := entry(t, c.in, c.o)
			if r.Verdict != c.verdict || r.Exhausted != c.dies || r.Score != at+c.after || r.Reason == "" {
				t.Errorf("RetryEntry = %c, exhausted %v, score now+%v (%s), want %c, %v, now+%v", r.Verdict, r.Exhausted, r.Score-at, r.Reason, c.verdict, c.dies, c.after)
			}
			if c.out != "" && r.Payload != c.out {
				t.Errorf("payload = %s\nwant      %s", r.Payload, c.out)
			}
		})
	}
}

func delay(d time.Duration, rule DelayRule) RetryOptions {
	return RetryOptions{Delay: func(int) (time.Duration, DelayRule) { return d, rule }}
}

// TestItem31: unknown fields stay as they are, digits included; and so does everything else that is not to change.
func TestItem31UnknownFieldsStay(t *testing.T) {
	tail := `"a":1.10,"b":[123456789012345678901234567890,1E5,null],"c":{"d":"\u00e9\/"},"e":true,"cattr":{},"created_at":1795291060276`
	r := entry(t, `{"retry":true,"queue":"default","class":"C","args":[9007199254740993],`+tail+`}`, RetryOptions{})
	if !strings.HasPrefix(r.Payload, `{"retry":true,"queue":"default","class":"C","args":[9007199254740993],`+tail+`,"error_message"`) {
		t.Errorf("payload = %s", r.Payload)
	}
}

func TestItem35And36Jitter(t *testing.T) {
	for count := range 25 {
		payload := `{"retry":25,"queue":"default","failed_at":1.5,"retry_count":` + strconv.Itoa(count-1) + `}`
		if count == 0 {
			payload = `{"retry":25,"queue":"default"}`
		}
		job := mustParse(t, payload)
		low := math.Pow(float64(count), 4) + 15
		v7, v8 := map[float64]bool{}, map[float64]bool{}
		for range 1000 {
			for seven, seen := range map[bool]map[float64]bool{true: v7, false: v8} {
				r, err := RetryEntry(job, "default", Failure{}, now, RetryOptions{Jitter7: seven})
				if err != nil || r.Verdict != VerdictRetry {
					t.Fatal(r, err)
				}
				j := r.Score - float64(now.Unix()) - low
				if j < 0 || j >= float64(10*(count+1)) || j != math.Trunc(j) || seven && math.Mod(j, float64(count+1)) != 0 {
					t.Fatalf("count %d: jitter %v", count, j)
				}
				seen[j] = true
			}
		}
		if count == 1 && (len(v8) != 20 || len(v7) != 10) {
			t.Errorf("jitter takes %d and %d values, want 20 and 10", len(v8), len(v7))
		}
	}
}

func TestItem47And48ErrorMessages(t *testing.T) {
	job := mustParse(t, `{"retry":true,"queue":"default"}`)
	for in, want := range map[string]string{
		strings.Repeat("é", 12_000): strings.Repeat("é", 10_000),
		strings.Repeat("a", 10_000): strings.Repeat("a", 10_000),
		"a\xffb":                    "a\ufffdb",
		"<\x00\n\"":                 "<\x00\n\"",
	} {
		r, err := RetryEntry(job, "default", Failure{Class: "E\xff", Message: in}, now, RetryOptions{})
		if err != nil {
			t.Fatal(err)
		}
		raw, _ := TopLevel(r.Payload, "error_message")
		if text(raw) != want || !utf8.ValidString(r.Payload) {
			t.Errorf("error_message of %.20q is %.20q", in, raw)
		}
		if _, err := ParseJob(r.Payload); err != nil {
			t.Error(err)
		}
	}
}

// TestRubyHandlesOurRetries: items 45, 47 to 53 and 66, with entries of every kind in one database.
func TestRubyHandlesOurRetries(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx := t.Context()
	at := time.Now()
	add := func(set, payload string, score float64) {
		t.Helper()
		if err := b.c.ZAdd(ctx, set, redis.Z{Score: score, Member: payload}).Err(); err != nil {
			t.Fatal(err)
		}
	}
	job := func(n int, fields string) Job {
		return mustParse(t, fmt.Sprintf(`{"retry":true,"queue":"default","class":"OracleNoop","args":[%d,"<é>"],"jid":"%s"%s}`, n, jid(n), fields))
	}
	retry := func(j Job, f Failure) Retry {
		t.Helper()
		r, err := RetryEntry(j, "default", f, at, RetryOptions{})
		if err != nil || r.Verdict != VerdictRetry {
			t.Fatal(r, err)
		}
		return r
	}
	trace := []string{"a.go:1:in `x'", "b.go:2", "é", "<d>", "e", "f"}
	kinds := map[int]Retry{
		1: retry(job(1, `,"created_at":1795291060.25`), Failure{"E", strings.Repeat("é", 12_000), nil}),
		2: retry(job(2, `,"created_at":1795291060.25`), Failure{"E", "bad \xff\xfe <b>", nil}),
		3: retry(job(3, `,"created_at":1795291060.25,"backtrace":5`), Failure{"E", "m", trace}),
		4: retry(job(4, `,"created_at":1795291060276,"enqueued_at":1795291060277,"failed_at":1795291060278,"retry_count":3`), Failure{"E", "m", nil}),
		5: retry(job(5, `,"backtrace":true,"created_at":1795291060.25`), Failure{"E", "m", trace}),
	}
	for n, r := range kinds {
		if n != 5 {
			add("retry", r.Payload, r.Score)
			continue
		}
		// Item 53: one more with the same score.
		add("retry", r.Payload, r.Score)
		add("retry", strings.Replace(r.Payload, jid(5), jid(6), 1), r.Score)
	}
	dead := retry(job(7, `,"failed_at":1795291060.5,"retry_count":3`), Failure{"E", "m", nil})
	add("dead", dead.Payload, float64(at.Unix()))

	v := b.ruby.Inspect("retry")
	if len(v.Retry) != 6 {
		t.Fatalf("Ruby sees %s", v.Raw)
	}
	for _, j := range v.Retry {
		if j.JID == jid(3) {
			if want := "[\"a.go:1:in `x'\", \"b.go:2\", \"é\", \"<d>\", \"e\"]"; !strings.Contains(strings.Join(strings.Fields(string(j.ErrorBacktrace)), " "), `"<d>", "e"`) || strings.Contains(string(j.ErrorBacktrace), `"f"`) {
				t.Errorf("item 49: backtrace = %s, want %s", j.ErrorBacktrace, want)
			}
		}
		if j.JID == jid(4) && !strings.Contains(string(j.Item), "1795291060276") {
			t.Errorf("item 50: %s", j.Item)
		}
		if page, ok := b.ruby.WebGet(fmt.Sprintf("/retries/%s-%s", score(j.Score), j.JID)); !ok {
			t.Errorf("item 51: the page of %s fails: %s", j.JID, page)
		}
	}
	b.ruby.WebSmoke()
	if got := text(mustTop(t, kinds[1].Payload, "error_message")); utf8.RuneCountInString(got) != 10_000 {
		t.Errorf("item 47: %d characters", utf8.RuneCountInString(got))
	}

	for _, action := range [][]string{{"retry-now", jid(1)}, {"kill", jid(2)}, {"delete", "retry", jid(3)}, {"retry-now", jid(5)}, {"resurrect", jid(7)}} {
		if !b.ruby.Control(action...) {
			t.Errorf("item 52: %v finds nothing", action)
		}
	}
	queue := list(t, b.c, "queue:default")
	if len(queue) != 3 {
		t.Fatalf("queue = %q", queue)
	}
	for i, want := range []struct {
		jid   string
		count int
	}{{jid(1), -1}, {jid(5), -1}, {jid(7), 3}} {
		if j := mustParse(t, queue[i]); j.JID != want.jid || j.RetryCount != want.count || !j.HasRetryCount {
			t.Errorf("items 52, 66: %s has retry_count %d, want %v", j.JID, j.RetryCount, want)
		}
	}
	// Item 43, on what Ruby pushed.
	if r := retry(mustParse(t, queue[0]), Failure{"E", "m", nil}); r.Count != 0 || mustTop(t, r.Payload, "retry_count") != "0" {
		t.Errorf("item 43: count %d, payload %.80s", r.Count, r.Payload)
	}
	if d := b.c.ZRange(ctx, "dead", 0, -1).Val(); !slices.Equal(d, []string{kinds[2].Payload}) {
		t.Errorf("item 52: dead = %.200q, want the unchanged bytes", d)
	}
	left := b.c.ZRange(ctx, "retry", 0, -1).Val()
	if len(left) != 2 || !slices.ContainsFunc(left, func(p string) bool { return strings.Contains(p, jid(6)) }) {
		t.Errorf("items 52, 53: retry = %.200q", left)
	}
}

func mustTop(t *testing.T, payload, name string) string {
	t.Helper()
	raw, ok := TopLevel(payload, name)
	if !ok {
		t.Fatalf("no %s in %s", name, payload)
	}
	return raw
}
