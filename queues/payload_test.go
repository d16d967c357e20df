package queues

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/queueville/queueville/internal/oracle"
	"github.com/queueville/queueville/internal/redistest"
)

func TestParseJob(t *testing.T) {
	payload := `{"retry":3,"queue":"low","class":"W","wrapped":"J","args":[9007199254740993,{"a":"b"}],"jid":"abc","created_at":1795291060.25,` +
		`"enqueued_at":1795291060276,"failed_at":1700000000,"retried_at":1.7e9,"retry_count":-1,"retry_for":3600,"retry_queue":"slow","dead":false,` +
		`"backtrace":5,"queueville_hold":{"why":"down"},"x":[[]]}`
	want := Job{
		Payload: payload, Class: "W", Wrapped: "J", JID: "abc", Queue: "low", Args: `[9007199254740993,{"a":"b"}]`, Hold: `{"why":"down"}`,
		Retry:      RetryRule{Enabled: true, Max: 3, Numbered: true, RetryFor: time.Hour, RetryQueue: "slow", NoDead: true, Backtrace: 5},
		RetryCount: -1, HasRetryCount: true,
		CreatedAt: 1795291060.25, EnqueuedAt: 1795291060.276, FailedAt: 1_700_000_000, RetriedAt: 1_700_000_000,
	}
	got, err := ParseJob(payload)
	if err != nil || got != want {
		t.Errorf("ParseJob = %+v, %v\nwant %+v", got, err, want)
	}
}

func TestParseJobReadsRetry(t *testing.T) {
	for raw, want := range map[string]RetryRule{
		`"retry":true`:  {Enabled: true, Max: 25},
		`"retry":false`: {Max: 25},
		`"retry":0`:     {Enabled: true, Numbered: true},
		`"retry":5`:     {Enabled: true, Numbered: true, Max: 5},
		// Item 42: anything else that is truthy counts as true.
		`"retry":"1"`:                        {Enabled: true, Max: 25},
		`"retry":5.0`:                        {Enabled: true, Max: 25},
		`"retry":null`:                       {Enabled: true, Max: 25, Missing: true},
		`"x":1`:                              {Enabled: true, Max: 25, Missing: true},
		`"retry":1,"retry":false`:            {Max: 25},
		`"retry":99999999999999999999`:       {Enabled: true, Numbered: true, Max: math.MaxInt32},
		`"retry":1,"backtrace":true`:         {Enabled: true, Numbered: true, Max: 1, Backtrace: -1},
		`"retry":1,"dead":null`:              {Enabled: true, Numbered: true, Max: 1},
		`"retry":1,"retry_for":1e300`:        {Enabled: true, Numbered: true, Max: 1, RetryFor: 1e9 * time.Second},
		`"retry":1,"retry_for":"x"`:          {Enabled: true, Numbered: true, Max: 1},
		`"retry":1,"retry_queue":"\u0061\\"`: {Enabled: true, Numbered: true, Max: 1, RetryQueue: `a\`},
	} {
		job, err := ParseJob("{" + raw + "}")
		if err != nil || job.Retry != want {
			t.Errorf("ParseJob(%s).Retry = %+v, %v, want %+v", raw, job.Retry, err, want)
		}
	}
}

func TestItem30TheLastOfADuplicatedKeyCounts(t *testing.T) {
	job, err := ParseJob(`{"class":"A","class":"B","args":[1],"args":[2],"jid":"1","j\u0069d":"2"}`)
	if err != nil || job.Class != "B" || job.Args != "[2]" || job.JID != "2" {
		t.Errorf("ParseJob = %+v, %v", job, err)
	}
}

// texts are inputs at which JSON parsers differ.
func texts() []string {
	list := []string{
		"", " ", "{}", " {} \n", "\f{}", "{}\x00", "{}x", "[1,2]", `"s"`, "3", "null", "nul", "[1", "\ufeff{}", "{,}", `{"a"}`, `{"a":}`, `{a:1}`, `{'a':1}`, `{1:2}`,
		`{"a":1,}`, `{"a":[1,]}`, `{"a":1,,"b":2}`, `{"a":1 "b":2}`, `{"a":[1 2]}`, `{"a":NaN}`, `{"a":Infinity}`, `{"a":-Infinity}`, `{"a":tru}`, `{"a":truex}`,
		`{"a":01}`, `{"a":-}`, `{"a":-0}`, `{"a":-0.0}`, `{"a":--1}`, `{"a":+1}`, `{"a":1.}`, `{"a":.5}`, `{"a":1.e5}`, `{"a":1e}`, `{"a":1e5}`, `{"a":1E+05}`, `{"a":1e400}`,
		`{"a":-1e400}`, `{"a":1e-400}`, `{"a":0x1}`, `{"a":1_0}`, `{"a":1-2}`, `{"a":1.5.5}`, `{"a":123456789012345678901234567890}`, `{"a":1` + strings.Repeat("0", 400) + `}`, `{"a":1` + strings.Repeat("0", 400) + `.5}`,
		`{"a":"\q"}`, `{"a":"\u12"}`, `{"a":"\uZZZZ"}`, `{"a":"\ud800"}`, `{"a":"\udc00"}`, `{"a":"\ud800\u0041"}`, `{"a":"\ud83d\ude00"}`, `{"a":"\ud83dx"}`, `{"a":"\uD83D\n"}`,
		`{"a":"\ud83d\uzzzz"}`, `{"a":"\ud800\ud800"}`, `{"\ud800":1}`, `{"a":"\u0000"}`, `{"a":"\/"}`, "{\"a\":\"\t\"}", "{\"a\":\"\x7f\"}", "{\"a\":\"\xff\"}", "{\"\xff\":1}", "{\"a\":\"\\\n\"}",
		"{\"a\":\"\xed\xa0\x80\"}", "{\"a\":\"é\u2028😀\"}", "{\"a\":1,\u00a0\"b\":2}", `{"a":"x`, `{"a":"x\`, `{"a":"x\"`, `{"a":"x\u`, `{"a" : [ ] , "b" : { } }`, `{"a":"` + strings.Repeat("x", 7) + "\x01" + `"}`,
		`{"class":"C","args":[]}}`, `{"class":"C","args":[}`, `{"class":"C","args":[]]`, "{\"a\":\"\\\x01\"}", `{"a":"\u00e9\u00E9"}`,
	}
	for _, n := range []int{98, 99, 100} {
		list = append(list, `{"args":`+strings.Repeat("[", n)+strings.Repeat("]", n)+`}`, strings.Repeat(`{"a":`, n)+"1"+strings.Repeat("}", n))
	}
	seed := []string{deliveryPayload("C", jid(7), 700), `{"retry":true,"queue":"default","class":"C","args":[1,-2.5e3,{"a":[null,true,false,"\u00e9\n\ud83d\ude00"]}],"jid":"x","created_at":1.5}`}
	r := rand.New(rand.NewPCG(1, 2))
	const alphabet = "\"\\{}[],:0123456789eE+-.utrnaflsd /\x00\x1f\x7f\xff\xc3\xa9 \t\n"
	for range 3000 {
		b := []byte(seed[r.IntN(len(seed))])
		for range 1 + r.IntN(3) {
			at := r.IntN(len(b))
			switch r.IntN(3) {
			case 0:
				b[at] = alphabet[r.IntN(len(alphabet))]
			case 1:
				b = append(b[:at], b[at+1:]...)
			default:
				b = append(b[:at], append([]byte{alphabet[r.IntN(len(alphabet))]}, b[at:]...)...)
			}
		}
		if !strings.Contains(string(b), "/*") && !strings.Contains(string(b), "//") || strings.Contains(string(b), "https:") {
			list = append(list, string(b))
		}
	}
	return list
}

// TestParseJobAgainstRuby: what Ruby's parser refuses is refused, what it takes is taken, and what it cannot write again is
// known as that.
func TestParseJobAgainstRuby(t *testing.T) {
	o := oracle.New(t, redistest.URL(t))
	var data strings.Builder
	list := texts()
	for _, s := range list {
		data.WriteString(base64.StdEncoding.EncodeToString([]byte(s)) + "\n")
	}
	answers := strings.Fields(o.Eval(`
require "base64"
DATA.each_line do |l|
  s = Base64.decode64(l).force_encoding("UTF-8")
  puts begin
    h = JSON.parse(s)
    if !h.is_a?(Hash) then "other"
    else
      begin JSON.generate(h); "object"
      rescue StandardError then "lossy" end
    end
  rescue JSON::ParserError then "refused"
  end
end`, data.String()))
	if len(answers) != len(list) {
		t.Fatalf("%d answers for %d texts", len(answers), len(list))
	}
	count := map[string]int{}
	for i, s := range list {
		job, err := ParseJob(s)
		got := "object"
		if malformed, bad := errors.AsType[*MalformedJobError](err); bad {
			got = "refused"
			if malformed.Reason == "not a JSON object" {
				got = "other"
			}
		} else if job.Unrepeatable() {
			got = "lossy"
		}
		count[got]++
		if got == "lossy" && answers[i] == "object" && strings.Contains(s, `\u`) {
			continue // a high surrogate with any other escape: Ruby makes some character of it
		}
		if err != nil && strings.HasSuffix(err.Error(), "lone surrogate escape") {
			continue // Ruby refuses it only near the end of a string
		}
		if got != answers[i] {
			t.Errorf("ParseJob(%q) is %s (%v), Ruby says %s", s, got, err, answers[i])
		}
	}
	t.Logf("%v", count)
}

func TestJSONAgainstRuby(t *testing.T) {
	o := oracle.New(t, redistest.URL(t))
	values := []any{
		nil, true, false, 0, -1, int64(math.MaxInt64), uint64(math.MaxUint64), json.Number("123456789012345678901234567890"), "", "<>&'/ \u2028\u2029\x00\x1f\x7f\"\\ é 😀 żółw \b\f\n\r\t",
		1.0, 100.0, 0.1, 0.0001, 0.00001, 1.5e-7, 1e15, 1e16, 123456789012345680.0, 1e21, 1e100, math.Copysign(0, -1), 5e-324, math.MaxFloat64, 1795291060.2769928, float32(0.1),
		[]int{1, 2},
		[]string{},
		[]any(nil),
		map[string]int{"b": 1, "a": 2},
		Object{{"b", 1}, {"a", Object{}}},
		json.RawMessage(` { "a" : [ 1.10 , 1E5 , "\u00e9\/\u003c\ud83d\ude00" , -0, 1e-9 ] , "b" : null } `),
	}
	r := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		values = append(values, math.Float64frombits(r.Uint64()&^(1<<62)), r.NormFloat64()*math.Pow(10, float64(r.IntN(30)-10)), 1.7e9+r.Float64()*1e9)
	}
	var data strings.Builder
	var printed []string
	for _, v := range values {
		b, err := AppendJSON(nil, v, 1)
		if err != nil {
			t.Fatalf("AppendJSON(%v): %v", v, err)
		}
		printed = append(printed, string(b))
		data.WriteString(base64.StdEncoding.EncodeToString([]byte("["+string(b)+"]")) + "\n")
	}
	answers := strings.Split(o.Eval(`
require "base64"
DATA.each_line { |l| puts JSON.generate(JSON.parse(Base64.decode64(l).force_encoding("UTF-8"))) }`, data.String()), "\n")
	for i, s := range printed {
		if answers[i] != "["+s+"]" {
			t.Errorf("AppendJSON(%v) = %s, Ruby prints %s", values[i], s, answers[i])
		}
	}
}

// TestItem6TimesHaveAPoint: also when the clock is on a whole second; and they are what Ruby prints for the same number.
func TestItem6TimesHaveAPoint(t *testing.T) {
	for in, want := range map[float64]string{
		1795291060: "1795291060.0", 1795291060.5: "1795291060.5", 1795291060.2769928: "1795291060.2769928", 0: "0.0",
		0.123456789: "0.1234568", 1.00000001: "1.0", math.NaN(): "0.0", math.Inf(1): "0.0",
	} {
		if got := JSONFloatSeconds(in); got != want {
			t.Errorf("JSONFloatSeconds(%v) = %s, want %s", in, got, want)
		}
	}
	r := rand.New(rand.NewPCG(5, 6))
	for range 10_000 {
		f := 1.7e9 + r.Float64()*1e9
		got := JSONFloatSeconds(f)
		back, err := strconv.ParseFloat(got, 64)
		canonical, _ := AppendJSON(nil, back, 0)
		if err != nil || math.Abs(back-f) > 1e-6 || string(canonical) != got {
			t.Errorf("JSONFloatSeconds(%v) = %s, canonical %s", f, got, canonical)
		}
	}
}

func TestItem18AppendJSONRefuses(t *testing.T) {
	deep := json.RawMessage(strings.Repeat("[", 100) + strings.Repeat("]", 100))
	for name, v := range map[string]any{
		"invalid UTF-8": "a\xff", "in a key": map[string]int{"\xff": 1}, "NaN": math.NaN(), "infinity": []any{math.Inf(-1)}, "channel": make(chan int),
		"too deep": deep, "raw invalid UTF-8": json.RawMessage("\"\xff\""), "raw infinite": json.RawMessage("1e999"), "no JSON": json.RawMessage("[1,]"), "empty": json.RawMessage(""), "int keys": map[int]int{1: 1}, "struct": struct{ A int }{1},
	} {
		if got, err := AppendJSON(nil, v, 1); !errors.Is(err, ErrNotPlain) {
			t.Errorf("AppendJSON(%s) = %s, %v, want ErrNotPlain", name, got, err)
		}
	}
	if _, err := AppendJSON(nil, deep, 0); err != nil {
		t.Errorf("100 levels: %v", err)
	}
}

func TestSetFields(t *testing.T) {
	for name, c := range map[string]struct {
		in     string
		fields []Field
		want   string
	}{
		"append":                         {`{"a":1}`, []Field{{"b", "2"}, {"c", `"x"`}}, `{"a":1,"b":2,"c":"x"}`},
		"into an empty object":           {`{ }`, []Field{{"b", "2"}, {"c", "3"}}, `{ "b":2,"c":3}`},
		"in place, the rest untouched":   {`{"a":1.10, "b" : "\u00e9" ,"c":[1e5]}`, []Field{{"b", "2"}}, `{"a":1.10, "b" : 2 ,"c":[1e5]}`},
		"a duplicate becomes single":     {`{"a":1,"b":2,"a":3}`, []Field{{"a", "9"}}, `{"a":9,"b":2}`},
		"an escaped duplicate too":       {`{"a":1,"b":2,"\u0061":3}`, []Field{{"a", "9"}}, `{"a":9,"b":2}`},
		"delete the first":               {`{"a":1,"b":2}`, []Field{{"a", ""}}, `{"b":2}`},
		"delete the last":                {`{"a":1,"b":2}`, []Field{{"b", ""}}, `{"a":1}`},
		"delete the only one":            {`{"a":1}`, []Field{{"a", ""}}, `{}`},
		"delete all and add":             {`{"a":1,"b":2}`, []Field{{"a", ""}, {"b", ""}, {"c", "3"}}, `{"c":3}`},
		"delete in the middle":           {`{"a":1,"b":2,"b":3,"c":4}`, []Field{{"b", ""}}, `{"a":1,"c":4}`},
		"delete what is not there":       {`{"a":1}`, []Field{{"b", ""}}, `{"a":1}`},
		"other duplicates stay":          {`{"a":1,"a":2}`, []Field{{"b", "3"}}, `{"a":1,"a":2,"b":3}`},
		"the last of a name given twice": {`{"a":1}`, []Field{{"b", "1"}, {"b", "2"}, {"a", "5"}, {"a", "6"}}, `{"a":6,"b":2}`},
		"nothing":                        {` {"a":1} `, nil, ` {"a":1} `},
	} {
		got, err := SetFields(c.in, c.fields...)
		if err != nil || got != c.want {
			t.Errorf("%s: SetFields(%s) = %s, %v, want %s", name, c.in, got, err, c.want)
		}
	}
	if _, err := SetFields("[1]", Field{"a", "1"}); err == nil {
		t.Error("SetFields takes an array")
	}
}

func TestInShare(t *testing.T) {
	in := 0
	for n := range 65536 {
		id := "00000000000000000000" + strconv.FormatInt(int64(n)+0x10000, 16)[1:]
		a, b := InShare(id, 500), InShare(id, 501)
		if a && !b {
			t.Fatalf("%s is in 500 but not in 501", id)
		}
		if a {
			in++
		}
	}
	if in < 3270 || in > 3280 {
		t.Errorf("5%% of 65,536 = %d", in)
	}
	if InShare("xyz", 9999) || InShare("zzzzzz", 9999) || !InShare("", 10_000) || InShare(jid(0), 0) {
		t.Error("odd jids")
	}
}

func FuzzParseJob(f *testing.F) {
	for _, s := range texts()[:120] {
		f.Add(s)
	}
	f.Add(deliveryPayload("C", jid(1), 600))
	f.Fuzz(func(t *testing.T, s string) {
		job, err := ParseJob(s)
		var fields map[string]json.RawMessage
		goErr := json.Unmarshal([]byte(s), &fields)
		if err == nil && goErr != nil {
			// Ruby takes escapes of any character; nothing else may differ.
			if !strings.Contains(s, `\`) {
				t.Fatalf("ParseJob takes %q, encoding/json says %v", s, goErr)
			}
			return
		}
		if err != nil {
			// encoding/json takes what Ruby refuses: deep nesting, half surrogates.
			if goErr == nil && fields != nil && !strings.Contains(s, `\u`) && strings.Count(s, "[")+strings.Count(s, "{") <= maxDepth {
				t.Fatalf("ParseJob says %v of %q, encoding/json takes it", err, s)
			}
			return
		}
		if fields == nil {
			t.Fatalf("ParseJob takes %q", s)
		}
		if utf8.ValidString(s) {
			raw, ok := TopLevel(s, "args")
			if want, there := fields["args"]; there && (!ok || raw != string(want)) {
				t.Fatalf("args of %q = %q, want %q", s, raw, want)
			}
			var class string
			if json.Unmarshal(fields["class"], &class) == nil && class != job.Class && !strings.Contains(s, `\`) {
				t.Fatalf("class of %q = %q, want %q", s, job.Class, class)
			}
		}
		if !job.Unrepeatable() {
			if again, err := appendCanonical(nil, s, 0); err != nil {
				t.Fatalf("%q cannot be written again: %v", s, err)
			} else if twice, err := appendCanonical(nil, string(again), 0); err != nil || string(twice) != string(again) {
				t.Fatalf("%q is not canonical after one turn: %q, %v", again, twice, err)
			}
		}
	})
}

func FuzzSetFields(f *testing.F) {
	f.Add(`{"a":1,"retry_count":2,"a":3}`, "a", "retry_count")
	f.Add(`{ }`, "x", "")
	f.Add(deliveryPayload("C", jid(1), 600), "queue", "failed_at")
	f.Fuzz(func(t *testing.T, s, one, two string) {
		if !utf8.ValidString(one) || !utf8.ValidString(two) || one == two {
			return
		}
		got, err := SetFields(s, Field{one, "1.5"}, Field{two, ""})
		if _, bad := ParseJob(s); (bad != nil) != (err != nil) {
			t.Fatalf("SetFields(%q) = %v, ParseJob %v", s, err, bad)
		}
		if err != nil {
			return
		}
		if _, err := ParseJob(got); err != nil {
			t.Fatalf("SetFields(%q, %q, %q) = %q: %v", s, one, two, got, err)
		}
		if raw, ok := TopLevel(got, one); !ok || raw != "1.5" {
			t.Fatalf("SetFields(%q, %q) = %q", s, one, got)
		}
		if _, ok := TopLevel(got, two); ok {
			t.Fatalf("SetFields(%q) leaves %q: %q", s, two, got)
		}
		p := scanner{s: s}
		var m member
		for p.begin(); p.member(&m); {
			name := m.name(s)
			if name == one || name == two {
				continue
			}
			want, _ := TopLevel(s, name)
			if raw, ok := TopLevel(got, name); !ok || raw != want {
				t.Fatalf("SetFields(%q) changes %q: %q", s, name, got)
			}
		}
	})
}

func TestBurialKeepsTheBytes(t *testing.T) {
	for payload, want := range map[string]string{
		"not json":    "not json",
		"":            "",
		`{"class":`:   `{"class":`,
		"\xff":        "\xff",
		"[1,2]":       "not a job: [1,2]",
		` "text"`:     `not a job:  "text"`,
		"null":        "not a job: null",
		`{"a":NaN}`:   `{"a":NaN}`,
		"[1,2] junk]": "[1,2] junk]",
	} {
		if got := Burial(payload); got != want {
			t.Errorf("Burial(%q) = %q, want %q", payload, got, want)
		}
	}
}
