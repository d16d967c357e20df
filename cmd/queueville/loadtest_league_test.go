package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/queueville/queueville/loadtest/league"
)

// TestLeagueForReal runs a part of the league against the installed Sidekiq: real servers, real job processes, Redis killed in one of them.
func TestLeagueForReal(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes a minute")
	}
	if _, err := exec.LookPath("sidekiq"); err != nil && os.Getenv("CI") != "true" {
		t.Skip("no Sidekiq: apt-get install ruby-sidekiq")
	}
	dir := t.TempDir()
	page := filepath.Join(dir, "league.md")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	// The test binary is in the path under the command's name, as scripts find it: the run starts it again as its worker.
	cmd := exec.CommandContext(ctx, "queueville", "loadtest", "league", "--real", "--length", "5s", "--only", "follow-wave,redis-failover", "--keep", dir, "--out", page, "--plots", dir)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 30 * time.Second
	text, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || exit.ExitCode() != exitThresholds) {
		t.Fatalf("%v\n%s", err, text)
	}
	for _, name := range []string{"follow-wave", "redis-failover"} {
		for _, engine := range league.Engines {
			var row league.Row
			kept, err := os.ReadFile(filepath.Join(dir, "real."+name+"."+string(engine)+".json"))
			if err == nil {
				err = json.Unmarshal(kept, &row)
			}
			if err != nil {
				t.Fatal(err)
			}
			if row.Done < 5 {
				t.Errorf("%s, %s: %d jobs done", name, engine, row.Done)
			}
			// A kill of Redis may take what stock Sidekiq has in hand.
			if row.Lost > 0 && (engine != league.Engines[0] || name != "redis-failover") {
				t.Errorf("%s, %s: %d jobs are nowhere", name, engine, row.Lost)
			}
		}
	}
	written, err := os.ReadFile(page)
	if err != nil || !strings.Contains(string(written), "| real run |") {
		t.Errorf("a page without real runs: %v\n%s", err, written)
	}
}
