package run

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/queueville/queueville/internal/throwaway"
)

const rubyTimeout = 30 * time.Second

// need says what is missing of the programs that a run needs besides its servers: a *throwaway.MissingError.
func need(ctx context.Context, pinned bool) error {
	if pinned {
		if _, err := exec.LookPath("taskset"); err != nil {
			return &throwaway.MissingError{Binary: "taskset", Package: "util-linux"}
		}
	}
	libraries := []string{"sidekiq", "active_record", "active_job", "pg", "connection_pool"}
	missing := &throwaway.MissingError{Binary: "sidekiq", Package: "ruby-sidekiq ruby-activerecord ruby-activejob ruby-pg"}
	if os.Getenv("SIDEKIQ") == "" { // else somebody starts a checkout, and knows what it needs
		if _, err := exec.LookPath("sidekiq"); err != nil {
			return missing
		}
	}
	ctx, cancel := context.WithTimeout(ctx, rubyTimeout)
	defer cancel()
	// Found, not loaded: loading takes a second.
	program := `ARGV.each { |name| exit 1 unless $LOAD_PATH.resolve_feature_path(name) || Gem.find_files(name).any? }`
	if err := exec.CommandContext(ctx, "ruby", append([]string{"-e", program}, libraries...)...).Run(); err != nil { //nolint:gosec // our own words
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		missing.Binary = "ruby with " + strings.Join(libraries, ", ")
		return missing
	}
	return nil
}
