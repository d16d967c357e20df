// Package ruby holds the Ruby contenders: files that a real Sidekiq process is started with.
package ruby

import (
	"embed"
	"fmt"
	"os"
	"path/filepath"
)

// Names of the files.
const (
	Noop     = "noop.rb"     // a job that does nothing
	Delivery = "delivery.rb" // a job that does what a Mastodon delivery does
)

//go:embed *.rb
var files embed.FS

// Write puts a file into dir and returns its path.
func Write(dir, name string) (string, error) {
	text, err := files.ReadFile(name)
	if err != nil {
		return "", fmt.Errorf("no such file %q: %w", name, err)
	}
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return "", fmt.Errorf("write %s: %w", name, err)
	}
	return path, nil
}
