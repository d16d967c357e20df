package rubyapp

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5"
)

//go:embed app
var files embed.FS

const (
	root       = "app"
	schemaFile = "schema.sql"
)

// Write writes the application's files into dir, which is made if need be, without .env.production. It returns the path of the stand-in for
// Bundler, to be first in PATH as bundle.
func Write(dir string) (bundle string, err error) {
	err = fs.WalkDir(files, root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := filepath.Join(dir, filepath.FromSlash(strings.TrimPrefix(strings.TrimPrefix(path, root), "/")))
		if entry.IsDir() {
			return os.MkdirAll(target, 0o755) //nolint:gosec // another account may run it
		}
		text, err := files.ReadFile(path)
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if strings.HasPrefix(path, root+"/bin/") {
			mode = 0o755
		}
		return os.WriteFile(target, text, mode)
	})
	if err != nil {
		return "", fmt.Errorf("write the ruby application: %w", err)
	}
	return filepath.Join(dir, "bin", "bundle"), nil
}

// Prepare makes the tables that the application needs besides those of loadtest/mastodondata, which are there already.
func Prepare(ctx context.Context, conn *pgx.Conn) error {
	text, err := files.ReadFile(root + "/" + schemaFile)
	if err != nil {
		return fmt.Errorf("prepare the ruby application's tables: %w", err)
	}
	if _, err := conn.Exec(ctx, string(text)); err != nil {
		return fmt.Errorf("prepare the ruby application's tables: %w", err)
	}
	return nil
}

// Gems are the Ruby libraries that the application needs, as their Debian packages are called after ruby-.
func Gems() []string { return []string{"sidekiq", "activerecord", "activejob", "pg"} }
