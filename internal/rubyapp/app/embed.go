// Package app is the Ruby application of internal/rubyapp as files, apart from it so that commands can embed them without test helpers.
package app

import (
	"embed"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Files are the application's files, by their names in its directory.
//
//go:embed Gemfile app app.rb bin config lib schema.sql
var Files embed.FS

// Write writes the files into dir, which is made if need be, but for those whose name starts with one of without. It returns the path of the
// stand-in for Bundler, to be first in PATH as bundle.
func Write(dir string, without ...string) (bundle string, err error) {
	err = fs.WalkDir(Files, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		for _, prefix := range without {
			if strings.HasPrefix(path, prefix) {
				return nil
			}
		}
		target := filepath.Join(dir, filepath.FromSlash(path))
		if entry.IsDir() {
			return os.MkdirAll(target, 0o755) //nolint:gosec // another account may run it
		}
		text, err := Files.ReadFile(path)
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if strings.HasPrefix(path, "bin/") {
			mode = 0o755
		}
		return os.WriteFile(target, text, mode)
	})
	if err != nil {
		return "", fmt.Errorf("write the ruby application: %w", err)
	}
	return filepath.Join(dir, "bin", "bundle"), nil
}
