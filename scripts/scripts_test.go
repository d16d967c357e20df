// Package scripts_test runs the scripts where they install nothing.
package scripts_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// tools are what setup.sh itself needs, besides bash's own.
var tools = []string{"bash", "env", "dirname", "awk", "sort", "head", "tr", "sed", "id", "go"}

// run runs setup.sh with a PATH of nothing but tools and returns its exit status and what it said.
func run(t *testing.T, path string, args ...string) (int, string) {
	t.Helper()
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), bash, append([]string{"./setup.sh"}, args...)...)
	cmd.Env = append(os.Environ(), "QUEUEVILLE_NO_SETUP=1", "PATH="+path)
	out, err := cmd.CombinedOutput()
	if ee, ok := errors.AsType[*exec.ExitError](err); ok {
		return ee.ExitCode(), string(out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return 0, string(out)
}

func bare(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, tool := range tools {
		path, err := exec.LookPath(tool)
		if err != nil {
			t.Fatal(err)
		}
		if path, err = filepath.Abs(path); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(dir, tool)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestSetupSaysTheExactCommand(t *testing.T) {
	path := bare(t)
	for profile, want := range map[string][]string{
		"demo": {"redis-server"},
		"test": {"redis-server", "ruby", "ruby-activejob", "ruby-activerecord", "ruby-http", "ruby-pg", "ruby-rack", "ruby-redis", "ruby-sidekiq"},
	} {
		status, out := run(t, path, profile)
		_, command, ok := strings.Cut(out, "hint: run as root: apt-get update && apt-get install -y --no-install-recommends ")
		if status != 1 || !ok {
			t.Errorf("setup.sh %s = %d, %q, want 1 and the command", profile, status, out)
		}
		for _, name := range want {
			if !strings.Contains(" "+strings.TrimSpace(command)+" ", " "+name+" ") {
				t.Errorf("setup.sh %s: %q does not install %s", profile, command, name)
			}
		}
		if profile == "demo" && strings.Contains(command, "ruby") {
			t.Errorf("the demo needs no Ruby, but: %q", command)
		}
	}
}

func TestSetupIsSilentWhenAllIsThere(t *testing.T) {
	status, out := run(t, os.Getenv("PATH"), "test")
	if os.Getenv("CI") != "true" && strings.Contains(out, "missing: ") {
		t.Skip(out)
	}
	if status != 0 || out != "" {
		t.Errorf("setup.sh test = %d, %q, want 0 and nothing", status, out)
	}
}

func TestSetupKnowsItsProfiles(t *testing.T) {
	if status, out := run(t, os.Getenv("PATH"), "everything"); status != 2 || !strings.Contains(out, "no profile everything") {
		t.Errorf("setup.sh everything = %d, %q, want 2", status, out)
	}
}

func TestScriptsParse(t *testing.T) {
	files, err := filepath.Glob("*.sh")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(files, "../.ci/run") {
		if out, err := exec.CommandContext(t.Context(), "bash", "-n", file).CombinedOutput(); err != nil {
			t.Errorf("bash -n %s: %v\n%s", file, err, out)
		}
		if info, err := os.Stat(file); err != nil || info.Mode()&0o111 == 0 {
			t.Errorf("%s cannot be executed: %v", file, err)
		}
	}
}
