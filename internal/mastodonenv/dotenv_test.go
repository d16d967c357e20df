package mastodonenv_test

import (
	"maps"
	"strings"
	"testing"

	"github.com/queueville/queueville/internal/mastodonenv"
)

// outer is the process environment of these tests.
func outer(name string) (string, bool) {
	v, ok := map[string]string{"OUTER": "außen", "BOTH": "process"}[name]
	return v, ok
}

// Every expected value was compared with what Ruby's dotenv 3 makes of the same text.
func TestParse(t *testing.T) {
	tests := map[string]struct {
		text     string
		want     map[string]string
		problems []string // each in this order, as "line: part of the text"
	}{
		"plain":                    {"A=1\nB = 2 \n\n# c\n  C=3", map[string]string{"A": "1", "B": "2", "C": "3"}, nil},
		"export":                   {"export A=1\nexport\tB=2\nexport A", map[string]string{"A": "1", "B": "2"}, nil},
		"export of nothing":        {"export MISSING\nexport M2=\nexport OUTER\n", map[string]string{}, []string{"1: export of a variable", "2: export of"}},
		"yaml style":               {"A: 1\nB:2\nC:\n", map[string]string{"A": "1", "C": ""}, []string{"2: no assignment", "3: no value"}},
		"name alone":               {"A\nB # c\nC D", map[string]string{"A": "", "B": ""}, []string{"1: no value", "2: no value", "3: no assignment"}},
		"empty":                    {"A=\nB=''\nC=\"\"\nD= # x", map[string]string{"A": "", "B": "", "C": "", "D": ""}, nil},
		"comment":                  {"A=1 # one\nB='x' # two\nC=\"y\"# three", map[string]string{"A": "1", "B": "x", "C": "y"}, nil},
		"hash in password":         {"A=ab#cd\nB='ab#cd'", map[string]string{"A": "ab", "B": "ab#cd"}, []string{"1: ends at the #"}},
		"single quotes":            {`A='$X \n "b"'`, map[string]string{"A": `$X \n "b"`}, nil},
		"double quotes":            {`A="a \"b\" \\ c"`, map[string]string{"A": `a "b" \ c`}, nil},
		"escaped last quote":       {`A="C:\"`, map[string]string{"A": `C:\`}, nil},
		"backslashes unquoted":     {`A=a\b\\c\n`, map[string]string{"A": `ab\cn`}, nil},
		"newline in double quotes": {`A="a\nb"`, map[string]string{"A": `a\nb`}, nil},
		"newline in legacy mode":   {"DOTENV_LINEBREAK_MODE=legacy\nA=\"a\\nb\"", map[string]string{"DOTENV_LINEBREAK_MODE": "legacy", "A": "a\nb"}, nil},
		"several lines":            {"A=\"a\nb\"\nB='c\nd' # e\nC=1\no o", map[string]string{"A": "a\nb", "B": "c\nd", "C": "1"}, []string{"6: no assignment"}},
		"open quote":               {"A=\"a\nB=1", map[string]string{"A": `"a`, "B": "1"}, []string{"1: not closed"}},
		"junk behind quotes":       {`A="a"b`, map[string]string{"A": `"a"b`}, []string{"1: not closed"}},
		"expansion":                {"A=1\nB=$A-${A}-$OUTER\nC=\"$A}\"\nD='$A'\nE=\\$A", map[string]string{"A": "1", "B": "1-1-außen", "C": "1", "D": "$A", "E": "$A"}, nil},
		"process wins expansion":   {"BOTH=file\nA=$BOTH", map[string]string{"BOTH": "file", "A": "process"}, nil},
		"unset expansion":          {"A=pa$word", map[string]string{"A": "pa"}, []string{"1: not set"}},
		"lone dollars":             {"A=$ $. $$ ${}", map[string]string{"A": "$ $. $$ ${}"}, nil},
		"command":                  {"A=$(id)\nB='$(id)'\nC=\\$(id)", map[string]string{"A": "$(id)", "B": "$(id)", "C": "$(id)"}, []string{"1: command"}},
		"twice":                    {"A=1\nA=2\nB=1\nB=1", map[string]string{"A": "2", "B": "1"}, []string{"2: set again"}},
		"no name":                  {"=1\nA-B=2\n1a=3\nexport =4", map[string]string{"1a": "3", "export": "4"}, []string{"1: no assignment", "2: no assignment"}},
		"windows":                  {"\xef\xbb\xbfA=1\r\nB=\"2\"\r\nC=3\rD=4", map[string]string{"A": "1", "B": "2", "C": "3", "D": "4"}, nil},
		"nul":                      {"A=1\nB=\x00", map[string]string{}, []string{"2: NUL"}},
		"not utf-8":                {"A=1\nB=\xff", map[string]string{}, []string{"2: UTF-8"}},
		"too large":                {strings.Repeat("#", 1<<20+1), map[string]string{}, []string{"0: larger"}},
		"doubling":                 {"A=0123456789\n" + strings.Repeat("A=$A$A\n", 15), nil, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, _, problems := mastodonenv.Parse("x.env", []byte(test.text), outer)
			if test.want == nil {
				if len(got["A"]) > 64<<10 || len(mastodonenv.Errors(problems).Error()) == 0 {
					t.Errorf("Parse let a value grow to %d bytes", len(got["A"]))
				}
				return
			}
			if !maps.Equal(got, test.want) {
				t.Errorf("Parse(%q) = %q, want %q", test.text, got, test.want)
			}
			compareProblems(t, problems, test.problems)
		})
	}
}

func compareProblems(t *testing.T, got []mastodonenv.Problem, want []string) {
	t.Helper()
	for i, p := range got {
		if i >= len(want) {
			t.Errorf("problem too many: %v", p)
			continue
		}
		line, text, _ := strings.Cut(want[i], ": ")
		if p.File != "x.env" || !strings.HasPrefix(p.String(), "x.env"+map[bool]string{true: ": ", false: ":" + line}[line == "0"]) || !strings.Contains(p.String(), text) {
			t.Errorf("problem %q, want %q", p, want[i])
		}
	}
	if len(got) < len(want) {
		t.Errorf("problems %v, want %q", got, want)
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"A=1\nexport B=\"x $A ${A} \\\" \\n\" # c\n", "A='b\nc'\nD: e", "A=$(id)", "\xef\xbb\xbfA=\"", "export A", "A=\\$B\\", "A=\"\\\"", "A=${", "A=$B}$",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		values, lines, problems := mastodonenv.Parse("f", []byte(text), outer)
		if len(values) != len(lines) {
			t.Errorf("%d values and %d lines", len(values), len(lines))
		}
		last := 1 + strings.Count(text, "\n") + strings.Count(text, "\r")
		for name, line := range lines {
			if line < 1 || line > last || name == "" || len(values[name]) > len(text)+64<<10 {
				t.Errorf("%q in line %d of %d, %d bytes", name, line, last, len(values[name]))
			}
		}
		for _, p := range problems {
			if p.What == "" || p.Hint == "" || p.Line > last {
				t.Errorf("problem %+v says too little or of line %d", p, last)
			}
		}
	})
}
