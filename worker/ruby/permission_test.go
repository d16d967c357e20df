package ruby

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

const permissionScript = `
require_relative "connections"
puts "reads"
$stdout.flush
seen = []
until seen.last == [0, 0, 0]
  now = Queueville::Connections.send(:lease)
  next if seen.last == now
  abort "torn: #{now}" unless now.uniq.one?
  abort "#{now} after #{seen.last}" if seen.any? && now != [0, 0, 0] && now[0] < seen.last[0]
  seen << now
end
puts seen.size > 10
`

// A process that reads while its permission is written reads the old one or the new one.
func TestPermissionIsNeverTorn(t *testing.T) {
	t.Parallel()
	words, dir := needRuby(t), workDir(t)
	hook, err := os.ReadFile("connections.rb")
	if err != nil {
		t.Fatal(err)
	}
	file, script := filepath.Join(dir, "lease"), filepath.Join(dir, "script.rb")
	for name, text := range map[string]string{filepath.Join(dir, "connections.rb"): string(hook), script: permissionScript} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := (permission{1, 1, 1}).write(file); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), words[0], append(words[1:], script)...) //nolint:gosec // the developer's words
	cmd.Env = append(os.Environ(), "QUEUEVILLE_DATABASE_NAME=x", "QUEUEVILLE_DATABASE_LEASE="+file)
	cmd.WaitDelay = time.Second
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	said := make([]byte, 100)
	if n, err := out.Read(said); err != nil || string(said[:n]) != "reads\n" {
		t.Fatalf("it said %q, %v", said[:n], err)
	}
	for end, n := time.Now().Add(time.Second), int64(2); time.Now().Before(end); n++ {
		if err := (permission{n, n, int(n)}).write(file); err != nil {
			t.Fatal(err)
		}
	}
	if err := (permission{}).write(file); err != nil {
		t.Fatal(err)
	}
	n, _ := out.Read(said)
	if err := cmd.Wait(); err != nil || string(said[:n]) != "true\n" {
		t.Errorf("it said %q, %v", said[:n], err)
	}
}
