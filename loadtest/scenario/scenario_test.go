package scenario_test

import (
	"strings"
	"testing"
	"time"

	"github.com/queueville/queueville/loadtest/scenario"
	"github.com/queueville/queueville/loadtest/simulate"
)

const least = "name: mine\nabout: a test\nlength: 1h\nhardware:\n  - hosts: 1x4c\n    sidekiq: [\"-c 25\"]\n"

func TestEmbedded(t *testing.T) {
	want := []string{
		"dead-hosts-30", "delete-flood", "duplicate-storm", "follow-wave", "postgres-stall", "redis-failover", "relay-firehose", "reply-storm", "slow-loris",
		"twitter-migration", "two-hour-outage", "viral-post",
	}
	if got := scenario.Names(); strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("Names() = %v, want %v", got, want)
	}
	for _, name := range want {
		text, err := scenario.Source(name)
		if err != nil {
			t.Fatal(err)
		}
		s, problems := scenario.Parse(text)
		if len(problems) > 0 {
			t.Errorf("%s: %v", name, problems)
			continue
		}
		if s.Name != name || s.About == "" || s.Story == "" {
			t.Errorf("%s: name %q, about %q, story %q", name, s.Name, s.About, s.Story)
		}
		if len(s.Thresholds[simulate.Queueville]) == 0 {
			t.Errorf("%s: no thresholds", name)
		}
		for _, engine := range []simulate.EngineName{simulate.Sidekiq, simulate.Queueville} {
			if _, err := s.Config(engine); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if _, err := scenario.Source("viral-pots"); err == nil || !strings.Contains(err.Error(), `"viral-post"`) {
		t.Errorf("Source of a misspelt name: %v, want a hint", err)
	}
}

func TestProblems(t *testing.T) {
	for about, c := range map[string]struct {
		text string
		want []string // line and part of the text
	}{
		"the least that is good": {text: least},
		"empty":                  {text: "", want: []string{"the file is empty"}},
		"only a comment":         {text: "# nothing\n", want: []string{"the file is empty"}},
		"not YAML":               {text: "name: [\n", want: []string{"line 1"}},
		"a list":                 {text: "- a\n", want: []string{"line 1: the scenario: want keys and values"}},
		"keys that miss":         {text: "name: mine\n", want: []string{`"about" is missing`, `"length" is missing`, `"hardware" is missing`}},
		"a misspelt key":         {text: least + "traffics: {posts: 1}\n", want: []string{`line 7: the scenario: unknown key "traffics"; did you mean "traffic"?`}},
		"twice":                  {text: least + "length: 2h\n", want: []string{`line 7: the scenario: "length" stands here twice`}},
		"several at once, by line": {
			text: least + "start: 25:00\nserver: {users: -1, streaming: 200%}\ngoals: {defaults: 5s}\nevents:\n  - {kind: burst, at: 5m}\n",
			want: []string{"line 7: start", "line 8: users", "line 8: streaming", "line 9: goals: unknown key \"defaults\"; did you mean \"default\"?", `line 11: event burst: "count" is missing`},
		},
		"an unknown kind of event":  {text: least + "events: [{kind: viral-pots, at: 0s}]\n", want: []string{`did you mean "viral-post"?`}},
		"a temper":                  {text: least + "fediverse: {tempers: {drak: 10%}}\n", want: []string{`unknown key "drak"; did you mean "dark"?`}},
		"tempers above all":         {text: least + "fediverse: {tempers: {dark: 60%, slow: 60%}}\n", want: []string{"sum of the instances' shares"}},
		"a threshold":               {text: least + "thresholds: {queueville: [push.p99 =< 3s, pussh.p99 < 3s, push.p99 < soon]}\n", want: []string{"write “metric <= value”", "unknown metric", "no number"}},
		"an event after the end":    {text: least + "events: [{kind: burst, at: 2h, count: 5}]\n", want: []string{"the scenario is over"}},
		"a curve that goes back":    {text: least + "traffic: {load: [[1h, 1], [30m, 2]]}\n", want: []string{"is not after the entry before it"}},
		"a curve of nothing":        {text: least + "traffic: {load: [1, 2]}\n", want: []string{"want [time, factor]", "want [time, factor]"}},
		"aliases":                   {text: least + "server: &s {users: 5}\nfediverse: *s\n", want: []string{"aliases"}},
		"a queue that is not there": {text: strings.Replace(least, "-c 25", "-c 25 -q defaults", 1), want: []string{`Mastodon has no queue "defaults"`}},
		"threads":                   {text: strings.Replace(least, "-c 25", "-c 0", 1), want: []string{`"0" is no number from 1`}},
		"hosts":                     {text: strings.Replace(least, "1x4c", "four", 1), want: []string{"write 3x8c"}},
		"more active than there":    {text: least + "server: {users: 10, active: 20}\n", want: []string{"20 active of 10"}},
		"hardware out of order":     {text: least + "  - at: 0s\n    hosts: 1x4c\n    sidekiq: [\"-c 5\"]\n", want: []string{"is not after the one before it"}},
	} {
		t.Run(about, func(t *testing.T) {
			_, problems := scenario.Parse([]byte(c.text))
			if len(problems) != len(c.want) {
				t.Fatalf("%d problems, want %d: %v", len(problems), len(c.want), problems)
			}
			for i, want := range c.want {
				if !strings.Contains(problems[i].String(), want) {
					t.Errorf("problem %d = %q, want %q in it", i+1, problems[i], want)
				}
			}
		})
	}
}

func TestParseSidekiq(t *testing.T) {
	p, err := scenario.ParseSidekiq("3x DB_POOL=10 -c 40 -q push,6 -q pull")
	if err != nil || len(p) != 3 || p[2].Concurrency != 40 || p[2].DBPool != 10 || len(p[0].Queues) != 2 || p[0].Queues[0].Weight != 6 {
		t.Errorf("ParseSidekiq = %+v, %v", p, err)
	}
	if p, err = scenario.ParseSidekiq(""); err != nil || p[0].Concurrency != 25 || p[0].Queues[0].Weight != 8 {
		t.Errorf("ParseSidekiq of nothing = %+v, %v; want Mastodon's unit", p, err)
	}
	for _, bad := range []string{"-c", "-c x", "-q", "-q a,b", "--what", "0x -c 5", "-c 5 3x"} {
		if _, err := scenario.ParseSidekiq(bad); err == nil {
			t.Errorf("ParseSidekiq(%q) gives no error", bad)
		}
	}
}

func TestThresholds(t *testing.T) {
	s, problems := scenario.Parse([]byte(least + "drain: 10m\nthresholds: {sidekiq: [jobs.lost == 0, push.within_goal >= 100%, default.p99 < 1ms]}\n"))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	s.Length = 10 * time.Minute
	cfg, err := s.Config(simulate.Sidekiq)
	if err != nil {
		t.Fatal(err)
	}
	r, err := simulate.Run(cfg)
	if err != nil {
		t.Fatal(err)
	}
	checks, met := s.CheckAll(r)
	if met || len(checks) != 3 || !checks[0].Met || checks[2].Met {
		t.Errorf("CheckAll = %+v, %v; want the first met, the last missed", checks, met)
	}
}

// FuzzParse: a file is whatever somebody sends.
func FuzzParse(f *testing.F) {
	f.Add([]byte(least))
	for _, name := range scenario.Names() {
		text, err := scenario.Source(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		s, problems := scenario.Parse(text)
		if len(problems) > 0 {
			return
		}
		if _, err := s.Config(simulate.Queueville); err != nil {
			t.Errorf("no problem found, but no world: %v", err)
		}
	})
}

// Fairness says nothing where an instance has a delivery or two.
func TestFairnessOfFew(t *testing.T) {
	th, err := scenario.ParseThreshold("deliveries.fairness >= 0.98")
	if err != nil {
		t.Fatal(err)
	}
	r := &simulate.Result{}
	for due, want := range map[int]scenario.Check{
		100: {Text: th.Text, Actual: 0.9, Met: true, Few: true}, 1000: {Text: th.Text, Actual: 0.9},
	} {
		r.Deliveries = simulate.DeliveryResult{Fairness: 0.9, Instances: 100, Due: due}
		if got := th.Check(r); got != want {
			t.Errorf("%d deliveries: %+v, want %+v", due, got, want)
		}
	}
}
