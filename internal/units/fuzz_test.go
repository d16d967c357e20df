package units

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/coreos/go-systemd/v22/unit"
)

// FuzzParse: no text makes the reader fail, loop or grow, and what go-systemd reads in plain files, this reads too. (go-systemd itself is
// not used for reading: it has no line numbers, keeps line breaks in values, and leaves a goroutine behind at an error.)
func FuzzParse(f *testing.F) {
	for _, text := range []string{webUnit, sidekiqUnit, streamingUnit, streamingTemplate, "[A]\nb=c \\\n# d\n e\n", "[A]\nb=\\", "[Service]\nExecStart=sh -c 'sh -c \"sidekiq -q a\"'"} {
		f.Add(text)
	}
	plain := regexp.MustCompile(`^(\[[A-Z][a-z]{0,9}\]\n([A-Za-z]{1,20}=[ -\[\]-~]{0,200}\n|#[ -\[\]-~]*\n|\n)*)*$`)
	f.Fuzz(func(t *testing.T, text string) {
		options, problems := Parse("f", []byte(text))
		lines := strings.Count(text, "\n") + 1
		for _, o := range options {
			if o.Line < 1 || o.Line > lines || o.Name == "" || len(o.Value) > len(text)*3 {
				t.Fatalf("option %+v of %d lines", o, lines)
			}
		}
		if plain.MatchString(text) && !strings.Contains(text, "\n\n[") {
			theirs, err := unit.DeserializeOptions(strings.NewReader(text))
			if err == nil && len(theirs) != len(options) {
				t.Fatalf("%q: %d options, go-systemd reads %d", text, len(options), len(theirs))
			}
			for i := range theirs {
				if err == nil && (theirs[i].Name != options[i].Name || theirs[i].Value != options[i].Value || theirs[i].Section != options[i].Section) {
					t.Fatalf("%q: option %d is %+v, go-systemd reads %+v (problems %v)", text, i, options[i], theirs[i], problems)
				}
			}
		}
	})
}

// FuzzRead reads whole hostile units: whatever stands in them, nothing is run, looped in, or blown up.
func FuzzRead(f *testing.F) {
	f.Add(sidekiqUnit, "[Service]\nEnvironment=A=1\n", "A=b\n")
	f.Add("[Service]\nEnvironment=A=$A$A\nExecStart=sh -c 'sidekiq ${A}${A}' $A\n", "[Service]\nEnvironmentFile=/e\n", "A=\"\\\n\"")
	f.Fuzz(func(t *testing.T, service, dropIn, env string) {
		root := t.TempDir()
		write := func(name, text string) {
			path := filepath.Join(root, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write("mastodon-sidekiq@.service", service)
		write("mastodon-sidekiq@1.service.d/x.conf", dropIn)
		write("e", env)
		list, problems := Read(Options{Dirs: []string{root}, Root: root})
		if len(list) > 1 || len(problems) > 3*maxProblems {
			t.Fatalf("%d units, %d problems", len(list), len(problems))
		}
		for i := range list {
			if size := len(strings.Join(list[i].Command, " ")); size > (maxWords+1)*(maxWordBytes+maxFileBytes) {
				t.Fatalf("a command of %d bytes", size)
			}
		}
	})
}
