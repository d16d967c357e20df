package sidecar

import (
	"slices"
	"testing"
)

// What is the worker's alone does not reach the Ruby processes, everything else does.
func TestRubyEnviron(t *testing.T) {
	t.Parallel()
	given := []string{
		"NOTIFY_SOCKET=/run/systemd/notify", "WATCHDOG_USEC=60000000", "WATCHDOG_PID=7", "MASTODON_SIDEKIQ_READY_FILENAME=ready", "LD_PRELOAD=libjemalloc.so.2",
		"MALLOC_ARENA_MAX=2", "ODD", "A=b=c",
	}
	kept := []string{"LD_PRELOAD=libjemalloc.so.2", "MALLOC_ARENA_MAX=2", "ODD", "A=b=c"}
	if got := rubyEnviron(given, ""); !slices.Equal(got, kept) {
		t.Errorf("rubyEnviron = %q", got)
	}
	if got := rubyEnviron(given, "ready"); !slices.Equal(got, append(kept, "MASTODON_SIDEKIQ_READY_FILENAME=ready.ruby")) {
		t.Errorf("rubyEnviron with a readiness file = %q", got)
	}
}

// A command that is given runs in production too, unless the environment says otherwise.
func TestGivenRubyCommand(t *testing.T) {
	t.Parallel()
	o := DefaultOptions()
	o.Mastodon, o.RubyCommand = t.TempDir(), []string{"bundle", "exec", "ruby"}
	for want, environ := range map[string][]string{
		"RAILS_ENV=production": {"A=b"}, "RAILS_ENV=staging": {"RAILS_ENV=staging"},
	} {
		command, problems := o.rubyCommand(environ, "")
		if len(problems) != 0 || command.Dir != o.Mastodon || !slices.Equal(command.Ruby, o.RubyCommand) || !slices.Contains(command.Env, want) {
			t.Errorf("rubyCommand = %+v, %v, want %s", command, problems, want)
		}
	}
}
