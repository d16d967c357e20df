package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// call runs one command line as a person would.
func call(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	code = run(t.Context(), func() {}, args, stdio{in: strings.NewReader(""), out: &o, err: &e})
	return code, o.String(), e.String()
}

const mine = `name: mine
about: ten quick minutes
length: 10m
drain: 5m
server: {users: 2000, active: 300}
hardware:
  - hosts: 1x2c
    sidekiq: ["-c 5"]
thresholds:
  sidekiq: [jobs.lost == 0]
`

func TestLoadtest(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	good, page := write("good.yaml", mine), filepath.Join(dir, "page.html")
	for about, c := range map[string]struct {
		args []string
		code int
		want string // in what was printed, or in the error
	}{
		"the list":               {[]string{"scenarios"}, exitOK, "twitter-migration"},
		"a copy":                 {[]string{"show", "viral-post"}, exitOK, "name: viral-post"},
		"a budget for nobody":    {[]string{"simulate", "viral-post", "--budget", "3"}, exitUsage, "4 are needed"},
		"a league of nothing":    {[]string{"league", "--only", "viral-pots"}, exitUsage, "unknown scenario"},
		"a misspelt name":        {[]string{"show", "viral-pots"}, exitUsage, `did you mean "viral-post"`},
		"good":                   {[]string{"validate", good}, exitOK, "good"},
		"bad":                    {[]string{"validate", write("bad.yaml", mine+"tariff: {}\n")}, exitConfig, "line 11"},
		"metrics":                {[]string{"validate", "--metrics"}, exitOK, "push.p99"},
		"a run":                  {[]string{"simulate", good, "--html", page, "--plots", filepath.Join(dir, "plots")}, exitOK, "every queue kept its goal"},
		"a threshold missed":     {[]string{"simulate", write("hard.yaml", strings.Replace(mine, "jobs.lost == 0", "push.p99 < 0s", 1)), "--engine", "sidekiq"}, exitThresholds, "MISSED"},
		"hosts that are none":    {[]string{"simulate", good, "--hosts", "many"}, exitUsage, "write 3x8c"},
		"an engine that is none": {[]string{"simulate", good, "--engine", "resque"}, exitUsage, "sidekiq, queueville or both"},
		"a sweep":                {[]string{"sweep", good, "--engine", "queueville", "--hosts", "1x2c"}, exitOK, "yes"},
	} {
		t.Run(about, func(t *testing.T) {
			code, out, errs := call(t, append([]string{"loadtest"}, c.args...)...)
			if code != c.code || !strings.Contains(out+errs, c.want) {
				t.Errorf("%v: exit %d, want %d and %q in:\n%s%s", c.args, code, c.code, c.want, out, errs)
			}
		})
	}
	code, first, _ := call(t, "loadtest", "simulate", good, "--json", "--sidekiq", "-c 3 -q default -q push", "--budget", "40")
	_, second, _ := call(t, "loadtest", "simulate", good, "--json", "--sidekiq", "-c 3 -q default -q push", "--budget", "40")
	if code != exitOK || first != second || !json.Valid([]byte(first)) {
		t.Errorf("exit %d, equal %v: two reports of one seed", code, first == second)
	}
}
